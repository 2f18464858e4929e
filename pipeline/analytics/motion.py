"""`MotionGate`: whether anything moves in a source's pictures, so that what shows nothing new is not inferred."""

import math

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.scene import MotionConfig, Region

SPOTS = Size(96, 54)
"""Into so many spots a picture is divided. Looking at one of 1080p takes 0.2 ms of one core."""

_STILL_TIME_CONSTANT_S = 4.0
"""How fast the background follows a spot that does not move: fast enough for dusk, too slow for what creeps."""

_MOVED_TIME_CONSTANT_S = 20.0
"""How fast it follows one that does: a car that was parked belongs to the background after half a minute."""

_LONGEST_STEP_S = 5.0
"""After a longer gap the background does not follow further than after this one."""

_DARKEST = 8.0
"""Below this grey level the ratio of two pictures' brightness says nothing."""

_SLACK_S = 0.002  # time stamps are rounded

Levels = npt.NDArray[np.float32]


class MotionGate:
    """Compares each frame with a slowly following background. Made for one source; called by its runner's thread.

    A change of brightness of the whole picture (a cloud, the camera's exposure, a lamp that lights all of it) is taken
    out before: by the difference or by the ratio of the medians, whichever explains a spot better.

    Time is the picture's own (`pts_s`) where it has one, so that a file that is read faster than it was filmed is
    judged alike.
    """

    def __init__(self, config: MotionConfig) -> None:
        self._config = config
        self._size: Size | None = None
        self._background: Levels = np.zeros((0, 0), np.float32)
        self._looked_at: npt.NDArray[np.bool_] | None = None
        self._had_pts = False
        self._last_s = 0.0
        self._passed_s = 0.0
        self._moved_s = -math.inf
        self._still_s = 0.0

    @property
    def still_s(self) -> float:
        """0 where something moves or did just now; else the seconds from the last frame to the next keepalive."""
        return self._still_s

    def passes(self, frame: Frame) -> bool:
        """Whether the frame is to be inferred: something moves or just did, it is the first one, or it is time again.

        The first frame passes, and so does the first after a change of the picture's size or a jump of its time.
        """
        config = self._config
        has_pts = frame.pts_s is not None
        now_s = frame.decoded_at if frame.pts_s is None else frame.pts_s
        step_s = now_s - self._last_s
        begins = frame.picture.size != self._size
        jumped = frame.time_jump or has_pts != self._had_pts or step_s < 0
        self._had_pts, self._last_s = has_pts, now_s

        levels = frame.picture.luma(*SPOTS).astype(np.float32)
        if begins:
            self._begin(frame.picture.size, levels)
        if begins or jumped:
            self._passed_s, self._moved_s, self._still_s = now_s, -math.inf, 0.0
            return True
        if self._moves(levels, min(step_s, _LONGEST_STEP_S)):
            self._moved_s = now_s
        held = now_s - self._moved_s <= config.hold_s
        passes = held or now_s - self._passed_s >= config.keepalive_s - _SLACK_S
        if passes:
            self._passed_s = now_s
        self._still_s = 0.0 if held else config.keepalive_s - (now_s - self._passed_s)
        return passes

    def _begin(self, size: Size, levels: Levels) -> None:
        self._size = size
        self._background = levels
        looked_at = _outside(self._config.ignore, levels.shape[0], levels.shape[1])
        self._looked_at = None if looked_at.all() else looked_at

    def _moves(self, levels: Levels, step_s: float) -> bool:
        """Whether enough of the picture differs from the background, which then follows it."""
        background, looked_at = self._background, self._looked_at
        changed = brightness_apart(levels, background, looked_at) > self._config.sensitivity
        count = changed.size if looked_at is None else int(looked_at.sum())
        moved = int(np.count_nonzero(changed if looked_at is None else changed & looked_at))
        still_pace, moved_pace = (1 - math.exp(-step_s / t) for t in (_STILL_TIME_CONSTANT_S, _MOVED_TIME_CONSTANT_S))
        pace = np.where(changed, np.float32(moved_pace), np.float32(still_pace))
        self._background = background + (levels - background) * pace
        return count > 0 and moved >= max(self._config.threshold * count, 1)


def brightness_apart(levels: Levels, before: Levels, looked_at: npt.NDArray[np.bool_] | None = None) -> Levels:
    """By how much each spot differs, once what the whole picture got brighter or darker is taken out.

    Args:
        levels: float32 (H, W), 0..255.
        before: the same of the picture to compare with.
        looked_at: (H, W), the spots that count for the brightness of the whole; all without it.
    """
    now = _median(levels if looked_at is None else levels[looked_at])
    then = _median(before if looked_at is None else before[looked_at])
    difference = levels - before
    apart: Levels = np.abs(difference - np.float32(now - then))
    if now > _DARKEST and then > _DARKEST:
        apart = np.minimum(apart, np.abs(levels - before * np.float32(now / then)))
    return apart


def _median(levels: Levels) -> float:
    """Of every other value: near enough, in half of the time."""
    values = levels.reshape(-1)[::2]
    if not len(values):
        return 0.0
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


def _outside(regions: tuple[Region, ...], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Which of the spots, (height, width), have their centre in none of the regions."""
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    outside = np.ones((height, width), np.bool_)
    for left, top, right, bottom in regions:
        outside &= ~(((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None, :])
    return outside
