"""A running pipeline is given a configuration that is no good, or in which something fails: nothing else suffers."""

import asyncio

import pytest
from fakes import STUCK, FakeSinkConfig
from harness import Run
from reloading import CAMERA, EVENTS, refused, run_with, seen, settings_of, state, stuck

from pipeline.contracts.clock import SystemClock
from pipeline.runtime.controller import Controller
from pipeline.runtime.status import Status
from pipeline.telemetry.events import Events
from pipeline.telemetry.readings import SourceState


@pytest.mark.parametrize("failure", ["transient", "fatal"])
def test_a_trial_that_fails_is_nobodys_news_but_of_who_asked_for_it(failure: str) -> None:
    async def during(this: Run) -> None:
        await seen(this)
        assert "the source failed for" in await refused(
            this, sources={"cam": {**CAMERA, "failure": failure, "stride": 2}}, sinks=EVENTS
        )
        await seen(this, 100)

    this = run_with(during, sinks=EVENTS)
    assert [event.value for event in this.sink().events if event.kind == "state"] == ["running"]
    assert not any(value for (name, _), value in this.scrape().items() if name == "penstock_source_reconnects_total")


def test_a_camera_whose_frames_cannot_be_decoded_is_not_taken_for_a_good_one() -> None:
    async def during(this: Run) -> None:
        await seen(this)
        worse = {**CAMERA, "broken": tuple(range(1000)), "endless": True}
        assert "cam: not open within 0.5 s" in await refused(this, sources={"cam": worse}, reload_timeout_s=0.5)

    run_with(during)


def test_a_file_that_is_over_during_its_trial_is_taken() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: state(this, "file") is SourceState.RUNNING)
        await this.supervisor.apply(settings_of(sources={"cam": CAMERA, "file": {"frames": 0}}))
        await this.until(lambda: state(this, "file") is SourceState.ENDED)

    run_with(during, sources={"cam": CAMERA, "file": {"frames": 10_000, "fps": 100.0}})


def test_the_only_sink_that_is_not_exchanged_is_no_end_of_the_run() -> None:
    async def during(this: Run) -> None:
        for _ in range(5):
            await seen(this)
            assert "opening failed" in await refused(this, sinks={"keep": {"path": "/x", "open_failure": "fatal"}})
        await seen(this)
        assert not this.supervisor.stopping

    this = run_with(during, sinks={"keep": {"path": "/x"}})
    assert this.report.exit_code == 0


def test_a_sink_that_opens_too_late_to_be_exchanged_gets_nothing() -> None:
    async def during(this: Run) -> None:
        await seen(this)
        topology = this.supervisor.topology
        late = {"keep": {"path": "/x", "open_delay_s": 1.0}}
        applying = asyncio.create_task(refused(this, sinks=late, reload_timeout_s=0.2))
        await asyncio.sleep(0.1)
        trial = this.sink()
        assert "did not open in time" in await applying
        await this.until(lambda: topology.leaving == [])
        assert trial.closed == 1
        assert trial.results == []
        await seen(this)

    this = run_with(during, sinks={"keep": {"path": "/x"}})
    (sink,) = this.report.sinks
    assert sink.outcomes["failed"] == 0


def test_a_sink_that_is_not_exchanged_loses_nothing_of_what_it_had() -> None:
    async def during(this: Run) -> None:
        await seen(this)
        await refused(
            this,
            sources={"cam": CAMERA},
            sinks={
                "keep": {},
                "file": {"path": "/x", "open_failure": "fatal", "open_delay_s": 0.3, "sources": ["cam"]},
            },
        )
        await seen(this)

    this = run_with(during, sources={"cam": CAMERA, "other": CAMERA}, sinks={"keep": {}, "file": {"path": "/x"}})
    inferred = sum(account.outcomes["inferred"] for account in this.report.sources)
    (file,) = [account for account in this.report.sinks if account.name == "file"]
    assert file.entered == inferred


def test_a_source_that_cannot_be_built_changes_nothing_and_the_next_reload_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def during(this: Run) -> None:
        await seen(this)
        wrong = settings_of(
            sources={"other": CAMERA, "new": {"type": "unbuildable"}}, sinks={"keep": {"delay_s": 0.001}}
        )
        right = settings_of(sources={"cam": CAMERA, "new": CAMERA})
        told: list[bool] = []
        plans = iter([wrong, right])
        controller = Controller(
            this.supervisor, lambda *_: next(plans), events=Events(SystemClock()), metrics=this.metrics
        )
        controller.on_reload = told.append
        outcome = await controller.reload("test")
        assert (outcome.ok, outcome.problems) == (False, ("internal error: no such library",))
        assert set(this.supervisor.topology.sources) == {"cam"}
        assert set(this.supervisor.topology.routes) == {"cam"}
        assert this.supervisor.settings.sinks["keep"] == FakeSinkConfig()
        assert (await controller.reload("test")).ok
        assert told == [True, False, True, False]
        await seen(this)

    this = run_with(during)
    assert this.seqs() == list(range(len(this.seqs())))
    assert "no such library" in caplog.text


