"""`SinkRunner`: the thread and the bounded queue around one sink; it owns the sink's page of the ledger."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from pipeline.contracts.component import Name
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.event import DaemonEvent, ObjectEvent, SourceEvent
from pipeline.contracts.result import Result
from pipeline.contracts.sink import Attentive, Releasing, Sink, Ticking
from pipeline.runtime.backoff import Backoff, BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.ledger import Page, ResultOutcome
from pipeline.runtime.port import Port
from pipeline.runtime.queue import Drops, Lane, LaneLimits, LaneQueue
from pipeline.runtime.route import Delivery, Outlet, Released, Route, Selector
from pipeline.runtime.watch import Stage
from pipeline.telemetry.readings import SinkReading

MAX_BATCH = 16
"""How many results a sink that wants no pictures is handed at once, at the most."""

TICK_S = 1.0
"""How often a sink is woken although nothing comes."""

DROPS = Drops(
    full=ResultOutcome.DROPPED_QUEUE_FULL, stale=ResultOutcome.DROPPED_QUEUE_FULL, closed=ResultOutcome.FAILED
)


class Tick(NamedTuple):
    """A second has passed."""


Other = ObjectEvent | SourceEvent | DaemonEvent | Released | Tick
"""What a sink is handed alone."""


class SinkRunner:
    """Made by the topology, started and joined by the supervisor, offered results by the backend's workers.

    A sink that is slow or fails loses only its own results, by its own policy, and each of them is counted. A `trial`
    is given up at the first failure to open.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        page: Page,
        surroundings: Surroundings,
        trial: bool = False,
        notices: Collection[str] = (),
        select: Callable[[Name], Selector | None] = lambda _: None,
    ) -> None:
        self.name = name
        self.sink = sink
        self.error: PenstockError | None = None
        self.tried = False  # True once the first attempt to open it is over, however it ended
        self.opened = False
        self.ended = False
        self._page = page
        self._trial = trial
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._on_change = surroundings.changed
        self._bugs = BugAllowance()
        self._write_s = surroundings.metrics.stage("write", sink=name)
        self._routes: dict[str, Route] = {}
        self._queue: LaneQueue[Delivery] = LaneQueue(
            on_enter=self._entered, on_drop=self._dropped, drops=DROPS, clock=self._clock
        )
        self._lanes: dict[str, Lane[Delivery]] = {}
        self._notices = notices
        self._select = select
        self._busy = False
        self._written = 0
        self._no_retry = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)

    def inherit(self, failed: "SinkRunner") -> None:
        """Take over what waits for a sink that did not open on trial, which gets nothing even if it opens yet."""
        self._queue, failed._queue = failed._queue, self._queue
        self._lanes, failed._lanes = failed._lanes, self._lanes
        self._routes, failed._routes = failed._routes, self._routes

    def connect(self, route: Route, limits: LaneLimits) -> None:
        """Take the results of this route, too, or keep to other limits; what went to a sink of this name comes here."""
        source = route.source
        if source in self._lanes and route.outlets.get(self.name) is not None:
            self._lanes[source].set_limits(limits)
            return
        lane = self._lanes[source] = self._queue.lane(limits)
        self._routes[source] = route
        outlet = route.outlets.get(self.name)
        if outlet is not None:
            outlet.wants_pictures |= self.sink.wants_pictures  # the other way round a picture too many does no harm
            outlet.port.move(lane)
            outlet.wants_pictures = self.sink.wants_pictures
            outlet.wants_notices = "sources" in self._notices
        else:
            outlet = Outlet(
                source,
                Port(lane),
                self._page,
                wants_pictures=self.sink.wants_pictures,
                wants_notices="sources" in self._notices,
            )
            outlet.selector = self._select(source)
            route.outlets = {**route.outlets, self.name: outlet}

    def disconnect(self, route: Route) -> None:
        """Take no more of this route's results, whichever sink of this name did; what is there is still written."""
        self._lanes.pop(route.source, None)
        self._routes.pop(route.source, None)
        outlet = route.outlets.get(self.name)
        if outlet is not None:
            route.outlets = {name: other for name, other in route.outlets.items() if name != self.name}
            outlet.close()

    def start(self) -> None:
        """Open the sink in its own thread, and begin to write."""
        self._thread.start()

    def finish(self) -> None:
        """No more will be offered: write what is there, close the sink, end."""
        self._no_retry.set()
        for lane in self._lanes.values():
            lane.close()
        self._queue.finish()
        if self._thread.ident is None:
            self.ended = True

    def abandon(self) -> None:
        """Drop what is there and end as soon as may be."""
        self._no_retry.set()
        self._queue.close(ResultOutcome.FAILED)

    def watch(self) -> Stage:
        """Whether it has work, and how much it has done."""
        return Stage("sink", self.name, self.opened and (self._busy or len(self._queue) > 0), self._written)

    @property
    def threads(self) -> list[threading.Thread]:
        """The thread to join, once it was started."""
        return [self._thread]

    def read(self) -> SinkReading:
        """The sink at this moment, for metrics and status."""
        account = self._page.read()
        return SinkReading(self.name, account.entered, account.outcomes, account.open)

    def _run(self) -> None:
        try:
            if self._open():
                self._write_all()
        except BaseException as error:  # noqa: BLE001  (a sink that dies in silence would block its backend)
            self._events.bug(f"sink {self.name}", error)
            self._fail(FatalError(f"{type(error).__name__}: {error}"))
        finally:
            if self.opened or not self._trial:  # what waits for a trial that failed is another's
                self._queue.close(ResultOutcome.FAILED)
            self._close()
            self.tried = self.ended = True
            self._on_change()

    def _open(self) -> bool:
        backoff = Backoff()
        while True:
            try:
                self.sink.open()
            except TransientError as error:
                if self._no_retry.is_set() or self._trial:
                    self._fail(FatalError(str(error)))
                    return False
                delay_s = backoff.next_s(error.retry_after_s)
                self._events.sink_retry(self.name, delay_s, error)
                self._set_tried()
                self._no_retry.wait(delay_s)
            except (FatalError, ConfigError) as error:
                self._fail(error)
                return False
            except Exception as error:  # noqa: BLE001  (a plugin's bug: it never worked, so it is fatal at once)
                self._events.bug(f"sink {self.name}", error)
                self._fail(FatalError(f"{type(error).__name__}: {error}"))
                return False
            else:
                self._events.sink_ready(self.name)
                self.opened = True
                self._trial = False
                self._set_tried()
                return True

    def _write_all(self) -> None:
        # A batch of pictures would double what the queue may hold.
        max_items = 1 if self.sink.wants_pictures else MAX_BATCH
        ticks = isinstance(self.sink, Ticking)
        ticked_at = self._clock.monotonic()
        while self.error is None:
            taken = self._queue.get(max_items, idle_s=TICK_S if ticks else None)
            if not taken.items and not taken.idle:
                return
            self._busy = True
            for results, other in _runs(taken.items):
                self._write(results, other)
            if ticks and self._clock.monotonic() - ticked_at >= TICK_S:
                self._write((), Tick())
                ticked_at = self._clock.monotonic()
            self._busy = False
            self._written += 1

    def _write(self, results: Sequence[Result], other: Other | None) -> None:
        """Hand over results, or one other thing; nothing more once it has failed for good."""
        count = _counted(results, other)
        if self.error is not None:
            self._page.settle(ResultOutcome.FAILED, count)
            return
        began_at = self._clock.monotonic()
        try:
            self._hand_over(results, other)
        except TransientError as error:
            self._events.sink_write_failed(self.name, count, error)
        except (FatalError, ConfigError) as error:
            self._fail(error)
        except BaseException as error:  # noqa: BLE001  (a plugin's bug: these results failed; too many bugs are fatal)
            self._events.bug(f"sink {self.name}", error)
            if not self._bugs.spend(self._clock.monotonic()):
                self._fail(FatalError(f"{type(error).__name__}: {error}"))
        else:
            now = self._clock.monotonic()
            self._write_s.observe(now - began_at)
            for result in results:
                route = self._routes.get(result.frame.source)
                if route is not None:  # not removed in the meantime
                    route.delivered_age_s.observe(max(0.0, now - result.frame.decoded_at))
            self._page.settle(ResultOutcome.DELIVERED, count)
            return
        self._page.settle(ResultOutcome.FAILED, count)

    def _hand_over(self, results: Sequence[Result], other: Other | None) -> None:
        match other, self.sink:
            case None, sink:
                sink.write(results)
            case Tick(), Ticking() as sink:
                sink.tick()
            case Released(source), Releasing() as sink:
                sink.release(source)
            case ObjectEvent() | SourceEvent() | DaemonEvent(), Attentive() as sink:
                sink.notice(other)
            case _:
                pass

    def _close(self) -> None:
        try:
            self.sink.close()
        except PenstockError as error:
            self._fail(error)
        except BaseException as error:  # noqa: BLE001  (a plugin's bug: it is over anyway, and the exit code says so)
            self._events.bug(f"sink {self.name}", error)
            self._fail(FatalError(f"{type(error).__name__}: {error}"))

    def _fail(self, error: PenstockError) -> None:
        if self.error is None:
            self.error = error
            # At the start the supervisor tells all configuration errors, at a reload whatever it is.
            if not self._trial and (self.tried or not isinstance(error, ConfigError)):
                self._events.sink_failed(self.name, error)

    def _set_tried(self) -> None:
        self.tried = True
        self._on_change()

    def _entered(self, item: Delivery) -> None:
        if isinstance(item, Result | ObjectEvent):
            self._page.enter()

    def _dropped(self, item: Delivery, reason: str) -> None:
        if isinstance(item, Result | ObjectEvent):
            self._page.settle(reason)


def _counted(results: Sequence[Result], other: Other | None) -> int:
    """How many of these are in the ledger."""
    return len(results) + isinstance(other, ObjectEvent)


def _runs(items: Sequence[Delivery]) -> Iterator[tuple[list[Result], Other | None]]:
    """The results in batches as long as may be, anything else alone, all in their order."""
    results: list[Result] = []
    for item in items:
        if isinstance(item, Result):
            results.append(item)
            continue
        if results:
            yield results, None
        results = []
        yield results, item
    if results:
        yield results, None
