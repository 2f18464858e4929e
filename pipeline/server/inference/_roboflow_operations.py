"""What workflows do with detections, and with what was taken from them: operations, comparators and tests, by name.

Format: Roboflow workflows, "universal query language"; `_roboflow_query` reads the language.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections, Prediction


class QueryError(ValueError):
    """An operation that is not known, or does not fit what it is applied to; one line."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A prediction on its way through a workflow.

    Attributes:
        prediction: what a model said about an image.
        ids: of its objects, in their order.
        size: of that image.
        inference_id: of the request to the model.
        origin_px: where that image lies in the one that came with the request: left, top.
        root_size: of the one that came with the request.
        parent_id: what that image is: the input's name, or the object that it was cut out around.
    """

    prediction: Prediction
    ids: tuple[str, ...]
    size: Size
    inference_id: str
    origin_px: tuple[int, int]
    root_size: Size
    parent_id: str

    @property
    def detections(self) -> Detections:
        """The objects.

        Raises:
            QueryError: it is another kind of prediction.
        """
        if isinstance(self.prediction, Detections):
            return self.prediction
        raise QueryError("this takes the predictions of a detection model")

    def __len__(self) -> int:
        return len(self.detections)

    def picked(self, rows: Sequence[int]) -> "Found":
        """Only these objects, in this order."""
        return dataclasses.replace(
            self, prediction=self.detections.picked(rows), ids=tuple(self.ids[row] for row in rows)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One object of a prediction."""

    found: Found
    index: int


def short(value: object) -> str:
    """For an error, the beginning of it."""
    return ascii(str(value)[:60])


def _property(found: Found, row: int, name: object) -> Any:
    detections = found.detections
    left, top, right, bottom = (float(side) for side in detections.xyxy[row])
    properties: dict[object, Callable[[], Any]] = {
        "confidence": lambda: float(detections.confidence[row]),
        "class_name": lambda: detections.label(row),
        "class_id": lambda: int(detections.class_id[row]),
        "x_min": lambda: left,
        "y_min": lambda: top,
        "x_max": lambda: right,
        "y_max": lambda: bottom,
        "size": lambda: (right - left) * (bottom - top),
        "center": lambda: [(left + right) / 2, (top + bottom) / 2],
        "top_left": lambda: [left, top],
        "top_right": lambda: [right, top],
        "bottom_left": lambda: [left, bottom],
        "bottom_right": lambda: [right, bottom],
        "detection_id": lambda: found.ids[row],
        "inference_id": lambda: found.inference_id,
        "tracker_id": lambda: None if detections.tracker_id is None else int(detections.tracker_id[row]),
    }
    if name not in properties:
        raise QueryError(f"property {short(name)} is not known here; there are {', '.join(map(str, properties))}")
    return properties[name]()


def _extract(value: Any, operation: Mapping[str, Any]) -> Any:
    name = operation.get("property_name")
    if isinstance(value, Row):
        return _property(value.found, value.index, name)
    raise QueryError("ExtractDetectionProperty takes one object")


def _extract_all(value: Any, operation: Mapping[str, Any]) -> Any:
    name = operation.get("property_name")
    if not isinstance(value, Found):
        raise QueryError("DetectionsPropertyExtract takes the predictions of a detection model")
    if name == "count":
        return len(value)
    return [_property(value, row, name) for row in range(len(value))]


def _extract_class(value: Any, operation: Mapping[str, Any]) -> Any:
    prediction = value.prediction if isinstance(value, Found) else None
    if not isinstance(prediction, Classification) or not len(prediction.scores):
        raise QueryError("ClassificationPropertyExtract takes the predictions of a classification model")
    scores, names = prediction.scores, prediction.names
    order = np.argsort(-scores, kind="stable").tolist()
    top = order[0]
    label = names[top] if top < len(names) else f"class_{top}"
    answers: dict[object, Any] = {
        "top_class": label,
        "top_class_confidence": [float(scores[top])],
        "top_class_confidence_single": float(scores[top]),
        "all_classes": list(names),
        "all_confidences": [float(score) for score in scores],
    }
    name = operation.get("property_name")
    if name not in answers:
        raise QueryError(f"property {short(name)} is not known here; there are {', '.join(map(str, answers))}")
    return answers[name]


