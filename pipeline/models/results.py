"""The JSON form of a `Result`: a Roboflow inference response with Penstock's envelope around it.

One result is one object on one line of strict JSON (ASCII, no NaN). Its keys are, in this order:

| key | what |
|---|---|
| `schema` | `"penstock.result/1"`; the number goes up when a key changes its meaning, not when one is added |
| `id` | unique to the result, the same in every sink |
| `source`, `frame_id` | name of the source, and the frame's number in it from 0, counted as decoded |
| `pts_s` | position in the source's timeline in seconds, or null |
| `captured_at`, `time_source` | RFC 3339 in UTC with milliseconds, and where that time comes from |
| `path` | the file that the frame was read from; left out for cameras |
| `corrupt` | true where the decoder concealed damage in the frame; left out otherwise |
| `backend`, `model`, `config_hash` | who answered, under which configuration |
| `latency_s`, `time` | seconds from the decoder to the answer, and of those for inference |
| `image` | `{"width", "height"}` of the original, upright frame in pixels |
| `predictions` | as in a Roboflow response of the same task; empty where the task has no objects |

Objects: `x`, `y` (centre), `width`, `height` in pixels of the original frame, `confidence`, `class`, `class_id`,
`detection_id`, and where they exist `tracker_id`, `keypoints` and `rle` (COCO's run lengths, with
`mask_format = "rle"`). An object whose box or score is not a finite number cannot be written: it is left out and
counted in `invalid_predictions`.

Where a sink writes events as well, such a line is told by its schema, `"penstock.event/1"`: see `event_line`.

Format: Roboflow inference, `ObjectDetectionInferenceResponse` and its sisters.
"""

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.result import (
    Classification,
    Detections,
    Embedding,
    Prediction,
    Result,
    SemanticMask,
    Text,
    label_of,
)
from pipeline.contracts.sink import SourceEvent
from pipeline.models.masks import encode_rle, png_base64

SCHEMA = "penstock.result/1"
EVENT_SCHEMA = "penstock.event/1"
TOP_CLASSES = 10
"""How many classes of a classification are written at the most (and every one that a multi-label model says yes to)."""

_MULTI_LABEL_THRESHOLD = 0.5
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def to_line(result: Result) -> str:
    """The result as one line of JSON, without the newline."""
    return _encode(to_dict(result))


def to_dict(result: Result) -> dict[str, Any]:
    """The result as a dict that `json.dumps(..., allow_nan=False)` takes."""
    frame = result.frame
    width, height = frame.picture.size
    envelope: dict[str, Any] = {
        "schema": SCHEMA,
        "id": result.id,
        "source": frame.source,
        "frame_id": frame.seq,
        "pts_s": _seconds(frame.pts_s),
        "captured_at": rfc3339(frame.captured_at),
        "time_source": frame.time_source,
    }
    if frame.path is not None:
        envelope["path"] = _printable(frame.path)
    if frame.corrupt:
        envelope["corrupt"] = True
    envelope |= {
        "backend": result.backend,
        "model": result.model,
        "config_hash": result.config_hash,
        "latency_s": _seconds(result.latency_s),
        "time": _seconds(result.inference_s),
        "image": {"width": width, "height": height},
    }
    return envelope | prediction_dict(result.prediction, result.id)


def event_line(event: SourceEvent) -> str:
    """The event as one line of JSON, without the newline: `event` is "state" or "content", `value` what it is now."""
    return _encode(
        {
            "schema": EVENT_SCHEMA,
            "id": event.id,
            "event": event.kind,
            "source": event.source,
            "value": event.value,
            "code": event.code,
            "detail": _printable(event.detail),
            "at": rfc3339(event.at),
        }
    )


def prediction_dict(prediction: Prediction, result_id: str) -> dict[str, Any]:
    """The part of the response that is about what the model said: `predictions` and the keys beside it."""
    match prediction:
        case Detections():
            return _detections(prediction, result_id)
        case Classification():
            return _classification(prediction)
        case SemanticMask():
            return _semantic_mask(prediction)
        case Embedding():
            return {"predictions": [], "embeddings": [_finite(prediction.vector)]}
        case Text():
            return {"predictions": [], "result": prediction.text}


