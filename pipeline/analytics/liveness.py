"""`ContentWatch`: whether a source's pictures are frozen, black, or suddenly of another scene."""

import math
import zlib

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Frame, Picture, Size
from pipeline.contracts.scene import ContentState, LivenessConfig

LOOK_EVERY_S = 1.0
"""A look at 1080p takes 0.3 ms of one core, and 1 ms where nothing has changed since the last one."""

SPOTS = Size(64, 48)
_TILE = 8  # spots a side: 8 x 6 tiles, each compared by itself

BLACK_SHARE = 0.98
"""So much of the picture must be dark: not the clock that the camera writes into it."""

STEADY_S = 3.0
"""BLACK is said, and taken back, when it was seen for so long."""

MOVED_AFTER_S = 10.0
"""MOVED is said when the scene was another one for so long: a lorry that passes by is not."""

ADAPTED_AFTER_S = 60.0
"""After so long in MOVED the new scene is the scene."""

_SCENE_TIME_CONSTANT_S = 30.0
_FORGOTTEN_AFTER_S = 600.0
"""After so long without a look, the scene of before says nothing: it may have become night."""

_TEXTURE = 4.0
"""A tile whose grey levels vary by less (standard deviation) has no structure to compare."""

_ALIKE = 0.5
"""Two tiles with at least this correlation show the same."""

_FEWEST_TILES = 4
"""With fewer tiles that have structure, then or now, a scene cannot be told from another."""

_SLACK_S = 0.02  # decoding jitters: frames of 1 fps are not to be looked at every other time

Levels = npt.NDArray[np.float32]


class ContentWatch:
    """Looks at a frame about once a second. Made for one source; called by its runner's thread.

    * FROZEN: the luma was the same bit by bit for `frozen_after_s`. A camera's picture never is: there is noise.
    * BLACK: all but a clock or logo is dark.
    * MOVED: in most of the picture the structure is suddenly another one, and stays so: somebody turned or covered the
      camera, or moved furniture. Structure is compared by correlation, tile by tile, with a slow average: that leaves
      out how bright it is (dusk, clouds, a lamp) and who walks by. When a camera changes between day and infrared
      pictures, it may be said once if the two look very different. A camera that patrols is MOVED all the time: turn it
      off there. It ends when the old scene is back, or after `ADAPTED_AFTER_S`.
    """

    def __init__(self, config: LivenessConfig) -> None:
        self._config = config
        self._state = ContentState.OK
        self._looked_at_s = -math.inf
        self._size: Size | None = None
        self._still = _Stillness()
        self._scene = _Scene(config.moved_above)
        self._dark = _Lasting()

    def look(self, frame: Frame) -> ContentState:
        """What the pictures look like by now; most calls only say what the last look found."""
        now_s, picture = frame.decoded_at, frame.picture
        since_s = now_s - self._looked_at_s
        if not self._config.enabled or frame.corrupt or 0 <= since_s < LOOK_EVERY_S - _SLACK_S:
            return self._state
        if picture.size != self._size or not 0 <= since_s < _FORGOTTEN_AFTER_S:
            self._size, self._scene = picture.size, _Scene(self._config.moved_above)
            self._still, self._dark = _Stillness(), _Lasting()
        if since_s > max(5 * LOOK_EVERY_S, self._config.frozen_after_s):
            self._still = _Stillness()  # it was away: that is not the same as standing still
        self._looked_at_s = now_s
        spots = picture.luma(*SPOTS)
        dark = float(np.quantile(spots, BLACK_SHARE)) < self._config.black_below
        frozen = self._still.lasts_s(picture, spots, now_s) >= self._config.frozen_after_s
        if self._dark.is_so(dark, now_s, STEADY_S):
            self._state = ContentState.BLACK
        elif frozen:
            self._state = ContentState.FROZEN
        elif dark:
            pass  # too early to say: neither is it the scene
        elif self._scene.moved(spots.astype(np.float32), now_s):
            self._state = ContentState.MOVED
        else:
            self._state = ContentState.OK
        return self._state


