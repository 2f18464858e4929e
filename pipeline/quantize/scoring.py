"""How well boxes agree: with labels (average precision as COCO counts it) and with another model's; pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_BOXES = 100
"""Of each class in each picture, as COCO counts."""

SURE = 0.4
LIKELY = 0.25
"""A box of this confidence or more answers for one of `SURE`: what lies near a threshold is no loss."""

SAME_BOX_IOU = 0.5

_RECALLS = np.linspace(0, 1, 101)

Floats = npt.NDArray[np.float64]


class Boxes(NamedTuple):
    """What was found in one picture, or what is in it.

    Attributes:
        xyxy: float (K, 4), pixels.
        scores: float (K,), falling or not; of labels they say nothing.
        class_ids: int (K,).
        crowd: bool (K,), of labels: many objects in one box, which neither counts nor is missed.
    """

    xyxy: Floats
    scores: Floats
    class_ids: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]


def boxes(
    xyxy: npt.ArrayLike, scores: npt.ArrayLike | None, class_ids: npt.ArrayLike, crowd: npt.ArrayLike | None = None
) -> Boxes:
    """`Boxes` of anything that is like an array."""
    ids = np.asarray(class_ids, np.int64).reshape(-1)
    return Boxes(
        np.asarray(xyxy, np.float64).reshape(-1, 4),
        np.ones(len(ids)) if scores is None else np.asarray(scores, np.float64).reshape(-1),
        ids,
        np.zeros(len(ids), bool) if crowd is None else np.asarray(crowd, bool).reshape(-1),
    )


def average_precision(found: Sequence[Boxes], truth: Sequence[Boxes]) -> float:
    """AP over IoU 0.50 to 0.95 and all classes that are labelled; NaN where nothing is.

    The rules are those of COCO's `cocoeval.py` for boxes, all areas: greedy matching by falling score, crowds
    neither count nor cost, precision is made monotonic and read at 101 recalls.
    """
    classes = np.unique(np.concatenate([of.class_ids[~of.crowd] for of in truth] or [np.empty(0, np.int64)]))
    per_class = [_class_precision(found, truth, int(class_id)) for class_id in classes]
    return float(np.mean(per_class)) if per_class else float("nan")


def agreement(found: Sequence[Boxes], wanted: Sequence[Boxes]) -> float:
    """F1 of one model's sure boxes and another's: 1.0 where both see the same, NaN where neither sees anything.

    A sure box (`SURE`) of either counts as seen by the other if that has a likely one (`LIKELY`) of its class there.
    """
    seen = total = 0
    for own, other in zip(found, wanted, strict=True):
        for one, rest in ((own, other), (other, own)):
            sure, likely = one.scores >= SURE, rest.scores >= LIKELY
            total += int(sure.sum())
            overlap = iou(one.xyxy[sure], rest.xyxy[likely])
            alike = one.class_ids[sure][:, None] == rest.class_ids[likely][None]
            seen += int(((overlap >= SAME_BOX_IOU) & alike).any(1).sum()) if overlap.size else 0
    return seen / total if total else float("nan")


def iou(one: Floats, other: Floats, crowd: npt.NDArray[np.bool_] | None = None) -> Floats:
    """float (K, L): overlap of each pair of boxes; of a crowd, the share of the box that lies in it."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    area, other_area = (one[:, 2:] - one[:, :2]).prod(1), (other[:, 2:] - other[:, :2]).prod(1)
    union = area[:, None] + other_area[None] - both
    if crowd is not None:
        union = np.where(crowd[None], area[:, None], union)
    overlap: Floats = both / np.maximum(union, 1e-12)
    return overlap


def _class_precision(found: Sequence[Boxes], truth: Sequence[Boxes], class_id: int) -> float:
    scores, hits, ignored, labelled = [], [], [], 0
    for own, real in zip(found, truth, strict=True):
        rows = np.flatnonzero(own.class_ids == class_id)
        rows = rows[np.argsort(-own.scores[rows], kind="stable")][:MAX_BOXES]
        there = np.flatnonzero(real.class_ids == class_id)
        there = there[np.argsort(real.crowd[there], kind="stable")]  # crowds last: a real object goes first
        labelled += int((~real.crowd[there]).sum())
        hit, ignore = _match(own.xyxy[rows], real.xyxy[there], real.crowd[there])
        scores.append(own.scores[rows])
        hits.append(hit)
        ignored.append(ignore)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit, ignore = np.concatenate(hits, axis=1)[:, order], np.concatenate(ignored, axis=1)[:, order]
    return float(np.mean([_area(row[~out], labelled) for row, out in zip(hit, ignore, strict=True)]))


def _match(
    own: Floats, real: Floats, crowd: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """For each threshold and box (T, K): whether it is right, and whether it is not to be counted at all."""
    hit = np.zeros((len(THRESHOLDS), len(own)), bool)
    ignore = np.zeros_like(hit)
    overlaps = iou(own, real, crowd)
    for level, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(real), bool)
        for box in range(len(own)):
            best, most = -1, min(threshold, 1 - 1e-10)
            for label in range(len(real)):
                if taken[label] and not crowd[label]:
                    continue
                if best >= 0 and not crowd[best] and crowd[label]:
                    break
                if overlaps[box, label] < most:
                    continue
                best, most = label, overlaps[box, label]
            if best >= 0:
                taken[best] = True
                hit[level, box], ignore[level, box] = not crowd[best], crowd[best]
    return hit, ignore


def _area(hit: npt.NDArray[np.bool_], labelled: int) -> float:
    right = np.cumsum(hit)
    recall, precision = right / labelled, right / np.arange(1, len(hit) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.where(at < len(precision), np.append(precision, 0.0)[np.minimum(at, len(precision))], 0.0).mean())
