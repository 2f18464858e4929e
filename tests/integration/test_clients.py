"""What clients of the server ask of the models, without the server: shared queues, shared ledger, nothing starved."""

import asyncio
from typing import Any

import numpy as np
import pytest
from fakes import FakeBackend
from harness import Run, run

from pipeline.contracts.frame import Picture, Wishes
from pipeline.contracts.result import Detections
from pipeline.models.picture import from_rgb
from pipeline.runtime.asking import AskError
from pipeline.runtime.queue import LaneLimits

PICTURE = from_rgb(np.zeros((16, 16, 3), np.uint8))


def served(during: Any, *, sources: bool = False, **model: Any) -> Run:
    tree: dict[str, Any] = {
        "models": {"coco": {"aliases": ["coco/9"], **model}},
        "server": {"listen": "127.0.0.1:0", "inference": {"max_waiting": 4, "priority": 7}},
    }
    if sources:
        tree["sources"] = {"cam": {"endless": True, "fps": 200, "live": True, "backend": "coco"}}
        tree["sinks"] = {"keep": {}}

    async def then_stop(this: Run) -> None:
        await this.supervisor.started.wait()
        await this.until(lambda: this.supervisor.topology.backends["coco"].tried or ready(this))
        await during(this)
        this.supervisor.stop("the test is over")

    return run(tree, then_stop)


def ready(this: Run) -> bool:
    return this.supervisor.topology.backends["coco"].ready


async def ask(this: Run, pictures: list[Picture] | None = None, wishes: Wishes | None = None, **more: Any) -> Any:
    asked = [PICTURE] if pictures is None else pictures
    return await this.supervisor.clients.infer(
        more.pop("model", "coco/9"), asked, wishes, timeout_s=more.pop("timeout_s", 5)
    )


def test_a_client_gets_an_answer_for_each_picture_under_any_of_the_models_names() -> None:
    async def during(this: Run) -> None:
        for name in ("coco", "coco/9"):
            answers = await ask(this, [PICTURE] * 3, model=name)
            assert [answer.backend for answer in answers] == ["coco"] * 3
            assert isinstance(answers[0].prediction, Detections)

    done = served(during)
    assert [(page.entered, page.outcomes["inferred"]) for page in done.report.clients] == [(6, 6)]
    assert done.report.exit_code == 0


def test_what_a_client_wishes_reaches_the_model() -> None:
    wishes = Wishes(confidence=0.7, classes=("dog",))

    async def during(this: Run) -> None:
        await ask(this, wishes=wishes)
        backend = this.supervisor.topology.backends["coco"].backend
        assert isinstance(backend, FakeBackend)
        assert backend.wishes == [wishes]

    served(during)


def test_more_pictures_than_may_wait_are_refused_and_counted() -> None:
    async def during(this: Run) -> None:
        with pytest.raises(AskError) as caught:
            await ask(this, [PICTURE] * 40)
        assert caught.value.fault == "busy"
        assert caught.value.retry_after_s == 1

    done = served(during, infer_s=0.05, concurrency=1)
    assert done.report.clients[0].outcomes["dropped_queue_full"] >= 30


def test_an_answer_that_comes_too_late_is_not_waited_for() -> None:
    async def during(this: Run) -> None:
        with pytest.raises(AskError) as caught:
            await ask(this, timeout_s=0.05)
        assert caught.value.fault == "late"

    served(during, infer_s=0.3)


@pytest.mark.parametrize(("failure", "fault"), [("transient", "failed"), ("bug", "failed")])
def test_a_model_that_fails_says_so(failure: str, fault: str) -> None:
    async def during(this: Run) -> None:
        with pytest.raises(AskError) as caught:
            await ask(this)
        assert caught.value.fault == fault

    served(during, fail_every=1, failure=failure)


def test_unknown_and_unopened_models_say_so() -> None:
    async def during(this: Run) -> None:
        with pytest.raises(AskError) as unknown:
            await ask(this, model="nobody/1")
        with pytest.raises(AskError) as loading:
            await ask(this)
        assert (unknown.value.fault, loading.value.fault) == ("unknown", "loading")

    served(during, open_failure="transient", open_failures=1000)


def test_clients_and_a_camera_share_the_model_and_neither_starves() -> None:
    async def during(this: Run) -> None:
        before = len(this.sink().results)
        await asyncio.gather(*(ask(this, [PICTURE]) for _ in range(4)))
        for _ in range(20):
            await ask(this)
        assert len(this.sink().results) > before + 5
        lane = this.supervisor.topology.backends["coco"].client_lane(LaneLimits())
        assert lane is not None
        assert lane.limits.priority == 7

    done = served(during, sources=True, infer_s=0.01, concurrency=1)
    assert done.report.clients[0].outcomes["inferred"] == 24


def test_a_model_is_unloaded_and_loaded_again() -> None:
    async def during(this: Run) -> None:
        clients = this.supervisor.clients
        assert (await clients.unload("coco/9")).state == "unloaded"
        with pytest.raises(AskError) as caught:
            await ask(this)
        assert caught.value.fault == "unloaded"
        await this.until(lambda: this.supervisor.topology.backends["coco"].ended)
        assert (await clients.load("coco")).state == "ready"
        assert len(await ask(this)) == 1

    done = served(during)
    assert done.report.exit_code == 0


def test_a_model_that_cameras_use_is_not_unloaded() -> None:
    async def during(this: Run) -> None:
        with pytest.raises(AskError) as caught:
            await this.supervisor.clients.unload("coco")
        assert caught.value.fault == "unsupported"

    served(during, sources=True)


def test_texts_are_embedded_where_the_model_takes_them() -> None:
    async def during(this: Run) -> None:
        found = await this.supervisor.clients.embed_texts("coco", ["a", "abc"], timeout_s=5)
        assert [embedding.vector.tolist() for embedding in found] == [[1.0], [3.0]]

    served(during)


def test_a_request_under_way_at_the_stop_is_still_answered() -> None:
    async def during(this: Run) -> None:
        asked = asyncio.create_task(ask(this))
        await this.until(lambda: len(this.supervisor.topology.ledger.clients) > 0)
        this.supervisor.stop("in the middle")
        assert len(await asked) == 1

    served(during, infer_s=0.2)


def test_a_tap_holds_the_last_results_of_a_source() -> None:
    async def during(this: Run) -> None:
        tap = this.supervisor.tap("cam", size=3, pictures=True)
        assert tap is not None
        assert this.supervisor.tap("nobody", size=3, pictures=True) is None
        before = len(this.sink().results)
        await this.until(lambda: len(this.sink().results) > before + 10)
        taken = [tap.take() for _ in range(3)]
        seqs = [result.frame.seq for result in taken if result is not None]
        assert len(seqs) == 3
        assert seqs == sorted(seqs)
        assert seqs[0] > before
        assert taken[0] is not None
        assert taken[0].frame.picture.rgb().shape == (16, 16, 3)
        tap.close()
        assert tap.take() is None

    served(during, sources=True)
