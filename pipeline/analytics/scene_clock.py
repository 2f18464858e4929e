"""`SceneClock`: how much time passed between two frames for what they show."""

from typing import NamedTuple

from pipeline.contracts.frame import Frame, Size

TICK_S = 1e-6
"""Less than this is no difference between two moments."""


class Moment(NamedTuple):
    """When a frame is.

    Attributes:
        now_s: seconds since the first frame of the source, gaps included; never goes back.
        begins: what is seen here does not go on from the frame before: the source began anew, or its pictures have
            another size.
    """

    now_s: float
    begins: bool


class SceneClock:
    """Made for one source, used by one thread at a time.

    Time is the pictures' own: `pts_s` where there is one, so that a file that is read faster than it was filmed is
    judged alike, else `captured_at`. Where that goes back or is known to have jumped, the time that passed here stands
    in: a clock that is set breaks nothing.
    """

    def __init__(self) -> None:
        self._last: Frame | None = None
        self._size = Size(0, 0)
        self._now_s = 0.0

    def advance(self, frame: Frame) -> Moment:
        """The moment of the next frame."""
        last, size = self._last, frame.picture.size
        begins = last is None or frame.seq <= last.seq or size != self._size
        if last is not None:
            self._now_s += _passed_s(last, frame)
        self._last, self._size = frame.released(), size
        return Moment(self._now_s, begins)


def _passed_s(last: Frame, frame: Frame) -> float:
    if frame.pts_s is not None and last.pts_s is not None:
        passed_s = frame.pts_s - last.pts_s
    else:
        passed_s = frame.captured_at - last.captured_at
    if frame.time_jump or frame.seq <= last.seq or not 0.0 <= passed_s < float("inf"):
        return max(0.0, frame.decoded_at - last.decoded_at)
    return passed_s
