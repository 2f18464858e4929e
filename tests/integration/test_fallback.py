"""`fallback`: frames that a backend cannot answer go to another one, in their place and order."""

import asyncio
import logging
from typing import Any

import pytest
from fakes import FakeBackend
from harness import Run, run

from pipeline.contracts.result import Detections, Result


def said_by(result: Result) -> str:
    prediction = result.prediction
    assert isinstance(prediction, Detections)
    return prediction.names[0]


def tree(cloud: dict[str, Any], *, frames: int = 30, **local: Any) -> dict[str, Any]:
    return {
        "sources": {"cam": {"frames": frames, "backend": "cloud"}},
        "backends": {
            "cloud": {"label": "cloud", "fallback": "local", **cloud},
            "local": {"label": "local", "concurrency": 1, **local},
        },
    }


def test_every_frame_of_a_backend_that_fails_is_inferred_by_its_fallback_in_order() -> None:
    done = run(tree({"fail_every": 1, "failure": "transient", "concurrency": 4}))
    assert done.seqs() == list(range(30))
    assert {said_by(result) for result in done.sink().results} == {"local"}
    assert {(result.backend, result.model) for result in done.sink().results} == {("local", "fake")}
    assert done.report.exit_code == 0


def test_the_backend_takes_over_again_once_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "penstock"):
        done = run(tree({"fail_every": 1, "failure": "transient", "fail_batches": 10, "concurrency": 1}))
    assert done.seqs() == list(range(30))
    assert [result.backend for result in done.sink().results] == ["local"] * 10 + ["cloud"] * 20
    samples = done.scrape()
    assert samples["penstock_backend_fallback_frames_total", (("backend", "cloud"),)] == 10
    assert samples["penstock_backend_fallback_active", (("backend", "cloud"),)] == 0
    events = [record.fields["event"] for record in caplog.records if hasattr(record, "fields")]
    assert events.count("fallback_taken") == events.count("fallback_left") == 1


def test_frames_go_to_the_fallback_while_the_backend_cannot_be_opened() -> None:
    seen_active = []

    async def during(this: Run) -> None:
        await this.until(lambda: len(this.sink().results) > 5)
        seen_active.append(this.scrape()["penstock_backend_fallback_active", (("backend", "cloud"),)])
        this.supervisor.stop("enough")

    cam = {"cam": {"endless": True, "fps": 100, "live": True, "backend": "cloud"}}
    both = tree({"open_failure": "transient", "open_failures": 1000})
    done = run({**both, "sources": cam}, during)
    assert {result.backend for result in done.sink().results} == {"local"}
    assert seen_active == [1]


def test_a_backend_that_opens_late_takes_over_from_its_fallback() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: any(result.backend == "cloud" for result in this.sink().results))
        this.supervisor.stop("enough")

    cam = {"cam": {"endless": True, "fps": 100, "live": True, "backend": "cloud"}}
    done = run({**tree({"open_failure": "transient", "open_failures": 2}), "sources": cam}, during)
    backends = [result.backend for result in done.sink().results]
    assert backends[0] == "local"
    assert backends[-1] == "cloud"
    assert done.seqs() == sorted(done.seqs())


def test_where_both_fail_the_frames_are_counted_as_failed() -> None:
    trouble: dict[str, Any] = {"fail_every": 1, "failure": "transient"}
    done = run(tree(trouble, **trouble))
    assert done.report.sources[0].outcomes["failed_backend"] == 30
    assert done.report.exit_code == 1


def test_a_fallback_is_never_asked_by_more_at_once_than_it_takes() -> None:
    done = run(tree({"fail_every": 1, "failure": "transient", "concurrency": 8}, infer_s=0.002, max_batch=2))
    assert done.seqs() == list(range(30))
    local = done.supervisor.topology.backends["local"].backend
    assert isinstance(local, FakeBackend)
    assert local.most_at_once == 1


def test_a_bug_in_the_fallback_breaks_neither() -> None:
    done = run(tree({"fail_every": 1, "failure": "transient"}, fail_every=2, failure="bug"))
    outcomes = done.report.sources[0].outcomes
    assert outcomes["inferred"] == outcomes["failed_backend"] == 15
    assert done.supervisor.topology.backends["cloud"].error is None


def test_a_frame_that_is_too_old_for_the_fallback_is_dropped_as_stale() -> None:
    both = tree({"fail_every": 1, "failure": "transient", "infer_s": 0.1, "concurrency": 1})
    cam = {"cam": {"frames": 3, "backend": "cloud", "max_staleness_s": 0.05, "queue": {"max_frames": 1}}}
    done = run({**both, "sources": cam})
    assert done.report.sources[0].outcomes["dropped_stale"] == 3
    assert done.report.sources[0].outcomes["failed_backend"] == 0


def test_at_the_end_the_fallback_goes_last() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: len(this.sink().results) > 3)
        this.supervisor.stop("enough")
        await asyncio.sleep(0)

    both = tree({"fail_every": 1, "failure": "transient", "concurrency": 1, "infer_s": 0.05})
    done = run({**both, "sources": {"cam": {"endless": True, "fps": 500, "backend": "cloud"}}}, during)
    assert done.report.sources[0].outcomes["failed_backend"] == 0
    assert done.report.sources[0].outcomes["dropped_shutdown"] == 0
