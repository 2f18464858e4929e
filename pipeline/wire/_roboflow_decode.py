"""A Roboflow server's response, read as what the model said. Whatever is wrong with it is a `ValueError`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.contracts.secret import redact
from pipeline.wire._roboflow_labels import MAX_CLASS_NAME, MAX_CLASSES, Labels, PointLabels
from pipeline.wire.document import as_text, integer, items, mapping, number, quoted, text
from pipeline.wire.masks import MAX_PIXELS, decode_base64, decode_png, decode_rle, resized
from pipeline.wire.polygons import mask_of

MAX_OBJECTS = 10_000
MAX_POINTS = 100_000
MAX_KEYPOINTS = 1000
MAX_MASK_BYTES = 1 << 29
"""All masks of one answer, at one byte a pixel: 258 of Full HD."""
MAX_DIMENSIONS = 100_000
MAX_TEXT = 1_000_000
MAX_ID = 2**31 - 1

_RLE_KEYS = ("rle", "rle_mask")
"""The second one in workflows."""

_SCORE_SLACK = 1e-3
"""Sums of float16 may be a little over 1."""


def decode_prediction(
    document: object,
    size: Size,
    *,
    task: Task | None = None,
    labels: Labels | None = None,
    points: PointLabels | None = None,
) -> Prediction:
    """What the model said, out of one response.

    Args:
        document: one response object.
        size: of the picture that was sent, in whose pixels the answer counts.
        task: what the model does, where it is known: an answer to something else is refused, and an empty list of
            predictions is read as the task has it.
        labels: the model's classes so far; the answer's are added.
        points: the same of its keypoints.

    Raises:
        ValueError: it is no answer of this protocol, or not one to this picture.
    """
    response = mapping(document, "the answer")
    if response.get("is_stub") is True:
        raise ValueError("the server answers with a stub: there is no trained model behind this id")
    _check_size(response.get("image"), size)
    labels = Labels() if labels is None else labels
    kind = _kind(response, task)
    if kind == "text":
        return Text(_text(response))
    if kind == "embedding":
        return _embedding(response)
    if "predictions" not in response:
        raise ValueError(f"the answer has no predictions{_said(response)}")
    predictions = response["predictions"]
    if kind == "semantic-segmentation":
        return _semantic_mask(mapping(predictions, "predictions"), size)
    if kind == "multi-label-classification":
        return _multi_label(mapping(predictions, "predictions"), labels)
    found = items(predictions, "predictions", MAX_OBJECTS)
    if kind == "classification":
        return _classification(found, labels)
    return _detections(found, size, kind, labels, PointLabels() if points is None else points)


def _said(response: Mapping[str, Any]) -> str:
    """What a server says that answers 200 with an error inside."""
    found = next((response[key] for key in ("message", "detail", "error") if isinstance(response.get(key), str)), None)
    return "" if found is None else f", it says {quoted(redact(found[:1000]))}"


def _kind(response: Mapping[str, Any], task: Task | None) -> Task:
    """What kind of answer it is; the registry's `classification` may be either kind of classification."""
    predictions = response.get("predictions")
    if isinstance(predictions, dict):
        found: Task = "semantic-segmentation" if "segmentation_mask" in predictions else "multi-label-classification"
        alike = {"semantic-segmentation"} if "segmentation_mask" in predictions else {"classification", found}
        if task is not None and task not in alike:
            raise ValueError(f"the answer is one to {found}, not to {task}")
        return found
    if task is not None:
        return task
    if predictions is None or not isinstance(predictions, list) or not predictions:
        keys: dict[str, Task] = {"embeddings": "embedding", "result": "text", "response": "text"}
        other = next((kind for key, kind in keys.items() if key in response), None)
        return other or ("classification" if "top" in response else "object-detection")
    first = predictions[0] if isinstance(predictions[0], dict) else {}
    if "x" not in first:
        return "classification"
    if {"points", *_RLE_KEYS} & first.keys():
        return "instance-segmentation"
    return "keypoint-detection" if "keypoints" in first else "object-detection"


def _check_size(image: object, size: Size) -> None:
    """An answer about a picture of another size has boxes that mean something else."""
    if image is None:
        return
    given = mapping(image[0] if isinstance(image, list) and len(image) == 1 else image, "image of the answer")
    width, height = given.get("width"), given.get("height")
    if width is not None and height is not None and (width, height) != tuple(size):
        width, height = number(width, "image.width"), number(height, "image.height")
        raise ValueError(
            f"the answer is about a picture of {width:g} x {height:g}, not of {size.width} x {size.height}"
        )