class _Lasting:
    """Something that is believed, and no longer believed, only when it was seen for a while."""

    def __init__(self) -> None:
        self._believed = False
        self._otherwise_since_s: float | None = None

    def is_so(self, seen: bool, now_s: float, after_s: float) -> bool:
        """What is believed by now."""
        if seen == self._believed:
            self._otherwise_since_s = None
            return self._believed
        if self._otherwise_since_s is None:
            self._otherwise_since_s = now_s
        if now_s - self._otherwise_since_s >= after_s:
            self._believed, self._otherwise_since_s = seen, None
        return self._believed


class _Stillness:
    """For how long the pictures have been the same to the last bit."""

    def __init__(self) -> None:
        self._spots: npt.NDArray[np.uint8] | None = None
        self._checksum: int | None = None
        self._since_s = 0.0

    def lasts_s(self, picture: Picture, spots: npt.NDArray[np.uint8], now_s: float) -> float:
        """Seconds from the first of the equal pictures to this one; all its pixels are read only where need be."""
        if self._spots is None or not np.array_equal(spots, self._spots):
            self._spots, self._checksum, self._since_s = spots, None, now_s
            return 0.0
        checksum = zlib.crc32(np.ascontiguousarray(picture.luma(*picture.size)).data)
        if checksum != self._checksum:
            before, self._checksum = self._checksum, checksum
            # The first one's was not taken: the two count as equal until the next tells.
            self._since_s = self._since_s if before is None else now_s
        return now_s - self._since_s


class _Scene:
    """What the camera usually shows, and since when it shows something else."""

    def __init__(self, moved_above: float) -> None:
        self._moved_above = moved_above
        self._usual: Levels | None = None
        self._looks = 0
        self._last_s = 0.0
        self._other_since_s: float | None = None

    def moved(self, levels: Levels, now_s: float) -> bool:
        """Whether it has been another scene for long enough, and not for so long that it is the scene by now."""
        if self._usual is None or self._usual.shape != levels.shape:
            self._usual, self._looks, self._other_since_s = levels, 1, None
        elif share_of_other_structure(levels, self._usual) <= self._moved_above:
            self._looks += 1
            pace = max(1 / self._looks, 1 - math.exp(-(now_s - self._last_s) / _SCENE_TIME_CONSTANT_S))
            self._usual = self._usual + (levels - self._usual) * np.float32(pace)
            self._other_since_s = None
        elif self._other_since_s is None:
            self._other_since_s = now_s
        elif now_s - self._other_since_s >= MOVED_AFTER_S + ADAPTED_AFTER_S:
            self._usual, self._looks, self._other_since_s = levels, 1, None
        self._last_s = now_s
        return self._other_since_s is not None and now_s - self._other_since_s >= MOVED_AFTER_S


def share_of_other_structure(levels: Levels, usual: Levels) -> float:
    """Of the tiles that have structure in either picture, the share in which it is another one.

    Args:
        levels: float32 (H, W), 0..255; (48, 64), or smaller for a smaller picture.
        usual: the same.

    Returns:
        0..1; 0 where there is too little structure to tell.
    """
    now, now_deviation = _tiles(levels)
    then, then_deviation = _tiles(usual)
    structured = np.maximum(now_deviation, then_deviation) >= _TEXTURE
    count = int(np.count_nonzero(structured))
    if count < min(_FEWEST_TILES, structured.size):
        return 0.0
    product = (now * then).mean(axis=1)
    alike = product >= _ALIKE * np.maximum(now_deviation * then_deviation, _TEXTURE)
    return int(np.count_nonzero(structured & ~alike)) / count


def _tiles(levels: Levels) -> tuple[Levels, Levels]:
    """The tiles, (T, spots in a tile), each less its mean, and their standard deviations, (T,)."""
    height, width = (max(1, side // _TILE) for side in levels.shape)
    rows, columns = levels.shape[0] // height, levels.shape[1] // width
    cut = levels[: height * rows, : width * columns].reshape(height, rows, width, columns)
    tiles = cut.transpose(0, 2, 1, 3).reshape(height * width, rows * columns)
    centred = tiles - tiles.mean(axis=1, keepdims=True)
    return centred, np.sqrt((centred * centred).mean(axis=1))
