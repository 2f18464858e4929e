"""Pictures on their way out, shrunk and encoded; what was found in them on its way back to the frame's own pixels."""

import io
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.backends._http import Sent
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask

_TOLERANCE_PX = 1.0  # formats with whole pixels round to the outside
_TOLERANCE_SCORE = 1e-3
_MAX_MASK_BYTES = 1 << 30
_MAX_CLASS_ID = 1 << 24


def sent_size(size: Size, longest_px: int | None) -> Size:
    """The size at which a picture goes out: its own, or with its longest side at `longest_px`. Never larger."""
    longest = max(size)
    if longest_px is None or longest <= longest_px:
        return size
    scale = longest_px / longest
    return Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def encode(frame: Frame, longest_px: int | None, file_format: Literal["jpeg", "png"], quality: int) -> Sent:
    """The frame's picture as a file. For workers' threads: takes milliseconds.

    One pass of the scaler from the decoder's YUV to the size that is sent, then libjpeg-turbo. Measured (1080p to
    720p): 5.4 ms by way of RGB, 8.9 ms by way of YCbCr 4:4:4, 9.1 ms with FFmpeg's own encoder.
    """
    from PIL import Image

    size = sent_size(frame.picture.size, longest_px)
    picture = Image.fromarray(frame.picture.rgb(size.width, size.height))
    buffer = io.BytesIO()
    if file_format == "png":
        picture.save(buffer, "PNG", compress_level=1)
        return Sent(frame, buffer.getvalue(), "image/png", size)
    picture.save(buffer, "JPEG", quality=quality)
    return Sent(frame, buffer.getvalue(), "image/jpeg", size)


def scaled_back(prediction: Prediction, sent: Size, original: Size) -> Prediction:
    """The prediction in pixels of the original frame, checked; the most confident object first.

    Boxes are clipped to the picture, those without an area are left out.

    Raises:
        ValueError: it makes no sense: numbers that are none, boxes outside of the picture, arrays that do not fit.
    """
    if isinstance(prediction, Detections):
        return _detections(prediction, sent, original)
    if isinstance(prediction, SemanticMask):
        return _semantic(prediction, sent, original)
    if isinstance(prediction, Classification):
        return _classification(prediction)
    if isinstance(prediction, Embedding):
        if prediction.vector.ndim != 1 or not np.isfinite(prediction.vector).all():
            raise ValueError("an embedding that is no row of numbers")
        return replace(prediction, vector=np.asarray(prediction.vector, np.float32))
    return prediction


def nearest(maps: npt.NDArray[np.generic], size: Size) -> npt.NDArray[np.generic]:
    """(..., H, W) maps at another size, each pixel that of the nearest one."""
    height, width = maps.shape[-2:]
    if (width, height) == size:
        return maps
    rows = ((np.arange(size.height) + 0.5) * (height / size.height)).astype(np.intp)
    columns = ((np.arange(size.width) + 0.5) * (width / size.width)).astype(np.intp)
    found: npt.NDArray[np.generic] = np.take(np.take(maps, rows, axis=-2), columns, axis=-1)
    return found


def _detections(found: Detections, sent: Size, original: Size) -> Detections:
    count = len(found.class_id)
    masks, keypoints, tracker_id = found.masks, found.keypoints, found.tracker_id
    _check_shapes(found, count, sent, original)
    boxes = np.asarray(found.xyxy, np.float64)
    if not np.isfinite(boxes).all():
        raise ValueError("a box with coordinates that are no numbers")
    confidence = _scores(found.confidence)
    if count and (found.class_id.min() < 0 or found.class_id.max() > _MAX_CLASS_ID):
        raise ValueError("a class number that cannot be")
    left, top, right, bottom = boxes.T
    if (left > right).any() or (top > bottom).any():
        raise ValueError("a box whose right or lower side comes before its left or upper one")
    beyond = (left > sent.width + _TOLERANCE_PX) | (top > sent.height + _TOLERANCE_PX)
    if (beyond | (right < -_TOLERANCE_PX) | (bottom < -_TOLERANCE_PX)).any():
        raise ValueError(f"a box that lies outside of the picture of {sent.width}x{sent.height}")
    across, down = original.width / sent.width, original.height / sent.height
    clipped = np.clip(boxes * (across, down, across, down), 0, (*original, *original)).astype(np.float32)
    keep = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    order = np.argsort(-confidence, kind="stable")
    order = order[keep[order]]
    if keypoints is not None:
        # A point without any number was not found: the skeleton keeps its place.
        if not np.isfinite(keypoints[~np.isnan(keypoints).all(axis=2)]).all():
            raise ValueError("a keypoint with coordinates that are no numbers")
        keypoints = (keypoints[order] * np.array((across, down, 1.0))).astype(np.float32)
    if masks is not None:
        masks = nearest(masks if np.array_equal(order, np.arange(count)) else masks[order], original)  # type: ignore[assignment]
    return replace(
        found,
        xyxy=clipped[order],
        confidence=confidence[order],
        class_id=found.class_id[order].astype(np.int32),
        masks=masks,
        keypoints=keypoints,
        tracker_id=None if tracker_id is None else tracker_id[order].astype(np.int32),
    )


def _check_shapes(found: Detections, count: int, sent: Size, original: Size) -> None:
    if found.class_id.shape != (count,) or found.xyxy.shape != (count, 4) or found.confidence.shape != (count,):
        raise ValueError("boxes, confidences and classes that do not belong together")
    if found.masks is not None:
        if found.masks.shape != (count, sent.height, sent.width) or found.masks.dtype != np.bool_:
            raise ValueError(f"masks of {found.masks.shape} for {count} objects on {sent.width}x{sent.height}")
        if count * original.width * original.height > _MAX_MASK_BYTES:
            raise ValueError(f"{count} masks are too many")
    points = found.keypoints
    if points is not None and (points.ndim != 3 or points.shape[0] != count or points.shape[2] != 3):
        raise ValueError(f"keypoints of {points.shape} for {count} objects")
    if found.tracker_id is not None and found.tracker_id.shape != (count,):
        raise ValueError("tracker numbers that do not belong to the boxes")


def _semantic(found: SemanticMask, sent: Size, original: Size) -> SemanticMask:
    shape = (sent.height, sent.width)
    if found.class_map.shape != shape or (found.confidence is not None and found.confidence.shape != shape):
        raise ValueError(f"a class map of {found.class_map.shape} for a picture of {sent.width}x{sent.height}")
    if found.class_map.size and found.class_map.min() < 0:
        raise ValueError("a class number that cannot be")
    sure = found.confidence
    return replace(
        found,
        class_map=nearest(found.class_map, original).astype(np.int32, copy=False),
        confidence=None if sure is None else nearest(sure, original).astype(np.uint8, copy=False),
    )


def _classification(found: Classification) -> Classification:
    if found.scores.ndim != 1 or (found.names and len(found.names) != len(found.scores)):
        raise ValueError("scores that do not belong to the classes")
    return replace(found, scores=_scores(found.scores))


def _scores(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32, 0..1."""
    values = np.asarray(scores, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a confidence that is no number")
    if values.size and (values.min() < -_TOLERANCE_SCORE or values.max() > 1 + _TOLERANCE_SCORE):
        raise ValueError("a confidence that is not between 0 and 1")
    return np.clip(values, 0.0, 1.0).astype(np.float32)
