"""A tap: the last results of one source, for a client that comes for them now and then."""

import threading
from collections import deque
from typing import Protocol

from pipeline.contracts.result import Result


class Tap(Protocol):
    """The results of one source from when it was asked for, the oldest first; taken on the main loop."""

    def take(self) -> Result | None:
        """The next result; None where there is none yet."""
        ...

    def close(self) -> None:
        """No more is wanted; called once."""
        ...


class Taps(Protocol):
    """Who can tap the running pipeline; called on the main loop."""

    def tap(self, source: str, *, size: int, pictures: bool) -> Tap | None:
        """Keep the results of a source from now on, the last `size` of them; a source never waits for a tap.

        Args:
            source: its name.
            size: so many; the oldest is let go for a new one.
            pictures: the results keep their pixels.

        Returns:
            None where there is no such source.
        """
        ...


class ResultBuffer:
    """A bounded buffer of results. `put` is called by the backend's deliverer, the rest by the main loop.

    Args:
        size: how many it holds.
        pictures: whether its reader wants the pixels.
    """

    def __init__(self, size: int, *, pictures: bool) -> None:
        self.pictures = pictures
        self._lock = threading.Lock()
        self._results: deque[Result] = deque(maxlen=size)
        self._closed = False

    def put(self, result: Result) -> None:
        """Keep the result, in place of the oldest where it is full. Never waits, never raises."""
        with self._lock:
            if not self._closed:
                self._results.append(result)

    def take(self) -> Result | None:
        """See `Tap`."""
        with self._lock:
            return self._results.popleft() if self._results else None

    @property
    def closed(self) -> bool:
        """Whether nobody wants any more."""
        return self._closed

    def close(self) -> None:
        """See `Tap`."""
        with self._lock:
            self._closed = True
            self._results.clear()
