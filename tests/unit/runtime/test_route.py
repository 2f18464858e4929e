"""What belongs to one source on its way to the sinks."""

import threading

from pipeline.contracts.clock import SystemClock
from pipeline.contracts.event import SourceEvent
from pipeline.runtime.ledger import Page, ResultOutcome
from pipeline.runtime.outlet import Delivery, Outlet
from pipeline.runtime.port import Port
from pipeline.runtime.queue import Drops, LaneLimits, LaneQueue
from pipeline.runtime.route import Route
from pipeline.telemetry.metrics import Metrics
from pipeline.testing import frame, result


def _outlet() -> tuple[Outlet, Page]:
    """A sink's queue with room for one, which waits."""
    page = Page("sink", ResultOutcome)
    queue: LaneQueue[Delivery] = LaneQueue(
        on_enter=lambda _: page.enter(),
        on_drop=lambda _, reason: page.settle(reason),
        drops=Drops(ResultOutcome.DROPPED_QUEUE_FULL, ResultOutcome.DROPPED_QUEUE_FULL, ResultOutcome.FAILED),
        clock=SystemClock(),
    )
    lane = queue.lane(LaneLimits(max_items=1, when_full="block"))
    return Outlet("cam", Port(lane), page, wants_pictures=False, wants_notices=True), page


def test_a_source_does_not_wait_for_a_sink_that_is_full_to_tell_an_event() -> None:
    outlet, _ = _outlet()
    outlet.offer(result(frame(0)))
    route = Route("cam", Page("cam", ()), Metrics("test"))
    route.outlets = {"sink": outlet}
    event = SourceEvent("1", "cam", "state", "running", None, "", 0.0)
    thread = threading.Thread(target=route.tell, args=(event,), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_what_a_sink_that_failed_refuses_is_counted_and_what_one_without_this_source_does_is_not() -> None:
    outlet, page = _outlet()
    outlet.port.lane.queue.close(ResultOutcome.FAILED)
    outlet.offer(result(frame(0)))
    assert (page.read().entered, page.read().outcomes["failed"]) == (1, 1)
    outlet, page = _outlet()
    outlet.close()
    outlet.offer(result(frame(0)))
    assert page.read().entered == 0
