"""Masks of objects: a few coefficients an object, times prototypes of the whole picture."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.models.letterbox import Placement

MAX_MASK_BYTES = 512 << 20
"""Masks of one frame never take more memory: of more objects than that, the least sure ones go."""

Floats = npt.NDArray[np.float32]


def object_masks(
    coefficients: Floats, prototypes: npt.NDArray[Any], boxes: Floats, placement: Placement, frame: Size
) -> npt.NDArray[np.bool_]:
    """bool (K, H, W) in pixels of the frame: where an object is, cut off at its box.

    Args:
        coefficients: float32 (K, M).
        prototypes: float (M, h, w) over the whole input, padding included.
        boxes: float32 (K, 4) xyxy, pixels of the frame and inside of it.
        placement: where the frame lay in the input.
        frame: its size.

    Each pixel of the frame takes the value between the four nearest of the small mask, and is the object's where that
    is above 0 (a probability of one half). Only what lies in the box is worked out.

    Source: `process_mask_native` of ultralytics 8, which takes the pixels from `x1 <= x < x2` and `y1 <= y < y2`.
    """
    masks = np.zeros((len(coefficients), frame.height, frame.width), np.bool_)
    if not len(coefficients):
        return masks
    with np.errstate(over="ignore", invalid="ignore"):  # a broken model's inf and NaN: nobody's pixels
        _fill(masks, coefficients, prototypes, boxes, placement)
    return masks


def _fill(
    masks: npt.NDArray[np.bool_],
    coefficients: Floats,
    prototypes: npt.NDArray[Any],
    boxes: Floats,
    placement: Placement,
) -> None:
    height, width = prototypes.shape[1:]
    columns = _Axis(masks.shape[2], width / placement.input_size.width, placement.scale, placement.left, width)
    rows = _Axis(masks.shape[1], height / placement.input_size.height, placement.scale_y, placement.top, height)
    for mask, row, (x1, y1, x2, y2) in zip(masks, coefficients, np.ceil(boxes).astype(int).tolist(), strict=True):
        if x2 <= x1 or y2 <= y1:
            continue
        # Only the part of the small mask under the box is made. Not by BLAS: its threads would take the other workers'
        # cores, and that costs more than the product.
        left, right = columns.under(x1, x2)
        top, bottom = rows.under(y1, y2)
        small = np.einsum("m,mhw->hw", row, prototypes[:, top:bottom, left:right].astype(np.float32))
        # Along the rows first: that array is still small.
        wide = np.ascontiguousarray(columns.spread(small.T, x1, x2, left).T)
        np.greater(rows.spread(wide, y1, y2, top), 0, out=mask[y1:y2, x1:x2])


class _Axis:
    """One axis of the frame on that of the small mask: between which two of its values each pixel's centre lies."""

    def __init__(self, pixels: int, ratio: float, scale: float, offset: int, count: int) -> None:
        centres = ((np.arange(pixels) + 0.5) * scale + offset) * ratio - 0.5
        centres = np.clip(centres, 0, count - 1)
        self._below = np.minimum(centres.astype(np.intp), max(0, count - 2))
        self._above = np.minimum(self._below + 1, count - 1)
        self._weight = (centres - self._below).astype(np.float32)[:, None]

    def under(self, first: int, last: int) -> tuple[int, int]:
        """Which of its values the pixels `first` to `last` lie between: from, to."""
        return int(self._below[first]), int(self._above[last - 1]) + 1

    def spread(self, values: Floats, first: int, last: int, start: int) -> Floats:
        """(n, m) -> (last - first, m): between the values from `start` on, at the pixels `first` to `last`."""
        low = values[self._below[first:last] - start]
        spread: Floats = values[self._above[first:last] - start]
        spread -= low
        spread *= self._weight[first:last]
        spread += low
        return spread
