"""What of all that happens is announced to the sinks that listen to the daemon."""

from collections.abc import Callable

import pytest

from pipeline.telemetry.events import Events
from pipeline.testing import MovableClock

Told = list[tuple[str, str, str, str]]


@pytest.mark.parametrize(
    ("happens", "heard"),
    [
        (
            lambda events: events.fallback_taken("local", "spare", "no answer"),
            ("backend local", "fallback", "taken", "its frames go to spare: no answer"),
        ),
        (
            lambda events: events.fallback_left("local", 1_200, 3.21),
            ("backend local", "fallback", "left", "1,200 frames went elsewhere in 3.2 s"),
        ),
        (lambda events: events.backend_failed("local", "gone"), ("backend local", "backend", "failed", "gone")),
        (lambda events: events.sink_failed("alerts", "gone"), ("sink alerts", "sink", "failed", "gone")),
        (
            lambda events: events.reloaded("abc", ["sink alerts: added"]),
            ("penstock", "reload", "ok", "now abc: sink alerts: added"),
        ),
        (
            lambda events: events.dead_letters_dropped("far", 2, 1_200, results=1),
            ("sink far", "spool", "dead_letters_dropped", "1,200 in all"),
        ),
        (lambda events: events.reload_failed(["a", "b"]), ("penstock", "reload", "failed", "a; b")),
    ],
)
def test_it_is_told_once_in_one_line(happens: Callable[[Events], None], heard: tuple[str, str, str, str]) -> None:
    told: Told = []
    events = Events(MovableClock())
    happens(events)  # nobody listens yet
    events.listen(lambda *about: told.append(about))
    happens(events)
    assert told == [heard]


def test_of_what_a_notice_pushed_out_nobody_is_told_so_that_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    told: Told = []
    events = Events(MovableClock())
    events.listen(lambda *about: told.append(about))
    events.dead_letters_dropped("far", 1, 1, results=0)
    assert not told
    assert "sink far: spool: 1 of the oldest dead letters dropped" in caplog.text


def test_no_secret_is_told() -> None:
    told: Told = []
    events = Events(MovableClock(), lambda text: text.replace("hunter2", "***"))
    events.listen(lambda *about: told.append(about))
    events.sink_failed("alerts", "wrong password hunter2")
    assert told[0][-1] == "wrong password ***"


def test_of_every_repetition_it_is_told_though_the_log_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    told: Told = []
    events = Events(MovableClock())
    events.listen(lambda *about: told.append(about))
    for _ in range(5):
        events.fallback_taken("local", "spare", "no answer")
    assert len(told) == 5 > len(caplog.records)
