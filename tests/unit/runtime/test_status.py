"""What the pipeline says of itself, from the state of its parts."""

from typing import Any

import pytest
from harness import Run, run

from pipeline.contracts.clock import SystemClock
from pipeline.runtime.status import Status

CAMERA = {"live": True, "endless": True}
DEAD = {"live": True, "failure": "transient"}


def looked_at(tree: dict[str, Any], look: Any, until: Any) -> Any:
    """What `look` finds in the status of a running pipeline once `until` holds for its sources."""
    found: list[Any] = []

    async def during(this: Run) -> None:
        import asyncio

        status = Status(this.supervisor, "1.0", SystemClock(), lambda text: text.replace("failed", "f***ed"))
        async with asyncio.timeout(20):
            while not until(status.whole()):  # noqa: ASYNC110  (threads change it, and nobody tells)
                await asyncio.sleep(0.01)
        found.append(look(status))
        this.supervisor.stop("test")

    run(tree, during)
    return found[0]


def is_known(whole: dict[str, Any]) -> bool:
    states = {source["name"]: source["state"] for source in whole["sources"]}
    return states == {"gate": "running", "dead": "reconnecting"}


@pytest.mark.parametrize("required", [True, False])
def test_a_camera_that_is_down_makes_it_unready_only_if_it_is_required(required: bool) -> None:
    tree = {"sources": {"gate": {**CAMERA, "required": True}, "dead": {**DEAD, "required": required}}}
    checks = looked_at(tree, Status.ready, is_known)
    assert all(check.ok for check in checks) is not required
    wrong = {check.name: check.detail for check in checks if not check.ok}
    assert wrong == ({"source dead": "required, and reconnecting"} if required else {})
    tree = {"sources": {"gate": CAMERA, "dead": DEAD}}
    assert all(check.ok for check in looked_at(tree, Status.live, is_known))


def test_each_source_is_shown_with_its_state_its_code_and_its_last_frame() -> None:
    tree = {"sources": {"gate": CAMERA, "dead": DEAD}}
    whole, brief = looked_at(tree, lambda status: (status.whole(), status.brief_sources()), is_known)
    gate, dead = whole["sources"]
    assert (gate["state"], gate["code"], gate["error"], gate["type"]) == ("running", None, None, "fake")
    assert 0 <= gate["last_frame_age_s"] < 10
    assert (dead["code"], dead["error"]) == ("CONNECTION_FAILED", "the source f***ed for now")
    assert (dead["last_frame_at"], dead["last_frame_age_s"]) == (None, None)
    assert brief[1] == {
        "name": "dead",
        "state": "reconnecting",
        "code": "CONNECTION_FAILED",
        "last_frame_age_s": None,
        "required": False,
    }


def test_a_stage_that_does_not_move_is_a_reason_to_be_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.watch.Watch.stuck", lambda _, for_s: ["backend model"] if for_s >= 5 else [])
    checks = looked_at({"sources": {"gate": CAMERA}}, Status.live, lambda whole: whole["sources"][0]["decoded"] > 0)
    assert [check.detail for check in checks if not check.ok] == ["has work and does not move: backend model"]
