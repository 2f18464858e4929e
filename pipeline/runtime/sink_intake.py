"""`Intake`: the bounded queue in front of a sink, with a lane for each of its sources and one for notices."""

from collections.abc import Collection
from typing import Self

from pipeline.contracts.clock import Clock
from pipeline.contracts.component import Name
from pipeline.contracts.event import DaemonEvent, ObjectEvent
from pipeline.contracts.result import Result
from pipeline.runtime.ledger import Page, ResultOutcome
from pipeline.runtime.outlet import Delivery, Outlet, Selecting
from pipeline.runtime.port import Port
from pipeline.runtime.queue import Drops, Lane, LaneLimits, LaneQueue
from pipeline.runtime.route import Route

NOTICES = LaneLimits(max_items=100, when_full="drop_oldest")
"""So many notices of the daemon may wait for a sink."""

DROPS = Drops(
    full=ResultOutcome.DROPPED_QUEUE_FULL, stale=ResultOutcome.DROPPED_QUEUE_FULL, closed=ResultOutcome.FAILED
)


class Intake:
    """Made by a sink's runner; belongs to the main thread, but for `queue` and `route_of`, which its thread uses.

    Args:
        sink: its name.
        page: of the ledger: what enters is entered there, what is dropped is settled.
        clock: for ages.
        wants_pictures: whether the sink does.
        notices: which it wants.
        selecting: what it wants of its sources.
    """

    def __init__(
        self,
        sink: Name,
        page: Page,
        clock: Clock,
        *,
        wants_pictures: bool,
        notices: Collection[str],
        selecting: Selecting | None,
    ) -> None:
        self.queue: LaneQueue[Delivery] = LaneQueue(
            on_enter=self._entered, on_drop=self._dropped, drops=DROPS, clock=clock
        )
        self._sink = sink
        self._page = page
        self._wants_pictures = wants_pictures
        self._wants_notices = "sources" in notices
        self._selecting = selecting
        self._routes: dict[str, Route] = {}
        self._lanes: dict[str, Lane[Delivery]] = {}
        self._notice_lane = self.queue.lane(NOTICES) if "daemon" in notices else None

    def inherit(self, failed: Self) -> None:
        """Take over what waits for a sink that did not open on trial, which gets nothing even if it opens yet."""
        self.queue, failed.queue = failed.queue, self.queue
        self._lanes, failed._lanes = failed._lanes, self._lanes
        self._routes, failed._routes = failed._routes, self._routes
        self._notice_lane, failed._notice_lane = failed._notice_lane, self._notice_lane

    def connect(self, route: Route, limits: LaneLimits) -> bool:
        """Take the results of this route, too, or (False) keep to other limits; what went to a sink of this name comes
        here."""
        source = route.source
        if source in self._lanes and route.outlets.get(self._sink) is not None:
            self._lanes[source].set_limits(limits)
            return False
        lane = self._lanes[source] = self.queue.lane(limits)
        self._routes[source] = route
        outlet = route.outlets.get(self._sink)
        if outlet is not None:
            outlet.choose(self._selecting)
            outlet.wants_pictures |= self._wants_pictures  # the other way round a picture too many does no harm
            outlet.port.move(lane)
            outlet.wants_pictures = self._wants_pictures
            outlet.wants_notices = self._wants_notices
        else:
            wants = {"wants_pictures": self._wants_pictures, "wants_notices": self._wants_notices}
            outlet = Outlet(source, Port(lane), self._page, **wants)
            outlet.choose(self._selecting)
            route.outlets = {**route.outlets, self._sink: outlet}
        return True

    def disconnect(self, route: Route) -> None:
        """Take no more of this route's results, whichever sink of this name did; what is there is still taken."""
        self._lanes.pop(route.source, None)
        self._routes.pop(route.source, None)
        outlet = route.outlets.get(self._sink)
        if outlet is not None:
            route.outlets = {name: other for name, other in route.outlets.items() if name != self._sink}
            outlet.close()

    def finish(self) -> None:
        """No more will be offered."""
        for source, lane in self._lanes.items():
            outlet = self._routes[source].outlets.get(self._sink)
            if outlet is not None and outlet.port.lane is lane:
                outlet.finish()
            else:  # what goes on goes on in the sink that took its place
                lane.close()
        if self._notice_lane is not None:
            self._notice_lane.close()
        self.queue.finish()

    def tell(self, event: DaemonEvent) -> None:
        """Let the sink know, if it wants to; never waits. From any thread."""
        if self._notice_lane is not None:
            self._notice_lane.put(event, wait=False)

    def route_of(self, source: str) -> Route | None:
        """The route of this source; None: it was removed in the meantime."""
        return self._routes.get(source)

    def _entered(self, item: Delivery) -> None:
        if isinstance(item, Result | ObjectEvent):
            self._page.enter()

    def _dropped(self, item: Delivery, reason: str) -> None:
        if isinstance(item, Result | ObjectEvent):
            self._page.settle(reason)
