"""A producer's end that is moved to another queue while the producer waits in it."""

import threading
from collections.abc import Callable

import pytest

from pipeline.contracts.clock import SystemClock
from pipeline.runtime.port import Port
from pipeline.runtime.queue import Drops, Lane, LaneLimits, LaneQueue

LIMITS = LaneLimits(max_items=1, when_full="block")


def _queue() -> LaneQueue[str]:
    return LaneQueue(on_drop=lambda *_: None, drops=Drops("full", "stale", "closed"), clock=SystemClock())


def _waiting(port: Port[str], action: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """A thread that is in the middle of `action`, which waits for room in the port's lane, and what it will get."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(action()), daemon=True)
    thread.start()
    room = port.lane.room
    while not room._waiters:  # type: ignore[attr-defined]  # nobody tells that somebody begins to wait
        thread.join(0.005)
    return thread, found


@pytest.mark.parametrize("to_another_queue", [True, False])
def test_who_waits_for_room_goes_on_where_the_port_was_moved_to(to_another_queue: bool) -> None:
    for action, expected in ((lambda port: port.put("late"), None), (lambda port: port.wait_for_room(), True)):
        queue = _queue()
        other = _queue() if to_another_queue else queue
        port: Port[str] = Port(queue.lane(LIMITS))
        assert port.put("early") is None
        thread, found = _waiting(port, lambda action=action, port=port: action(port))  # type: ignore[misc]
        port.move(other.lane(LIMITS))
        thread.join(5)
        assert found == [expected]
        assert queue.get(1).items == ["early"]


def test_who_waits_for_room_in_a_port_that_is_closed_is_refused() -> None:
    queue = _queue()
    lane: Lane[str] = queue.lane(LIMITS)
    port = Port(lane)
    port.put("early")
    thread, found = _waiting(port, lambda: port.put("late"))
    port.close()
    thread.join(5)
    assert found == ["closed"]
    assert not port.wait_for_room()


def test_an_item_that_is_refused_is_not_entered_and_every_other_is_once() -> None:
    entered: list[str] = []
    dropped: list[str] = []
    queue: LaneQueue[str] = LaneQueue(
        on_enter=entered.append,
        on_drop=lambda item, _: dropped.append(item),
        drops=Drops("full", "stale", "closed"),
        clock=SystemClock(),
    )
    lane = queue.lane(LIMITS)
    assert lane.put("taken")
    assert lane.put("no room", wait=False)
    lane.close()
    assert not lane.put("refused")
    assert entered == ["taken", "no room"]
    assert dropped == ["no room"]
