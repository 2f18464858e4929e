"""`SinkSelecting`: what one sink wants of its sources, as its keys say, carried out and counted."""

from collections.abc import Iterable, Sequence

from pipeline.analytics.selection import Choice, Selection, selection_of
from pipeline.config.explain import did_you_mean
from pipeline.contracts.component import Name
from pipeline.contracts.event import ObjectEvent
from pipeline.contracts.result import Classification, Detections, Result
from pipeline.contracts.sink import SinkConfig
from pipeline.runtime.backoff import BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.outlet import Selector

_SHOWN = 10  # classes of a model, in a line of the log


class SinkSelecting:
    """Made by the topology, for one sink; equal to another one with the same keys."""

    def __init__(self, sink: Name, config: SinkConfig, surroundings: Surroundings) -> None:
        self._sink = sink
        self._choice = Choice(config.emit, config.where, config.limit, config.update_every_s)
        self._surroundings = surroundings

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SinkSelecting) and (self._sink, self._choice) == (other._sink, other._choice)

    def __hash__(self) -> int:
        return hash(self._sink)

    def selector(self, source: Name) -> Selector | None:
        """See `Selecting`."""
        if self._choice.takes_all:
            return None
        metrics = self._surroundings.metrics
        held_back, left_out = metrics.held_back(self._sink, source), metrics.left_out(self._sink, source)

        def unknown(asked: Sequence[str], known: Sequence[str]) -> None:
            hint = did_you_mean(asked[0], known) or f"; it has {_some(known)}"
            message = f"where.classes: the model of source {source} has no {', '.join(map(repr, asked))}{hint}"
            self._surroundings.events.note(f"sink {self._sink}", message)

        selection = selection_of(self._choice, held_back=held_back.inc, left_out=left_out.inc, unknown=unknown)
        tells_events = self._choice.emit == "events"
        return _Guarded(selection, f"sink {self._sink}", self._surroundings, tells_events=tells_events)


def _some(names: Sequence[str]) -> str:
    """The first of them, for a line."""
    if not names:
        return "numbers only: class_0, class_1, ..."
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


class _Guarded:
    """A selector whose bug costs the sink this one result, and nobody else anything.

    One that `tells_events` says so, once, where the model finds nothing that could do anything.
    """

    def __init__(self, selection: Selection, component: str, surroundings: Surroundings, *, tells_events: bool) -> None:
        self._expects_objects = tells_events
        self._selection = selection
        self._component = component
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._bugs = BugAllowance()

    def pick(self, result: Result) -> Iterable[Result | ObjectEvent] | None:
        """See `Selector`."""
        if self._expects_objects and not isinstance(result.prediction, Detections | Classification):
            self._expects_objects = False
            source, kind = result.frame.source, type(result.prediction).__name__
            message = f"source {source} has no events: its model finds no objects and no classes ({kind})"
            self._events.note(self._component, message)
        try:
            return self._selection.pick(result)
        except Exception as error:  # noqa: BLE001  (Penstock's own bug: the backend's worker must live on)
            self._tell(error)
            return None

    def end(self) -> Sequence[ObjectEvent]:
        """See `Selector`."""
        try:
            return self._selection.end()
        except Exception as error:  # noqa: BLE001  (as above)
            self._tell(error)
            return ()

    def forget(self, event_id: str) -> None:
        """See `Selector`."""
        self._selection.forget(event_id)

    def _tell(self, error: Exception) -> None:
        if self._bugs.spend(self._clock.monotonic()):  # a traceback for every frame helps nobody
            self._events.bug(self._component, error)
