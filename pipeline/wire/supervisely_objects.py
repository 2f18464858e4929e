"""Supervisely's annotations, read: hostile ones raise `ValueError`, and nothing in them is taken on trust.

Format: see `supervisely_annotation`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections, Prediction, SemanticMask, Text
from pipeline.wire.document import integer, items, mapping, quoted, text
from pipeline.wire.supervisely_annotation import INSTANCE
from pipeline.wire.supervisely_bitmap import MAX_COORDINATE_PX, inside
from pipeline.wire.supervisely_meta import Meta
from pipeline.wire.supervisely_shapes import FoundObject, decode_object, decode_score

MAX_OBJECTS = 10_000
MAX_MASKS_BYTES = 512 << 20
"""Of all masks of one picture, unpacked."""
BACKGROUNDS = ("background", "__bg__", "bg", "unlabeled", "neutral")
"""Names of the class of what no object of a semantic mask covers; the first one where the model has none of them."""

_MAX_TRACK = 2**31 - 1


def decode_annotation(document: object, meta: Meta, size: Size, task: Task | None = None) -> Prediction:
    """What a model said about a picture of this size.

    Args:
        document: the annotation.
        meta: the model's classes: their order makes the class ids. A class that is not in it comes after them.
        size: of the picture that was sent.
        task: what the model does; None: objects, with what they come with.

    Raises:
        ValueError: it is none, or one of another picture.
    """
    annotation = mapping(document, "the annotation")
    _check_size(annotation.get("size"), size)
    match task:
        case "classification" | "multi-label-classification":
            return _decode_tags(annotation, meta, multi_label=task == "multi-label-classification")
        case "text":
            return Text(text(annotation.get("description"), "the annotation's description"))
        case "semantic-segmentation":
            return _decode_classes(annotation, meta, size)
        case _:
            return _decode_objects(annotation, meta, size, task)


def _check_size(document: object, size: Size) -> None:
    stated = mapping(document, "the annotation's size")
    height = integer(stated.get("height"), "the annotation's height", 1, MAX_COORDINATE_PX)
    width = integer(stated.get("width"), "the annotation's width", 1, MAX_COORDINATE_PX)
    if (width, height) != tuple(size):
        raise ValueError(
            f"the annotation is about a picture of {width} x {height}, and {size.width} x {size.height} was sent"
        )


def _decode_objects(annotation: Mapping[str, Any], meta: Meta, size: Size, task: Task | None) -> Detections:
    documents = items(annotation.get("objects"), "the annotation's objects", MAX_OBJECTS)
    tracks = _tracks(annotation.get("customBigData"), len(documents))
    classes = {item.title: item for item in meta.classes}
    found: list[FoundObject] = []
    by_instance: dict[str, FoundObject] = {}
    drawn_px = 0
    for index, document in enumerate(documents):
        label = mapping(document, "an object")
        item = decode_object(label, classes, size, None if tracks is None else tracks[index])
        drawn_px += sum(patch.mask.size for patch in item.patches)
        if drawn_px > MAX_MASKS_BYTES:
            raise ValueError("the masks of the annotation are too large")
        instance = label.get(INSTANCE)
        first = by_instance.setdefault(instance, item) if isinstance(instance, str) else item
        if first is item:
            found.append(item)
        else:
            first.merge(item)
    found.sort(key=lambda item: -item.score)
    names = tuple(dict.fromkeys([*meta.titles, *(item.title for item in found)]))
    ids = {name: index for index, name in enumerate(names)}
    return Detections(
        xyxy=np.array([item.box for item in found], np.float32).reshape(-1, 4),
        confidence=np.array([item.score for item in found], np.float32),
        class_id=np.array([ids[item.title] for item in found], np.int32),
        names=names,
        masks=_masks(found, size, wanted=task == "instance-segmentation"),
        keypoints=_keypoints(found, len(meta.keypoints) if task == "keypoint-detection" else 0),
        tracker_id=None if tracks is None else np.array([item.track for item in found], np.int32),
        keypoint_names=meta.keypoints,
    )


def _tracks(document: object, count: int) -> list[int] | None:
    """A tracker id for each object; None where there are none."""
    if not isinstance(document, list) or not document:
        return None
    if len(document) != count:
        raise ValueError(f"there are {len(document)} track ids for {count} objects")
    return [integer(value, "a track id", -_MAX_TRACK, _MAX_TRACK) for value in document]


def _masks(found: Sequence[FoundObject], size: Size, *, wanted: bool) -> npt.NDArray[np.bool_] | None:
    """bool (K, H, W), where any object has one; those of objects without are empty."""
    if not wanted and not any(item.patches for item in found):
        return None
    if len(found) * size.width * size.height > MAX_MASKS_BYTES:
        raise ValueError(f"{len(found)} masks of {size.width} x {size.height} are too many")
    masks = np.zeros((len(found), size.height, size.width), np.bool_)
    for mask, item in zip(masks, found, strict=True):
        for patch in item.patches:
            where, part = inside(patch, size)
            mask[where] |= part
    return masks


def _keypoints(found: Sequence[FoundObject], least: int) -> npt.NDArray[np.float32] | None:
    """float32 (K, P, 3), where any object has some; a point that was not found has a score of 0."""
    count = max((len(item.points) for item in found if item.points is not None), default=0)
    count = max(count, least)
    if not count:
        return None
    keypoints = np.zeros((len(found), count, 3), np.float32)
    for row, item in zip(keypoints, found, strict=True):
        if item.points is not None:
            row[: len(item.points)] = item.points
    return keypoints


def _decode_tags(annotation: Mapping[str, Any], meta: Meta, *, multi_label: bool) -> Classification:
    scores: dict[str, float] = dict.fromkeys(meta.tags, 0.0)
    for document in items(annotation.get("tags"), "the annotation's tags", MAX_OBJECTS):
        tag = {"name": document} if isinstance(document, str) else mapping(document, "a tag")
        value = tag.get("value")
        # A tag without a value says yes.
        scores[text(tag.get("name"), "a tag's name")] = 1.0 if value is None else decode_score(value, "a tag's value")
    return Classification(np.array(list(scores.values()), np.float32), tuple(scores), multi_label)


def _decode_classes(annotation: Mapping[str, Any], meta: Meta, size: Size) -> SemanticMask:
    names = list(meta.titles)
    class_map = np.full((size.height, size.width), -1, np.int32)
    classes = {item.title: item for item in meta.classes}
    for document in items(annotation.get("objects"), "the annotation's objects", MAX_OBJECTS):
        label = mapping(document, "an object")
        found = decode_object(label, classes, size, None)
        if not found.patches:
            raise ValueError(f"an object of geometry {quoted(label.get('geometryType'))} in a semantic mask")
        if found.title not in names:
            names.append(found.title)
        for patch in found.patches:
            where, part = inside(patch, size)
            class_map[where][part] = names.index(found.title)
    uncovered = class_map < 0
    if uncovered.any():
        background = next((name for name in BACKGROUNDS if name in names), BACKGROUNDS[0])
        if background not in names:
            names.append(background)
        class_map[uncovered] = names.index(background)
    return SemanticMask(class_map, tuple(names))
