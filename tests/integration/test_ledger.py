"""Every frame and every result is accounted for, whatever fails: `harness.run` checks the ledger after each run."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import STUCK, FakeBackend
from harness import Run, run

from pipeline.config.settings import ConfigProblems
from pipeline.contracts.clock import SystemClock
from pipeline.runtime.status import Status


@pytest.fixture
def unstick() -> Iterator[None]:
    """What is stuck is let go at the end of the test, and waited for."""
    STUCK.clear()
    yield
    STUCK.set()


async def _until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110  (a fake's counts have no event to wait for)
        await asyncio.sleep(0.005)


def _outcomes(this: Run, source: str = "cam") -> dict[str, int]:
    account = next(account for account in this.report.sources if account.name == source)
    return {name: count for name, count in account.outcomes.items() if count}


def _results(this: Run, sink: str) -> dict[str, int]:
    account = next(account for account in this.report.sinks if account.name == sink)
    return {name: count for name, count in account.outcomes.items() if count}


def test_every_frame_of_a_file_arrives_once_and_in_order() -> None:
    this = run({"sources": {"cam": {"frames": 200}}, "backends": {"model": {"concurrency": 4, "delay_s": 0.001}}})
    assert this.seqs() == list(range(200))
    assert _outcomes(this) == {"inferred": 200}
    assert this.report.exit_code == 0


def test_eight_files_at_once_with_batches_across_them() -> None:
    sources = {f"cam{index}": {"frames": 40 + index} for index in range(8)}
    this = run({"sources": sources, "backends": {"model": {"concurrency": 3, "max_batch": 4, "delay_s": 0.001}}})
    for index in range(8):
        assert this.seqs(source=f"cam{index}") == list(range(40 + index))
    assert this.report.exit_code == 0


def test_a_frame_that_cannot_be_decoded_is_counted_and_the_others_go_on() -> None:
    this = run({"sources": {"cam": {"frames": 10, "broken": [0, 3, 9]}}})
    assert this.seqs() == [1, 2, 4, 5, 6, 7, 8]
    assert _outcomes(this) == {"inferred": 7, "failed_decode": 3}


def test_what_is_sampled_out_is_counted() -> None:
    this = run({"sources": {"cam": {"frames": 50, "stride": 2, "max_fps": 5.0}}})
    assert _outcomes(this)["sampled_out"] == 50 - len(this.seqs())
    assert this.seqs() == [0, 6, 10, 16, 20, 26, 30, 36, 40, 46]


def test_a_slow_sink_loses_only_its_own_results() -> None:
    slow = {"delay_s": 0.005, "queue": {"max_frames": 2, "when_full": "drop_newest"}}
    this = run({"sources": {"cam": {"frames": 100}}, "sinks": {"keep": {}, "slow": slow}})
    assert this.seqs() == list(range(100))
    assert _results(this, "keep") == {"delivered": 100}
    lost = _results(this, "slow")
    assert lost["dropped_queue_full"] > 0
    assert lost["delivered"] == len(this.seqs("slow")) == 100 - lost["dropped_queue_full"]


def test_a_slow_sink_that_may_not_lose_anything_holds_up_a_file() -> None:
    slow = {"delay_s": 0.002, "queue": {"max_frames": 2}}
    this = run({"sources": {"cam": {"frames": 60}}, "sinks": {"keep": {}, "slow": slow}})
    assert this.seqs() == this.seqs("slow") == list(range(60))


def test_a_sink_that_fails_for_good_stops_no_other() -> None:
    broken = {"failure": "fatal", "fail_every": 5}
    this = run({"sources": {"cam": {"frames": 100}}, "sinks": {"keep": {}, "broken": broken}})
    assert this.seqs() == list(range(100))
    assert sum(_results(this, "broken").values()) == 100
    assert _results(this, "broken")["failed"] > 0
    assert this.report.failed == ["broken"]
    assert this.report.exit_code == 1
    assert this.sink("broken").closed == 1


def test_a_sink_that_fails_now_and_then_goes_on_and_what_it_lost_is_counted() -> None:
    shaky = {"failure": "transient", "fail_every": 7, "wants_pictures": True}
    this = run({"sources": {"cam": {"frames": 50}}, "sinks": {"keep": {}, "shaky": shaky}})
    assert this.seqs() == list(range(50))
    assert _results(this, "shaky") == {"delivered": 43, "failed": 7}
    assert this.report.exit_code == 1


def test_a_sink_with_a_bug_is_given_five_chances() -> None:
    buggy = {"failure": "bug", "fail_every": 1, "wants_pictures": True}
    this = run({"sources": {"cam": {"frames": 50}}, "sinks": {"keep": {}, "buggy": buggy}})
    assert this.seqs() == list(range(50))
    assert _results(this, "buggy") == {"failed": 50}
    assert this.report.failed == ["buggy"]


def test_a_sink_that_cannot_be_opened_yet_is_tried_again() -> None:
    this = run({"sinks": {"keep": {"open_failure": "transient"}}})
    assert this.sink().opened == 2
    assert this.seqs() == list(range(10))


def test_a_sink_that_cannot_finish_makes_the_run_fail() -> None:
    this = run({"sinks": {"keep": {"close_failure": "fatal"}}})
    assert this.report.failed == ["keep"]
    assert this.report.exit_code == 1


def test_when_no_sink_is_left_the_run_ends() -> None:
    this = run(
        {"sources": {"cam": {"endless": True}}, "sinks": {"keep": {"failure": "fatal", "fail_every": 3}}},
    )
    assert this.report.exit_code == 1
    assert _results(this, "keep")["failed"] > 0


def test_batches_that_fail_are_counted_and_the_others_arrive_in_order() -> None:
    backend = {"failure": "transient", "fail_every": 4, "concurrency": 1, "max_batch": 1}
    this = run({"sources": {"cam": {"frames": 40}}, "backends": {"model": backend}})
    assert _outcomes(this) == {"inferred": 30, "failed_backend": 10}
    assert this.seqs() == [seq for seq in range(40) if seq % 4 != 3]
    assert this.report.exit_code == 1


def test_a_backend_that_fails_for_good_ends_the_run_and_every_frame_is_counted() -> None:
    backend = {"failure": "fatal", "fail_every": 6, "concurrency": 3}
    this = run({"sources": {"cam": {"endless": True}}, "backends": {"model": backend}})
    assert _outcomes(this)["failed_backend"] > 0
    assert this.seqs() == sorted(this.seqs())
    assert this.report.failed == ["model"]
    assert this.report.exit_code == 1


@pytest.mark.parametrize("backend", [{"failure": "bug", "fail_every": 1}, {"short_answer": True}])
def test_a_backend_with_a_bug_is_given_five_chances(backend: dict[str, Any]) -> None:
    this = run({"sources": {"cam": {"endless": True}}, "backends": {"model": {**backend, "concurrency": 1}}})
    assert this.report.failed == ["model"]
    assert this.seqs() == []
    assert set(_outcomes(this)) == {"failed_backend"}


@pytest.mark.parametrize("keys", [{"answer": "none"}, {"answer": "exit"}, {"failure": "exit", "fail_every": 2}])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_whatever_a_backend_does_the_run_ends(keys: dict[str, Any], concurrency: int) -> None:
    backend = {**keys, "concurrency": concurrency}
    this = run({"sources": {"cam": {"endless": True}}, "backends": {"model": backend}})
    assert this.report.failed == ["model"]
    assert this.report.exit_code == 1


def test_a_backend_that_takes_no_frames_at_once_takes_them_one_by_one() -> None:
    this = run({"backends": {"model": {"max_batch": 0}}})
    assert this.seqs() == list(range(10))


@pytest.mark.parametrize("keys", [{"failure": "exit", "fail_every": 3}, {"failure": "config", "fail_every": 3}])
def test_whatever_a_sink_does_the_others_go_on(keys: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    this = run({"sources": {"cam": {"frames": 60}}, "sinks": {"keep": {}, "odd": keys}})
    assert this.seqs() == list(range(60))
    assert this.report.exit_code == 1
    assert sum(_results(this, "odd").values()) == 60


def test_a_source_that_gives_frames_of_another_fails_alone() -> None:
    this = run({"sources": {"cam": {"frames": 30}, "odd": {"alias": "cam"}}})
    assert this.report.failed == ["odd"]
    assert this.seqs() == list(range(30))


def test_a_backend_that_is_away_keeps_no_other_from_working() -> None:
    async def stop_when_through(this: Run) -> None:
        await _until(lambda: len(this.sink().results) >= 10)
        this.supervisor.stop("test")

    this = run(
        {
            "sources": {"cam": {"backend": "here"}, "far": {"backend": "away", "endless": True}},
            "backends": {"here": {}, "away": {"open_failure": "transient", "open_failures": 1_000_000}},
        },
        stop_when_through,
    )
    assert this.seqs() == list(range(10))


def test_a_source_that_recovers_has_no_error_any_more() -> None:
    async def stop_when_through(this: Run) -> None:
        await _until(lambda: len(this.sink().results) >= 10)
        assert this.supervisor.topology.sources["cam"].error is None
        assert all(check.ok for check in Status(this.supervisor, "test", SystemClock()).ready())
        this.supervisor.stop("test")

    camera = {"live": True, "endless": True, "failure": "transient", "fail_at": 0, "fail_times": 1}
    run({"sources": {"cam": camera}}, stop_when_through)


@pytest.mark.parametrize("keys", [{"open_failure": "bug"}, {"open_failure": "fatal"}, {"speechless": True}])
def test_a_backend_that_does_not_open_ends_the_run(keys: dict[str, Any]) -> None:
    this = run({"sources": {"cam": {"endless": True}}, "backends": {"model": keys}})
    assert this.report.failed == ["model"]
    assert this.report.exit_code == 1
    assert this.seqs() == []


def test_a_backend_that_cannot_be_opened_yet_is_tried_again() -> None:
    this = run({"backends": {"model": {"open_failure": "transient"}}})
    backend = this.supervisor.topology.backends["model"].backend
    assert isinstance(backend, FakeBackend)
    assert (backend.opened, backend.closed) == (2, 1)
    assert this.seqs() == list(range(10))


@pytest.mark.parametrize(
    "where", [{"backends": {"model": {"open_failure": "config"}}}, {"sinks": {"keep": {"open_failure": "config"}}}]
)
def test_what_cannot_be_had_is_a_config_error_and_everything_is_closed(where: dict[str, Any]) -> None:
    with pytest.raises(ConfigProblems, match=r"failure: opening cannot be had"):
        run(where)


@pytest.mark.parametrize(
    ("failure", "code"), [("fatal", "failed for good"), ("bug", "has a bug"), ("config", "cannot")]
)
def test_a_source_that_fails_stops_no_other(failure: str, code: str) -> None:
    sources = {"cam": {"frames": 30}, "bad": {"failure": failure, "fail_at": 5, "fail_times": 1}}
    this = run({"sources": sources})
    assert this.seqs() == list(range(30))
    assert this.seqs(source="bad") == list(range(5))
    assert this.report.failed == ["bad"]
    assert this.report.exit_code == 1
    assert code in str(this.supervisor.topology.sources["bad"].error)


def test_a_live_source_that_fails_comes_back_and_its_frames_go_on() -> None:
    async def stop_when_through(this: Run) -> None:
        await _until(lambda: len(this.sink().results) >= 30)
        this.supervisor.stop("test")

    camera = {"live": True, "endless": True, "failure": "transient", "fail_at": 5, "fail_times": 2}
    queue = {"queue": {"when_full": "block"}}
    this = run({"sources": {"cam": {**camera, **queue}}, "sinks": {"keep": queue}}, stop_when_through)
    assert this.seqs() == list(range(len(this.seqs())))
    samples = this.scrape()
    assert samples["penstock_source_reconnects_total", (("code", "CONNECTION_FAILED"), ("source", "cam"))] == 2
    assert this.report.exit_code == 0


def test_a_live_source_with_a_slow_backend_keeps_the_newest_frames() -> None:
    async def stop_after_drops(this: Run) -> None:
        await _until(lambda: len(this.sink().results) >= 20)
        this.supervisor.stop("test")

    this = run(
        {
            "sources": {"cam": {"live": True, "endless": True}},
            "backends": {"model": {"delay_s": 0.002, "concurrency": 1}},
        },
        stop_after_drops,
    )
    assert _outcomes(this)["dropped_queue_full"] > 0
    assert this.seqs() == sorted(this.seqs())


def test_a_stop_in_mid_run_drains_what_is_on_its_way() -> None:
    async def stop(this: Run) -> None:
        await _until(lambda: len(this.sink().results) >= 5)
        this.supervisor.stop("test")

    this = run({"sources": {"cam": {"endless": True}}, "backends": {"model": {"delay_s": 0.002}}}, stop)
    assert _outcomes(this) == {"inferred": len(this.seqs())}
    assert this.seqs() == list(range(len(this.seqs())))
    assert this.report.exit_code == 0


def test_a_stop_before_the_start_is_over_ends_it() -> None:
    async def stop(this: Run) -> None:
        this.supervisor.stop("test")

    this = run({"sources": {"cam": {"endless": True}}}, stop)
    assert this.report.exit_code == 0


def test_a_second_stop_abandons_what_is_left_and_counts_it(unstick: None) -> None:
    async def stop_twice(this: Run) -> None:
        await _until(lambda: this.supervisor.topology.sources["cam"].read().in_flight >= 5)
        this.supervisor.stop("first")
        this.supervisor.stop("second")

    this = run(
        {"sources": {"cam": {"endless": True}}, "backends": {"model": {"stuck_at": 3, "concurrency": 1}}}, stop_twice
    )
    assert _outcomes(this)["dropped_shutdown"] > 0
    assert this.report.abandoned
    assert this.report.late == ["backend-model-0"]
    assert this.report.exit_code == 1
    _let_go(this)


@pytest.mark.parametrize(
    ("tree", "late"),
    [
        ({"sources": {"cam": {"stuck": True}}}, "source-cam"),
        ({"sources": {"cam": {"endless": True}}, "backends": {"model": {"stuck_at": 3}}}, "backend-model-"),
        ({"sources": {"cam": {"endless": True}}, "sinks": {"keep": {"stuck_at": 3}, "other": {}}}, "sink-keep"),
    ],
)
def test_whoever_is_late_is_named_and_left_behind(tree: dict[str, Any], late: str, unstick: None) -> None:
    async def stop(this: Run) -> None:
        await _until(lambda: this.supervisor.topology.sources["cam"].read().decoded >= 4)
        this.supervisor.stop("test")

    this = run({**tree, "shutdown_timeout_s": 0.3}, stop)
    assert this.report.abandoned
    assert any(name.startswith(late) for name in this.report.late)
    assert this.report.exit_code == 1
    _let_go(this)


def _let_go(this: Run) -> None:
    STUCK.set()
    for runner in this.supervisor.topology.runners:
        for thread in runner.threads:
            thread.join(10)
            assert not thread.is_alive()
    this.check_ledger(this.scrape())  # what a late thread does to the ledger changes nothing any more


def test_the_ledger_balances_at_every_scrape_of_a_run() -> None:
    scrapes = 0

    async def scrape(this: Run) -> None:
        nonlocal scrapes
        while not all(source.ended for source in this.supervisor.topology.sources.values()):
            this.check_ledger(this.scrape())
            scrapes += 1
            await asyncio.sleep(0)

    sources = {f"cam{index}": {"frames": 150, "broken": [7]} for index in range(3)}
    run({"sources": sources, "backends": {"model": {"concurrency": 3, "max_batch": 2, "delay_s": 0.001}}}, scrape)
    assert scrapes > 5
