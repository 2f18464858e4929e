"""How fast a live stream comes, and how to slow one down that comes by the segment."""

import threading

from pipeline.contracts.clock import Clock

_RATE_EVERY_S = 2.0
_PACED_AHEAD_S = 0.05
_PACED_BEHIND_S = 2.0
_PACED_LEAP_S = 60.0  # further ahead than any segment is long: the time stamps jumped


class Rate:
    """How many packets a second come, measured again every two seconds, and how far apart keyframes are.

    Attributes:
        details: `fps` and `keyframe_interval_s`, as far as they are known.
    """

    def __init__(self) -> None:
        self.details: dict[str, float] = {}
        self._since_s: float | None = None
        self._packets = 0
        self._keyframe_at_s: float | None = None

    def passed(self, now_s: float, *, keyframe: bool) -> bool:
        """One more packet; True when something new is known."""
        return self._count_packet(now_s) | (keyframe and self._note_keyframe(now_s))

    def _note_keyframe(self, now_s: float) -> bool:
        before_s, self._keyframe_at_s = self._keyframe_at_s, now_s
        if before_s is not None:
            self.details["keyframe_interval_s"] = round(now_s - before_s, 2)
        return before_s is not None

    def _count_packet(self, now_s: float) -> bool:
        self._packets += 1
        if self._since_s is None:
            self._since_s, self._packets = now_s, 0
        elif now_s - self._since_s >= _RATE_EVERY_S:
            self.details["fps"] = round(self._packets / (now_s - self._since_s), 2)
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
