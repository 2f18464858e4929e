"""`Route`: all that belongs to one source on its way to the sinks, whichever backend and sinks these are just now."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from pipeline.contracts.component import Name
from pipeline.contracts.event import DaemonEvent, ObjectEvent, SourceEvent
from pipeline.contracts.frame import Frame, NoPicture
from pipeline.contracts.result import Detections, Result
from pipeline.runtime.ledger import Page, ResultOutcome
from pipeline.runtime.port import Port
from pipeline.runtime.tapping import ResultBuffer
from pipeline.telemetry.metrics import Metrics


class Released(NamedTuple):
    """The last item of a source in a sink's queue: nothing of it will come any more."""

    source: str


Delivery = Result | ObjectEvent | SourceEvent | DaemonEvent | Released
"""What goes into a sink's queue; only results and what objects do are in the ledger."""


class Analyser(Protocol):
    """What makes tracks, zones and lines of one source's results; called by one thread at a time, in their order."""

    def look(self, result: Result) -> Result:
        """The result with its scene, and with the numbers of the objects."""
        ...


class Selector(Protocol):
    """What one sink wants of one source; called by one thread at a time, in the order of the results."""

    def pick(self, result: Result) -> Iterable[Result | ObjectEvent]:
        """What to hand to the sink."""
        ...


class Way(Protocol):
    """Where the result of a frame goes: to the sinks of its source, or back to the client who asked."""

    @property
    def wants_pictures(self) -> bool:
        """Whether anybody wants the pixels."""
        ...

    def waited(self, wait_s: float) -> None:
        """A backend took the frame; it was so old."""
        ...

    def settle(self, outcome: str) -> None:
        """The frame ended so. May be called with the queue's lock held: short, and never back into the queue."""
        ...

    def note(self, result: Result) -> None:
        """Measure the result; before `deliver`."""
        ...

    def deliver(self, result: Result) -> None:
        """The result; `settle` follows."""
        ...


class Waiting(NamedTuple):
    """A frame in a backend's queue, with the way that its result will go."""

    frame: Frame
    route: Way

    def settle(self, outcome: str) -> None:
        """The frame ended here."""
        self.route.settle(outcome)


class Outlet:
    """One source's way into one sink; survives the exchange of the sink. `offer` belongs to the backend's deliverer."""

    def __init__(
        self, source: Name, port: Port[Delivery], page: Page, *, wants_pictures: bool, wants_notices: bool
    ) -> None:
        self.port = port
        self._source = source
        self.wants_pictures = wants_pictures
        self.wants_notices = wants_notices
        self.selector: Selector | None = None
        """None: every result as it is."""
        self._page = page
        self._closed = False

    def offer(self, result: Result) -> None:
        """Hand over what the sink wants of one result; waits only where the policy is `block` and the sink alive."""
        for item in (result,) if self.selector is None else self.selector.pick(result):
            nbytes = item.frame.picture.nbytes + (item.prediction.nbytes if isinstance(item, Result) else 0)
            if self.port.put(item, nbytes) is not None and not self._closed:
                self._page.enter_settled(ResultOutcome.FAILED)

    def close(self) -> None:
        """The sink shall have no more of this source: what it refuses from now on is not lost, but not for it."""
        self._closed = True
        self.port.close(Released(self._source))


class Route:
    """Made by the topology, one for each source, as long as the source is configured.

    `outlets` is replaced as a whole, by the main thread; whoever delivers reads it once for each result.
    """

    def __init__(self, source: Name, page: Page, metrics: Metrics) -> None:
        self.source = source
        self.page = page
        self.outlets: dict[str, Outlet] = {}
        self.analyser: Analyser | None = None
        self._taps: tuple[ResultBuffer, ...] = ()
        self.delivered_age_s = metrics.age(source, "delivered")
        self._queue_s = metrics.stage("queue", source=source)
        self._age_s = metrics.age(source, "inferred")
        self._detections = metrics.detections(source)

    @property
    def wants_pictures(self) -> bool:
        """Whether any sink wants the pixels."""
        return any(outlet.wants_pictures for outlet in self.outlets.values()) or any(
            tap.pictures and not tap.closed for tap in self._taps
        )

    def tap(self, size: int, *, pictures: bool) -> ResultBuffer:
        """Keep the last `size` results for a client from now on, until it closes the buffer; main thread."""
        buffer = ResultBuffer(size, pictures=pictures)
        self._taps = (*(tap for tap in self._taps if not tap.closed), buffer)
        return buffer

    def waited(self, wait_s: float) -> None:
        """See `Way`."""
        self._queue_s.observe(wait_s)

    def settle(self, outcome: str) -> None:
        """See `Way`."""
        self.page.settle(outcome)

    def note(self, result: Result) -> None:
        """See `Way`."""
        self._age_s.observe(result.latency_s)
        if isinstance(result.prediction, Detections):
            self._detections.count(result.prediction)

    def deliver(self, result: Result) -> None:
        """Offer the result to every sink: with its pixels to those that want them, without to the others."""
        if self.analyser is not None:
            result = self.analyser.look(result)
        released: Result | None = result if isinstance(result.frame.picture, NoPicture) else None
        for outlet in self.outlets.values():
            if not outlet.wants_pictures:
                released = released or result.released()
                outlet.offer(released)
            elif result is not released:  # a sink that came while this frame was inferred finds no pixels left
                outlet.offer(result)
        for tap in self._taps:
            if not tap.closed:
                tap.put(result if tap.pictures else released or result.released())

    def tell(self, event: SourceEvent) -> None:
        """Offer the event to every sink that wants to know; a source does not wait for a sink: none that is full."""
        for outlet in self.outlets.values():
            if outlet.wants_notices:
                outlet.port.put(event, wait=False)
