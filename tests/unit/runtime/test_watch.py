import logging

import pytest

from pipeline.contracts.clock import SystemClock
from pipeline.runtime.watch import Stage, Watch
from pipeline.telemetry.events import Events


@pytest.fixture
def watch() -> Watch:
    return Watch(Events(SystemClock()), tell_after_s=10.0)


def _look(watch: Watch, now: float, *, has_work: bool = True, done: int = 0) -> None:
    watch.look([Stage("backend", "people", has_work, done)], now)


def test_a_stage_with_work_and_no_progress_is_stuck_from_the_last_progress_on(watch: Watch) -> None:
    _look(watch, 100.0, done=1)
    _look(watch, 104.0, done=2)
    _look(watch, 107.0, done=2)
    assert watch.read() == {("backend", "people"): 3.0}
    assert watch.stuck(3.0) == ["backend people"]
    assert watch.stuck(3.1) == []


def test_progress_or_nothing_to_do_is_not_being_stuck(watch: Watch) -> None:
    for second in range(100):
        _look(watch, float(second), has_work=second % 2 == 0)
        assert watch.stuck(0.1) == []
    for second in range(100, 200):
        _look(watch, float(second), done=second)
        assert watch.stuck(0.1) == []


def test_it_is_told_once_and_once_when_it_moves_again(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "penstock"):
        for second in range(40):
            _look(watch, float(second))
        for second in range(40, 50):
            _look(watch, float(second), done=1)
    assert [record.getMessage() for record in caplog.records] == [
        "backend people: has work and made no progress for 10 s",
        "backend people: moves again",
    ]


def test_a_stage_that_is_no_more_is_forgotten(watch: Watch) -> None:
    _look(watch, 0.0)
    _look(watch, 50.0)
    watch.look([], 51.0)
    assert watch.read() == {}
    _look(watch, 52.0)
    assert watch.stuck(1.0) == []


def test_who_may_wait_for_somebody_else_is_stuck_only_after_that(watch: Watch) -> None:
    for second in range(50):
        watch.look([Stage("backend", "cloud", True, 0, patience_s=45.0)], float(second))
        assert watch.read() == {("backend", "cloud"): max(0.0, second - 45.0)}
