"""What happens to the daemon, told to the sinks that want to know."""

from pipeline.contracts.event import DaemonEvent
from pipeline.runtime.notices import DETAIL_CHARS, MOST_A_MINUTE, Notices
from pipeline.testing import MovableClock


class _Sink:
    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[DaemonEvent] = []

    def tell(self, event: DaemonEvent) -> None:
        self.events.append(event)


def _notices(*names: str) -> tuple[Notices, MovableClock, list[_Sink]]:
    sinks, clock = [_Sink(name) for name in names], MovableClock()
    return Notices(lambda: sinks, clock), clock, sinks


def test_every_sink_is_told_the_same_event() -> None:
    notices, clock, (alerts, archive) = _notices("alerts", "archive")
    notices.tell("backend local", "fallback", "taken", "its frames go to spare: no answer")
    assert alerts.events == archive.events
    (event,) = alerts.events
    about = (event.component, event.kind, event.value, event.detail, event.at)
    assert about == ("backend local", "fallback", "taken", "its frames go to spare: no answer", clock.wall())
    assert len(event.id) == 32


def test_a_sink_is_not_told_of_itself() -> None:
    notices, _, (alerts, archive) = _notices("alerts", "archive")
    notices.tell("sink alerts", "sink", "failed", "gone")
    assert (alerts.events, len(archive.events)) == ([], 1)


def test_two_sinks_that_fail_at_each_others_notices_do_not_keep_each_other_busy() -> None:
    notices, clock, sinks = _notices("one", "other")
    for _ in range(100):
        notices.tell("sink one", "sink", "degraded", "")
        notices.tell("sink other", "sink", "degraded", "")
    assert [len(sink.events) for sink in sinks] == [MOST_A_MINUTE, MOST_A_MINUTE]
    notices.tell("sink one", "spool", "full", "")
    assert len(sinks[1].events) == MOST_A_MINUTE + 1  # of another kind
    clock.advance(60)
    notices.tell("sink one", "sink", "ok", "back")
    assert sinks[1].events[-1].detail == "back (90 more before)"


def test_a_detail_is_one_line_of_bounded_length() -> None:
    notices, _, (sink,) = _notices("sink")
    notices.tell("penstock", "reload", "failed", "a\n\tb\r\n" + "c" * 1_000)
    detail = sink.events[0].detail
    assert detail.startswith("a b ccc")
    assert len(detail) == DETAIL_CHARS


def test_names_without_end_take_no_memory_without_end() -> None:
    notices, _, (sink,) = _notices("sink")
    for number in range(3_000):
        notices.tell(f"source cam{number}", "counts", "resumed", "")
    assert len(sink.events) == 3_000
    assert len(notices._told) <= 1_000


def test_nobody_listens_and_nothing_is_kept() -> None:
    notices, _, _ = _notices()
    notices.tell("penstock", "start", "ok", "")
    assert not notices._told
