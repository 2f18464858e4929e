"""`SpoolClock`: the time by which a spool tells how long something waits; it never goes back, and never jumps."""

from pipeline.contracts.clock import Clock


class SpoolClock:
    """Made by the store when it opens its file. Unix seconds at first, then as the monotonic clock goes.

    Args:
        clock: the clocks of the machine.
        last: what the spool's clock showed when it was written last; 0.0 for a new file. A machine whose clock was put
            back since then goes on from there.
    """

    def __init__(self, clock: Clock, last: float = 0.0) -> None:
        self._clock = clock
        self._base = max(clock.wall(), last) - clock.monotonic()

    def now(self) -> float:
        """Unix seconds, more or less; never less than before."""
        return self._base + self._clock.monotonic()

    def as_wall(self, at: float) -> float:
        """The wall clock's time of something that happened at `at`, as far as can be said now."""
        return self._clock.wall() - max(0.0, self.now() - at)
