"""What comes at the same time as another configuration: a stop, a pause, an end, frames on their way."""

import asyncio
import time
from typing import Any

from fakes import FakeBackendConfig
from harness import Run, run
from reloading import CAMERA, refused, run_with, seen, settings_of, state, stuck

from pipeline.contracts.clock import SystemClock
from pipeline.runtime.controller import Controller
from pipeline.telemetry.events import Events
from pipeline.telemetry.readings import SourceState


def test_a_sink_that_is_removed_again_while_it_still_leaves_keeps_its_books() -> None:
    async def during(this: Run) -> None:
        slow: dict[str, Any] = {"keep": {}, "slow": {"delay_s": 0.02}}
        fast: dict[str, Any] = {"keep": {}}
        await this.supervisor.apply(settings_of(sinks=slow))
        for sinks in (fast, slow, fast):
            await seen(this, 60)
            await this.supervisor.apply(settings_of(sinks=sinks))
        await this.until(lambda: not this.supervisor.topology.leaving)

    this = run_with(during)
    (removed,) = [account for account in this.report.sinks if account.name == "removed"]
    assert removed.outcomes["failed"] == 0
    assert removed.entered == removed.outcomes["delivered"] > 100


def test_a_result_that_waits_for_a_sink_that_is_removed_has_not_failed() -> None:
    hanging = {"stuck_at": 0, "queue": {"max_frames": 1, "when_full": "block"}}

    async def during(this: Run) -> None:
        await stuck(this)
        await this.supervisor.apply(settings_of())
        await seen(this)

    this = run_with(during, sinks={"keep": {}, "stuck": hanging})
    assert all(account.outcomes["failed"] == 0 for account in this.report.sinks)


def test_a_stop_while_the_old_backend_still_works_loses_nothing() -> None:
    async def during(this: Run) -> None:
        await seen(this, 2)
        applying = asyncio.create_task(this.supervisor.apply(settings_of(**after)))
        await this.until(lambda: this.supervisor.settings.backends["model"] != FakeBackendConfig(**slow))
        this.supervisor.stop("test")
        await applying

    slow = {"concurrency": 1, "infer_s": 0.2}
    before = {"sources": {"cam": {"frames": 1000, "queue": {"max_frames": 5}}}}
    after = {**before, "backends": {"model": {"concurrency": 2}}}
    this = run_with(during, **before, backends={"model": slow})
    (source,) = this.report.sources
    assert source.entered - source.outcomes["inferred"] <= 1
    assert this.report.exit_code == 0
    assert this.seqs() == sorted(this.seqs())


def test_a_second_stop_while_the_old_backend_is_stuck_ends_it() -> None:
    async def during(this: Run) -> None:
        await stuck(this)
        old = this.supervisor.topology.backends["model"]
        applying = asyncio.create_task(this.supervisor.apply(settings_of()))
        await this.until(lambda: this.supervisor.topology.backends["model"] is not old)
        this.supervisor.stop("test")
        began_at.append(time.monotonic())
        this.supervisor.stop("again")
        await applying
        await this.until(lambda: this.supervisor._over)
        began_at.append(time.monotonic())

    began_at: list[float] = []
    this = run_with(during, backends={"model": {"concurrency": 1, "stuck_at": 5}})
    assert began_at[1] - began_at[0] < 5
    assert this.report.abandoned


def test_nothing_is_begun_anew_or_changed_before_the_start_nor_after_the_end() -> None:
    async def during(this: Run) -> None:
        this.supervisor.replace_source("cam")
        assert await refused(this) == "the pipeline is still starting"
        await this.until(lambda: this.supervisor._draining)
        this.supervisor.replace_source("cam")
        assert await refused(this) == "the pipeline is stopping"

    this = run({"sources": {"cam": {"frames": 20}}, "backends": {"model": {"open_delay_s": 0.3}}}, during)
    assert this.seqs() == list(range(20))


def test_a_reload_that_comes_too_early_is_refused_and_nobody_is_told_that_all_is_ready() -> None:
    async def during(this: Run) -> None:
        told: list[bool] = []
        controller = Controller(
            this.supervisor, lambda *_: settings_of(), events=Events(SystemClock()), metrics=this.metrics
        )
        controller.on_reload = told.append
        outcome = await controller.reload("test")
        assert (outcome.ok, outcome.problems) == (False, ("the pipeline is still starting",))
        assert told == []

    run({"sources": {"cam": {"frames": 5}}, "backends": {"model": {"open_delay_s": 0.3}}}, during)


def test_a_new_backend_that_is_faster_overtakes_nothing() -> None:
    camera = {**CAMERA, "queue": {"max_frames": 6}}

    async def during(this: Run) -> None:
        port = this.supervisor.topology.sources["cam"].port
        assert port is not None
        await this.until(lambda: len(port.lane) == 6)
        await this.supervisor.apply(settings_of(sources={"cam": camera}))
        await seen(this, 50)

    this = run_with(during, sources={"cam": camera}, backends={"model": {"concurrency": 1, "infer_s": 0.1}})
    assert this.seqs() == sorted(this.seqs())


def test_changes_that_come_at_the_same_time_follow_each_other() -> None:
    async def during(this: Run) -> None:
        await seen(this)
        slow = {"model": {"open_delay_s": 0.2}}
        one, two = (settings_of(sources={"cam": CAMERA, name: CAMERA}, backends=slow) for name in ("one", "two"))
        await asyncio.gather(this.supervisor.apply(one), this.supervisor.apply(two))
        assert set(this.supervisor.topology.sources) == set(this.supervisor.settings.sources) == {"cam", "two"}
        await this.until(lambda: bool(this.seqs(source="two")))

    run_with(during)


