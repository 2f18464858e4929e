"""How fast a live stream comes, and how to slow one down that comes by the segment."""

import threading

from pipeline.contracts.clock import Clock

_RATE_EVERY_S = 2.0
_PACED_AHEAD_S = 0.05
_PACED_BEHIND_S = 2.0
_PACED_LEAP_S = 60.0  # further ahead than any segment is long: the time stamps jumped


class Rate:
    """How many packets a second come, measured again every two seconds."""

    def __init__(self) -> None:
        self.fps = 0.0
        self._since_s: float | None = None
        self._packets = 0

    def passed(self, now_s: float) -> bool:
        """One more packet; True when `fps` is new."""
        self._packets += 1
        if self._since_s is None:
            self._since_s, self._packets = now_s, 0
        elif now_s - self._since_s >= _RATE_EVERY_S:
            self.fps = round(self._packets / (now_s - self._since_s), 2)
            self._since_s, self._packets = now_s, 0
            return True
        return False


class Pace:
    """Plays HLS as fast as it was filmed: it comes by the segment, seconds at once, and waits on the server."""

    def __init__(self) -> None:
        self._zero_s: float | None = None

    def wait(self, raw_s: float | None, clock: Clock, stop: threading.Event) -> bool:
        """Wait until it is the frame's turn; False when stopped."""
        if raw_s is None:
            return True
        now_s = clock.monotonic()
        if self._zero_s is None or not -_PACED_BEHIND_S <= self._zero_s + raw_s - now_s <= _PACED_LEAP_S:
            self._zero_s = now_s - raw_s
        ahead_s = self._zero_s + raw_s - now_s
        return not (stop.wait(ahead_s) if ahead_s > _PACED_AHEAD_S else stop.is_set())
