"""What each step of a workflow does to the values that reach it. Pictures and arrays; nothing here waits."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np

from pipeline.contracts.frame import Picture, Size, Wishes
from pipeline.contracts.result import Detections, Prediction
from pipeline.server.inference import _roboflow_draw as draw
from pipeline.server.inference._roboflow_definition import (
    EXECUTION,
    INPUTS,
    Kind,
    Step,
    resolved_field,
    workflow_error,
)
from pipeline.server.inference._roboflow_operations import Found, QueryError
from pipeline.server.inference._roboflow_query import apply
from pipeline.server.inference.refusal import RefusedError
from pipeline.wire.roboflow import encode_workflow_image, encode_workflow_prediction

MAX_MADE_PIXELS = 64_000_000
"""Of all pictures that the steps of one run make, together."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkflowImage:
    """A picture on its way through a workflow.

    Attributes:
        picture: its pixels.
        id: the input's name, or the object that it was cut out around.
        origin_px: where it lies in the picture that came with the request: left, top.
        root_size: of that picture.
    """

    picture: Picture
    id: str
    origin_px: tuple[int, int]
    root_size: Size

    @classmethod
    def root(cls, picture: Picture, name: str) -> "WorkflowImage":
        """The picture that came with the request."""
        return cls(picture, name, (0, 0), picture.size)


@dataclass(frozen=True, slots=True)
class Many:
    """Several values in place of one: one for each picture of the request, or for each crop of a picture."""

    values: tuple[Any, ...]


class Allowance:
    """How many pixels the steps of one run may still make."""

    def __init__(self, pixels: int = MAX_MADE_PIXELS) -> None:
        self._left = pixels

    def take(self, size: Size) -> None:
        """One more picture.

        Raises:
            RefusedError: 413.
        """
        self._left -= size.width * size.height
        if self._left < 0:
            raise RefusedError(413, "the steps of this workflow make too many pictures, or too large ones")


Fields = Mapping[str, Any]
"""The fields of a step for one picture, each selector replaced by its value."""


def wishes_of(step: Step, fields: Fields) -> Wishes:
    """What a model step asks of its model.

    Raises:
        RoboflowRefusedError: 400: a value that cannot be.
    """
    confidence = fields.get("confidence")
    if "confidence_mode" in fields and confidence is None:  # version 3 of the blocks
        confidence = fields.get("custom_confidence", 0.4) if fields["confidence_mode"] == "custom" else None
    classes = fields.get("class_filter")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise wrong_value(step, "class_filter", "a list of names")
    agnostic = fields.get("class_agnostic_nms")
    if not isinstance(agnostic, bool | None):
        raise wrong_value(step, "class_agnostic_nms", "true or false")
    most = fields.get("max_detections")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or not 0 < most <= 1_000_000):
        raise wrong_value(step, "max_detections", "a number from 1")
    return Wishes(
        confidence=_ratio(step, "confidence", confidence),
        iou_threshold=_ratio(step, "iou_threshold", fields.get("iou_threshold")),
        max_detections=most,
        class_agnostic_nms=agnostic,
        classes=tuple(classes) if classes else None,
        keypoint_confidence=_ratio(step, "keypoint_confidence", fields.get("keypoint_confidence")),
    )


