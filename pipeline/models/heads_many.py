"""Heads that read several outputs: detection transformers with post-processing inside, and YuNet."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.models.heads import Candidates, HeadOptions, grid_of, sane
from pipeline.models.scores import sigmoid

YUNET_STRIDES_PX = (8, 16, 32)
YUNET_POINTS = 5
YUNET_OUTPUTS = tuple(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in YUNET_STRIDES_PX)

Outputs = Sequence[npt.NDArray[Any]]


def rtdetr(outputs: Outputs, input_size: Size, options: HeadOptions) -> Candidates:
    """`labels` (Q,), `boxes` (Q, 4) xyxy in pixels of the size that was fed, `scores` (Q,); nothing overlaps any more.

    Source: `PostProcessor` of RT-DETR, D-FINE and DEIM in deploy mode.
    """
    del input_size
    labels, boxes, scores = outputs
    with np.errstate(over="ignore", invalid="ignore"):  # a broken model's inf and NaN
        boxes, scores, labels = boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64)
    kept = (scores >= np.float32(options.confidence)) & (labels >= 0) & (labels < 1_000_000)
    return sane(boxes[kept], scores[kept], labels[kept].astype(np.int32))


def rfdetr(outputs: Outputs, input_size: Size, options: HeadOptions) -> Candidates:
    """`dets` (Q, 4) cx, cy, w, h of the whole input 0..1, `labels` (Q, C) logits of a sigmoid; nothing overlaps.

    A query can be more than one object: every class of it over the threshold is.

    Source: `PostProcess` of RF-DETR 1.
    """
    boxes, logits = (output.astype(np.float32) for output in outputs)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        least = np.clip(np.float32(options.confidence), 0, 1)
        queries, class_ids = np.nonzero(logits >= np.log(least / (1 - least)))
        scores = sigmoid(logits[queries, class_ids])
        half = boxes[queries, 2:] * np.float32(0.5)
        corners = np.concatenate((boxes[queries, :2] - half, boxes[queries, :2] + half), axis=1)
        corners *= np.array(input_size * 2, np.float32)
    return sane(corners, scores, class_ids.astype(np.int32))


def yunet(outputs: Outputs, input_size: Size, options: HeadOptions) -> Candidates:
    """Twelve maps: class, objectness, box and 5 landmarks, on each of three grids; score = sqrt(class x objectness).

    Centre and landmarks are offsets in their grid cell, sizes logarithms, all in strides.

    Source: `FaceDetectorYNImpl::postProcess` of OpenCV 4.
    """
    cls, obj, box, points = (np.concatenate(outputs[at : at + 3]).astype(np.float32) for at in (0, 3, 6, 9))
    with np.errstate(over="ignore", invalid="ignore"):  # a broken model's inf and NaN: dropped by `sane`
        scores = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
        kept = np.flatnonzero(scores >= np.float32(options.confidence))
        grid = grid_of(input_size, YUNET_STRIDES_PX)[kept]
        cells, strides = grid[:, :2], grid[:, 2:]
        centre = (box[kept, :2] + cells) * strides
        half = np.exp(box[kept, 2:]) * strides * np.float32(0.5)
        xyxy = np.concatenate((centre - half, centre + half), axis=1)
        landmarks = (points[kept].reshape(len(kept), YUNET_POINTS, 2) + cells[:, None]) * strides[:, None]
    return sane(
        xyxy.astype(np.float32),
        scores[kept],
        np.zeros(len(kept), np.int32),
        landmarks.reshape(len(kept), 2 * YUNET_POINTS),
    )
