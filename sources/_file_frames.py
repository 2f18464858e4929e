"""What comes out of a video file: frames, and places of frames that were not decoded, with their times."""

from dataclasses import dataclass
from fractions import Fraction

from av.video.frame import VideoFrame

from pipeline.contracts.frame import Picture
from sources._decoder import Decoder


@dataclass(slots=True)
class DecodedFrame:
    """A decoder's frame with its place in the file.

    Attributes:
        pts_s: seconds since the start of the stream.
        duration_s: how long it is shown, where the container says so.
        stamped: False where the container has no time stamp for it, and `pts_s` was counted on at the declared rate.
        shown_s: `duration_s`, or else one frame at the declared rate.
    """

    _picture: Picture | None
    pts_s: float
    duration_s: float | None
    stamped: bool
    shown_s: float

    def take_picture(self) -> Picture:
        """The pixels, once: a generator that is suspended holds on to what it gave last, and a picture is megabytes."""
        picture, self._picture = self._picture, None
        if picture is None:
            raise RuntimeError("the picture was taken before")
        return picture


@dataclass(frozen=True, slots=True)
class SkippedFrame:
    """The place of a frame that nobody wants and that was not decoded.

    Attributes:
        pts_s: seconds since the start of the stream.
        shown_s: how long it is shown.
    """

    pts_s: float
    shown_s: float


def seconds(ticks: int, base: Fraction) -> float:
    """The same as `float(ticks * base)`, rounded alike, without the seven times as dear product of fractions."""
    return ticks * base.numerator / base.denominator


class FrameTimes:
    """Gives every frame its time: the container's, else counted on from the frame before. Used by a file's thread.

    Args:
        start_s: where the stream begins, by its header; None: with its first frame.
        fps: the declared rate.
    """

    def __init__(self, start_s: float | None, fps: float) -> None:
        self._start_s = start_s
        self._interval_s = 1 / fps
        self.last_pts_s: float | None = None
        self.end_s = 0.0

    def place(self, frame: VideoFrame, decoder: Decoder) -> DecodedFrame:
        """The frame with its time."""
        time_base = frame.time_base
        duration_s = seconds(frame.duration, time_base) if frame.duration and time_base else None
        pts_s, stamped = self.end_s, False
        if frame.pts is not None and time_base is not None:
            stamp_s, stamped = seconds(frame.pts, time_base), True
            if self._start_s is None:
                self._start_s = stamp_s - self.end_s
            pts_s = stamp_s - self._start_s
        shown_s = self._note(pts_s, duration_s)
        return DecodedFrame(decoder.picture(frame), pts_s, duration_s, stamped, shown_s)

    def skip(self, stamp_s: float, duration_s: float | None) -> SkippedFrame:
        """The place of a frame that was not decoded, by the container's time stamp."""
        pts_s = stamp_s - (self._start_s or 0.0)
        return SkippedFrame(pts_s, self._note(pts_s, duration_s))

    def _note(self, pts_s: float, duration_s: float | None) -> float:
        shown_s = duration_s or self._interval_s
        self.last_pts_s, self.end_s = pts_s, pts_s + shown_s
        return shown_s
