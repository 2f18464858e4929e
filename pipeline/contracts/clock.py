"""The two clocks: monotonic for intervals and deadlines, wall for time stamps that leave the process."""

import time
from typing import Protocol


class Clock(Protocol):
    """What time it is; tests hand in one that they can move."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps; only differences mean anything."""
        ...

    def wall(self) -> float:
        """Unix seconds; may jump, so never subtract two of them to get an interval."""
        ...


class SystemClock:
    """The clocks of the machine."""

    def monotonic(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()

    def wall(self) -> float:
        """Unix seconds of `time.time`."""
        return time.time()
