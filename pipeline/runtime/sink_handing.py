"""How what waits for a sink is handed to it: results in batches, anything else alone."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.contracts.event import DaemonEvent, ObjectEvent, SourceEvent
from pipeline.contracts.result import Result
from pipeline.contracts.sink import Attentive, Releasing, Sink, Ticking
from pipeline.runtime.outlet import Delivery, Released


class Tick(NamedTuple):
    """A second has passed."""


Other = ObjectEvent | SourceEvent | DaemonEvent | Released | Tick
"""What a sink is handed alone."""


def hand_over(sink: Sink, results: Sequence[Result], other: Other | None) -> None:
    """Call the method that is meant for it; raises what that raises."""
    match other, sink:
        case None, _:
            sink.write(results)
        case Tick(), Ticking():
            sink.tick()
        case Released(source, gone=True), Releasing():
            sink.release(source)
        case ObjectEvent() | SourceEvent() | DaemonEvent(), Attentive():
            sink.notice(other)
        case _:
            pass


def counted(results: Sequence[Result], other: Other | None) -> int:
    """How many of these are in the ledger."""
    return len(results) + isinstance(other, ObjectEvent)


def runs(items: Sequence[Delivery]) -> Iterator[tuple[list[Result], Other | None]]:
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
