"""`Turns`: which lane of a `LaneQueue` is served next."""

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from pipeline.runtime.lane import Lane

T = TypeVar("T")


class Turns(Generic[T]):
    """The lanes that hold something, in the order of their next turn. Made by a queue; used with its lock held.

    Lanes of a higher priority come first, equals by turns. Where only items of one kind are wanted, the one whose turn
    it is says of which; a lane whose next item is of another kind keeps its turn.
    """

    def __init__(self) -> None:
        self._lanes: deque[Lane[T]] = deque()

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __iter__(self) -> Iterator[Lane[T]]:
        return iter(self._lanes)

    def join(self, lane: Lane[T]) -> None:
        """It holds something from now on."""
        if lane not in self._lanes:
            self._lanes.append(lane)

    def leave(self, lane: Lane[T]) -> None:
        """It holds nothing any more."""
        self._lanes.remove(lane)

    def replace(self, old: Lane[T], new: Lane[T]) -> None:
        """The new one has what the old one had, and its turn."""
        if old in self._lanes:
            self._lanes[self._lanes.index(old)] = new

    def clear(self) -> None:
        """None holds anything."""
        self._lanes.clear()

    def fill(self, max_items: int, kind: Callable[[T], Hashable]) -> bool:
        """Whether there are `max_items` of the kind whose turn it is; there must be a lane."""
        wanted = kind(max(self._lanes, key=_priority).entries[0].item)
        found = 0
        for lane in self._lanes:
            for entry in lane.entries:
                if kind(entry.item) != wanted:
                    break
                found += 1
                if found == max_items:
                    return True
        return False

    def served(self, max_items: int, kind: Callable[[T], Hashable] | None) -> Iterator[Lane[T]]:
        """Lanes in their turns, `max_items` at most; the caller takes the oldest of each before the next."""
        taken = 0
        wanted: Hashable = None
        aside: list[Lane[T]] = []
        while self._lanes and taken < max_items:
            lane = max(self._lanes, key=_priority)  # of several, the one whose turn it is
            self._lanes.remove(lane)
            if kind is not None and max_items > 1:
                found = kind(lane.entries[0].item)
                if taken and found != wanted:
                    aside.append(lane)
                    continue
                wanted = found
            yield lane
            taken += 1
            if lane.entries:
                self._lanes.append(lane)
        self._lanes.extendleft(reversed(aside))  # it is still their turn

    def half_stale_at(self) -> float:
        """When the first of those that are next will have waited for half of the time that they may."""
        ages = ((lane.entries[0].since, lane.limits.max_age_s) for lane in self._lanes)
        return min((since + age_s / 2 for since, age_s in ages if age_s is not None), default=math.inf)


def _priority(lane: Lane[T]) -> int:
    return lane.limits.priority