def _sort(value: Any, operation: Mapping[str, Any]) -> Found:
    if not isinstance(value, Found):
        raise QueryError("SortDetections takes the predictions of a detection model")
    mode = operation.get("mode", "confidence")
    axis = {"center_x": 0, "center_y": 1}.get(str(mode))
    keys = [
        _property(value, row, "center")[axis] if axis is not None else _property(value, row, mode)
        for row in range(len(value))
    ]
    order = sorted(range(len(value)), key=keys.__getitem__, reverse=not operation.get("ascending", True))
    return value.picked(order)


def _select(value: Any, operation: Mapping[str, Any]) -> Found:
    if not isinstance(value, Found):
        raise QueryError("DetectionsSelection takes the predictions of a detection model")
    if not len(value):
        return value
    found = value.detections
    centers = found.xyxy[:, 0] + found.xyxy[:, 2]
    rows = {
        "first": 0,
        "last": len(value) - 1,
        "top_confidence": int(found.confidence.argmax()),
        "left_most": int(centers.argmin()),
        "right_most": int(centers.argmax()),
    }
    mode = str(operation.get("mode"))
    if mode not in rows:
        raise QueryError(f"mode {short(mode)} is not known here; there are {', '.join(rows)}")
    return value.picked([rows[mode]])


def _plain_text(value: Any) -> str:
    if isinstance(value, Found):
        raise QueryError("ToString takes what was taken from predictions")
    return str(value)


def _aggregate(value: Any, operation: Mapping[str, Any]) -> Any:
    functions: dict[object, Callable[[list[float]], float]] = {"min": min, "max": max, "sum": sum}
    values = [float(item) for item in value]
    return functions[operation.get("function")](values) if values else operation.get("neutral_value", 0)


def _pick(value: Any, operation: Mapping[str, Any]) -> Any:
    if not value:
        return None
    mode = operation.get("mode")
    if mode in ("first", "last"):
        return value[0 if mode == "first" else -1]
    ranked = Counter(value).most_common()
    return ranked[0 if mode == "most_common" else -1][0]


OPERATIONS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "SequenceLength": lambda value, _: len(value),
    "SequenceElementsCount": lambda value, _: dict(Counter(value)),
    "SequenceAggregate": _pick,
    "NumericSequenceAggregate": _aggregate,
    "SequenceJoin": lambda value, operation: str(operation.get("separator", ", ")).join(map(str, value)),
    "DetectionsPropertyExtract": _extract_all,
    "ExtractDetectionProperty": _extract,
    "ClassificationPropertyExtract": _extract_class,
    "DetectionsSelection": _select,
    "SortDetections": _sort,
    "ToString": lambda value, _: _plain_text(value),
    "ToNumber": lambda value, operation: int(value) if operation.get("cast_to") == "int" else float(value),
    "NumberRound": lambda value, operation: round(float(value), int(operation.get("decimal_digits", 2))),
    "StringToLowerCase": lambda value, _: value.lower(),
    "StringToUpperCase": lambda value, _: value.upper(),
    "Multiply": lambda value, operation: float(value) * float(operation["other"]),
    "Divide": lambda value, operation: float(value) / float(operation["other"]),
}
"""Besides `DetectionsFilter`."""

COMPARATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "(Number) ==": lambda left, right: left == right,
    "(Number) !=": lambda left, right: left != right,
    "(Number) >": lambda left, right: left > right,
    "(Number) >=": lambda left, right: left >= right,
    "(Number) <": lambda left, right: left < right,
    "(Number) <=": lambda left, right: left <= right,
    "(String) contains": lambda left, right: right in left,
    "(String) startsWith": lambda left, right: left.startswith(right) if isinstance(left, str) else False,
    "(String) endsWith": lambda left, right: left.endswith(right) if isinstance(left, str) else False,
    "in (Sequence)": lambda left, right: left in right,
    "all in (Sequence)": lambda left, right: all(item in right for item in left),
    "any in (Sequence)": lambda left, right: any(item in right for item in left),
}

TESTS: dict[str, Callable[[Any], bool]] = {
    "Exists": lambda value: value is not None,
    "DoesNotExist": lambda value: value is None,
    "(Boolean) is True": lambda value: value is True,
    "(Boolean) is False": lambda value: value is False,
    "(Sequence) is empty": lambda value: len(value) == 0,
    "(Sequence) is not empty": lambda value: len(value) > 0,
}
