"""When a live picture was taken: one timeline over all connections, and a wall time that says where it comes from."""

from dataclasses import dataclass

from pipeline.contracts.frame import TimeSource

# Two frames are at least so far apart on the timeline, also where the camera gives both the same time stamp.
_TICK_S = 0.001
# A frame may come so much out of order; a time stamp that is older is a jump.
_OUT_OF_ORDER_S = 0.25
# A time stamp may run ahead of the time that went by so far, e.g. over a gap that lay in a buffer.
_LEAP_S = 5.0
# The wall clock was set where it moved by more than this against the monotonic one; slewing stays below.
_CLOCK_STEP_S = 1.0
# How fast the shortest delay that was ever seen is forgotten: follows a camera whose clock runs slow, 500 ppm at most.
_FORGET_RATIO = 0.0005
# Wall times of frames wait for a clock that went back by no more than this; one that went back further is followed.
_HOLD_S = 60.0
# What transport and buffers can explain, in seconds that the camera's clock is behind ours when the frame arrives.
# Beyond it one of the clocks is wrong. It counts as right again a little further in, so that it does not flap.
_OFFSET_LEFT_S = (-2.0, 10.0)
_OFFSET_REGAINED_S = (-1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Stamp:
    """The times of one frame, as `Frame` holds them."""

    pts_s: float
    captured_at: float
    time_source: TimeSource
    time_jump: bool
    clock_offset_s: float | None


class StreamClock:
    """Gives the frames of one live source their times. Made by the source, used by its thread only.

    `pts_s` follows the camera's time stamps within a connection and the monotonic clock between connections and over
    jumps, so that it always grows. `captured_at` is the camera's own time (RTCP sender reports) while that is
    plausible; a camera whose clock is off by more than a network can explain gets "pts": its time stamps, anchored at
    the shortest delay seen between them and their arrival. `clock_offset_s` is told in both cases.
    """

    def __init__(self) -> None:
        self._last_pts_s: float | None = None
        self._last_at_s = 0.0
        self._pts_minus_raw_s: float | None = None
        self._declared_interval_s = 0.0
        self._interval_s = 0.0  # the least that a frame without a place of its own is behind the one before
        self._delay_s: float | None = None  # from pts_s to arrival, both without a common zero: the shortest seen
        self._wall_minus_monotonic_s: float | None = None
        self._camera_trusted = True
        self._last_captured_at = 0.0

    def begin_connection(self, interval_s: float) -> None:
        """What comes now has time stamps that count from somewhere else.

        Args:
            interval_s: from one frame to the next, as the stream declares it: the first frames come without a stamp.
        """
        self._pts_minus_raw_s = None
        self._interval_s = 0.0  # the first one follows after however long the camera was away
        self._declared_interval_s = interval_s
        self._delay_s = None
        self._camera_trusted = True

    def stamp(self, *, raw_s: float | None, camera_s: float | None, at_s: float, wall_s: float) -> Stamp:
        """The times of the next frame.

        Args:
            raw_s: its time stamp in the stream's own seconds; None where it has none.
            camera_s: when it was taken by the camera's clock, Unix seconds; None where the camera does not tell.
            at_s: monotonic seconds at which it arrived.
            wall_s: Unix seconds at which it arrived.
        """
        pts_s, jumped = self._place(raw_s, at_s)
        passed_s = 0.0 if self._last_pts_s is None else max(0.0, at_s - self._last_at_s)
        self._last_pts_s, self._last_at_s = pts_s, at_s
        arrived_at = self._arrival(at_s, wall_s)
        time_source: TimeSource = "arrival"
        if raw_s is None:
            captured_at = arrived_at
        else:
            delay_s = at_s - pts_s
            grown_s = delay_s if self._delay_s is None else self._delay_s + passed_s * _FORGET_RATIO
            self._delay_s = min(grown_s, delay_s)
            captured_at, time_source = arrived_at - (delay_s - self._delay_s), "pts"
        offset_s = None if camera_s is None else wall_s - camera_s
        if camera_s is not None and offset_s is not None and self._is_plausible(offset_s):
            captured_at, time_source = camera_s, "rtcp"
        if captured_at < self._last_captured_at:
            if self._last_captured_at - captured_at > _HOLD_S:
                jumped = True
            else:
                captured_at = self._last_captured_at
        self._last_captured_at = captured_at
        return Stamp(pts_s, captured_at, time_source, jumped, offset_s)

    def _place(self, raw_s: float | None, at_s: float) -> tuple[float, bool]:
        """Where the frame lies on the timeline, and whether the camera's time stamps jumped to get there."""
        interval_s, self._interval_s = self._interval_s, self._declared_interval_s
        if self._last_pts_s is None:
            self._pts_minus_raw_s = None if raw_s is None else -raw_s
            return 0.0, False
        waited_s = max(_TICK_S, at_s - self._last_at_s)
        next_s = self._last_pts_s + waited_s
        if raw_s is None or self._pts_minus_raw_s is None:
            next_s = max(next_s, self._last_pts_s + interval_s)
            self._pts_minus_raw_s = None if raw_s is None else next_s - raw_s
            return next_s, False
        step_s = raw_s + self._pts_minus_raw_s - self._last_pts_s
        if step_s < -_OUT_OF_ORDER_S or step_s > waited_s + _LEAP_S:
            self._pts_minus_raw_s = next_s - raw_s
            return next_s, True
        return self._last_pts_s + max(step_s, _TICK_S), False

    def _arrival(self, at_s: float, wall_s: float) -> float:
        """The wall time of the arrival, on a line that only moves when the wall clock was set."""
        now_s = wall_s - at_s
        if self._wall_minus_monotonic_s is None or abs(now_s - self._wall_minus_monotonic_s) > _CLOCK_STEP_S:
            self._wall_minus_monotonic_s = now_s
        return at_s + self._wall_minus_monotonic_s

    def _is_plausible(self, offset_s: float) -> bool:
        low_s, high_s = _OFFSET_LEFT_S if self._camera_trusted else _OFFSET_REGAINED_S
        self._camera_trusted = low_s <= offset_s <= high_s
        return self._camera_trusted
