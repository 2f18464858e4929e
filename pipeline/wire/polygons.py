"""Masks as polygons: the outline of the largest piece through the centres of its outermost pixels, and back.

Format: as OpenCV's `findContours` (external) writes and its `fillPoly` reads them: the outline belongs to the mask.
A polygon knows no holes and no second piece: run lengths do.
"""

import numpy as np
import numpy.typing as npt

MAX_COORDINATE = 1e6
"""A point farther away than this is no point of a picture."""

MAX_STEPS = 50_000_000
"""A polygon whose sides cross more rows and columns than this in all is not filled."""

MAX_BORDER_PX = 400_000
"""A mask with a longer border than this is noise: its outline is drawn at half the size."""

# Along the border with the mask on the right hand: right, down, left, up; and the pixel there, from the corner's index.
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
_INSIDE = ((0, 0), (0, -1), (-1, -1), (-1, 0))


def polygon_of(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The outline of the largest piece of a bool (H, W) mask: int64 (N, 2), x, y, pixels; (0, 2) for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros((0, 2), np.int64)
    top, left = int(rows[0]), int(columns[0])
    padded = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    if np.count_nonzero(padded[1:] != padded[:-1]) + np.count_nonzero(padded[:, 1:] != padded[:, :-1]) > MAX_BORDER_PX:
        return polygon_of(mask[::2, ::2]) * 2
    largest, area = np.zeros((0, 2), np.int64), -1.0
    for border in _borders(padded):
        size = _area(border)
        if size > area:
            largest, area = border, size
    # Padding shifted all by one.
    outline: npt.NDArray[np.int64] = _corners(largest) + np.array([left - 1, top - 1])
    return outline


def _borders(padded: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    """Every outer and inner border as the pixels along it: int64 (N, 2), x, y."""
    # An edge of the grid between a pixel of the mask and one that is none, by direction: mask on the right hand.
    # Corner (r, c) is the upper left one of pixel (r, c).
    leaving: list[set[tuple[int, int]]] = []
    for (row_step, column_step), (row, column) in zip(_STEPS, _INSIDE, strict=True):
        other = (row - 1 if column_step == 1 else row + 1, column) if column_step else (row, column + row_step)
        leaving.append(_edges(padded, (row, column), other))
    found: list[npt.NDArray[np.int64]] = []
    while True:
        start = next(((edges, direction) for direction, edges in enumerate(leaving) if edges), None)
        if start is None:
            return found
        edges, direction = start
        corner = edges.pop()  # any: `next(iter())` would look at the places of all that are gone, again and again
        edges.add(corner)
        pixels = []
        while corner in leaving[direction]:
            leaving[direction].remove(corner)
            row, column = corner[0] + _INSIDE[direction][0], corner[1] + _INSIDE[direction][1]
            pixels.append((column, row))
            corner = (corner[0] + _STEPS[direction][0], corner[1] + _STEPS[direction][1])
            # Left first: pixels that touch at a corner alone are one piece, as OpenCV has it.
            turns = ((direction + 3) % 4, direction, (direction + 1) % 4)
            direction = next((turn for turn in turns if corner in leaving[turn]), direction)
        found.append(np.array(pixels, np.int64))


def _edges(padded: npt.NDArray[np.bool_], inside: tuple[int, int], outside: tuple[int, int]) -> set[tuple[int, int]]:
    """Corners with a pixel of the mask at the offset `inside` of them and one that is none at `outside`."""
    height, width = padded.shape
    rows, columns = np.nonzero(padded)
    corners = np.stack([rows - inside[0], columns - inside[1]], axis=1)
    beyond = corners + np.array(outside)
    free = ~padded[np.clip(beyond[:, 0], 0, height - 1), np.clip(beyond[:, 1], 0, width - 1)]
    return {(row, column) for row, column in corners[free].tolist()}


def _area(border: npt.NDArray[np.int64]) -> float:
    """Of the polygon through these pixels, negative where it runs around a hole; a line has none, but its length."""
    x, y = border[:, 0], border[:, 1]
    area = float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
    return area + len(border) * 1e-6 if area >= 0 else area


def _corners(border: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Without the pixels between two others on a straight line, and without repeats."""
    if not len(border):
        return border
    kept: npt.NDArray[np.int64] = border[(border != np.roll(border, 1, axis=0)).any(axis=1)]
    if len(kept) < 3:
        return kept if len(kept) else border[:1]
    before, after = kept - np.roll(kept, 1, axis=0), np.roll(kept, -1, axis=0) - kept
    turning: npt.NDArray[np.int64] = kept[(before != after).any(axis=1)]
    return turning


def mask_of(points: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.bool_]:
    """The bool (height, width) mask inside of and on the outline of a polygon: float64 (N, 2), x, y, pixels.

    Raises:
        ValueError: a point that is no point of a picture.
    """
    if not np.isfinite(points).all() or (len(points) and np.abs(points).max() > MAX_COORDINATE):
        raise ValueError("a point of the polygon is nowhere near the picture")
    mask = np.zeros((height, width), np.bool_)
    if not len(points) or not mask.size:
        return mask
    ends = np.floor(points + 0.5).astype(np.int64)
    starts = np.roll(ends, 1, axis=0)
    if int(np.abs(ends - starts).max(axis=1).sum()) > MAX_STEPS:
        raise ValueError("the polygon has too many long sides to be filled")
    left, top = np.maximum(ends.min(axis=0), 0).tolist()
    right, bottom = np.minimum(ends.max(axis=0) + 1, (width, height)).tolist()
    if left >= right or top >= bottom:
        return mask
    # Only the part of the picture that the polygon is in is worked on.
    part, corner = mask[top:bottom, left:right], np.array([left, top])
    starts, ends = starts - corner, ends - corner
    part |= _filled(starts, ends, bottom - top, right - left)
    x, y = _line_pixels(starts, ends)
    seen = (x >= 0) & (x < right - left) & (y >= 0) & (y < bottom - top)
    part[y[seen], x[seen]] = True
    return mask


def _filled(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], height: int, width: int
) -> npt.NDArray[np.bool_]:
    """Pixels with an odd number of sides to their left (the even-odd rule)."""
    rising = starts[:, 1] <= ends[:, 1]
    low = np.where(rising[:, None], starts, ends)
    high = np.where(rising[:, None], ends, starts)
    first, last = np.clip(low[:, 1], 0, height), np.clip(high[:, 1], 0, height)
    spans = last - first
    side = np.repeat(np.arange(len(spans)), spans)
    rows = np.arange(len(side)) - np.repeat(np.cumsum(spans) - spans, spans) + first[side]
    slope = (high[side, 0] - low[side, 0]) / (high[side, 1] - low[side, 1])
    crossings = np.ceil(low[side, 0] + (rows - low[side, 1]) * slope)
    toggles = np.zeros((height, width + 1), np.int32)
    np.add.at(toggles, (rows, np.clip(crossings, 0, width).astype(np.int64)), 1)
    odd: npt.NDArray[np.bool_] = np.cumsum(toggles[:, :width], axis=1) % 2 == 1
    return odd


def _line_pixels(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The pixels on the lines from `starts` to `ends`."""
    steps = np.abs(ends - starts).max(axis=1)
    line = np.repeat(np.arange(len(steps)), steps + 1)
    place = np.arange(len(line)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    ratio = place / np.maximum(steps, 1)[line]
    points = np.floor(starts[line] + ratio[:, None] * (ends - starts)[line] + 0.5).astype(np.int64)
    return points[:, 0], points[:, 1]
