"""From a detector's raw output to candidate boxes: one small function for each family, whole arrays only.

Every head first throws away all rows below the threshold, along the axis that is contiguous in memory, and touches
the rest only then: of 8,400 or 25,200 rows some 20 are left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size

Layout = Literal["rows", "columns"]
"""`rows`: one box after the other, (N, M). `columns`: all values of a kind together, (M, N), as in YOLOv8."""

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float16]

YOLOX_STRIDES_PX = (8, 16, 32)

_FAR_PX = 1e6


class Candidates(NamedTuple):
    """Boxes over the threshold, in no order: xyxy in pixels of the input.

    `xyxy` float32 (K, 4), `scores` float32 (K,) 0..1, `class_ids` int32 (K,); `extras` float32 (K, E): what the model
    says of each box besides, mask coefficients or keypoints in pixels of the input; None where it says nothing.
    """

    xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    extras: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What a head needs to know besides the output.

    Attributes:
        confidence: rows at or above it are candidates.
        layout: how the output lies in memory.
        raw_grid: YOLOX only: the output still has to be put on the grid (the usual export).
        extras: how many values of each row, the last ones, are neither box nor class.
    """

    confidence: float
    layout: Layout = "rows"
    raw_grid: bool = False
    extras: int = 0


Decode = Callable[[Floats, Size, HeadOptions], Candidates]
"""A head: one frame's output, the input's size, options -> candidates."""

DecodeAll = Callable[[Sequence[npt.NDArray[Any]], Size, HeadOptions], Candidates]
"""A head that reads several outputs of one frame, in the order of `Choice.outputs`."""


def yolov8(output: Floats, input_size: Size, options: HeadOptions) -> Candidates:
    """(4 + C, N) or (N, 4 + C): cx, cy, w, h in pixels of the input, then one score per class, 0..1; then extras.

    Source: `Detect` and `non_max_suppression` of ultralytics 8.
    """
    del input_size
    columns = output if options.layout == "columns" else output.T
    end = len(columns) - options.extras
    scores = columns[4:end]
    best = scores.max(axis=0) if len(scores) > 1 else scores[0]
    kept = np.flatnonzero(_over(best, options.confidence))
    rows = columns[:, kept]
    class_ids = rows[4:end].argmax(axis=0).astype(np.int32)
    extras = rows[end:].T.astype(np.float32) if options.extras else None
    return sane(_corners(rows[:4]), best[kept].astype(np.float32), class_ids, extras)


def yolov5(output: Floats, input_size: Size, options: HeadOptions) -> Candidates:
    """(N, 5 + C): cx, cy, w, h in pixels of the input, objectness, one score per class; score = objectness x class.

    Source: `Detect` and `non_max_suppression` of YOLOv5 7.0; YOLOv7 exports the same.
    """
    del input_size
    return _objects(_rows_over(output, options.confidence), options)


def yolox(output: Floats, input_size: Size, options: HeadOptions) -> Candidates:
    """(N, 5 + C) as YOLOv5; raw: centre as offset in its grid cell and logarithm of the size, both in strides.

    Source: `demo_postprocess` of YOLOX 0.3.
    """
    kept = _rows_over(output, options.confidence)
    if not options.raw_grid:
        return _objects(kept, options)
    grid = grid_of(input_size, YOLOX_STRIDES_PX)[kept.indices]
    rows = kept.rows
    with np.errstate(over="ignore", invalid="ignore"):  # a broken exponent becomes inf, which is dropped below
        rows[:, :2] = (rows[:, :2] + grid[:, :2]) * grid[:, 2:]
        rows[:, 2:4] = np.exp(rows[:, 2:4]) * grid[:, 2:]
    return _objects(kept, options)


def end2end(output: Floats, input_size: Size, options: HeadOptions) -> Candidates:
    """(N, 6 + E): x1, y1, x2, y2 in pixels of the input, score, class, extras; nothing overlaps any more.

    Source: YOLOv10, YOLO26 and every ultralytics export with `nms=True`; unused rows have score 0.
    """
    del input_size
    scores = output[:, 4].astype(np.float32)
    rows = output[scores >= np.float32(options.confidence)].astype(np.float32)
    fine = np.isfinite(rows[:, 5]) & (rows[:, 5] > -0.5) & (rows[:, 5] < 1e6)
    rows = rows[fine]
    extras = rows[:, 6:] if options.extras else None
    return sane(rows[:, :4], rows[:, 4], np.rint(rows[:, 5]).astype(np.int32), extras)


@lru_cache(maxsize=64)
def grid_of(input_size: Size, strides_px: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """float32 (N, 3): x and y of each grid cell, in cells, and its stride in pixels; read-only."""
    levels = []
    for stride in strides_px:
        columns, rows = input_size.width // stride, input_size.height // stride
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        levels.append(np.stack((x.ravel(), y.ravel(), np.full(columns * rows, stride)), axis=1))
    grid = np.concatenate(levels).astype(np.float32)
    grid.setflags(write=False)
    return grid


class _Rows(NamedTuple):
    indices: npt.NDArray[np.intp]
    rows: npt.NDArray[np.float32]


def _rows_over(output: Floats, confidence: float) -> _Rows:
    """Rows whose objectness reaches the threshold: no product with a class score can be larger."""
    objectness = np.ascontiguousarray(output[:, 4])
    indices = np.flatnonzero(_over(objectness, confidence))
    return _Rows(indices, output[indices].astype(np.float32))


def _over(scores: npt.NDArray[Any], confidence: float) -> npt.NDArray[np.bool_]:
    """Which scores reach the threshold, compared in their own type; NaN does not."""
    over: npt.NDArray[np.bool_] = scores >= np.array(confidence, scores.dtype)
    return over


def _objects(kept: _Rows, options: HeadOptions) -> Candidates:
    rows = kept.rows
    end = rows.shape[1] - options.extras
    classes = rows[:, 5:end]
    class_ids = classes.argmax(axis=1).astype(np.int32)
    with np.errstate(over="ignore", invalid="ignore"):
        scores = classes[np.arange(len(rows)), class_ids] * rows[:, 4]
    over = scores >= np.float32(options.confidence)
    extras = rows[over, end:] if options.extras else None
    return sane(_corners(rows[over, :4].T), scores[over], class_ids[over], extras)


def _corners(cxcywh: Floats) -> npt.NDArray[np.float32]:
    """(4, K) centre and size -> float32 (K, 4) xyxy."""
    centre = cxcywh[:2].astype(np.float32)
    half = cxcywh[2:4].astype(np.float32) * np.float32(0.5)
    with np.errstate(over="ignore", invalid="ignore"):  # inf - inf: dropped by _sane
        return np.concatenate((centre - half, centre + half)).T


def sane(
    xyxy: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32],
    extras: npt.NDArray[np.float32] | None = None,
) -> Candidates:
    """Without boxes at NaN, at infinity or miles away, which a broken model gives and every sink would choke on."""
    fine = (np.abs(xyxy) < _FAR_PX).all(axis=1)
    scores = np.minimum(scores, np.float32(1))
    if fine.all():
        return Candidates(xyxy, scores, class_ids, extras)
    return Candidates(xyxy[fine], scores[fine], class_ids[fine], None if extras is None else extras[fine])
