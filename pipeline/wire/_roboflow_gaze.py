"""Roboflow's gaze model: faces, and where they look; as its answers, and as detections."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.contracts.frame import Size
from pipeline.contracts.result import Detections
from pipeline.wire._roboflow_decode import MAX_OBJECTS, box_of
from pipeline.wire.document import items, mapping, number

LANDMARKS = ("right_eye", "left_eye", "nose", "mouth", "right_ear", "left_ear")
"""The face's points in the order of the gaze model (MediaPipe's face detector)."""

MAX_LANDMARKS = 1000


@dataclass(frozen=True, slots=True)
class Gaze:
    """One face and where it looks.

    Attributes:
        box: left, top, right, bottom in pixels.
        confidence: that it is a face, 0..1.
        landmarks: x, y of its points, in the order of `LANDMARKS`.
        yaw: radians; positive where the eyes turn to the left of the picture.
        pitch: radians; positive where they look up.
    """

    box: tuple[float, float, float, float]
    confidence: float
    landmarks: tuple[tuple[float, float], ...]
    yaw: float
    pitch: float


def encode_gazes(gazes: Sequence[Gaze], time_s: float) -> dict[str, Any]:
    """The answer of `/gaze/gaze_detection` for one picture."""
    predictions = []
    for gaze in gazes:
        left, top, right, bottom = gaze.box
        face = {
            "x": (left + right) / 2,
            "y": (top + bottom) / 2,
            "width": right - left,
            "height": bottom - top,
            "confidence": gaze.confidence,
            "class": "face",
            "class_confidence": None,
            "landmarks": [{"x": x, "y": y} for x, y in gaze.landmarks],
        }
        predictions.append({"face": face, "yaw": gaze.yaw, "pitch": gaze.pitch})
    times = {"time": round(time_s, 6), "time_face_det": None, "time_gaze_det": None}
    return {"predictions": predictions, **times}


def decode_gazes(document: object) -> list[Gaze]:
    """The same read. Raises ValueError."""
    found = []
    for value in items(mapping(document, "the answer").get("predictions"), "predictions", MAX_OBJECTS):
        item = mapping(value, "a prediction")
        face = mapping(item.get("face"), "face of a prediction")
        points = [mapping(point, "a landmark") for point in items(face.get("landmarks"), "landmarks", MAX_LANDMARKS)]
        landmarks = tuple((number(point.get("x"), "x"), number(point.get("y"), "y")) for point in points)
        score = number(face.get("confidence"), "confidence")
        if not 0 <= score <= 1.001:
            raise ValueError(f"a confidence of {score:g} is none: it goes from 0 to 1")
        yaw, pitch = number(item.get("yaw"), "yaw"), number(item.get("pitch"), "pitch")
        found.append(Gaze(box_of(face), min(score, 1.0), landmarks, yaw, pitch))
    return found


def gaze_detections(gazes: Sequence[Gaze], size: Size) -> Detections:
    """Faces with their landmarks as keypoints, and as the last one, "gaze", where a look as long as the face ends.

    Arrows that would leave the picture end at its edge, in the same direction.
    """
    count = max((len(gaze.landmarks) for gaze in gazes), default=len(LANDMARKS))
    points = np.full((len(gazes), count + 1, 3), np.nan, np.float32)
    for row, gaze in zip(points, gazes, strict=True):
        for place, (x, y) in enumerate(gaze.landmarks):
            row[place] = x, y, gaze.confidence
        row[count] = *_arrow(gaze, size), gaze.confidence
    names = (*LANDMARKS[:count], *(f"landmark_{index}" for index in range(len(LANDMARKS), count)), "gaze")
    return Detections(
        xyxy=np.array([gaze.box for gaze in gazes], np.float32).reshape(-1, 4),
        confidence=np.array([gaze.confidence for gaze in gazes], np.float32),
        class_id=np.zeros(len(gazes), np.int32),
        names=("face",),
        keypoints=points,
        keypoint_names=names,
    )


def _arrow(gaze: Gaze, size: Size) -> tuple[float, float]:
    """Where the look ends that begins in the middle of the face. Format: Roboflow's gaze example (its arrow)."""
    left, top, right, bottom = gaze.box
    x, y = min(max((left + right) / 2, 0), size.width), min(max((top + bottom) / 2, 0), size.height)
    length = right - left
    dx, dy = -length * math.sin(gaze.yaw) * math.cos(gaze.pitch), -length * math.sin(gaze.pitch)
    room = [1.0]
    for start, step, most in ((x, dx, size.width), (y, dy, size.height)):
        if step:
            room.append(((most if step > 0 else 0) - start) / step)
    ratio = max(0.0, min(room))
    return x + dx * ratio, y + dy * ratio
