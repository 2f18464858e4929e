"""`fallback`: frames that a backend cannot answer go to another one, in their place and order."""

import asyncio
import gc
import logging
import threading
import time
from typing import Any, Literal

import pytest
from fakes import PICTURE, FakeBackend, FakeBackendConfig
from harness import Run, run
from reloading import run_with, seen, settings_of

from pipeline.contracts.component import Context
from pipeline.contracts.frame import Frame
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


def test_a_fallback_that_wants_to_end_the_process_fails_its_frames_and_no_more() -> None:
    done = run(tree({"fail_every": 1, "failure": "transient", "concurrency": 4}, answer="exit"))
    assert done.report.sources[0].outcomes["failed_backend"] == 30
    assert done.supervisor.topology.backends["cloud"].error is None


def test_what_waits_for_a_backend_to_open_keeps_no_pictures_of_frames_that_are_over() -> None:
    kept = []

    async def during(this: Run) -> None:
        await this.until(lambda: len(this.sink().results) > 100)
        gc.collect()
        kept.append(sum(isinstance(each, Frame) and each.picture is PICTURE for each in gc.get_objects()))
        this.supervisor.stop("enough")

    cam = {"cam": {"endless": True, "fps": 500, "live": True, "backend": "cloud"}}
    both = tree({"open_failure": "transient", "open_failures": 1000})
    run({**both, "sources": cam}, during)
    assert kept[0] < 20


def test_frames_that_were_lent_are_timed_where_they_were_inferred() -> None:
    samples = run(tree({"fail_every": 1, "failure": "transient"})).scrape()

    def timed(backend: str) -> float:
        labels = {"stage": "infer", "source": "", "backend": backend, "sink": ""}
        return samples["penstock_stage_duration_seconds_count", tuple(sorted(labels.items()))]

    assert (timed("cloud"), timed("local")) == (0, 30)


def camera(backend: str) -> dict[str, Any]:
    return {"endless": True, "fps": 500, "backend": backend, "queue": {"max_frames": 8}}


def test_a_reload_that_removes_a_backend_with_its_fallback_loses_no_frame() -> None:
    failing = {"fallback": "local", "fail_every": 1, "failure": "transient", "concurrency": 1}

    async def during(this: Run) -> None:
        await seen(this, 5)
        await this.supervisor.apply(settings_of(sources={"cam": camera("other")}, backends={"other": {}}))
        await this.until(lambda: any(result.backend == "other" for result in this.sink().results))

    both = {"cloud": failing, "local": {"concurrency": 1, "infer_s": 0.03}}
    done = run_with(during, sources={"cam": camera("cloud")}, backends=both)
    assert done.report.sources[0].outcomes["failed_backend"] == 0


def test_no_result_overtakes_another_when_a_backend_loses_its_fallback_at_a_reload() -> None:
    failing = {"fallback": "local", "fail_every": 1, "failure": "transient", "concurrency": 3}
    cam = {"cam": {"endless": True, "fps": 500, "live": True, "type": "live", "backend": "cloud"}}

    async def during(this: Run) -> None:
        await seen(this, 5)
        await this.supervisor.apply(settings_of(sources=cam, backends={"cloud": {"label": "new"}}))
        await this.until(lambda: any(result.backend == "cloud" for result in this.sink().results))

    both = {"cloud": failing, "local": {"concurrency": 2, "infer_s": 0.02}}
    done = run_with(during, sources=cam, backends=both)
    assert done.report.sources[0].outcomes["failed_backend"] == 0
    assert done.seqs() == sorted(done.seqs())
    assert done.sink().results[0].backend == "local"


def test_a_hundred_reloads_of_a_backend_that_borrows_leave_nothing_behind() -> None:
    cam = {"cam": {"endless": True, "fps": 300, "live": True, "type": "live", "backend": "cloud"}}

    def both(number: int) -> dict[str, dict[str, Any]]:
        failing = {"fallback": "local", "fail_every": 2, "failure": "transient", "label": f"v{number}"}
        return {"cloud": failing, "local": {"label": f"v{number // 2}"}}

    threads = []

    async def during(this: Run) -> None:
        for number in range(1, 101):
            await this.supervisor.apply(settings_of(sources=cam, backends=both(number)))
            if number in (10, 100):
                await this.until(lambda: this.supervisor.topology.leaving == [])
                threads.append(threading.active_count())

    done = run_with(during, sources=cam, backends=both(0))
    assert threads[1] <= threads[0] + 2
    assert done.report.sources[0].outcomes["failed_backend"] == 0
    assert done.seqs() == sorted(done.seqs())


class HangingConfig(FakeBackendConfig):
    """A model elsewhere whose server takes connections and does not answer."""

    type: Literal["hanging"] = "hanging"  # type: ignore[assignment]

    def build(self, ctx: Context) -> FakeBackend:
        return Hanging(self, ctx)


class Hanging(FakeBackend):
    patience_s = 60.0

    def __init__(self, config: FakeBackendConfig, ctx: Context) -> None:
        super().__init__(config)
        self._call = ctx.call

    def open(self) -> None:
        self.opened += 1
        self._call(asyncio.sleep(30), 40)


def test_a_stop_does_not_wait_for_a_server_that_hangs() -> None:
    async def during(this: Run) -> None:
        await this.until(this.supervisor.topology.backends["model"].threads[0].is_alive)
        await asyncio.sleep(0.1)
        this.supervisor.stop("enough")

    began_at = time.monotonic()
    done = run({"backends": {"model": {"type": "hanging"}}}, during, [HangingConfig])
    assert time.monotonic() - began_at < 5
    assert (done.report.late, done.report.failed) == ([], [])


def test_a_backend_that_waits_for_a_server_is_not_stuck_before_it_gives_up_itself() -> None:
    patience: list[float] = []

    async def during(this: Run) -> None:
        await this.supervisor.started.wait()
        patience.extend(stage.patience_s for stage in this.supervisor.topology.stages() if stage.kind == "backend")

    class Patient(FakeBackendConfig):
        type: Literal["patient"] = "patient"  # type: ignore[assignment]

        def build(self, ctx: Context) -> FakeBackend:
            backend = FakeBackend(self)
            backend.patience_s = 40.0  # type: ignore[attr-defined]
            return backend

    backends = {"model": {"type": "patient", "fallback": "too"}, "too": {"type": "patient"}}
    run({"sources": {"cam": {"backend": "model"}}, "backends": backends}, during, [Patient])
    assert patience == [80.0, 40.0]
