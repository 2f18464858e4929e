"""Live sources and what the runners make of them: down once and up once, orders, silence, load, batches."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any, Literal

import psutil
import pytest
from fakes import STUCK, FakeSource, LiveFakeConfig
from harness import Run, run

from pipeline.contracts.component import Context
from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.event import SourceEvent
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.runtime.backoff import Backoff
from pipeline.runtime.context import MainLoop
from pipeline.telemetry.readings import SourceState

CAMERA: dict[str, Any] = {"live": True, "endless": True, "fps": 200.0}
RECONNECT = {"min_s": 0.01, "max_s": 0.05}


def _live(**tables: Any) -> dict[str, Any]:
    return {"type": "live", **CAMERA, "reconnect": RECONNECT, **tables}


def _state(this: Run, name: str = "cam") -> SourceState:
    return this.supervisor.topology.sources[name].read().state


def _events(this: Run, kind: str = "state") -> list[tuple[str, str | None]]:
    events = [event for event in this.sink().events if isinstance(event, SourceEvent)]
    return [(event.value, event.code) for event in events if event.kind == kind]


async def _seen(this: Run, more: int = 20) -> None:
    seen = this.sink().results_seen
    await this.until(lambda: this.sink().results_seen > seen + more)


def test_a_camera_that_goes_away_is_logged_once_down_and_once_up_and_its_sinks_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def during(this: Run) -> None:
        await _seen(this, 60)
        this.supervisor.stop("test")

    with caplog.at_level(logging.INFO, "penstock"):
        this = run(
            {
                "sources": {"cam": _live(failure="transient", fail_at=30, fail_times=5)},
                "sinks": {"keep": {"notices": ["sources"]}},
            },
            during,
        )
    lines = [record.getMessage() for record in caplog.records if "source cam" in record.getMessage()]
    assert len([line for line in lines if ": down: CONNECTION_FAILED: the source failed for now" in line]) == 1
    assert len([line for line in lines if "running again after" in line]) == 1
    assert _events(this)[:3] == [("running", None), ("reconnecting", "CONNECTION_FAILED"), ("running", None)]
    assert this.seqs() == sorted(this.seqs())
    assert this.scrape()["penstock_source_reconnects_total", (("code", "CONNECTION_FAILED"), ("source", "cam"))] == 5


class LockedConfig(LiveFakeConfig):
    type: Literal["locked"] = "locked"  # type: ignore[assignment]

    def build(self, ctx: Context) -> FakeSource:
        return Locked(self, ctx)


class Locked(FakeSource):
    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        raise TransientError("wrong password", code=SourceErrorCode.AUTH_FAILED)


def test_a_wrong_password_is_not_tried_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: _state(this) is SourceState.RECONNECTING)
        this.supervisor.stop("test")

    source = _live(type="locked", reconnect={"min_s": 0.01, "max_s": 1000.0})
    run({"sources": {"cam": source}}, during, (LockedConfig,))
    (line,) = [record.getMessage() for record in caplog.records if "down: AUTH_FAILED" in record.getMessage()]
    assert float(line.split()[-2]) >= 500


def test_an_order_does_not_wait_for_the_next_try() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: _state(this) is SourceState.RECONNECTING)
        this.supervisor.topology.sources["cam"].restart()
        await _seen(this)
        this.supervisor.stop("test")

    run({"sources": {"cam": _live(failure="transient", fail_times=1, reconnect={"min_s": 60, "max_s": 60})}}, during)


def test_a_sink_that_does_not_ask_for_events_gets_none() -> None:
    async def during(this: Run) -> None:
        await _seen(this)
        this.supervisor.stop("test")

    this = run({"sources": {"cam": _live()}}, during)
    assert this.sink().events == []


def test_a_camera_that_is_down_at_the_start_is_no_error_unless_it_says_so() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: _state(this) is SourceState.FAILED)
        await _seen(this)
        this.supervisor.stop("test")

    down = {"failure": "transient", "fail_times": 3}
    this = run({"sources": {"cam": _live(**down, on_startup_error="error"), "other": _live(**down)}}, during)
    assert this.seqs(source="cam") == []
    assert this.seqs(source="other")[0] == 0
    assert this.report.failed == ["cam"]


def test_a_paused_camera_is_closed_and_gives_nothing_until_it_is_resumed() -> None:
    async def during(this: Run) -> None:
        await _seen(this)
        runner = this.supervisor.topology.sources["cam"]
        runner.pause()
        await this.until(lambda: _state(this) is SourceState.PAUSED and runner.read().in_flight == 0)
        seen = this.sink().results_seen
        await asyncio.sleep(0.1)
        assert this.sink().results_seen == seen
        runner.resume()
        await _seen(this)
        runner.restart()
        await _seen(this)
        runner.pause()
        await this.until(lambda: _state(this) is SourceState.PAUSED)
        this.supervisor.stop("test")

    this = run({"sources": {"cam": _live()}, "sinks": {"keep": {"notices": ["sources"]}}}, during)
    assert this.seqs() == list(range(len(this.seqs())))
    assert _events(this) == [("running", None), ("paused", None), ("running", None), ("paused", None)]


def test_a_paused_file_goes_on_where_it_was() -> None:
    async def during(this: Run) -> None:
        await _seen(this, 5)
        runner = this.supervisor.topology.sources["cam"]
        runner.pause()
        await this.until(lambda: _state(this) is SourceState.PAUSED)
        runner.resume()

    this = run({"sources": {"cam": {"frames": 200, "fps": 200.0}}}, during)
    assert this.seqs() == list(range(200))


def test_a_camera_that_falls_silent_without_noticing_is_taken_for_lost() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: _state(this) is SourceState.RECONNECTING)
        assert str(this.supervisor.topology.sources["cam"].error).startswith("no frame for ")
        STUCK.set()
        await _seen(this)
        assert _state(this) is SourceState.RUNNING
        this.supervisor.stop("test")

    STUCK.clear()
    source = _live(stall_timeout_s=0.3, stuck_at=10)
    this = run({"sources": {"cam": source}, "sinks": {"keep": {"notices": ["sources"]}}}, during)
    assert _events(this)[:3] == [("running", None), ("reconnecting", "STALLED"), ("running", None)]


def test_a_slow_backend_gets_fresh_frames_and_the_rest_is_counted() -> None:
    """A camera of 30 fps before a backend of 5: age, memory and the ledger."""
    memory: list[int] = []

    async def during(this: Run) -> None:
        for _ in range(16):
            await asyncio.sleep(0.25)
            memory.append(psutil.Process().memory_info().rss)
            this.check_ledger(this.scrape())
        this.supervisor.stop("test")

    this = run(
        {
            "sources": {"cam": _live(fps=30.0, max_staleness_s=0.5, pixels=(640, 360))},
            "backends": {"model": {"concurrency": 1, "infer_s": 0.2}},
        },
        during,
    )
    (account,) = this.report.sources
    dropped = account.outcomes["dropped_queue_full"] + account.outcomes["dropped_stale"]
    assert dropped > account.outcomes["inferred"] > 5
    ages = [result.inferred_at - result.frame.decoded_at for result in this.sink().results]
    assert max(ages) < 0.5 + 0.2 + 0.3  # the limit when it was taken, the inference, and a machine that is busy
    assert max(memory[4:]) - min(memory[4:]) < 16 << 20


def test_batches_form_across_cameras_and_each_result_goes_back_to_its_own_in_order() -> None:
    async def during(this: Run) -> None:
        await _seen(this, 200)
        this.supervisor.stop("test")

    sources = {f"cam{number}": _live(fps=60.0) for number in range(4)}
    this = run({"sources": sources, "backends": {"model": {"max_batch": 4, "max_wait_s": 0.1}}}, during)
    batches = this.scrape()["penstock_inference_batch_frames_count", (("backend", "model"),)]
    assert len(this.sink().results) / batches > 2
    for name in sources:
        assert this.seqs(source=name) == sorted(this.seqs(source=name))


def test_a_camera_of_sixty_frames_a_second_does_not_starve_one_of_five() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: len(this.seqs(source="slow")) >= 12)
        this.supervisor.stop("test")

    sources = {"fast": _live(fps=60.0), "slow": _live(fps=5.0)}
    this = run({"sources": sources, "backends": {"model": {"concurrency": 1, "infer_s": 0.08}}}, during)
    fast, slow = (account.outcomes for account in this.report.sources)
    assert fast["dropped_queue_full"] > fast["inferred"]
    assert slow["dropped_queue_full"] == 0
    assert slow["inferred"] >= 12


def test_after_a_minute_of_good_frames_the_delays_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a shorter one: a camera that comes and goes is left alone for longer and longer."""
    for good_s, resets in ((0.1, 1), (60.0, 0)):
        seen: list[None] = []
        monkeypatch.setattr("pipeline.runtime.source_runner.GOOD_SPELL_S", good_s)
        monkeypatch.setattr(Backoff, "reset", lambda _, seen=seen: seen.append(None))

        async def during(this: Run) -> None:
            await this.until(lambda: len(this.seqs()) > 60)
            this.supervisor.stop("test")

        run({"sources": {"cam": _live(failure="transient", fail_at=50, fail_times=1)}}, during)
        assert len(seen) == resets