def test_a_sink_keeps_to_its_new_limits() -> None:
    async def during(this: Run) -> None:
        sinks: dict[str, Any] = {"keep": {"queue": {"max_frames": 3, "when_full": "drop_newest"}}}
        sink = this.sink()
        await this.supervisor.apply(settings_of(sinks=sinks))
        limits = this.supervisor.topology.routes["cam"].outlets["keep"].port.lane.limits
        assert (limits.max_items, limits.when_full) == (3, "drop_newest")
        assert this.sink() is sink

    run_with(during)


def test_what_waits_of_a_camera_that_is_removed_is_still_inferred_and_then_it_is_forgotten() -> None:
    slow = {"model": {"concurrency": 1, "infer_s": 0.1}}

    async def during(this: Run) -> None:
        port = this.supervisor.topology.sources["gone"].port
        assert port is not None
        await this.until(lambda: len(port.lane) == 6)
        await this.supervisor.apply(settings_of(backends=slow))
        await this.until(lambda: not this.supervisor.topology.leaving)
        assert "gone" not in {value for _, labels in this.scrape() for _, value in labels}

    cameras = {"cam": {**CAMERA, "fps": 1.0}, "gone": {**CAMERA, "queue": {"max_frames": 6}}}
    this = run_with(during, sources=cameras, backends=slow)
    (removed,) = [account for account in this.report.sources if account.name == "removed"]
    assert removed.outcomes["dropped_shutdown"] <= 1
    assert removed.outcomes["inferred"] == len(this.seqs(source="gone")) > 6


def test_a_paused_camera_stays_paused_whenever_it_was_told() -> None:
    async def during(this: Run) -> None:
        await seen(this)
        this.supervisor.topology.sources["cam"].pause()
        await this.until(lambda: state(this) is SourceState.PAUSED)
        await this.supervisor.apply(settings_of(sources={"cam": {**CAMERA, "stride": 2}}))
        await this.until(lambda: state(this) is SourceState.PAUSED)
        this.supervisor.topology.sources["cam"].resume()
        await seen(this)
        slow = {"backends": {"model": {"open_delay_s": 0.3}}}
        applying = asyncio.create_task(
            this.supervisor.apply(settings_of(sources={"cam": {**CAMERA, "stride": 3}}, **slow))
        )
        await asyncio.sleep(0.1)
        this.supervisor.topology.sources["cam"].pause()
        await applying
        await this.until(lambda: state(this) is SourceState.PAUSED)
        before = this.sink().results_seen
        await asyncio.sleep(0.2)
        assert this.sink().results_seen <= before + 3
        this.supervisor.topology.sources["cam"].resume()
        await seen(this)

    run_with(during)


def test_what_waits_of_a_camera_that_is_edited_comes_before_what_is_new() -> None:
    camera = {**CAMERA, "queue": {"max_frames": 8}}
    slow = {"model": {"concurrency": 1, "infer_s": 0.05}}

    async def during(this: Run) -> None:
        port = this.supervisor.topology.sources["cam"].port
        assert port is not None
        await this.until(lambda: len(port.lane) == 8)
        await this.supervisor.apply(settings_of(sources={"cam": {**camera, "max_fps": 10.0}}, backends=slow))
        await seen(this, 12)

    this = run_with(during, sources={"cam": camera}, backends=slow)
    decoded_at = [result.frame.decoded_at for result in this.sink().results]
    assert decoded_at == sorted(decoded_at)
    assert this.sink().results[-1].config_hash == this.supervisor.settings.config_hash


def test_a_camera_that_moves_to_another_backend_does_not_overtake_itself() -> None:
    backends = {"slow": {"concurrency": 1, "infer_s": 0.15}, "fast": {}}

    def sources(backend: str) -> dict[str, Any]:
        return {"cam": {**CAMERA, "backend": backend}, "other": {**CAMERA, "backend": "fast", "fps": 20.0}}

    async def during(this: Run) -> None:
        await this.until(lambda: len(this.seqs()) > 3)
        await this.supervisor.apply(settings_of(sources=sources("fast"), backends=backends))
        await seen(this, 60)

    this = run_with(during, sources=sources("slow"), backends=backends)
    order = [result.backend for result in this.sink().results if result.frame.source == "cam"]
    assert order == sorted(order, reverse=True)
    assert set(order) == {"slow", "fast"}


def test_a_run_whose_files_end_during_a_reload_goes_on_with_the_new_camera() -> None:
    async def during(this: Run) -> None:
        both = settings_of(sources={"file": file, "cam": CAMERA}, backends={"model": {"open_delay_s": 1.0}})
        assert "source cam: added" in await this.supervisor.apply(both)
        assert state(this, "file") is SourceState.ENDED
        await seen(this)

    file = {"frames": 20, "fps": 100.0}
    this = run_with(during, sources={"file": file})
    assert len(this.seqs(source="file")) == 20


def test_a_backend_is_relieved_at_once_though_one_of_its_files_has_ended() -> None:
    async def during(this: Run) -> None:
        topology = this.supervisor.topology
        await this.until(lambda: state(this, "file") is SourceState.ENDED)
        port = topology.sources["file"].port
        assert port is not None
        port.move(topology.backends["model"].queue.lane(port.lane.limits))  # it ended just while it was moved
        began_at = time.monotonic()
        await this.supervisor.apply(settings_of(sources=sources, backends={"model": {"concurrency": 1}}))
        assert time.monotonic() - began_at < 5

    sources = {"file": {"frames": 5}, "cam": CAMERA}
    run_with(during, sources=sources)
