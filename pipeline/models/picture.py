"""`VideoPicture`: the pixels of one decoded frame, kept as the decoder gave them and converted on demand."""

import threading
from functools import lru_cache
from typing import Literal, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from pipeline.contracts.frame import ColorMatrix, Size, YuvPlanes
from pipeline.models.luma import SAMPLES_PER_SIDE, grey_plane, luma_plane, shrunk
from pipeline.models.scalers import Geometry, Scalers

RotationDeg = Literal[0, 90, 180, 270]

_CACHED_ARRAYS = 4

# FAST_BILINEAR is right only on the way to 32-bit float planes, where swscale takes its general path: to an 8-bit
# format it shifts the picture by up to three pixels.
_MODEL_FORMAT = "gbrpf32le"
_TO_MODEL = Interpolation.FAST_BILINEAR
# Same-size conversions take swscale's fast path (0.6 ms for 1080p) unless ACCURATE_RND is asked for (4 ms).
_SAME_SIZE = Interpolation.AREA
_SHRINK = Interpolation.AREA | Interpolation.ACCURATE_RND
_ENLARGE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
_PICK = Interpolation.POINT

# AVColorSpace (ITU-T H.273, table 4) to the scaler's matrices; what is not here, and what is untagged, is BT.601 as
# in FFmpeg.
_MATRIX_OF_TAG = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_NAME_OF_MATRIX: dict[Colorspace, ColorMatrix] = {
    Colorspace.ITU709: "bt709",
    Colorspace.SMPTE240M: "bt709",  # the nearest of the three: 0.212/0.701/0.087 against 0.213/0.715/0.072
    Colorspace.BT2020: "bt2020",
}


class _Colours(NamedTuple):
    """What a frame's tags and format say about its colours.

    Attributes:
        is_rgb: RGB or a palette.
        matrix: which YCbCr matrix; BT.601 where nothing is said.
        full_range: 0..255 and not 16..235.
        limited_grey: grey of 16..235: the scaler, which takes all grey for full range, leaves the expansion to us.
        tagged: False where the matrix is assumed.
    """

    is_rgb: bool
    matrix: Colorspace
    full_range: bool
    limited_grey: bool
    tagged: bool


@lru_cache(maxsize=64)
def _colours_of(pixels: str, colour_range: int, colour_space: int) -> _Colours:
    """Of a frame in this format with these tags: a camera's are always the same."""
    format_ = av.VideoFormat(pixels)
    is_rgb = format_.is_rgb or format_.has_palette
    is_grey = not is_rgb and len(format_.components) < 3
    # The yuvj formats are FFmpeg's old way of saying "full range". Grey without a tag is full range, as in FFmpeg.
    full_range = is_rgb or colour_range == ColorRange.JPEG or pixels.startswith("yuvj")
    full_range = full_range or (is_grey and colour_range != ColorRange.MPEG)
    matrix = Colorspace.ITU601 if is_rgb else _MATRIX_OF_TAG.get(colour_space, Colorspace.ITU601)
    tagged = is_rgb or colour_space in _MATRIX_OF_TAG
    return _Colours(is_rgb, matrix, full_range, is_grey and not full_range, tagged)


_scalers = Scalers()
"""The one piece of state at module level: pictures come and go by the frame, and have no other place in common."""