def _detections(found: Sequence[object], size: Size, task: Task, labels: Labels, points: PointLabels) -> Detections:
    count = len(found)
    boxes = np.zeros((count, 4), np.float64)
    scores = np.zeros(count, np.float32)
    classes = np.zeros(count, np.int32)
    trackers: list[int | None] = []
    with_masks, with_points = task == "instance-segmentation", task == "keypoint-detection"
    if with_masks and count * size.width * size.height > MAX_MASK_BYTES:
        raise ValueError(f"the answer has {count} masks of {size.width} x {size.height}: more than are kept in memory")
    masks = np.zeros((count, size.height, size.width), np.bool_) if with_masks else None
    skeletons = []
    for index, value in enumerate(found):
        item = mapping(value, "a prediction")
        boxes[index] = box_of(item)
        scores[index] = _score(item.get("confidence"))
        classes[index] = _class(item, labels)
        tracker = item.get("tracker_id")
        trackers.append(None if tracker is None else integer(tracker, "tracker_id", -1, MAX_ID))
        if masks is not None:
            masks[index] = _mask(item, size)
        if with_points:
            skeletons.append(_keypoints(item.get("keypoints"), points))
    tracked = bool(trackers) and all(tracker is not None for tracker in trackers)
    return Detections(
        xyxy=boxes.astype(np.float32),
        confidence=scores,
        class_id=classes,
        names=labels.names,
        masks=masks,
        keypoints=_skeletons(skeletons, points) if with_points else None,
        tracker_id=np.array(trackers, np.int32) if tracked else None,
        keypoint_names=points.names if with_points else (),
    )


