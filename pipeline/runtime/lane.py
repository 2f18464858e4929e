"""`Lane`: one producer's way into a `LaneQueue`, and what waits in it."""

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from pipeline.contracts.component import WhenFull

if TYPE_CHECKING:
    from pipeline.runtime.queue import LaneQueue

T = TypeVar("T")


class LaneLimits(NamedTuple):
    """What one lane may hold, and what happens when it is full; `own_bytes` come on top of what all lanes share."""

    max_items: int = 8
    max_bytes: int = 64 << 20
    when_full: WhenFull = "block"
    max_age_s: float | None = None
    own_bytes: int = 0
    priority: int = 0


class Entry(NamedTuple, Generic[T]):
    """An item that waits: its bytes, and the monotonic second from which its age counts."""

    item: T
    nbytes: int
    since: float


class Lane(Generic[T]):
    """Made by `LaneQueue.lane`. `put`, `wait_for_room` and `close` belong to one producer.

    Attributes:
        queue: where it leads.
        limits: what it may hold.
        entries: what waits, the oldest first; like all below, the queue's, with its lock held.
        nbytes: bytes of it.
        last_nbytes: bytes of the entry that came last.
        closed: no more will come.
        room: told when its producer shall look again.
    """

    def __init__(self, queue: "LaneQueue[T]", limits: LaneLimits, lock: threading.Lock) -> None:
        self.queue = queue
        self.limits = limits
        self.entries: deque[Entry[T]] = deque()
        self.nbytes = 0
        self.last_nbytes = 0
        self.closed = False
        self.room = threading.Condition(lock)

    def __len__(self) -> int:
        return len(self.entries)

    def put(
        self, item: T, nbytes: int = 0, since: float | None = None, *, wait: bool = True, force: bool = False
    ) -> bool:
        """Hand over an item; may wait for room when the lane's policy is `block`.

        Args:
            item: what to hand over.
            nbytes: bytes of memory that it holds.
            since: monotonic seconds from which its age counts; now, when left out.
            wait: False: where it would have to wait, it goes to `on_drop` instead.
            force: it finds room in any case; for what is small, and few.

        Returns:
            False when the lane or the queue is closed: the item was not taken, and no other will be.
        """
        since = self.queue.clock.monotonic() if since is None else since
        return self.queue.put(self, Entry(item, nbytes, since), wait=wait, force=force)

    def wait_for_room(self) -> bool:
        """Wait until an item as large as the last one would fit, where the policy is `block`.

        A producer that asks before it makes an item holds none while it waits: with many lanes that is much memory.

        Returns:
            False when the lane or the queue is closed.
        """
        return self.queue.wait_for_room(self)

    @property
    def closed_reason(self) -> str:
        """Why items are refused, once they are."""
        return self.queue.closed_reason

    def set_limits(self, limits: LaneLimits) -> None:
        """From now on these hold; what is there beyond them stays until it is taken."""
        self.queue.set_limits(self, limits)

    def close(self, last: T | None = None) -> None:
        """No more will come but this `last` item, which always finds room. What is in the lane is still taken.

        May be called again, to no effect.
        """
        self.queue.close_lane(self, last)

    # For the queue, with its lock held

    def append(self, entry: Entry[T]) -> None:
        """Behind all that waits."""
        self.entries.append(entry)
        self.nbytes += entry.nbytes
        self.last_nbytes = entry.nbytes

    def pop(self) -> Entry[T]:
        """The oldest."""
        entry = self.entries.popleft()
        self.nbytes -= entry.nbytes
        return entry

    def is_full(self, nbytes: int) -> bool:
        """Whether so many bytes more are too many by its own limits."""
        return len(self.entries) >= self.limits.max_items or self.nbytes + nbytes > self.limits.max_bytes

    def is_stale(self, now: float) -> bool:
        """Whether its oldest has waited for too long."""
        max_age_s = self.limits.max_age_s
        return max_age_s is not None and bool(self.entries) and now - self.entries[0].since > max_age_s

    def take_over(self, old: "Lane[T]") -> None:
        """Have, as a new lane, what waits in another one."""
        self.entries, old.entries = old.entries, self.entries
        self.nbytes, old.nbytes = old.nbytes, 0
        self.last_nbytes = old.last_nbytes
