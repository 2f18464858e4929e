"""`InOrder`: answers that come in any order from several threads leave in the order in which they were asked."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class InOrder(Generic[T]):
    """Numbered items in, in any order; delivered one after another as 0, 1, 2, ...

    Whoever brings the item that was waited for delivers it, and all that can follow, from its own thread; at most one
    thread delivers at a time. A thread that is `window` ahead of the oldest missing one waits, so that a delivery that
    is held up holds up all, and nothing piles up.
    """

    def __init__(self, deliver: Callable[[T], None], window: int) -> None:
        """`deliver` must not raise: who could tell the thread that asked for the item?"""
        self._deliver = deliver
        self._window = window
        self._changed = threading.Condition()
        self._waiting: dict[int, T] = {}
        self._next = 0
        self._delivering = False

    def put(self, number: int, item: T) -> None:
        """Hand over the item with this number; each number comes exactly once, and none is left out."""
        with self._changed:
            while number - self._next >= self._window:
                self._changed.wait()
            self._waiting[number] = item
            if self._delivering or number != self._next:
                return
            self._delivering = True
            while self._next in self._waiting:
                ready = self._waiting.pop(self._next)
                self._changed.release()
                try:
                    self._deliver(ready)
                finally:
                    self._changed.acquire()
                del ready  # its memory is somebody else's now
                self._next += 1
                self._changed.notify_all()
            self._delivering = False
