"""`SinkHealth`: whether a sink is degraded: told once down, and once up with what was lost in between."""

import threading

from pipeline.runtime.context import Surroundings

ROOM_S = 5.0
"""A spool at its limit is full and is not with every result."""


class SinkHealth:
    """Made for one sink; told by all of its threads how things went.

    Trouble has a key, "spool" or "source gate": the sink is degraded while there is any. Each kind of trouble (the
    key's first word) is told once, and once that all is well again.
    """

    def __init__(self, sink: str, surroundings: Surroundings, meanwhile: str = "") -> None:
        """`meanwhile`: what becomes of results, if they are not lost."""
        self._sink = sink
        self._meanwhile = meanwhile
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._lock = threading.Lock()
        self._troubles: dict[str, dict[str, str]] = {}
        self._since = 0.0
        self._lost = 0
        self._full_at: float | None = None

    @property
    def trouble(self) -> str | None:
        """What is wrong, for people, the last of each kind; None: all is well."""
        with self._lock:
            return "; ".join(list(texts.values())[-1] for texts in self._troubles.values()) or None

    def bad(self, key: str, error: object, *, lost: int = 0) -> None:
        """Something failed; so many results are lost by it."""
        kind = key.partition(" ")[0]
        with self._lock:
            if not self._troubles:
                self._since = self._clock.monotonic()
            is_new = kind not in self._troubles
            texts = self._troubles.setdefault(kind, {})
            texts.pop(key, None)
            texts[key] = str(error)
            self._lost += lost
        if is_new:
            self._events.sink_degraded(self._sink, error, self._meanwhile)

    def good(self, key: str) -> None:
        """What failed works again."""
        if not self._troubles:
            return
        kind = key.partition(" ")[0]
        with self._lock:
            texts = self._troubles.get(kind, {})
            if texts.pop(key, None) is None:
                return
            if not texts:
                del self._troubles[kind]
            if self._troubles:
                return
            lost, self._lost = self._lost, 0
            for_s = self._clock.monotonic() - self._since
        self._events.sink_well(self._sink, for_s, lost)

    def full(self, why: str, then: str) -> None:
        """The spool has no room, and what is done about it."""
        began, self._full_at = self._full_at is None, self._clock.monotonic()
        if began:
            self._events.spool_full(self._sink, why, then)

    def has_room(self) -> None:
        """The spool had room just now; told once it has had for a while."""
        if self._full_at is not None and self._clock.monotonic() - self._full_at > ROOM_S:
            self._full_at = None
            self._events.spool_has_room(self._sink)
