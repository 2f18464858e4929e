"""A `LaneQueue` of numbers that remembers what it dropped."""

from pipeline.contracts.clock import Clock
from pipeline.runtime.queue import Drops, LaneQueue
from pipeline.testing import MovableClock

DROPS = Drops("full", "stale", "closed")


def remembering(clock: Clock | None = None, max_bytes: int = 1 << 20) -> tuple[LaneQueue[int], list[tuple[int, str]]]:
    """The queue, and each dropped item with its reason; on a clock that stands still unless one is given."""
    dropped: list[tuple[int, str]] = []
    queue: LaneQueue[int] = LaneQueue(
        on_drop=lambda item, reason: dropped.append((item, reason)),
        drops=DROPS,
        clock=clock or MovableClock(),
        max_bytes=max_bytes,
    )
    return queue, dropped


def last_digit(item: int) -> int:
    """A kind."""
    return item % 10