def _ratio(step: Step, field: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise wrong_value(step, field, "a number from 0 to 1")
    return float(value)


def wrong_value(step: Step, field: str, wanted: str) -> RefusedError:
    """A field that has no value of its kind."""
    message = f"step {step.name!a}: {field} must be {wanted}"
    return workflow_error(message, "RuntimeInputError", INPUTS, step=step, field=field)


def found_of(prediction: Prediction, image: WorkflowImage, inference_id: str) -> Found:
    """A model's answer about an image, as later steps take it; its objects get their names."""
    count = len(prediction) if isinstance(prediction, Detections) else 0
    return Found(
        prediction=prediction,
        ids=tuple(f"{inference_id}.{index}" for index in range(count)),
        size=image.picture.size,
        inference_id=inference_id,
        origin_px=image.origin_px,
        root_size=image.root_size,
        parent_id=image.id,
    )


def image_in(step: Step, fields: Fields, name: str) -> WorkflowImage:
    """The image that a step takes.

    Raises:
        RoboflowRefusedError: 400: it is none.
    """
    value = resolved_field(fields, name)
    if not isinstance(value, WorkflowImage):
        raise wrong_value(step, name, "an image")
    return value


def _found_in(step: Step, fields: Fields) -> Found:
    value = resolved_field(fields, "predictions")
    if not isinstance(value, Found) or not isinstance(value.prediction, Detections):
        raise wrong_value(step, "predictions", "the predictions of a detection model")
    return value


# The steps


def crop(step: Step, fields: Fields, allowance: Allowance) -> dict[str, Any]:
    """Each object cut out: `crops`, and beside them `predictions`, each with its one object."""
    from pipeline.models.picture import from_rgb

    image, found = image_in(step, fields, "images"), _found_in(step, fields)
    if found.size != image.picture.size:
        raise wrong_value(step, "predictions", "about this image")
    detections, (width, height) = found.detections, image.picture.size
    crops, alone = [], []
    for row in range(len(found)):
        if not np.isfinite(detections.xyxy[row]).all():
            continue
        left, top, right, bottom = np.clip(detections.xyxy[row].round(), 0, (width, height, width, height)).astype(int)
        if right <= left or bottom <= top:
            continue
        allowance.take(Size(int(right - left), int(bottom - top)))
        pixels = np.ascontiguousarray(image.picture.rgb()[top:bottom, left:right])
        origin = (image.origin_px[0] + int(left), image.origin_px[1] + int(top))
        cut = WorkflowImage(from_rgb(pixels), found.ids[row], origin, image.root_size)
        crops.append(cut)
        alone.append(_moved_into(found.picked([row]), cut, (int(left), int(top))))
    return {"crops": Many(tuple(crops)), "predictions": Many(tuple(alone))}


def _moved_into(found: Found, cut: WorkflowImage, by_px: tuple[int, int]) -> Found:
    """One object in the coordinates of its crop."""
    left, top = by_px
    moved = _moved(found.detections, (-left, -top))
    size = cut.picture.size
    if moved.masks is not None:
        moved = dataclasses.replace(moved, masks=moved.masks[:, top : top + size.height, left : left + size.width])
    return dataclasses.replace(found, prediction=moved, size=size, origin_px=cut.origin_px, parent_id=cut.id)


def _moved(found: Detections, by_px: tuple[int, int]) -> Detections:
    x, y = by_px
    points = found.keypoints
    if points is not None:
        points = points + np.array([x, y, 0], np.float32)
    return dataclasses.replace(found, xyxy=found.xyxy + np.array([x, y, x, y], np.float32), keypoints=points)


def filtered(step: Step, fields: Fields, _: Allowance) -> dict[str, Any]:
    """The objects for which the statements hold."""
    parameters = fields.get("operations_parameters") or {}
    if not isinstance(parameters, dict):
        raise wrong_value(step, "operations_parameters", "an object")
    found = _queried(step, _found_in(step, fields), fields["operations"], parameters)
    if not isinstance(found, Found):
        raise wrong_value(step, "operations", "a filter: its outcome must be predictions")
    return {"predictions": found}


def property_of(step: Step, fields: Fields, _: Allowance) -> dict[str, Any]:
    """A count, the names, or whatever the operations make of the data."""
    return {"output": _queried(step, fields.get("data"), fields["operations"], {})}


def _queried(step: Step, value: Any, operations: object, parameters: Mapping[str, Any]) -> Any:
    try:
        return apply(value, operations, parameters)
    except QueryError as error:
        message = f"step {step.name!a}: {error}"
        raise workflow_error(message, "StepExecutionError", EXECUTION, step=step, field="operations") from error


def drawn(step: Step, fields: Fields, allowance: Allowance) -> dict[str, Any]:
    """A copy of the image with something drawn on it."""
    from pipeline.models.picture import from_rgb

    image, found = image_in(step, fields, "image"), _found_in(step, fields)
    if found.size != image.picture.size:
        raise wrong_value(step, "predictions", "about this image")
    thickness = fields.get("thickness", fields.get("text_thickness", 2))
    if isinstance(thickness, bool) or not isinstance(thickness, int) or not 0 <= thickness <= draw.MAX_STROKE_PX:
        raise wrong_value(step, "thickness", f"a number from 0 to {draw.MAX_STROKE_PX}")
    allowance.take(image.picture.size)
    scene = draw.scene_of(image.picture)
    match step.kind:
        case "draw_boxes":
            draw.draw_boxes(scene, found.detections, thickness)
        case "draw_labels":
            text = fields.get("text", "Class")
            if text not in get_args(draw.LabelText):
                raise wrong_value(step, "text", "one of " + ", ".join(get_args(draw.LabelText)))
            draw.draw_labels(scene, found.detections, text, thickness)
        case "draw_masks":
            scene = draw.draw_masks(scene, found.detections)
        case _:
            draw.draw_keypoints(scene, found.detections, thickness)
    return {"image": dataclasses.replace(image, picture=from_rgb(np.asarray(scene)))}


STEPS: Final[dict[Kind, Callable[[Step, Fields, Allowance], dict[str, Any]]]] = {
    "crop": crop,
    "filter": filtered,
    "property": property_of,
    "draw_boxes": drawn,
    "draw_labels": drawn,
    "draw_masks": drawn,
    "draw_keypoints": drawn,
}
"""Besides the models, which are asked for all pictures at once."""


# Values as they go out


def to_json(value: Any, *, own_coordinates: bool) -> Any:
    """A value of a workflow as Roboflow writes it: images as base64, predictions with the size of their image."""
    if isinstance(value, Many | list | tuple):
        inner = value.values if isinstance(value, Many) else value
        return [to_json(one, own_coordinates=own_coordinates) for one in inner]
    if isinstance(value, dict):
        return {str(key): to_json(one, own_coordinates=own_coordinates) for key, one in value.items()}
    if isinstance(value, WorkflowImage):
        return encode_workflow_image(draw.jpeg(draw.scene_of(value.picture)))
    if isinstance(value, Found):
        return _found_json(value if own_coordinates else _at_root(value))
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _found_json(found: Found) -> dict[str, Any]:
    body = encode_workflow_prediction(found.prediction, found.size)
    if not isinstance(found.prediction, Detections):
        return {"inference_id": found.inference_id, **body, "parent_id": found.parent_id}
    for item in body["predictions"]:
        item["detection_id"] = found.ids[int(item["detection_id"])]  # it was its place
        item["parent_id"] = found.parent_id
    return body


def _at_root(found: Found) -> Found:
    """The objects in the coordinates of the picture that came with the request."""
    if found.size == found.root_size or not isinstance(found.prediction, Detections):
        return found
    left, top = found.origin_px
    moved = _moved(found.prediction, (left, top))
    if moved.masks is not None:
        whole = np.zeros((len(moved), found.root_size.height, found.root_size.width), np.bool_)
        whole[:, top : top + found.size.height, left : left + found.size.width] = moved.masks
        moved = dataclasses.replace(moved, masks=whole)
    return dataclasses.replace(found, prediction=moved, size=found.root_size, origin_px=(0, 0))