def test_what_was_only_tried_leaves_no_series_behind() -> None:
    async def during(this: Run) -> None:
        await seen(this)
        await refused(
            this,
            sources={"cam": {**CAMERA, "backend": "model"}},
            backends={"model": {}, "other": {"open_failure": "fatal"}},
            sinks={"keep": {}, "more": {}},
        )
        await this.until(lambda: not this.supervisor.topology.leaving)
        names = {value for _, labels in this.scrape() for _, value in labels}
        assert names.isdisjoint({"other", "more"})
        assert {"model", "keep"} <= names

    run_with(during)


def test_cameras_whose_backend_failed_for_good_come_back_with_the_next_one() -> None:
    cameras = {"good": {**CAMERA, "backend": "good"}, "cam": {**CAMERA, "backend": "bad"}}

    async def during(this: Run) -> None:
        await this.until(lambda: state(this) is SourceState.STOPPED)
        await this.supervisor.apply(settings_of(sources=cameras, backends={"good": {}, "bad": {}}))
        await this.until(lambda: bool(this.seqs(source="cam")))
        assert state(this) is SourceState.RUNNING

    this = run_with(during, sources=cameras, backends={"good": {}, "bad": {"failure": "fatal", "fail_every": 1}})
    assert this.report.failed == []


def test_a_source_for_one_reader_is_let_go_before_it_is_read_again() -> None:
    device = {**CAMERA, "type": "one_reader", "on_startup_error": "error"}

    async def during(this: Run) -> None:
        await seen(this)
        await this.supervisor.apply(settings_of(sources={"cam": {**device, "stride": 2}}))
        await this.until(lambda: state(this) in (SourceState.RUNNING, SourceState.FAILED))
        assert state(this) is SourceState.RUNNING
        await seen(this)

    run_with(during, sources={"cam": device})


def test_a_source_that_may_give_nothing_for_hours_is_not_waited_for() -> None:
    folder = {"type": "quiet_folder", "frames": 1}

    async def during(this: Run) -> None:
        await this.until(lambda: state(this, "folder") is SourceState.RUNNING)
        await this.supervisor.apply(settings_of(sources={"cam": CAMERA, "folder": {**folder, "frames": 0}}))
        assert state(this, "folder") is SourceState.STARTING

    run_with(during, sources={"cam": CAMERA, "folder": folder})


def test_frames_that_came_during_a_trial_are_in_the_ledger() -> None:
    slow = {**CAMERA, "fps": 2.0}

    async def during(this: Run) -> None:
        await this.until(lambda: state(this) is state(this, "slow") is SourceState.RUNNING)
        edited = {"cam": {**CAMERA, "priority": 1}, "slow": {**slow, "priority": 1}}
        await this.supervisor.apply(settings_of(sources=edited))

    this = run_with(during, sources={"cam": CAMERA, "slow": slow})
    (cam, _) = this.report.sources
    assert cam.outcomes["sampled_out"] > 30


def test_a_removed_camera_that_hangs_does_not_keep_the_run_from_ending() -> None:
    hanging = {**CAMERA, "endless": False, "frames": 10, "stuck": True}

    async def during(this: Run) -> None:
        await this.until(lambda: len(this.seqs()) == 10)
        await this.supervisor.apply(settings_of(sources={"file": file}, shutdown_timeout_s=1.0))
        await this.until(lambda: this.supervisor._over)

    file = {"frames": 100, "fps": 100.0}
    this = run_with(during, sources={"file": file, "cam": hanging}, shutdown_timeout_s=1.0)
    assert this.report.late == ["source-cam"]
    assert len(this.seqs(source="file")) == 100


def test_neither_an_exchange_nor_a_sink_that_is_not_open_yet_is_a_stage_that_hangs() -> None:
    alarms: list[object] = []

    async def during(this: Run) -> None:
        watch, status = this.supervisor.watch, Status(this.supervisor, "1.0", SystemClock())
        await this.until(lambda: len(this.supervisor.topology.backends["model"].queue) > 2)
        for _ in range(8):
            await asyncio.sleep(0.25)
            alarms.extend(watch.stuck(1.0))
        alarms.extend(check for check in status.live() if not check.ok)

    away = {
        "away": {"open_failure": "transient", "open_delay_s": 2.5, "queue": {"max_frames": 1, "when_full": "block"}}
    }
    run_with(during, sources={"cam": {"frames": 50}}, sinks={"keep": {}, **away}, shutdown_timeout_s=1.0)
    assert alarms == []


def test_a_backend_that_waits_for_its_turn_is_not_stuck() -> None:
    async def during(this: Run) -> None:
        await stuck(this)
        applying = asyncio.create_task(this.supervisor.apply(settings_of(backends={"model": {"concurrency": 2}})))
        old = this.supervisor.topology.backends["model"]
        await this.until(lambda: this.supervisor.topology.backends["model"] is not old)
        for _ in range(8):
            await asyncio.sleep(0.25)
            assert this.supervisor.watch.stuck(0.9) == []
        STUCK.set()
        await applying
        await seen(this)

    run_with(during, backends={"model": {"concurrency": 1, "stuck_at": 5}})
