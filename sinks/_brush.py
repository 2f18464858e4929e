"""The strokes of which drawings are made, straight into 8-bit 4:2:0 planes: frames, lines, areas and text.

Everything is drawn on even coordinates and in even sizes, so that the chroma planes (half the size) fit exactly and no
coloured fringe is left. A text is one opaque rectangle, kept ready to be copied, so that drawing it costs three array
assignments.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import ColorMatrix, Size
from sinks._colors import Rgb, YCbCr, luma, to_ycbcr
from sinks._glyphs import Glyphs, one_line, ramp, text_patch
from sinks._planes import Planes

_CACHED = 512
_MAX_POINTS = 20_000  # of one line, in steps of two pixels


class Cells(NamedTuple):
    """Pixels of the chroma planes, each with its four of the luma plane.

    Attributes:
        rows: int (N,), of the chroma planes.
        columns: int (N,), likewise.
    """

    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]


class Brush:
    """Draws into pictures of one size and colour; made for each kind of picture, used by one thread at a time.

    Args:
        size: of the planes, even.
        matrix: of the planes.
        full_range: of the planes.
    """

    def __init__(self, size: Size, matrix: ColorMatrix, *, full_range: bool) -> None:
        from PIL import ImageFont

        self.size = size
        short = min(size)
        self.thickness_px = max(2, 2 * round(short / 540))
        glyphs = Glyphs(ImageFont.load_default(size=min(48, max(12, round(short / 50)))))

        def color(rgb: Rgb) -> YCbCr:
            return to_ycbcr(rgb, matrix, full_range=full_range)

        @functools.lru_cache(maxsize=_CACHED)
        def ramps(rgb: Rgb) -> tuple[bytes, ...]:
            ink = (0.05, 0.05, 0.05) if luma(rgb) > 0.5 else (1.0, 1.0, 1.0)
            return tuple(ramp(ground, over) for ground, over in zip(color(rgb), color(ink), strict=True))

        def patch(text: str, rgb: Rgb) -> Planes:
            return text_patch(glyphs.alpha(one_line(text)), ramps(rgb))

        self.color: Callable[[Rgb], YCbCr] = functools.lru_cache(maxsize=_CACHED)(color)
        self._patch: Callable[[str, Rgb], Planes] = functools.lru_cache(maxsize=_CACHED)(patch)

    def visible(self, xyxy: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
        """int64 (V, 4) xyxy, even, inside the picture, at least one line wide; and which boxes they are, int (V,)."""
        width, height = self.size
        with np.errstate(invalid="ignore"):  # NaN is neither smaller nor greater, so that such a box is not seen
            seen = (
                (xyxy[:, 0] < width)
                & (xyxy[:, 1] < height)
                & (xyxy[:, 2] > 0)
                & (xyxy[:, 3] > 0)
                & (xyxy[:, 2] >= xyxy[:, 0])
                & (xyxy[:, 3] >= xyxy[:, 1])
            )
        indices = np.flatnonzero(seen)
        limits = np.array([width, height, width, height])
        inside = np.clip(xyxy[indices], 0, limits)
        even = np.round(inside / 2).astype(np.int64) * 2
        even[:, :2] = np.minimum(even[:, :2], limits[:2] - 2)
        even[:, 2:] = np.minimum(np.maximum(even[:, 2:], even[:, :2] + self.thickness_px), limits[2:])
        return even, indices

    def frame(self, planes: Planes, box: Sequence[int], color: YCbCr, line_px: int) -> None:
        """The outline of a box, inside of it; `box` as `visible` gives it."""
        left, top, right, bottom = box
        for x1, y1, x2, y2 in (
            (left, top, right, min(top + line_px, bottom)),
            (left, max(bottom - line_px, top), right, bottom),
            (left, top, min(left + line_px, right), bottom),
            (max(right - line_px, left), top, right, bottom),
        ):
            planes.y[y1:y2, x1:x2] = color.y
            half = np.s_[y1 // 2 : y2 // 2, x1 // 2 : x2 // 2]
            planes.u[half] = color.cb
            planes.v[half] = color.cr

    def text(self, planes: Planes, text: str, rgb: Rgb, x: int, y: int, *, above: bool = False) -> None:
        """Text on a rectangle of this colour, with its corner at even (x, y), or standing on it where there is room.

        Moved left or up where it would stick out, cut where it is too large.
        """
        patch = self._patch(text, rgb)
        width, height = self.size
        patch_height, patch_width = patch.y.shape
        if above and y >= patch_height:
            y -= patch_height
        x = max(0, min(x, width - patch_width))
        y = max(0, min(y, height - patch_height))
        columns, rows = min(patch_width, width), min(patch_height, height)
        planes.y[y : y + rows, x : x + columns] = patch.y[:rows, :columns]
        half = np.s_[y // 2 : (y + rows) // 2, x // 2 : (x + columns) // 2]
        planes.u[half] = patch.u[: rows // 2, : columns // 2]
        planes.v[half] = patch.v[: rows // 2, : columns // 2]

    def line(self, points: npt.NDArray[np.float64], line_px: int, *, closed: bool = False) -> Cells:
        """Where a line through these points lies, float (N, 2) in pixels; nothing outside of the picture."""
        limit = 4.0 * max(self.size)
        ends = np.clip(np.nan_to_num(points, nan=-limit), -limit, limit) / 2
        if closed:
            ends = np.concatenate([ends, ends[:1]])
        starts, ways = ends[:-1], np.diff(ends, axis=0)
        steps = np.clip(np.ceil(np.abs(ways).max(axis=1)), 1, _MAX_POINTS).astype(np.intp)
        piece = np.repeat(np.arange(len(ways)), steps)
        share = (np.arange(len(piece)) - np.repeat(np.cumsum(steps) - steps, steps) + 1) / steps[piece]
        along = starts[piece] + ways[piece] * share[:, None]
        centers = np.floor(np.concatenate([ends[:1], along])).astype(np.intp)
        width = max(1, line_px // 2)
        offsets = np.arange(width) - (width - 1) // 2
        columns = (centers[:, 0, None, None] + offsets[None, :, None]).repeat(width, 2).ravel()
        rows = (centers[:, 1, None, None] + offsets[None, None, :]).repeat(width, 1).ravel()
        return self._inside(rows, columns)

    def disc(self, points: npt.NDArray[np.float64], radius_px: int) -> Cells:
        """Discs around these points, float (N, 2) in pixels; those that are NaN are left out."""
        found = points[np.isfinite(points).all(axis=1)]
        centers = np.floor(np.clip(found, -1e6, 1e6) / 2).astype(np.intp)
        radius = max(1, radius_px // 2)
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        near = x * x + y * y <= radius * radius
        rows = (centers[:, 1, None] + y[near][None]).ravel()
        columns = (centers[:, 0, None] + x[near][None]).ravel()
        return self._inside(rows, columns)

    def fill(self, planes: Planes, cells: Cells, color: YCbCr) -> None:
        """Paint the cells."""
        rows, columns = cells
        planes.u[cells] = color.cb
        planes.v[cells] = color.cr
        for down in (0, 1):
            for right in (0, 1):
                planes.y[2 * rows + down, 2 * columns + right] = color.y

    def tint(self, planes: Planes, mask: npt.NDArray[np.bool_], color: YCbCr, opacity: float) -> None:
        """Lay the colour over what the mask covers, bool (H, W) as large as the picture, or a row or column less."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return
        top, bottom = int(rows[0]) // 2 * 2, -(-int(rows[-1] + 1) // 2) * 2
        left, right = int(columns[0]) // 2 * 2, -(-int(columns[-1] + 1) // 2) * 2
        part = mask[top:bottom, left:right]
        part = np.pad(part, ((0, bottom - top - part.shape[0]), (0, right - left - part.shape[1])), mode="edge")
        full, half = np.s_[top:bottom, left:right], np.s_[top // 2 : bottom // 2, left // 2 : right // 2]
        _blend(planes.y[full], part, color.y, opacity)
        _blend(planes.u[half], part[::2, ::2], color.cb, opacity)
        _blend(planes.v[half], part[::2, ::2], color.cr, opacity)

    def _inside(self, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Cells:
        width, height = self.size.width // 2, self.size.height // 2
        seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return Cells(rows[seen], columns[seen])


def _blend(region: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], value: int, opacity: float) -> None:
    table = np.round(np.arange(256) * (1 - opacity) + value * opacity).astype(np.uint8).tobytes()
    # `bytes.translate` is ten times as fast as indexing with an array.
    tinted = np.frombuffer(region.tobytes().translate(table), np.uint8).reshape(region.shape)
    np.copyto(region, tinted, where=mask)
