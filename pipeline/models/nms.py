"""Non-maximum suppression on whole arrays: of boxes that overlap too much, the most confident one stays."""

import numpy as np
import numpy.typing as npt

MATRIX_MAX = 200
"""Up to here all pairs at once are cheaper than one row at a time (measured: 124 against 289 us at 60 boxes)."""

MAX_CANDIDATES = 30_000
"""No more boxes than this are looked at, the most confident ones: bounds time and memory on hostile output."""

_BETTER = np.triu(np.ones((MATRIX_MAX, MATRIX_MAX), np.bool_), 1)
"""[i, j]: whether box i comes before box j, the most confident one first. Made once: `np.triu` for each frame takes
a quarter of the time."""
_BETTER.flags.writeable = False

Boxes = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


def nms(
    xyxy: Boxes,
    scores: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32] | None,
    *,
    iou_threshold: float,
    max_detections: int,
) -> Indices:
    """Indices of the boxes that stay, most confident first (of equals the first one).

    Args:
        xyxy: float32 (K, 4) xyxy, any unit.
        scores: float32 (K,).
        class_ids: int32 (K,): only boxes of one class suppress each other; None: all do.
        iou_threshold: a box goes if its intersection over union with a kept one is larger than this.
        max_detections: at most this many stay.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    if len(order) <= 1:
        return order[:max_detections]
    boxes = xyxy[order]
    classes = None if class_ids is None else class_ids[order]
    keep = _matrix if len(order) <= MATRIX_MAX else _rows
    return order[keep(boxes, classes, iou_threshold, max_detections)[:max_detections]]


def _matrix(boxes: Boxes, classes: npt.NDArray[np.int32] | None, iou_threshold: float, _limit: int) -> Indices:
    """All pairs at once: the greedy result is the fixed point of "kept unless a kept, better box covers it"."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    width = np.minimum(x2, x2[:, None]) - np.maximum(x1, x1[:, None])
    height = np.minimum(y2, y2[:, None]) - np.maximum(y1, y1[:, None])
    inter = np.maximum(width, 0, out=width)
    inter *= np.maximum(height, 0, out=height)
    area = (x2 - x1) * (y2 - y1)
    # inter / union > t without the division, which is 0 / 0 for empty boxes.
    covers = inter > iou_threshold * (area + area[:, None] - inter)
    if classes is not None:
        covers &= classes == classes[:, None]
    covers &= _BETTER[: len(boxes), : len(boxes)]  # row i covers column j: only the more confident box may
    keep = ~covers.any(axis=0)
    # Each round settles at least one more box of a chain in which one suppresses the next: K rounds at the most.
    for _ in range(len(boxes)):
        settled = ~covers[keep].any(axis=0)
        if (settled == keep).all():
            break
        keep = settled
    return np.flatnonzero(keep)


def _rows(boxes: Boxes, classes: npt.NDArray[np.int32] | None, iou_threshold: float, limit: int) -> Indices:
    """One kept box after the other against all that are left: memory grows with K, not with its square."""
    kept: list[int] = []
    left = np.arange(len(boxes))
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    area = (x2 - x1) * (y2 - y1)
    while len(left) and len(kept) < limit:
        best, left = left[0], left[1:]
        kept.append(int(best))
        width = np.minimum(x2[left], x2[best]) - np.maximum(x1[left], x1[best])
        height = np.minimum(y2[left], y2[best]) - np.maximum(y1[left], y1[best])
        inter = np.maximum(width, 0) * np.maximum(height, 0)
        covered = inter > iou_threshold * (area[left] + area[best] - inter)
        if classes is not None:
            covered &= classes[left] == classes[best]
        left = left[~covered]
    return np.array(kept, np.intp)
