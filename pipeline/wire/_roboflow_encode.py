"""What a model said, as a Roboflow server writes it."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.contracts.result import (
    Classification,
    Detections,
    Embedding,
    Prediction,
    SemanticMask,
    Text,
    label_of,
)
from pipeline.wire._roboflow_options import MaskFormat
from pipeline.wire.masks import encode_rle, png_base64
from pipeline.wire.polygons import polygon_of

MULTI_LABEL_THRESHOLD = 0.5
"""From this score on a multi-label model says yes to a class."""


def encode_prediction(
    prediction: Prediction, *, detection_ids: str = "", masks: MaskFormat = "rle", most_classes: int | None = None
) -> dict[str, Any]:
    """The part of a response that is about what the model said: `predictions` and the keys beside it.

    Objects whose box or score is no number cannot be written: they are left out and counted in `invalid_predictions`.

    Args:
        prediction: what it said.
        detection_ids: what the ids of objects begin with; their place in the answer follows.
        masks: how masks are written; a polygon knows no holes.
        most_classes: so many classes of a classification at the most; None: all.
    """
    match prediction:
        case Detections():
            return _detections(prediction, detection_ids, masks)
        case Classification():
            return _classification(prediction, most_classes)
        case SemanticMask():
            return _semantic_mask(prediction)
        case Embedding():
            return {"predictions": [], "embeddings": [finite(prediction.vector)]}
        case Text():
            return {"predictions": [], "result": prediction.text}


def encode_response(
    prediction: Prediction,
    size: Size,
    *,
    time_s: float,
    inference_id: str,
    masks: MaskFormat = "polygon",
    visualization: str | None = None,
) -> dict[str, Any]:
    """One response of `/infer/...` and of the legacy route.

    Args:
        prediction: what the model said.
        size: of the picture that was submitted, in whose pixels boxes count.
        time_s: what it took, in seconds.
        inference_id: of the request; the objects' ids begin with it.
        masks: how masks are written.
        visualization: the drawn picture, a JPEG in base64.
    """
    said = encode_prediction(prediction, detection_ids=inference_id + ".", masks=masks)
    if isinstance(prediction, Text | Embedding):
        del said["predictions"]
    if isinstance(prediction, Text):
        said["response"] = prediction.text
    drawn = {} if visualization is None else {"visualization": visualization}
    image = {"width": size.width, "height": size.height}
    return {"inference_id": inference_id, "time": round(time_s, 6), "image": image, **said, **drawn}


def encode_stub(model_id: str, task_type: str, *, time_s: float = 0.0, inference_id: str = "") -> dict[str, Any]:
    """The response of a project without a model."""
    stub = {"is_stub": True, "model_id": model_id, "task_type": task_type}
    return {"inference_id": inference_id, "time": round(time_s, 6), **stub}


def _detections(found: Detections, prefix: str, masks: MaskFormat) -> dict[str, Any]:
    corners = found.xyxy.astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    # 2 decimals of a pixel and 4 of a score are more than any model knows; one `tolist` instead of K x 5 scalars.
    boxes = np.hstack([(corners[:, :2] + corners[:, 2:]) / 2, sides]).round(2).tolist()
    scores = found.confidence.astype(np.float64).round(4).tolist()
    names = found.names
    predictions = [
        {
            "x": x,
            "y": y,
            "width": width,
            "height": height,
            "confidence": score,
            "class": label_of(names, class_id),
            "class_id": class_id,
            "detection_id": prefix + str(index),
        }
        for index, ((x, y, width, height), score, class_id) in enumerate(
            zip(boxes, scores, found.class_id.tolist(), strict=True)
        )
    ]
    if found.tracker_id is not None:
        for item, tracker_id in zip(predictions, found.tracker_id.tolist(), strict=True):
            item["tracker_id"] = tracker_id
    if found.keypoints is not None:
        for item, points in zip(predictions, found.keypoints, strict=True):
            item["keypoints"] = _keypoints(points, found.keypoint_names)
    if found.masks is not None:
        for item, mask in zip(predictions, found.masks, strict=True):
            item.update(encode_mask(mask, masks))
    if np.isfinite(corners).all() and np.isfinite(found.confidence).all():
        return {"predictions": predictions}
    good = np.isfinite(corners).all(axis=1) & np.isfinite(found.confidence)
    kept = [item for item, is_good in zip(predictions, good.tolist(), strict=True) if is_good]
    return {"predictions": kept, "invalid_predictions": len(predictions) - len(kept)}


def encode_mask(mask: npt.NDArray[np.bool_], masks: Literal["polygon", "rle"]) -> dict[str, Any]:
    """A bool (H, W) mask as the keys of an object's prediction."""
    if masks == "rle":
        return {"mask_format": "rle", "rle": {"size": list(mask.shape), "counts": encode_rle(mask)}}
    points = [{"x": float(x), "y": float(y)} for x, y in polygon_of(mask).tolist()]
    return {"points": points, "mask_format": "polygon"}


def _keypoints(points: npt.NDArray[np.float32], names: Sequence[str]) -> list[dict[str, Any]]:
    """float32 (P, 3) x, y, confidence as Roboflow writes them; a point that is no number was not found and is left out.

    `class_id` is the point's place in the skeleton, so that nothing moves when one is left out.
    """
    rows = points.astype(np.float64).round(4).tolist()
    return [
        {
            "x": round(x, 2),
            "y": round(y, 2),
            "confidence": score,
            "class_id": index,
            "class": names[index] if index < len(names) else str(index),
        }
        for index, (x, y, score) in enumerate(rows)
        if x - x + y - y + score - score == 0.0  # finite, all three
    ]


def _classification(prediction: Classification, most_classes: int | None) -> dict[str, Any]:
    scores = np.nan_to_num(prediction.scores.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0)
    count = len(scores) if most_classes is None else min(most_classes, len(scores))
    if prediction.multi_label:
        count = max(count, int((scores >= MULTI_LABEL_THRESHOLD).sum()))
    order = np.argsort(-scores, kind="stable")[:count].tolist()
    names = prediction.names
    ranked = [(label_of(names, index), index, round(float(scores[index]), 4)) for index in order]
    if prediction.multi_label:
        return {
            "predictions": {name: {"confidence": score, "class_id": index} for name, index, score in ranked},
            "predicted_classes": [name for name, _, score in ranked if score >= MULTI_LABEL_THRESHOLD],
        }
    items = [{"class": name, "class_id": index, "confidence": score} for name, index, score in ranked]
    top = items[0] if items else {"class": "", "confidence": 0.0}
    return {"predictions": items, "top": top["class"], "confidence": top["confidence"]}


def _semantic_mask(prediction: SemanticMask) -> dict[str, Any]:
    present = np.unique(prediction.class_map).tolist()
    names = prediction.names
    said = {
        "segmentation_mask": png_base64(prediction.class_map),
        "class_map": {str(index): label_of(names, index) for index in present},
    }
    if prediction.confidence is not None:
        said["confidence_mask"] = png_base64(prediction.confidence)
    return {"predictions": said | {"present_class_ids": present}}


def finite(vector: npt.NDArray[np.float32]) -> list[float | None]:
    """The vector with 7 decimals; null for what is no number."""
    values: list[float | None] = vector.astype(np.float64).round(7).tolist()
    if not np.isfinite(vector).all():
        values = [value if is_number else None for value, is_number in zip(values, np.isfinite(vector), strict=True)]
    return values