def test_under_load_the_lower_priority_is_shed() -> None:
    async def during(this: Run) -> None:
        await _seen(this, 60)
        this.supervisor.stop("test")

    sources = {"gate": _live(priority=1, fps=60.0), "yard": _live(fps=60.0)}
    this = run({"sources": sources, "backends": {"model": {"concurrency": 1, "infer_s": 0.02}}}, during)
    inferred = {account.name: account.outcomes["inferred"] for account in this.report.sources}
    assert inferred["gate"] > 5 * inferred["yard"]


def test_damage_and_jumps_are_counted_and_go_on_as_the_source_says() -> None:
    async def during(this: Run) -> None:
        await _seen(this, 60)
        this.supervisor.stop("test")

    this = run({"sources": {"cam": _live(corrupt=(3, 5), jumps=(7,), clock_offset_s=1.5)}}, during)
    samples = this.scrape()
    assert samples["penstock_frames_corrupt_total", (("source", "cam"),)] == 2
    assert samples["penstock_source_time_jumps_total", (("source", "cam"),)] == 1
    assert samples["penstock_source_clock_offset_seconds", (("source", "cam"),)] == 1.5
    flagged = [result.frame.seq for result in this.sink().results if result.frame.corrupt]
    assert set(flagged) <= {3, 5}


