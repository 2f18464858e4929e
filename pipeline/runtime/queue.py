"""`LaneQueue`: the one bounded queue, with a lane for each producer, closable from both ends.

Contract:
- Every item that is put is taken by `get`, once, in its lane's order; or handed to `on_drop`, once, with a reason; or
  refused, and still the producer's.
- A lane is bounded in items and bytes, the queue in bytes. One item always fits into an empty lane, so that a picture
  larger than the limit moves on alone instead of never.
- `get` takes from the lanes in turn: a lane that fills fast does not starve another of the same priority; lanes of a
  higher priority come first. Where its consumer wants items of one kind together, the item whose turn it is says of
  which; a lane whose next item is of another kind keeps its turn for the next `get`.
- A lane closes from its producer's end: what is in it is still taken. The queue closes from the consumer's end: what is
  in it is dropped, and producers that wait wake. After either, nothing blocks.
- Lanes come and go while the queue is at work; it ends once it is told that no more will come.
- No polling: whoever waits is woken.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from pipeline.contracts.clock import Clock
from pipeline.contracts.component import WhenFull

T = TypeVar("T")


class LaneLimits(NamedTuple):
    """What one lane may hold, and what happens when it is full; `own_bytes` come on top of what all lanes share."""

    max_items: int = 8
    max_bytes: int = 64 << 20
    when_full: WhenFull = "block"
    max_age_s: float | None = None
    own_bytes: int = 0
    priority: int = 0


class Drops(NamedTuple):
    """The words that `on_drop` is told, as the ledger of this queue's owner knows them."""

    full: str
    stale: str
    closed: str


class Taken(NamedTuple, Generic[T]):
    """What one `get` took: `number` is 0, 1, 2, ... over all consumers, so that order can be restored."""

    number: int
    items: list[T]
    idle: bool = False
    """Nothing came within `idle_s`; more may."""


class _Entry(NamedTuple, Generic[T]):
    item: T
    nbytes: int
    since: float


class Lane(Generic[T]):
    """A producer's way into the queue. Made by `LaneQueue.lane`; `put` and `close` belong to one producer."""

    def __init__(self, queue: "LaneQueue[T]", limits: LaneLimits) -> None:
        self.limits = limits
        self.queue = queue
        self._entries: deque[_Entry[T]] = deque()
        self._nbytes = 0
        self._last_nbytes = 0
        self._closed = False
        self._room = threading.Condition(queue._lock)

    def __len__(self) -> int:
        return len(self._entries)

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
        since = self.queue._clock.monotonic() if since is None else since
        return self.queue._put(self, _Entry(item, nbytes, since), wait=wait, force=force)

    def wait_for_room(self) -> bool:
        """Wait until an item as large as the last one would fit, where the policy is `block`.

        A producer that asks before it makes an item holds none while it waits: with many lanes that is much memory.

        Returns:
            False when the lane or the queue is closed.
        """
        return self.queue._wait_for_room(self)

    @property
    def closed_reason(self) -> str:
        """Why items are refused, once they are."""
        return self.queue._closed_reason or self.queue._drops.closed

    def set_limits(self, limits: LaneLimits) -> None:
        """From now on these hold; what is there beyond them stays until it is taken."""
        self.queue._set_limits(self, limits)

    def close(self, last: T | None = None) -> None:
        """No more will come but this `last` item, which always finds room. What is in the lane is still taken.

        May be called again, to no effect.
        """
        self.queue._close_lane(self, last)