def box_of(item: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of an object with `x`, `y` (centre), `width`, `height`. Raises ValueError."""
    x, y, width, height = (number(item.get(key), f"{key} of a prediction") for key in ("x", "y", "width", "height"))
    if width < 0 or height < 0:
        raise ValueError("a prediction has a negative size")
    if max(abs(x), abs(y), width, height) > 1e9:
        raise ValueError("a prediction is nowhere near the picture")
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _score(value: object) -> float:
    score = number(value, "confidence")
    if not -_SCORE_SLACK <= score <= 1 + _SCORE_SLACK:
        raise ValueError(f"a confidence of {score:g} is none: it goes from 0 to 1")
    return min(max(score, 0.0), 1.0)


def _class(item: Mapping[str, Any], labels: Labels) -> int:
    class_id, name = item.get("class_id"), item.get("class")
    if name is not None and len(text(name, "class of a prediction")) > MAX_CLASS_NAME:
        raise ValueError(f"a class name has more than {MAX_CLASS_NAME} characters")
    return labels.number(None if class_id is None else integer(class_id, "class_id", 0, MAX_ID), name)


def _mask(item: Mapping[str, Any], size: Size) -> npt.NDArray[np.generic]:
    """The object's mask at the picture's size, out of run lengths or `points`."""
    given = next((item[key] for key in _RLE_KEYS if item.get(key) is not None), None)
    if given is not None:
        rle = mapping(given, "rle of a prediction")
        shape = items(rle.get("size"), "size of an rle", 2)
        if len(shape) != 2:
            raise ValueError("size of an rle is not height and width")
        height, width = (integer(side, "size of an rle", 1, MAX_PIXELS) for side in shape)
        counts = rle.get("counts")
        if not isinstance(counts, str | list):
            raise ValueError("counts of an rle are neither text nor list")
        # A server may send a smaller mask than the picture (allow_reduced_mask_resolution).
        return resized(decode_rle(counts, height, width), size.height, size.width)
    corners = items(item.get("points"), "points of a prediction", MAX_POINTS)
    outline = [mapping(corner, "a point") for corner in corners]
    flat = [(number(corner.get("x"), "x of a point"), number(corner.get("y"), "y of a point")) for corner in outline]
    return mask_of(np.array(flat, np.float64).reshape(-1, 2), size.height, size.width)


def _keypoints(value: object, points: PointLabels) -> list[tuple[int, float, float, float]]:
    """Each keypoint's place in the skeleton, x, y and confidence."""
    found = []
    for entry in items(value, "keypoints of a prediction", MAX_KEYPOINTS):
        point = mapping(entry, "a keypoint")
        class_id, name = point.get("class_id"), point.get("class")
        if name is not None and len(text(name, "class of a keypoint")) > MAX_CLASS_NAME:
            raise ValueError(f"the name of a keypoint has more than {MAX_CLASS_NAME} characters")
        place = None if class_id is None else integer(class_id, "class_id of a keypoint", 0, MAX_KEYPOINTS - 1)
        x, y = number(point.get("x"), "x of a keypoint"), number(point.get("y"), "y of a keypoint")
        if max(abs(x), abs(y)) > 1e9:
            raise ValueError("a keypoint is nowhere near the picture")
        found.append((points.number(place, name), x, y, _score(point.get("confidence"))))
    return found


def _skeletons(
    skeletons: Sequence[Sequence[tuple[int, float, float, float]]], points: PointLabels
) -> npt.NDArray[np.float32]:
    """float32 (K, P, 3); what an object lacks of the skeleton is no number, with confidence 0."""
    if points.count > MAX_KEYPOINTS:
        raise ValueError(f"the skeleton has more than {MAX_KEYPOINTS} keypoints")
    found = np.full((len(skeletons), points.count, 3), np.nan, np.float32)
    for row, skeleton in zip(found, skeletons, strict=True):
        for place, x, y, score in skeleton:
            row[place] = x, y, score
    return found


def _classification(found: Sequence[object], labels: Labels) -> Classification:
    entries = [mapping(value, "a prediction") for value in found]
    scores = {_class(item, labels): _score(item.get("confidence")) for item in entries}
    return _scores(scores, labels, multi_label=False)


def _multi_label(found: Mapping[str, Any], labels: Labels) -> Classification:
    if len(found) > MAX_CLASSES:
        raise ValueError(f"the answer has {len(found)} classes")
    scores = {}
    for name, value in found.items():
        item = mapping(value, "a prediction")
        scores[_class({"class_id": item.get("class_id"), "class": name}, labels)] = _score(item.get("confidence"))
    return _scores(scores, labels, multi_label=True)


def _scores(scores: Mapping[int, float], labels: Labels, *, multi_label: bool) -> Classification:
    names = labels.names
    values = np.zeros(len(names), np.float32)
    values[list(scores)] = list(scores.values())
    return Classification(values, names, multi_label)


def _semantic_mask(found: Mapping[str, Any], size: Size) -> SemanticMask:
    class_map = decode_png(decode_base64(found.get("segmentation_mask"), "segmentation_mask"), "segmentation_mask")
    named = mapping(found.get("class_map"), "class_map")
    numbered = {_class_number(key): text(name, "a name of class_map") for key, name in named.items()}
    most = max(numbered, default=-1)
    names = tuple(numbered.get(index, f"class_{index}") for index in range(most + 1))
    sure = found.get("confidence_mask")
    confidence = None
    if sure is not None:
        values = decode_png(decode_base64(sure, "confidence_mask"), "confidence_mask")
        if values.size and (values.max() > 255 or values.min() < 0):
            raise ValueError("confidence_mask has more than 8 bits")
        confidence = resized(values, size.height, size.width).astype(np.uint8)
    return SemanticMask(resized(class_map, size.height, size.width).astype(np.int32), names, confidence)


def _class_number(key: str) -> int:
    if not key.isascii() or not key.isdigit() or len(key) > 6 or int(key) >= MAX_CLASSES * 5:
        raise ValueError(f"class_map has the key {quoted(key)}, which is no class number")
    return int(key)


def _embedding(response: Mapping[str, Any]) -> Embedding:
    vectors = decode_embeddings(response, 1)
    return Embedding(vectors[0])


def decode_embeddings(response: object, count: int) -> list[npt.NDArray[np.float32]]:
    """The `count` vectors of an answer with `embeddings`. Raises ValueError."""
    found = items(mapping(response, "the answer").get("embeddings"), "embeddings", count)
    if len(found) != count:
        raise ValueError(f"the answer has {len(found)} embeddings, not {count}")
    vectors = []
    for vector in found:
        values = items(vector, "an embedding", MAX_DIMENSIONS)
        if not values:
            raise ValueError("an embedding is empty")
        vectors.append(np.array([number(value, "a value of an embedding") for value in values], np.float32))
    if any(not np.isfinite(vector).all() for vector in vectors):
        raise ValueError("a value of an embedding is beyond float32")
    return vectors


def _text(response: Mapping[str, Any]) -> str:
    """Of OCR (`result`) or a language model (`response`, which may be an object)."""
    value = response.get("result", response.get("response"))
    if isinstance(value, dict | list):
        value = as_text(value)
    if len(text(value, "the text of the answer")) > MAX_TEXT:
        raise ValueError(f"the text of the answer has more than {MAX_TEXT} characters")
    return str(value)
