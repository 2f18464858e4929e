"""One source's way into one sink: what is chosen there, and that everything which began there ends."""

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tracked import Thing, seen

from pipeline.analytics.selection import Choice, selection_of
from pipeline.contracts.clock import SystemClock
from pipeline.contracts.event import ObjectEvent
from pipeline.contracts.result import Result
from pipeline.contracts.sink import WhereConfig
from pipeline.runtime.ledger import Page, ResultOutcome
from pipeline.runtime.outlet import Delivery, Outlet, Released, Selector
from pipeline.runtime.port import Port
from pipeline.runtime.queue import Drops, LaneLimits, LaneQueue

DROPS = Drops(ResultOutcome.DROPPED_QUEUE_FULL, ResultOutcome.DROPPED_QUEUE_FULL, ResultOutcome.FAILED)


class _Choosing(NamedTuple):
    choice: Choice

    def selector(self, source: str) -> Selector | None:
        return selection_of(self.choice, held_back=lambda: None, left_out=lambda: None)


class _Broken:
    def selector(self, source: str) -> "_Broken":
        return self

    def pick(self, result: Result) -> Iterable[Result] | None:
        return None

    def end(self) -> Sequence[ObjectEvent]:
        return ()

    def forget(self, event_id: str) -> None:
        raise AssertionError


EVENTS = _Choosing(Choice("events"))


class _Rig:
    """A sink's queue, of which the test takes by hand."""

    def __init__(self, max_items: int = 100) -> None:
        self.page = Page("sink", ResultOutcome)
        self.queue: LaneQueue[Delivery] = LaneQueue(
            on_enter=self._entered, on_drop=self._dropped, drops=DROPS, clock=SystemClock()
        )
        self.limits = LaneLimits(max_items=max_items, when_full="block")
        port = Port(self.queue.lane(self.limits))
        self.outlet = Outlet("cam", port, self.page, wants_pictures=False, wants_notices=False)

    def _entered(self, item: Delivery) -> None:
        if isinstance(item, Result | ObjectEvent):
            self.page.enter()

    def _dropped(self, item: Delivery, reason: str) -> None:
        if isinstance(item, Result | ObjectEvent):
            self.page.settle(reason)

    def take(self) -> list[str]:
        """What waits for the sink, as it would be written."""
        taken = self.queue.get(1_000, idle_s=0.0).items if len(self.queue) else []
        return [told for item in taken for told in self._told(item)]

    def _told(self, item: Delivery) -> Iterable[str]:
        match item:
            case ObjectEvent(phase=phase, event_id=event_id):
                self.page.settle(ResultOutcome.DELIVERED)
                yield f"{phase} {int(event_id, 16)}"
            case Result(frame=frame):
                self.page.settle(ResultOutcome.DELIVERED)
                yield f"result {frame.seq}"
            case Released(last=last, gone=gone):
                for event in last():
                    self.page.enter()
                    yield from self._told(event)
                yield "released" if gone else "finished"

    def blocked(self, *results: Result) -> threading.Thread:
        """A deliverer that offers these; it is waiting for room when this returns."""

        def offer() -> None:
            for result in results:
                self.outlet.offer(result)

        thread = threading.Thread(target=offer, daemon=True)
        thread.start()
        lane = self.outlet.port.lane
        while not lane.room._waiters:  # type: ignore[attr-defined]
            threading.Event().wait(0.001)
        return thread

    def is_balanced(self) -> bool:
        return self.page.read().fault(drained=True) is None


def _person(at_s: float, *tracks: int, ended: Sequence[int] = ()) -> Result:
    return seen(at_s, *(Thing(track=track) for track in tracks), ended=[Thing(track=track) for track in ended])


def test_without_a_choice_every_result_goes_on_as_it_is() -> None:
    rig = _Rig()
    rig.outlet.offer(_person(0, 1))
    rig.outlet.pause()
    rig.outlet.finish()
    assert rig.take() == ["result 0"]
    assert rig.is_balanced()


def test_the_ledger_knows_what_the_sink_asked_for_and_nothing_else() -> None:
    rig = _Rig()
    rig.outlet.choose(EVENTS)
    for at_s in range(5):
        rig.outlet.offer(_person(at_s, 1))
    assert rig.page.read().entered == 1
    rig.outlet.offer(_person(6, ended=[1]))
    assert rig.take() == ["new 1", "end 1"]
    assert rig.page.read().entered == 2
    assert rig.is_balanced()


