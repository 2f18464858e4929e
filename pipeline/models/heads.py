"""From a detector's raw output to candidate boxes: one small function for each family, whole arrays only.

Every head first throws away all rows below the threshold, along the axis that is contiguous in memory, and touches
the rest only then: of 8,400 or 25,200 rows some 20 are left.
"""

from collections.abc import Callable
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

    `xyxy` float32 (K, 4), `scores` float32 (K,) 0..1, `class_ids` int32 (K,).
    """

    xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What a head needs to know besides the output.

    Attributes:
        confidence: rows at or above it are candidates.
        layout: how the output lies in memory.
        raw_grid: YOLOX only: the output still has to be put on the grid (the usual export).
    """

    confidence: float
    layout: Layout = "rows"
    raw_grid: bool = False


Decode = Callable[[Floats, Size, HeadOptions], Candidates]
"""A head: one frame's output, the input's size, options -> candidates."""


def yolov8(output: Floats, input_size: Size, options: HeadOptions) -> Candidates:
    """(4 + C, N) or (N, 4 + C): cx, cy, w, h in pixels of the input, then one score per class, 0..1.

    Source: `Detect` and `non_max_suppression` of ultralytics 8.
    """
    del input_size
    columns = output if options.layout == "columns" else output.T
    scores = columns[4:]
    best = scores.max(axis=0) if len(scores) > 1 else scores[0]
    kept = np.flatnonzero(_over(best, options.confidence))
    rows = columns[:, kept]
    class_ids = rows[4:].argmax(axis=0).astype(np.int32)
    return _sane(_corners(rows[:4]), best[kept].astype(np.float32), class_ids)


def yolov5(output: Floats, input_size: Size, options: HeadOptions) -> Candidates:
    """(N, 5 + C): cx, cy, w, h in pixels of the input, objectness, one score per class; score = objectness x class.

    Source: `Detect` and `non_max_suppression` of YOLOv5 7.0; YOLOv7 exports the same.
    """
    del input_size
    return _objects(_rows_over(output, options.confidence), options.confidence)


def yolox(output: Floats, input_size: Size, options: HeadOptions) -> Candidates:
    """(N, 5 + C) as YOLOv5; raw: centre as offset in its grid cell and logarithm of the size, both in strides.

    Source: `demo_postprocess` of YOLOX 0.3.
    """
    kept = _rows_over(output, options.confidence)
    if not options.raw_grid:
        return _objects(kept, options.confidence)
    grid = yolox_grid(input_size)[kept.indices]
    rows = kept.rows
    with np.errstate(over="ignore", invalid="ignore"):  # a broken exponent becomes inf, which is dropped below
        rows[:, :2] = (rows[:, :2] + grid[:, :2]) * grid[:, 2:]
        rows[:, 2:4] = np.exp(rows[:, 2:4]) * grid[:, 2:]
    return _objects(kept, options.confidence)


def end2end(output: Floats, input_size: Size, options: HeadOptions) -> Candidates:
    """(N, 6): x1, y1, x2, y2 in pixels of the input, score, class; nothing overlaps any more.

    Source: YOLOv10, YOLO26 and every ultralytics export with `nms=True`; unused rows have score 0.
    """
    del input_size
    scores = output[:, 4].astype(np.float32)
    rows = output[scores >= np.float32(options.confidence)].astype(np.float32)
    sane = np.isfinite(rows[:, 5]) & (rows[:, 5] > -0.5) & (rows[:, 5] < 1e6)
    rows = rows[sane]
    return _sane(rows[:, :4], rows[:, 4], np.rint(rows[:, 5]).astype(np.int32))


@lru_cache(maxsize=64)
def yolox_grid(input_size: Size) -> npt.NDArray[np.float32]:
    """float32 (N, 3): x and y of each grid cell, in cells, and its stride in pixels; read-only."""
    levels = []
    for stride in YOLOX_STRIDES_PX:
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


def _objects(kept: _Rows, confidence: float) -> Candidates:
    rows = kept.rows
    classes = rows[:, 5:]
    class_ids = classes.argmax(axis=1).astype(np.int32)
    with np.errstate(over="ignore", invalid="ignore"):
        scores = classes[np.arange(len(rows)), class_ids] * rows[:, 4]
    over = scores >= np.float32(confidence)
    return _sane(_corners(rows[over, :4].T), scores[over], class_ids[over])


def _corners(cxcywh: Floats) -> npt.NDArray[np.float32]:
    """(4, K) centre and size -> float32 (K, 4) xyxy."""
    centre = cxcywh[:2].astype(np.float32)
    half = cxcywh[2:4].astype(np.float32) * np.float32(0.5)
    with np.errstate(over="ignore", invalid="ignore"):  # inf - inf: dropped by _sane
        return np.concatenate((centre - half, centre + half)).T


def _sane(
    xyxy: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], class_ids: npt.NDArray[np.int32]
) -> Candidates:
    """Without boxes at NaN, at infinity or miles away, which a broken model gives and every sink would choke on."""
    fine = (np.abs(xyxy) < _FAR_PX).all(axis=1)
    scores = np.minimum(scores, np.float32(1))
    if fine.all():
        return Candidates(xyxy, scores, class_ids)
    return Candidates(xyxy[fine], scores[fine], class_ids[fine])
