"""`Budget`: how many bytes may be held at once for all clients together, counted until they are let go."""

import threading
from typing import Self

from pipeline.server.inference.refusal import RefusedError, busy


class Budget:
    """So many bytes. Made once for each kind of memory; used by any thread.

    Args:
        total_bytes: that may be held at once.
        what: they hold, in the plural, for the client that gets none.
    """

    def __init__(self, total_bytes: int, what: str) -> None:
        self.total_bytes = total_bytes
        self._what = what
        self._held_bytes = 0
        self._lock = threading.RLock()  # a lease may go away while this very thread changes something

    @property
    def held_bytes(self) -> int:
        """That are held now."""
        return self._held_bytes

    def lease(self, size_bytes: int = 0) -> "Lease":
        """Hold some; they are given back when the lease is released or goes away.

        Raises:
            RefusedError: 503; 413 where it would never fit.
        """
        return Lease(self).grow(size_bytes)

    def _change(self, by_bytes: int, own_bytes: int) -> None:
        with self._lock:
            if by_bytes > 0 and self._held_bytes + by_bytes > self.total_bytes:
                if own_bytes + by_bytes > self.total_bytes:
                    raise RefusedError(413, f"the {self._what} of this request are too large")
                raise busy(f"too many {self._what} are held already")
            self._held_bytes += by_bytes


class Lease:
    """Bytes that somebody holds. Hangs on what lies in them, and goes with it: CPython frees that at once."""

    __slots__ = ("_budget", "_held_bytes")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held_bytes = 0

    def grow(self, by_bytes: int) -> Self:
        """Hold more.

        Raises:
            RefusedError: as `Budget.lease`.
        """
        self._budget._change(by_bytes, self._held_bytes)
        self._held_bytes += by_bytes
        return self

    def release(self) -> None:
        """Give all back; a second time does nothing."""
        held_bytes, self._held_bytes = self._held_bytes, 0
        if held_bytes:
            self._budget._change(-held_bytes, 0)

    def __del__(self) -> None:
        self.release()


class LeasedBytes(bytes):
    """Bytes that are counted for as long as they live, whoever keeps them."""

    lease: Lease

    @classmethod
    def of(cls, data: "bytes | bytearray", lease: Lease) -> Self:
        """A copy of them, with their lease."""
        leased = cls(data)
        leased.lease = lease
        return leased
