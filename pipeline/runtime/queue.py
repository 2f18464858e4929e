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

import threading
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from pipeline.contracts.clock import Clock
from pipeline.runtime.lane import Entry, Lane, LaneLimits
from pipeline.runtime.turns import Turns

__all__ = ["Drops", "Lane", "LaneLimits", "LaneQueue", "Taken"]

T = TypeVar("T")


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


class LaneQueue(Generic[T]):
    """See the module. Any number of consumers may call `get`. `nbytes` is what all lanes hold together."""

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
        self.clock = clock
        self._lock = threading.Lock()
        self._some = threading.Condition(self._lock)
        self._on_drop = on_drop
        self._on_enter = on_enter
        self._drops = drops
        self._max_bytes = max_bytes
        self.nbytes = self._count = 0
        self._lanes: list[Lane[T]] = []
        # Whose producers wait, for so many bytes, who came first first. One entry for each lane: it has one producer.
        self._waiting: dict[Lane[T], int] = {}
        self._turns: Turns[T] = Turns()
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
            lane = Lane(self, limits, self._lock)
            self._max_bytes += limits.own_bytes
            self._lanes.append(lane)
            if taking_over is not None:
                lane.take_over(taking_over)
                self._turns.replace(taking_over, lane)
                self._shut(taking_over)
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
        idle_at = None if idle_s is None else self.clock.monotonic() + idle_s
        with self._lock:
            while True:
                self._drop_stale()
                wait_s: float | None = None
                if self._turns:
                    now = self.clock.monotonic()
                    wait_until = now + max_wait_s if wait_until is None else wait_until
                    wait_s = min(wait_until, self._turns.half_stale_at()) - now
                    if wait_s <= 0 or self._is_over() or self._fills(max_items, kind):
                        return self._take(max_items, kind)
                elif self._is_over():
                    return Taken(self._number, [])
                else:
                    wait_until = None
                    if idle_at is not None:
                        wait_s = idle_at - self.clock.monotonic()
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
                while lane.entries:
                    self._on_drop(self._pop(lane), self._closed_reason)
                lane.room.notify_all()
            self._turns.clear()
            self._some.notify_all()

    @property
    def closed_reason(self) -> str:
        """Why items are refused, once they are."""
        return self._closed_reason or self._drops.closed

    def __len__(self) -> int:
        return self._count

    # For its lanes

    def put(self, lane: Lane[T], entry: Entry[T], *, wait: bool, force: bool) -> bool:
        """See `Lane.put`."""
        with self._lock:
            while not force and self._is_open(lane) and self._is_full(lane, entry.nbytes):
                if lane.limits.when_full == "drop_newest" or (lane.limits.when_full == "block" and not wait):
                    self._on_enter(entry.item)
                    self._on_drop(entry.item, self._drops.full)
                    return True
                if lane.limits.when_full == "drop_oldest":
                    self._on_drop(self._pop(lane), self._drops.full)
                else:
                    self._wait_in(lane, entry.nbytes)
            if not self._is_open(lane):
                return False
            self._on_enter(entry.item)
            self._append(lane, entry)
            return True

    def wait_for_room(self, lane: Lane[T]) -> bool:
        """See `Lane.wait_for_room`."""
        with self._lock:
            while self._is_open(lane) and lane.limits.when_full == "block" and self._is_full(lane, lane.last_nbytes):
                self._wait_in(lane, lane.last_nbytes)
            return self._is_open(lane)

    def set_limits(self, lane: Lane[T], limits: LaneLimits) -> None:
        """See `Lane.set_limits`."""
        with self._lock:
            self._max_bytes += limits.own_bytes - lane.limits.own_bytes
            lane.limits = limits
            lane.room.notify_all()  # its policy may be another one
            self._tell_of_room()

    def close_lane(self, lane: Lane[T], last: T | None) -> None:
        """See `Lane.close`."""
        with self._lock:
            if last is not None and self._is_open(lane):
                self._append(lane, Entry(last, 0, self.clock.monotonic()))
            self._shut(lane)

    # With the lock held

    def _append(self, lane: Lane[T], entry: Entry[T]) -> None:
        if not lane.entries:
            self._turns.join(lane)
        lane.append(entry)
        self.nbytes += entry.nbytes
        self._count += 1
        self._some.notify()

    def _pop(self, lane: Lane[T]) -> T:
        item, nbytes, _ = lane.pop()
        self.nbytes -= nbytes
        self._count -= 1
        return item

    def _fills(self, max_items: int, kind: Callable[[T], Hashable] | None) -> bool:
        """Whether a batch would be full now."""
        if self._count < max_items or kind is None or max_items == 1:
            return self._count >= max_items
        return self._turns.fill(max_items, kind)

    def _take(self, max_items: int, kind: Callable[[T], Hashable] | None) -> Taken[T]:
        items: list[T] = []
        for lane in self._turns.served(max_items, kind):
            items.append(self._pop(lane))
            self._forget(lane)
        taken = Taken(self._number, items)
        self._number += 1
        self._tell_of_room()
        if self._turns:
            self._some.notify()
        return taken

    def _drop_stale(self) -> None:
        now, count = self.clock.monotonic(), self._count
        for lane in list(self._turns):
            while lane.is_stale(now):
                self._on_drop(self._pop(lane), self._drops.stale)
            if not lane.entries:
                self._turns.leave(lane)
                self._forget(lane)
        if self._count < count:
            self._tell_of_room()

    def _wait_in(self, lane: Lane[T], nbytes: int) -> None:
        self._waiting[lane] = nbytes
        lane.room.wait()
        self._waiting.pop(lane, None)

    def _tell_of_room(self) -> None:
        """Wake those for whom there is room now, and nobody else: to wake 16 files for each frame is 50 switches.

        What they share is counted: who is woken is taken for having used it. Nobody is forgotten: a lane whose producer
        waits holds something, and when that is taken this is called again.
        """
        left_bytes = self._max_bytes - self.nbytes
        # Lanes that are empty, which always have room, come before those that depend on what is left.
        for lane, nbytes in sorted(self._waiting.items(), key=lambda waiting: bool(waiting[0].entries)):
            if not lane.entries or (nbytes <= left_bytes and not self._is_full(lane, nbytes)):
                left_bytes -= nbytes
                del self._waiting[lane]
                lane.room.notify_all()

    def _is_open(self, lane: Lane[T]) -> bool:
        return self._closed_reason is None and not lane.closed

    def _is_over(self) -> bool:
        return self._closed_reason is not None or (self._finished and all(lane.closed for lane in self._lanes))

    def _is_full(self, lane: Lane[T], nbytes: int) -> bool:
        return bool(lane.entries) and (lane.is_full(nbytes) or self.nbytes + nbytes > self._max_bytes)

    def _shut(self, lane: Lane[T]) -> None:
        lane.closed = True
        self._forget(lane)
        lane.room.notify_all()
        self._some.notify_all()

    def _forget(self, lane: Lane[T]) -> None:
        """Once nothing is in it, and nothing will come."""
        if lane.closed and not lane.entries and lane in self._lanes:
            self._lanes.remove(lane)
            self._max_bytes -= lane.limits.own_bytes
