"""What counts for one picture: the config's settings, and in front of them what was asked for this picture alone."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Wishes
from pipeline.models.choice import Choice
from pipeline.models.description import ModelDescription
from pipeline.models.heads import HeadOptions

T = TypeVar("T")

MAX_DETECTIONS = 1000
"""No wish for more boxes than this is granted, unless the config allows more."""

MAX_RULES = 256
"""So many sets of wishes are remembered; clients have a few each."""


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """What the config decides about reading; a picture's `Wishes` go before it.

    Attributes:
        confidence: boxes below it are dropped.
        iou_threshold: boxes of one class that overlap more than this are one object.
        max_detections: at most this many boxes a frame.
        class_agnostic_nms: boxes of different classes suppress each other, too.
        class_ids: the classes to keep; None: all.
        keypoint_confidence: keypoints below it were not found.
    """

    confidence: float = 0.25
    iou_threshold: float = 0.5
    max_detections: int = 300
    class_agnostic_nms: bool = False
    class_ids: tuple[int, ...] | None = None
    keypoint_confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings and wishes, put together and made ready for use.

    Attributes:
        head: what the head needs, the threshold among it.
        iou_threshold: as in `ReadSettings`.
        max_detections: as in `ReadSettings`.
        class_agnostic_nms: as in `ReadSettings`.
        keep: bool (C,), the classes to keep; None: all.
        keypoint_confidence: as in `ReadSettings`.
    """

    head: HeadOptions
    iou_threshold: float
    max_detections: int
    class_agnostic_nms: bool
    keep: npt.NDArray[np.bool_] | None
    keypoint_confidence: float


def settle(model: ModelDescription, choice: Choice, own: ReadSettings, wishes: Wishes) -> Rules:
    """The rules for pictures with these wishes. A name that is no class of the model keeps nothing."""
    most = own.max_detections
    if wishes.max_detections is not None:
        most = max(0, min(wishes.max_detections, max(MAX_DETECTIONS, own.max_detections)))
    class_ids = own.class_ids
    if wishes.classes is not None:
        wanted = {name.strip().casefold() for name in wishes.classes}
        class_ids = tuple(i for i, name in enumerate(model.labels) if name.casefold() in wanted)
    confidence = _first(wishes.confidence, own.confidence)
    return Rules(
        head=HeadOptions(confidence, choice.layout, model.raw_grid, choice.extras),
        iou_threshold=_first(wishes.iou_threshold, own.iou_threshold),
        max_detections=most,
        class_agnostic_nms=_first(wishes.class_agnostic_nms, own.class_agnostic_nms),
        keep=None if class_ids is None else _mask(class_ids),
        keypoint_confidence=_first(wishes.keypoint_confidence, own.keypoint_confidence),
    )


def _first(wish: T | None, own: T) -> T:
    return own if wish is None else wish


def _mask(class_ids: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    keep = np.zeros(max(class_ids, default=0) + 1, np.bool_)
    keep[list(class_ids)] = True
    return keep
