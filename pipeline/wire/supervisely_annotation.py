"""Supervisely's annotations, written: what a model said about one picture.

Format: supervisely 6.74.51, `Annotation`, `Label` and the geometries. Coordinates are whole pixels, and a rectangle's
right and bottom belong to it. An object that has a mask or keypoints beside its box carries the box (and the scores of
its keypoints) in `customData.penstock`, which others ignore: from a bitmap or a graph alone it could only be guessed.
One that has both comes as two objects of the same `instance`. Tracker ids are the annotation's `customBigData`, a list
as long as its objects.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections, Prediction, SemanticMask, Text, label_of
from pipeline.wire.supervisely_bitmap import encode_bitmap
from pipeline.wire.supervisely_meta import CONFIDENCE_TAGS, node_ids, titles_of

TOP_TAGS = 10
"""So many classes of a classification are written at the most, as in Penstock's own results."""
OURS = "penstock"
"""The key in an object's `customData` that only Penstock writes and reads."""
INSTANCE = "instance"
"""The key that objects have in common which are parts of one."""

Corners = tuple[float, float, float, float]


def encode_annotation(prediction: Prediction, size: Size, *, most_tags: int | None = None) -> dict[str, Any]:
    """What a model said about a picture of this size.

    Args:
        prediction: anything but an embedding.
        size: of the picture.
        most_tags: leave out all but the most likely classes of a classification.

    Raises:
        ValueError: Supervisely has nothing for an embedding.
    """
    objects: list[dict[str, Any]] = []
    tags: list[dict[str, Any]] = []
    tracks: list[int] | None = None
    description = ""
    match prediction:
        case Detections():
            objects, tracks = _encode_objects(prediction, size)
        case Classification():
            tags = _encode_tags(prediction, most_tags)
        case SemanticMask():
            objects = _encode_classes(prediction)
        case Text():
            description = prediction.text
        case _:
            raise ValueError("an annotation cannot hold an embedding")
    return {
        "description": description,
        "size": {"height": size.height, "width": size.width},
        "tags": tags,
        "objects": objects,
        "customBigData": {} if tracks is None else tracks,
    }


def _encode_objects(found: Detections, size: Size) -> tuple[list[dict[str, Any]], list[int] | None]:
    objects: list[dict[str, Any]] = []
    tracks: list[int] | None = None if found.tracker_id is None else []
    titles = titles_of(found.names)
    good = np.isfinite(found.xyxy).all(axis=1) & np.isfinite(found.confidence)
    for index in np.flatnonzero(good).tolist():
        class_id = int(found.class_id[index])
        title = titles[class_id] if 0 <= class_id < len(titles) else label_of((), class_id)
        score = round(float(found.confidence[index]), 4)
        geometries = _geometries(found, index, size)
        for geometry in geometries:
            item = _object(title, geometry, [{"name": CONFIDENCE_TAGS[0], "value": score}])
            if len(geometries) > 1:
                item[INSTANCE] = str(index)
            objects.append(item)
            if tracks is not None and found.tracker_id is not None:
                tracks.append(int(found.tracker_id[index]))
    return objects, tracks


def _geometries(found: Detections, index: int, size: Size) -> list[dict[str, Any]]:
    box: Corners = tuple(found.xyxy[index].tolist())
    ours: dict[str, Any] = {"box": [round(side, 2) for side in box]}
    geometries: list[dict[str, Any]] = []
    if found.keypoints is not None:
        points = found.keypoints[index].astype(np.float64)
        scores = np.nan_to_num(points[:, 2], nan=0.0, posinf=0.0, neginf=0.0).round(4).tolist()
        nodes = _encode_nodes(points, found.keypoint_names, box, size)
        if nodes:
            custom = {OURS: ours | {"keypoint_scores": scores}}
            geometries.append({"nodes": nodes, "geometryType": "graph", "customData": custom})
    if found.masks is not None and found.masks[index].any():
        bitmap = encode_bitmap(found.masks[index])
        geometries.append({"bitmap": bitmap, "geometryType": "bitmap", "customData": {OURS: ours}})
    return geometries or [{"points": _encode_rectangle(box, size), "geometryType": "rectangle"}]


def _encode_rectangle(box: Corners, size: Size) -> dict[str, Any]:
    left, right = _inclusive(box[0], box[2], size.width)
    top, bottom = _inclusive(box[1], box[3], size.height)
    return {"exterior": [[left, top], [right, bottom]], "interior": []}


def _inclusive(low: float, high: float, most: int) -> tuple[int, int]:
    """The first and the last pixel of what lies between two edges: at least one, and within the picture."""
    first = min(max(math.floor(low + 0.5), 0), most - 1)
    last = min(math.floor(high + 0.5), most) - 1
    return first, max(first, last)


def _encode_nodes(
    points: npt.NDArray[np.float64], names: Sequence[str], box: Corners, size: Size
) -> dict[str, dict[str, Any]]:
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    nodes: dict[str, dict[str, Any]] = {}
    for key, (x, y, score) in zip(node_ids(names, len(points)), points.tolist(), strict=True):
        is_there = math.isfinite(x) and math.isfinite(y) and math.isfinite(score) and score > 0
        # Their graph needs every node at some place in the picture, also one that was not found.
        place = (x, y) if is_there else centre
        limits = zip(place, size, strict=True)
        node: dict[str, Any] = {"loc": [min(max(math.floor(value + 0.5), 0), most - 1) for value, most in limits]}
        if not is_there:
            node["disabled"] = True
        nodes[key] = node
    return nodes


def _object(title: str, geometry: dict[str, Any], tags: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "classTitle": title,
        "description": "",
        "tags": tags,
        **geometry,
        "shape": geometry["geometryType"],
        "nnCreated": True,
        "nnUpdated": True,
    }


def _encode_tags(found: Classification, most: int | None) -> list[dict[str, Any]]:
    scores = np.nan_to_num(found.scores.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0)
    order = np.argsort(-scores, kind="stable")[:most].tolist()
    titles = titles_of(found.names)
    names = [titles[index] if index < len(titles) else label_of((), index) for index in order]
    best: dict[str, int] = {}
    for name, index in zip(names, order, strict=True):
        best.setdefault(name, index)  # a tag can stand at a picture once: of two classes of one name the likelier one
    return [{"name": name, "value": round(float(scores[index]), 4)} for name, index in best.items()]


def _encode_classes(found: SemanticMask) -> list[dict[str, Any]]:
    titles = titles_of(found.names)
    objects = []
    for class_id in np.unique(found.class_map).tolist():
        title = titles[class_id] if 0 <= class_id < len(titles) else label_of((), class_id)
        geometry = {"bitmap": encode_bitmap(found.class_map == class_id), "geometryType": "bitmap"}
        objects.append(_object(title, geometry, []))
    return objects