def test_a_motion_gate_counts_what_it_holds_back_and_lets_one_pass_now_and_then() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: this.supervisor.topology.sources["cam"].read().outcomes["gated"] > 100)
        this.supervisor.stop("test")

    this = run({"sources": {"cam": _live(motion={"keepalive_s": 2.0})}}, during)
    (account,) = this.report.sources
    assert 2 <= account.outcomes["inferred"] <= 8


def test_pictures_without_light_are_told_once() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: bool(_events(this, "content")))
        this.supervisor.stop("test")

    this = run({"sources": {"cam": _live()}, "sinks": {"keep": {"notices": ["sources"]}}}, during)
    assert _events(this, "content") == [("black", None)]
    assert this.scrape()["penstock_source_content", (("content", "black"), ("source", "cam"))] == 1


def test_a_stage_that_hangs_is_named_and_one_that_has_nothing_to_do_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async def during(this: Run) -> None:
        this.supervisor.watch.tell_after_s = 1.0
        await this.until(lambda: this.supervisor.watch.stuck(1.2) == ["backend model"])
        assert this.scrape()["penstock_stuck_seconds", (("kind", "backend"), ("name", "model"))] >= 1.2
        assert this.scrape()["penstock_stuck_seconds", (("kind", "sink"), ("name", "keep"))] == 0
        STUCK.set()
        await this.until(lambda: this.supervisor.watch.stuck(0.1) == [])
        this.supervisor.stop("test")

    STUCK.clear()
    with caplog.at_level(logging.INFO, "penstock"):
        run({"sources": {"cam": _live()}, "backends": {"model": {"concurrency": 1, "stuck_at": 5}}}, during)
    lines = [record.getMessage() for record in caplog.records if "backend model" in record.getMessage()]
    assert len([line for line in lines if "has work and made no progress" in line]) == 1
    assert len([line for line in lines if "moves again" in line]) == 1


def test_the_time_that_a_camera_makes_us_wait_is_not_called_decoding() -> None:
    async def during(this: Run) -> None:
        await _seen(this)
        this.supervisor.stop("test")

    this = run({"sources": {"cam": _live(), "other": _live(decode_s=0.25)}}, during)
    spent = {
        dict(labels)["source"]: value
        for (name, labels), value in this.scrape().items()
        if name == "penstock_stage_duration_seconds_sum" and dict(labels)["stage"] == "decode"
    }
    assert spent["cam"] == 0
    decoded = {account.name: account.entered for account in this.report.sources}["other"]
    assert spent["other"] == pytest.approx(decoded * 0.25)


def test_a_camera_is_away_since_its_last_picture_and_not_since_it_was_noticed(caplog: pytest.LogCaptureFixture) -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: _state(this) is SourceState.RECONNECTING)
        STUCK.set()
        await _seen(this)
        this.supervisor.stop("test")

    STUCK.clear()
    with caplog.at_level(logging.INFO, "penstock"):
        run({"sources": {"cam": _live(stall_timeout_s=1.0, stuck_at=10)}}, during)
    (line,) = [record.getMessage() for record in caplog.records if "running again after" in record.getMessage()]
    assert float(line.split("running again after ")[1].split()[0]) >= 1.0


def test_a_cameras_frames_do_not_wake_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    woken = seen = 0
    notify = MainLoop.notify

    def counting(loop: MainLoop, event: asyncio.Event) -> None:
        nonlocal woken
        woken += 1
        notify(loop, event)

    monkeypatch.setattr(MainLoop, "notify", counting)

    async def during(this: Run) -> None:
        nonlocal seen, woken
        await _seen(this)
        woken, seen = 0, this.sink().results_seen
        await _seen(this, 60)
        assert woken == 0
        this.supervisor.stop("test")

    this = run({"sources": {"cam": _live()}}, during)
    assert this.sink().results_seen >= seen + 60