def rfc3339(unix_s: float) -> str | None:
    """Unix seconds as `2026-01-31T12:34:56.789Z`; None for what is no date, such as a camera's broken clock."""
    try:
        # isoformat cuts off what is behind the milliseconds: round first.
        return datetime.fromtimestamp(round(unix_s, 3), UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    except (OverflowError, ValueError, OSError):
        return None


def _detections(found: Detections, result_id: str) -> dict[str, Any]:
    corners = found.xyxy.astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    # 2 decimals of a pixel and 4 of a score are more than any model knows; one `tolist` instead of K x 5 scalars.
    boxes = np.hstack([(corners[:, :2] + corners[:, 2:]) / 2, sides]).round(2).tolist()
    scores = found.confidence.astype(np.float64).round(4).tolist()
    names, prefix = found.names, result_id + "."
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
            item["keypoints"] = _keypoints(points)
    if found.masks is not None:
        for item, mask in zip(predictions, found.masks, strict=True):
            item["mask_format"] = "rle"
            item["rle"] = {"size": list(mask.shape), "counts": encode_rle(mask)}
    if np.isfinite(corners).all() and np.isfinite(found.confidence).all():
        return {"predictions": predictions}
    good = np.isfinite(corners).all(axis=1) & np.isfinite(found.confidence)
    kept = [item for item, is_good in zip(predictions, good.tolist(), strict=True) if is_good]
    return {"predictions": kept, "invalid_predictions": len(predictions) - len(kept)}


def _keypoints(points: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
    """float32 (P, 3) x, y, confidence as Roboflow writes them; a point that is no number was not found and is left out.

    `class_id` is the point's place in the skeleton, so that nothing moves when one is left out.
    """
    rows = points.astype(np.float64).round(4).tolist()
    return [
        {"x": round(x, 2), "y": round(y, 2), "confidence": score, "class_id": index, "class": str(index)}
        for index, (x, y, score) in enumerate(rows)
        if x - x + y - y + score - score == 0.0  # finite, all three
    ]


def _classification(prediction: Classification) -> dict[str, Any]:
    scores = np.nan_to_num(prediction.scores.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0)
    count = min(TOP_CLASSES, len(scores))
    if prediction.multi_label:
        count = max(count, int((scores >= _MULTI_LABEL_THRESHOLD).sum()))
    order = np.argsort(-scores, kind="stable")[:count].tolist()
    names = prediction.names
    ranked = [(label_of(names, index), index, round(float(scores[index]), 4)) for index in order]
    if prediction.multi_label:
        return {
            "predictions": {name: {"confidence": score, "class_id": index} for name, index, score in ranked},
            "predicted_classes": [name for name, _, score in ranked if score >= _MULTI_LABEL_THRESHOLD],
        }
    items = [{"class": name, "class_id": index, "confidence": score} for name, index, score in ranked]
    top = items[0] if items else {"class": "", "confidence": 0.0}
    return {"predictions": items, "top": top["class"], "confidence": top["confidence"]}


def _semantic_mask(prediction: SemanticMask) -> dict[str, Any]:
    present = np.unique(prediction.class_map).tolist()
    names = prediction.names
    return {
        "predictions": {
            "segmentation_mask": png_base64(prediction.class_map),
            "class_map": {str(index): label_of(names, index) for index in present},
            "present_class_ids": present,
        }
    }


def _finite(vector: npt.NDArray[np.float32]) -> list[float | None]:
    """The vector with 7 decimals; null for what is no number."""
    values: list[float | None] = vector.astype(np.float64).round(7).tolist()
    if not np.isfinite(vector).all():
        values = [value if is_number else None for value, is_number in zip(values, np.isfinite(vector), strict=True)]
    return values


def _seconds(value: float | None) -> float | None:
    """Rounded to a microsecond; None for what is no number."""
    return None if value is None or value - value != 0.0 else round(value, 6)


def _printable(path: str) -> str:
    """The path as Unicode: bytes that are no UTF-8 become the replacement character, never a lone surrogate."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
