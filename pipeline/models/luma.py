"""How bright a decoded frame is, spot by spot: a few samples of the decoder's own luma plane for each spot."""

from functools import lru_cache
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt

SAMPLES_PER_SIDE = 4
"""A spot is the mean of so many rows and columns of samples (16 in all), which keeps the sensor's noise out of it.

For 1080p to 96 x 54 that takes 0.08 ms (0.13 with 10 bits or packed, 0.7 from RGB), swscale's AREA 0.29 ms, and the
mean of every pixel 2.7 ms.
"""

_PACKED = {"yuyv422": (2, 0), "yvyu422": (2, 0), "uyvy422": (2, 1), "ya8": (2, 0)}
"""Formats with luma between other things: bytes from one luma to the next, and where the first one is."""


class _Layout(NamedTuple):
    """Where a pixel format keeps its luma in the first plane.

    Attributes:
        dtype: of one value.
        step: values from one luma to the next.
        first: which value is the first luma.
        shift: how many bits there are below the upper eight.
    """

    dtype: type[np.uint8 | np.uint16]
    step: int
    first: int
    shift: int


@lru_cache(maxsize=64)
def _layout_of(name: str) -> _Layout | None:
    """None for a format that has no luma as such: RGB, palettes, big-endian and floating point values."""
    if name in _PACKED:
        return _Layout(np.uint8, *_PACKED[name], 0)
    pix_fmt = av.VideoFormat(name)
    parts = pix_fmt.components
    planar = bool(parts) and parts[0].plane == 0 and all(part.plane != 0 for part in parts[1:])
    if not planar or pix_fmt.is_rgb or pix_fmt.has_palette or pix_fmt.is_bit_stream or name.startswith("bayer"):
        return None
    bits = parts[0].bits
    if bits == 8:
        return _Layout(np.uint8, 1, 0, 0)
    if not 8 < bits <= 16 or pix_fmt.is_big_endian:
        return None
    in_upper_bits = "msb" in name or (name.startswith("p") and name[1:2].isdigit())  # p010 and its like
    return _Layout(np.dtype("<u2").type, 1, 0, 8 if in_upper_bits else bits - 8)


class LumaPlane(NamedTuple):
    """A frame's luma in the decoder's own memory.

    Attributes:
        values: (H, at least W * step), the first plane with what else is in it.
        layout: which of them are luma.
        width: W in pixels.
    """

    values: npt.NDArray[np.uint8 | np.uint16]
    layout: _Layout
    width: int


def luma_plane(frame: av.VideoFrame) -> LumaPlane | None:
    """The frame's luma plane; None where it has none as such."""
    layout = _layout_of(frame.format.name)
    if layout is None:
        return None
    plane = frame.planes[0]
    itemsize = np.dtype(layout.dtype).itemsize
    shape = (frame.height, frame.width * layout.step)
    strides = (abs(plane.line_size), itemsize)
    values = np.ndarray(shape, layout.dtype, buffer=memoryview(plane), strides=strides)
    return LumaPlane(values if plane.line_size > 0 else values[::-1], layout, frame.width)


def grey_plane(values: npt.NDArray[np.uint8]) -> LumaPlane:
    """A picture that is all luma, uint8 (H, W)."""
    return LumaPlane(values, _Layout(np.uint8, 1, 0, 0), values.shape[1])


def shrunk(plane: LumaPlane, width: int, height: int) -> npt.NDArray[np.uint8]:
    """uint8 (height, width): each the mean of a few values, evenly spread over its spot; a view at the plane's size.

    `width` and `height` are at most those of the plane.
    """
    values, (_, step, first, shift) = plane.values, plane.layout
    if (height, width) == values.shape and not shift:
        return plane.values.astype(np.uint8, copy=False)
    rows = _samples(values.shape[0], height)
    columns = [first + step * spots for spots in _samples(plane.width, width)]
    some_rows = values.take(rows[0], axis=0).astype(np.uint32 if shift else np.uint16)
    for more in rows[1:]:
        np.add(some_rows, values.take(more, axis=0), out=some_rows)
    total = some_rows.take(columns[0], axis=1)
    for more in columns[1:]:
        np.add(total, some_rows.take(more, axis=1), out=total)
    count = len(rows) * len(columns) << shift
    return ((total + count // 2) // count).clip(max=255).astype(np.uint8)


@lru_cache(maxsize=64)
def _samples(length_px: int, spots: int) -> tuple[npt.NDArray[np.intp], ...]:
    """Where to look: for each of a spot's samples, its position in every spot."""
    each = max(1, min(SAMPLES_PER_SIDE, length_px // spots))
    positions = ((np.arange(spots * each) + 0.5) * (length_px / (spots * each))).astype(np.intp)
    return tuple(positions[number::each] for number in range(each))
