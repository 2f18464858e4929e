"""`Notices`: what happens to the daemon itself, told to the sinks that want to know."""

import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from pipeline.contracts.clock import Clock
from pipeline.contracts.event import DaemonEvent
from pipeline.contracts.ids import new_id

MOST_A_MINUTE = 10
"""Of one kind and component: two sinks that fail at each other's notices must not keep each other busy."""

DETAIL_CHARS = 200

_MOST_KINDS = 1_000


class Listening(Protocol):
    """A sink's runner."""

    name: str

    def tell(self, event: DaemonEvent) -> None:
        """Hand over the event; never waits."""
        ...


class Notices:
    """Made by the supervisor; `tell` is called from every thread, by `Events`, and never waits.

    A sink is not told of itself: one that fails would fail at that, too.

    Args:
        sinks: the sinks of now; asked from every thread.
        clock: for the bound on how often, and for when it was.
    """

    def __init__(self, sinks: Callable[[], Collection[Listening]], clock: Clock) -> None:
        self._sinks = sinks
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], deque[float]] = {}
        self._held: dict[tuple[str, str], int] = {}

    def tell(self, component: str, kind: str, value: str, detail: str) -> None:
        """Something happened; see `DaemonEvent`."""
        sinks = [sink for sink in self._sinks() if component != f"sink {sink.name}"]
        if not sinks:
            return
        held = self._let_through((component, kind))
        if held is None:
            return
        line = " ".join(detail.split())
        more = f" ({held:,} more before)" if held else ""
        text = line if len(line) <= DETAIL_CHARS else line[: DETAIL_CHARS - 1] + "…"
        event = DaemonEvent(new_id(), component, kind, value, text + more, self._clock.wall())
        for sink in sinks:
            sink.tell(event)

    def _let_through(self, key: tuple[str, str]) -> int | None:
        """How many were held back before this one; None: so is this one."""
        now = self._clock.monotonic()
        with self._lock:
            if key not in self._told and len(self._told) >= _MOST_KINDS:
                oldest = next(iter(self._told))
                del self._told[oldest]
                self._held.pop(oldest, None)
            told = self._told.setdefault(key, deque(maxlen=MOST_A_MINUTE))
            if len(told) == MOST_A_MINUTE and now - told[0] < 60.0:
                self._held[key] = self._held.get(key, 0) + 1
                return None
            told.append(now)
            return self._held.pop(key, 0)