class LaneQueue(Generic[T]):
    """See the module. Any number of consumers may call `get`."""

    def __init__(
        self,
        *,
        on_drop: Callable[[T, str], None],
        drops: Drops,
        clock: Clock,
        max_bytes: int = 16 << 20,
        on_enter: Callable[[T], None] = lambda _: None,
    ) -> None:
        """Make an empty queue.

        Args:
            on_drop: told of every item that will not be taken, with the reason; called with the queue's lock held, so
                it must be short and must not call back.
            drops: the reasons' names.
            clock: for ages.
            max_bytes: what all lanes share; beyond it a lane holds one item.
            on_enter: told of every item that is not refused, before anything becomes of it; called as `on_drop` is.
        """
        self._lock = threading.Lock()
        self._some = threading.Condition(self._lock)
        self._clock = clock
        self._on_drop = on_drop
        self._on_enter = on_enter
        self._drops = drops
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._count = 0
        self._lanes: list[Lane[T]] = []
        self._waiting: dict[Lane[T], int] = {}  # whose producers wait, for so many bytes, who came first first
        self._ready: deque[Lane[T]] = deque()  # lanes with entries, in the order of their next turn
        self._number = 0
        self._finished = False
        self._closed_reason: str | None = None

    def lane(self, limits: LaneLimits, *, taking_over: Lane[T] | None = None) -> Lane[T]:
        """A new lane.

        Args:
            limits: what it may hold.
            taking_over: a lane of this queue whose place it takes: that one is closed, and what is in it comes first.
        """
        with self._lock:
            lane = Lane(self, limits)
            self._max_bytes += limits.own_bytes
            self._lanes.append(lane)
            if taking_over is not None:
                self._move(taking_over, lane)
            return lane

    def get(
        self,
        max_items: int = 1,
        max_wait_s: float = 0.0,
        idle_s: float | None = None,
        kind: Callable[[T], Hashable] | None = None,
    ) -> Taken[T]:
        """Wait for items and take up to `max_items`, from the lanes in turn.

        Args:
            max_items: at most so many.
            max_wait_s: once there is one, wait so long for as many as may be taken; no item is made stale by that.
            idle_s: while there is none, wait no longer; for ever if left out.
            kind: what the items taken together have in common: all are of the kind of the one whose turn it is. Called
                with the queue's lock held: short, and it must neither call back nor raise.

        Returns:
            Empty `items` when no more will ever come: the queue is finished and all its lanes are closed and empty, or
            it is closed; or nothing came, and `idle` says so.
        """
        wait_until: float | None = None
        idle_at = None if idle_s is None else self._clock.monotonic() + idle_s
        with self._lock:
            while True:
                self._drop_stale()
                wait_s: float | None = None
                if self._ready:
                    now = self._clock.monotonic()
                    wait_until = now + max_wait_s if wait_until is None else wait_until
                    wait_s = min(wait_until, self._half_stale_at()) - now
                    if wait_s <= 0 or self._is_over() or self._fills(max_items, kind):
                        return self._take(max_items, kind)
                elif self._is_over():
                    return Taken(self._number, [])
                else:
                    wait_until = None
                    if idle_at is not None:
                        wait_s = idle_at - self._clock.monotonic()
                        if wait_s <= 0:
                            return Taken(self._number, [], idle=True)
                self._some.wait(wait_s)

    def finish(self) -> None:
        """No lane will be added any more: once all are closed and empty, `get` has nothing to wait for."""
        with self._lock:
            self._finished = True
            self._some.notify_all()

    def close(self, reason: str) -> None:
        """The consumer is gone: drop what is there for `reason`, refuse what comes, wake who waits.

        May be called again; the first reason stands.
        """
        with self._lock:
            if self._closed_reason is None:
                self._closed_reason = reason
            for lane in self._lanes:
                while lane._entries:
                    self._on_drop(self._pop(lane).item, self._closed_reason)
                lane._room.notify_all()
            self._ready.clear()
            self._some.notify_all()

    @property
    def nbytes(self) -> int:
        """Bytes held by all lanes together."""
        return self._nbytes

    def __len__(self) -> int:
        return self._count

    # What follows runs with the lock held, or takes it first.

    def _put(self, lane: Lane[T], entry: _Entry[T], *, wait: bool, force: bool) -> bool:
        with self._lock:
            while not force and self._is_open(lane) and self._is_full(lane, entry.nbytes):
                if lane.limits.when_full == "drop_newest" or (lane.limits.when_full == "block" and not wait):
                    self._on_enter(entry.item)
                    self._on_drop(entry.item, self._drops.full)
                    return True
                if lane.limits.when_full == "drop_oldest":
                    self._on_drop(self._pop(lane).item, self._drops.full)
                else:
                    self._wait_in(lane, entry.nbytes)
            if not self._is_open(lane):
                return False
            self._on_enter(entry.item)
            self._append(lane, entry)
            return True

    def _append(self, lane: Lane[T], entry: _Entry[T]) -> None:
        if not lane._entries and lane not in self._ready:
            self._ready.append(lane)
        lane._entries.append(entry)
        lane._nbytes += entry.nbytes
        lane._last_nbytes = entry.nbytes
        self._nbytes += entry.nbytes
        self._count += 1
        self._some.notify()

    def _wait_for_room(self, lane: Lane[T]) -> bool:
        with self._lock:
            while self._is_open(lane) and lane.limits.when_full == "block" and self._is_full(lane, lane._last_nbytes):
                self._wait_in(lane, lane._last_nbytes)
            return self._is_open(lane)

    def _wait_in(self, lane: Lane[T], nbytes: int) -> None:
        self._waiting[lane] = nbytes
        lane._room.wait()
        self._waiting.pop(lane, None)

    def _tell_of_room(self) -> None:
        """Wake those for whom there is room now, and nobody else: to wake 16 files for each frame is 50 switches.

        What they share is counted: who is woken is taken for having used it. Nobody is forgotten: a lane whose producer
        waits holds something, and when that is taken this is called again.
        """
        left_bytes = self._max_bytes - self._nbytes
        for lane, nbytes in sorted(self._waiting.items(), key=_holds_something):
            if not lane._entries or (nbytes <= left_bytes and not self._is_full(lane, nbytes)):
                left_bytes -= nbytes
                del self._waiting[lane]
                lane._room.notify_all()

    def _is_open(self, lane: Lane[T]) -> bool:
        return self._closed_reason is None and not lane._closed

    def _is_over(self) -> bool:
        return self._closed_reason is not None or (self._finished and all(lane._closed for lane in self._lanes))

    def _is_full(self, lane: Lane[T], nbytes: int) -> bool:
        if not lane._entries:
            return False
        return (
            len(lane._entries) >= lane.limits.max_items
            or lane._nbytes + nbytes > lane.limits.max_bytes
            or self._nbytes + nbytes > self._max_bytes
        )

    def _pop(self, lane: Lane[T]) -> _Entry[T]:
        entry = lane._entries.popleft()
        lane._nbytes -= entry.nbytes
        self._nbytes -= entry.nbytes
        self._count -= 1
        return entry

    def _fills(self, max_items: int, kind: Callable[[T], Hashable] | None) -> bool:
        """Whether a batch would be full now."""
        if self._count < max_items or kind is None or max_items == 1:
            return self._count >= max_items
        wanted = kind(max(self._ready, key=_priority)._entries[0].item)
        found = 0
        for lane in self._ready:
            for entry in lane._entries:
                if kind(entry.item) != wanted:
                    break
                found += 1
                if found == max_items:
                    return True
        return False

    def _take(self, max_items: int, kind: Callable[[T], Hashable] | None) -> Taken[T]:
        items: list[T] = []
        wanted: Hashable = None
        aside: list[Lane[T]] = []
        while self._ready and len(items) < max_items:
            lane = max(self._ready, key=_priority)  # of several, the one whose turn it is
            self._ready.remove(lane)
            if kind is not None and max_items > 1:
                found = kind(lane._entries[0].item)
                if items and found != wanted:
                    aside.append(lane)
                    continue
                wanted = found
            items.append(self._pop(lane).item)
            if lane._entries:
                self._ready.append(lane)
            elif lane._closed:
                self._forget(lane)
        self._ready.extendleft(reversed(aside))  # it is still their turn
        taken = Taken(self._number, items)
        self._number += 1
        self._tell_of_room()
        if self._ready:
            self._some.notify()
        return taken

    def _drop_stale(self) -> None:
        now, count = self._clock.monotonic(), self._count
        for lane in list(self._ready):
            max_age_s = lane.limits.max_age_s
            while max_age_s is not None and lane._entries and now - lane._entries[0].since > max_age_s:
                self._on_drop(self._pop(lane).item, self._drops.stale)
            if not lane._entries:
                self._ready.remove(lane)
                if lane._closed:
                    self._forget(lane)
        if self._count < count:
            self._tell_of_room()

    def _half_stale_at(self) -> float:
        """When the first of those that are next will have waited for half of the time that they may."""
        ages = ((lane._entries[0].since, lane.limits.max_age_s) for lane in self._ready)
        return min((since + age_s / 2 for since, age_s in ages if age_s is not None), default=math.inf)

    def _set_limits(self, lane: Lane[T], limits: LaneLimits) -> None:
        with self._lock:
            self._max_bytes += limits.own_bytes - lane.limits.own_bytes
            lane.limits = limits
            lane._room.notify_all()  # its policy may be another one
            self._tell_of_room()

    def _move(self, old: Lane[T], new: Lane[T]) -> None:
        new._entries, old._entries = old._entries, new._entries
        new._nbytes, old._nbytes = old._nbytes, 0
        new._last_nbytes = old._last_nbytes
        if old in self._ready:
            self._ready[self._ready.index(old)] = new
        self._shut(old)

    def _close_lane(self, lane: Lane[T], last: T | None) -> None:
        with self._lock:
            if last is not None and self._is_open(lane):
                self._append(lane, _Entry(last, 0, self._clock.monotonic()))
            self._shut(lane)

    def _shut(self, lane: Lane[T]) -> None:
        lane._closed = True
        if not lane._entries:
            self._forget(lane)
        lane._room.notify_all()
        self._some.notify_all()

    def _forget(self, lane: Lane[T]) -> None:
        if lane in self._lanes:
            self._lanes.remove(lane)
            self._max_bytes -= lane.limits.own_bytes


def _priority(lane: Lane[T]) -> int:
    return lane.limits.priority


def _holds_something(waiting: tuple[Lane[T], int]) -> bool:
    """Sorted by this, lanes that are empty, which always have room, come before those that depend on what is left."""
    return bool(waiting[0]._entries)
