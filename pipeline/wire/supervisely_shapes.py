"""One object of a Supervisely annotation, read: its class, its score, and one of seven shapes.

Format: see `supervisely_annotation`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.wire.document import items, mapping, number, quoted, text
from pipeline.wire.supervisely_annotation import OURS, Corners
from pipeline.wire.supervisely_bitmap import Patch, decode_bitmap, decode_points, decode_polygon, extent
from pipeline.wire.supervisely_meta import CONFIDENCE_TAGS, ObjectClass

MAX_TAGS = 1000


@dataclass(slots=True)
class FoundObject:
    """One object while it is put together, from one or several labels of an annotation.

    Attributes:
        box: its corners, right and bottom exclusive.
        is_ours: the box is exact, not taken from a shape.
        points: float64 (P, 3), its keypoints.
    """

    title: str
    score: float
    track: int | None
    box: Corners
    is_ours: bool = False
    patches: list[Patch] = field(default_factory=list)
    points: npt.NDArray[np.float64] | None = None

    def merge(self, other: "FoundObject") -> None:
        """Take in another part of the same object."""
        if other.is_ours and not self.is_ours:
            self.box, self.is_ours = other.box, True
        elif other.is_ours == self.is_ours:
            corners = list(zip(self.box, other.box, strict=True))
            self.box = (*(min(pair) for pair in corners[:2]), *(max(pair) for pair in corners[2:]))  # type: ignore[assignment]
        self.patches += other.patches
        self.points = other.points if self.points is None else self.points


def decode_object(
    label: Mapping[str, Any], classes: Mapping[str, ObjectClass], size: Size, track: int | None
) -> FoundObject:
    """One object.

    Args:
        label: its document.
        classes: the model's, by their titles.
        size: of the picture.
        track: its tracker id.

    Raises:
        ValueError: it is none.
    """
    title = text(label.get("classTitle"), "an object's class")
    found = FoundObject(title, _confidence(label.get("tags")), track, (0.0, 0.0, 0.0, 0.0))
    kind = label.get("geometryType", label.get("shape"))
    match kind:
        case "rectangle":
            found.box = _decode_rectangle(_corners(label))
        case "oriented_bbox":
            found.box = _turned(_decode_rectangle(_corners(label)), number(label.get("angle", 0), "an angle"))
        case "polygon":
            exterior, patch = decode_polygon(mapping(label.get("points"), "a polygon"), size)
            found.box, found.patches = _around(exterior), [patch]
        case "line" | "polyline" | "point":
            found.box = _around(decode_points(_points(label).get("exterior"), f"a {kind}", 1))
        case "bitmap" | "alpha_mask":
            key = "bitmap" if "bitmap" in label else "alpha_mask"
            patch = decode_bitmap(label.get(key), size, alpha=kind == "alpha_mask")
            found.box, found.patches = _around_patch(patch, size), [patch]
        case "graph":
            found.box, found.points = _decode_graph(label, classes.get(title))
        case _:
            raise ValueError(f"an object of geometry {quoted(kind)}, which is not understood")
    _take_ours(label.get("customData"), found)
    return found


def _confidence(document: object) -> float:
    """What the confidence tag says; 1 where there is none, as their own client takes it."""
    values: dict[object, Any] = {}
    for item in items([] if document is None else document, "an object's tags", MAX_TAGS):
        tag = {"name": item} if isinstance(item, str) else mapping(item, "a tag")
        values[text(tag.get("name"), "a tag's name")] = tag.get("value")
    for name in CONFIDENCE_TAGS:
        if values.get(name) is not None:
            return decode_score(values[name], "an object's confidence")
    return 1.0


def decode_score(value: object, what: str) -> float:
    """A number from 0 to 1. Raises ValueError."""
    score = number(value, what)
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"{what} is not from 0 to 1")
    return score


def _points(label: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(label.get("points"), "an object's points")


def _corners(label: Mapping[str, Any]) -> object:
    """Two corners: in `points.exterior`, or, as their oriented boxes have it, in `points` itself."""
    points = label.get("points")
    return points if isinstance(points, list) else _points(label).get("exterior")


def _decode_rectangle(document: object) -> Corners:
    corners = decode_points(document, "a rectangle", 2)
    if len(corners) != 2:
        raise ValueError("a rectangle has more than two corners")
    return _around(corners)


def _around(points: npt.NDArray[np.float64]) -> Corners:
    """The box around pixels, whose right and bottom ones belong to it."""
    left, top = points.min(axis=0).tolist()
    right, bottom = points.max(axis=0).tolist()
    return left, top, right + 1, bottom + 1


def _around_patch(patch: Patch, size: Size) -> Corners:
    inside = extent(patch.mask)
    if inside is None:
        raise ValueError("a bitmap is empty")
    left, top, right, bottom = inside
    box = (left + patch.left, top + patch.top, right + patch.left, bottom + patch.top)
    if box[0] >= size.width or box[1] >= size.height or box[2] <= 0 or box[3] <= 0:
        raise ValueError("a bitmap lies outside of the picture")
    return box


def _turned(box: Corners, angle: float) -> Corners:
    """The upright box around one that is turned about its centre by an angle in radians."""
    centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_w, half_h = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
    reach_x, reach_y = half_w * cosine + half_h * sine, half_w * sine + half_h * cosine
    return centre_x - reach_x, centre_y - reach_y, centre_x + reach_x, centre_y + reach_y


def _decode_graph(label: Mapping[str, Any], of: ObjectClass | None) -> tuple[Corners, npt.NDArray[np.float64]]:
    nodes = mapping(label.get("nodes"), "a graph's nodes")
    template = of.nodes if of is not None and of.nodes else tuple((key, key) for key in nodes)
    if not nodes or len(nodes) > max(len(template), 1):
        raise ValueError(f"a graph has {len(nodes)} nodes, and its template {len(template)}")
    places = {name: index for index, (_, name) in enumerate(template)} | {
        key: index for index, (key, _) in enumerate(template)
    }
    points = np.zeros((len(template), 3))
    everywhere = []
    for key, document in nodes.items():
        if key not in places:
            raise ValueError(f"a graph has a node {quoted(key)}, which its template has not")
        node = mapping(document, "a node")
        (place,) = decode_points([node.get("loc")], "a node", 1)
        everywhere.append(place)
        if not node.get("disabled", False):
            points[places[key]] = (*place, 1.0)
    seen = points[points[:, 2] > 0, :2]
    return _around(seen if len(seen) else np.array(everywhere)), points


def _take_ours(document: object, found: FoundObject) -> None:
    """The exact box and the scores of keypoints, where the other end is Penstock."""
    ours = document.get(OURS) if isinstance(document, dict) else None
    if ours is None:
        return
    known = mapping(ours, "customData")
    sides = [number(value, "a box") for value in items(known.get("box"), "a box", 4)]
    if len(sides) != 4 or sides[2] < sides[0] or sides[3] < sides[1]:
        raise ValueError("a box is none")
    found.box, found.is_ours = (sides[0], sides[1], sides[2], sides[3]), True
    if found.points is not None and "keypoint_scores" in known:
        scores = items(known["keypoint_scores"], "the scores of keypoints", len(found.points))
        if len(scores) != len(found.points):
            raise ValueError("there are not as many scores as keypoints")
        for index, score in enumerate(scores):
            if found.points[index, 2]:
                found.points[index, 2] = decode_score(score, "a keypoint's score")