def test_what_goes_on_ends_when_the_source_pauses_and_begins_anew_after_it() -> None:
    rig = _Rig()
    rig.outlet.choose(EVENTS)
    rig.outlet.offer(_person(0, 1, 2))
    rig.outlet.pause()
    rig.outlet.pause()
    assert rig.take() == ["new 1", "new 2", "end 1", "end 2"]
    rig.outlet.offer(_person(1, 1))
    assert rig.take()[0].startswith("new ")


def test_the_main_thread_does_not_wait_for_a_sink_that_is_full_and_the_order_stays() -> None:
    rig = _Rig(max_items=1)
    rig.outlet.choose(EVENTS)
    deliverer = rig.blocked(_person(0, 1, 2, 3))  # in the queue is 1, at the door is 2
    rig.outlet.pause()  # returns
    told = []
    while deliverer.is_alive() or len(rig.queue):
        told += rig.take()
        deliverer.join(0.01)
    assert told == ["new 1", "new 2", "new 3", "end 1", "end 2", "end 3"]
    assert rig.is_balanced()


def test_ends_find_room_in_a_queue_that_is_full() -> None:
    rig = _Rig(max_items=2)
    rig.outlet.choose(EVENTS)
    rig.outlet.offer(_person(0, 1, 2))
    rig.outlet.pause()
    assert rig.take() == ["new 1", "new 2", "end 1", "end 2"]
    assert rig.is_balanced()


def test_a_sink_that_loses_its_source_hears_every_end_and_no_end_of_what_it_never_heard_of() -> None:
    rig = _Rig(max_items=1)
    rig.outlet.choose(EVENTS)
    rig.outlet.offer(_person(0, 1))
    deliverer = rig.blocked(_person(1, 1, 2))
    rig.outlet.close()  # returns, and the deliverer is let go
    deliverer.join(5)
    assert not deliverer.is_alive()
    assert rig.take() == ["new 1", "end 1", "released"]
    assert rig.is_balanced()


def test_at_the_end_of_the_run_every_event_ends() -> None:
    rig = _Rig()
    rig.outlet.choose(EVENTS)
    rig.outlet.offer(_person(0, 1))
    rig.outlet.finish()
    assert rig.take() == ["new 1", "end 1", "finished"]
    assert rig.is_balanced()


def test_the_same_choice_changes_nothing_and_another_one_ends_what_was_going_on() -> None:
    rig = _Rig()
    rig.outlet.choose(EVENTS)
    rig.outlet.offer(_person(0, 1))
    rig.outlet.choose(_Choosing(Choice("events")))
    rig.outlet.offer(_person(1, 1))
    assert rig.take() == ["new 1"]
    rig.outlet.choose(_Choosing(Choice("events", WhereConfig(min_confidence=0.1))))
    rig.outlet.offer(_person(2, 1))
    assert rig.take() == ["end 1", "new 1"]
    rig.outlet.choose(None)
    rig.outlet.offer(_person(3, 1))
    assert rig.take() == ["end 1", "result 30"]


def test_events_go_on_in_the_sink_that_takes_the_place_of_another() -> None:
    rig = _Rig()
    rig.outlet.choose(EVENTS)
    rig.outlet.offer(_person(0, 1))
    rig.outlet.choose(EVENTS)
    rig.outlet.port.move(rig.queue.lane(rig.limits))
    rig.outlet.offer(_person(1, ended=[1]))
    assert rig.take() == ["new 1", "end 1"]


def test_what_a_sink_that_failed_refuses_is_counted_and_forgotten() -> None:
    rig = _Rig()
    rig.outlet.choose(EVENTS)
    rig.queue.close(ResultOutcome.FAILED)
    rig.outlet.offer(_person(0, 1))
    assert rig.page.read().outcomes["failed"] == 1
    rig.outlet.offer(_person(1, ended=[1]))
    assert rig.page.read().entered == 1
    assert rig.is_balanced()


def test_a_bug_in_choosing_is_counted_and_stops_nobody() -> None:
    rig = _Rig()
    rig.outlet.choose(_Broken())
    rig.outlet.offer(_person(0, 1))
    assert rig.page.read().outcomes["failed"] == 1
    assert rig.is_balanced()


def test_pixels_of_several_events_of_one_frame_count_once() -> None:
    rig = _Rig()
    rig.outlet.choose(EVENTS)
    result = _person(0, 1, 2, 3)
    rig.outlet.offer(result)
    assert rig.queue.nbytes == result.frame.picture.nbytes + 3 * result.prediction.nbytes
