"""`Route`: all that belongs to one source on its way to the sinks, whichever backend and sinks these are just now."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pipeline.contracts.component import Name
from pipeline.contracts.event import SourceEvent
from pipeline.contracts.frame import Frame, NoPicture
from pipeline.contracts.result import Detections, Result, Shared
from pipeline.runtime.ledger import Page
from pipeline.runtime.tapping import ResultBuffer
from pipeline.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from pipeline.runtime.outlet import Outlet


class Analyser(Protocol):
    """What makes tracks, zones and lines of one source's results; called by one thread at a time, in their order."""

    def look(self, result: Result) -> Result:
        """The result with its scene, and with the numbers of the objects."""
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
        self._heard = False
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
        self._heard = True
        if self.analyser is not None:
            result = self.analyser.look(result)
        if sum(outlet.wants_pictures for outlet in self.outlets.values()) > 1:  # what one of them draws the others show
            result = replace(result, shared=Shared())
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

    def pause(self) -> None:
        """Nothing is under way, and nothing comes for a while: what was going on has ended; main thread."""
        if self._heard:
            self._heard = False
            for outlet in self.outlets.values():
                outlet.pause()

    def tell(self, event: SourceEvent) -> None:
        """Offer the event to every sink that wants to know; a source does not wait for a sink: none that is full."""
        for outlet in self.outlets.values():
            if outlet.wants_notices:
                outlet.port.put(event, wait=False)