class VideoPicture:
    """A `Picture` around a PyAV frame. Made by sources, read by any thread; nothing is ever written into the frame.

    Args:
        frame: the decoder's frame, in any pixel format; the picture owns it from now on.
        rotation_deg: by how much it must be turned clockwise to be upright.
    """

    __slots__ = ("__weakref__", "_cache", "_colours", "_frame", "_lock", "_nbytes", "_rotation_deg", "_size")

    def __init__(self, frame: av.VideoFrame, rotation_deg: RotationDeg = 0) -> None:
        self._frame = frame
        self._rotation_deg = rotation_deg
        self._size = self._turned(Size(frame.width, frame.height))
        # Without what `_cache` holds: a queue must get the same answer when the picture comes and when it goes.
        self._nbytes = sum(plane.buffer_size for plane in frame.planes)
        # Read now: a conversion in another thread rewrites the frame's tags for a moment.
        self._colours = _colours_of(frame.format.name, frame.color_range, frame.colorspace)
        self._cache: dict[tuple[str, Size], npt.NDArray[np.uint8]] = {}
        # A conversion rewrites the frame's colour tags for a moment: one at a time.
        self._lock = threading.Lock()

    @property
    def size(self) -> Size:
        """Width and height of the upright picture in pixels."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of the decoder's planes; the same for as long as the picture lives."""
        return self._nbytes

    @property
    def frame(self) -> av.VideoFrame:
        """The decoder's frame, not turned upright. Its planes may be the decoder's reference: never write into them."""
        return self._frame

    @property
    def rotation_deg(self) -> RotationDeg:
        """By how much `frame` must be turned clockwise to be upright."""
        return self._rotation_deg

    def rgb(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        """uint8 (height, width, 3), HWC, RGB, 0..255, read-only, contiguous; the missing side keeps its length."""
        return self._packed("rgb24", width, height)

    def bgr(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        """uint8 (height, width, 3), HWC, BGR, 0..255, read-only, contiguous; the missing side keeps its length."""
        return self._packed("bgr24", width, height)

    def gbr_planes(self, width: int, height: int) -> npt.NDArray[np.float32]:
        """float32 (3, height, width), planes in the order G, B, R, 0..1, read-only; rows may be padded (strided).

        Linear interpolation in one pass of the scaler, straight from the decoder's format. Not cached.
        """
        to_size = self._turned(Size(width, height))
        with self._lock:
            scaler = _scalers.planes(self._geometry(_MODEL_FORMAT, to_size))
            scaled = scaler.scale(self._frame, lambda _: self._scale(_MODEL_FORMAT, to_size, _TO_MODEL))
        planes = _stack(scaled.planes)
        if self._colours.limited_grey:
            planes = np.clip((planes - 16 / 255) * (255 / 219), 0.0, 1.0).astype(np.float32)
        return np.rot90(planes, -self._rotation_deg // 90, axes=(1, 2)) if self._rotation_deg else planes

    def yuv420p(self) -> YuvPlanes:
        """The full-size picture as 8-bit 4:2:0 planes, read-only; the decoder's own memory where that is what it has.

        YCbCr pictures keep their matrix and range; RGB becomes BT.601, limited range.
        """
        frame, full_range = self._frame, self._colours.full_range and not self._colours.is_rgb
        if frame.format.name not in {"yuv420p", "yuvj420p"}:
            with self._lock:
                frame = self._scale("yuv420p", Size(frame.width, frame.height), _SHRINK, full_range=full_range)
        y, u, v = (self._upright(_plane(plane, np.uint8)) for plane in frame.planes[:3])
        matrix = _NAME_OF_MATRIX.get(self._colours.matrix, "bt601")
        return YuvPlanes(y, u, v, matrix, full_range, self._colours.tagged)

    def luma(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        """uint8 (height, width), brightness 0..255 as stored, each the mean of 16 samples of its spot. Not cached.

        Never larger than the picture; at the picture's own size every value of an 8-bit picture as it is. RGB becomes
        BT.601 of full range.
        """
        size = self._turned(Size(min(width, self._size.width), min(height, self._size.height)))
        plane = luma_plane(self._frame)
        if plane is None:
            frame = self._frame
            picked = Size(
                min(frame.width, size.width * SAMPLES_PER_SIDE), min(frame.height, size.height * SAMPLES_PER_SIDE)
            )
            with self._lock:
                scaled = self._scale("gray", picked, _PICK, full_range=self._colours.full_range)
            plane = grey_plane(_plane(scaled.planes[0], np.uint8))
        spots = shrunk(plane, size.width, size.height)
        spots.flags.writeable = False
        return self._upright(spots)

    def _turned(self, size: Size) -> Size:
        return Size(size.height, size.width) if self._rotation_deg in {90, 270} else size

    def _upright(self, plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """`plane` (H, W, ...) turned, read-only; a copy only where it has to be turned."""
        if self._rotation_deg:
            plane = np.ascontiguousarray(np.rot90(plane, -self._rotation_deg // 90))
            plane.flags.writeable = False
        return plane

    def _scale(
        self, to_format: str, to_size: Size, interpolation: Interpolation, *, full_range: bool = True
    ) -> av.VideoFrame:
        """Convert the whole frame in one pass, with its own colours. Call with the lock held."""
        frame = self._frame
        matrix, source_is_full = self._colours.matrix, self._colours.full_range
        return _scalers.reformatter(self._geometry(to_format, to_size)).reformat(
            frame,
            width=to_size.width,
            height=to_size.height,
            format=to_format,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG if source_is_full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
            interpolation=interpolation,
            threads=1,
        )

    def _geometry(self, to_format: str, to_size: Size) -> Geometry:
        frame, colours = self._frame, self._colours
        from_size = Size(frame.width, frame.height)
        return Geometry(frame.format.name, from_size, to_format, to_size, colours.matrix, colours.full_range)

    def _packed(self, to_format: str, width: int | None, height: int | None) -> npt.NDArray[np.uint8]:
        size = Size(width or self._size.width, height or self._size.height)
        with self._lock:
            array = self._cache.get((to_format, size))
            if array is not None:
                return array
            shrinks = size.width <= self._size.width and size.height <= self._size.height
            how = _SAME_SIZE if size == self._size else _SHRINK if shrinks else _ENLARGE
            scaled = self._scale(to_format, self._turned(size), how)
            array = _plane(scaled.planes[0], np.uint8, channels=3)
            if self._colours.limited_grey:
                array = np.clip((array.astype(np.float32) - 16) * (255 / 219) + 0.5, 0, 255).astype(np.uint8)
            array = self._upright(np.ascontiguousarray(array))
            array.flags.writeable = False
            if len(self._cache) < _CACHED_ARRAYS:
                self._cache[to_format, size] = array
            return array


def from_rgb(rgb: npt.NDArray[np.uint8]) -> VideoPicture:
    """A picture of a copy of `rgb`, uint8 (H, W, 3), HWC, RGB, 0..255."""
    return VideoPicture(av.VideoFrame.from_ndarray(rgb, format="rgb24"))


def _plane(plane: VideoPlane, dtype: type[np.uint8], channels: int = 1) -> npt.NDArray[np.uint8]:
    """The plane's memory as uint8 (height, width) or (height, width, channels), read-only, without its padding."""
    shape = (plane.height, plane.width) if channels == 1 else (plane.height, plane.width, channels)
    strides = (abs(plane.line_size), channels, 1)[: len(shape)]
    array = np.ndarray(shape, dtype, buffer=memoryview(plane), strides=strides)
    array.flags.writeable = False
    return array if plane.line_size > 0 else array[::-1]  # bottom-up pictures: the buffer starts at the last row


def _stack(planes: tuple[VideoPlane, ...]) -> npt.NDArray[np.float32]:
    """Three float planes as float32 (3, height, width): a view where they lie evenly spaced in memory, else a copy."""
    first, second, third = planes[:3]
    height, width, row_bytes = first.height, first.width, first.line_size
    spacing_bytes = second.buffer_ptr - first.buffer_ptr
    if third.buffer_ptr - second.buffer_ptr == spacing_bytes and spacing_bytes % 4 == 0:
        # The view reaches beyond the first plane's buffer, into those of the other two. All belong to one frame,
        # which the first plane, and with it the view, keeps alive.
        start = np.frombuffer(memoryview(first), np.float32)
        return np.lib.stride_tricks.as_strided(
            start, (3, height, width), (spacing_bytes, row_bytes, 4), writeable=False
        )
    stacked = np.empty((3, height, width), np.float32)
    for channel, plane in enumerate((first, second, third)):
        stacked[channel] = np.frombuffer(memoryview(plane), np.float32).reshape(height, row_bytes // 4)[:, :width]
    stacked.flags.writeable = False
    return stacked
