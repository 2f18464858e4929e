"""Gazes as Roboflow's `/gaze/gaze_detection` writes them, out of faces with keypoints."""

import math

from pipeline.contracts.frame import Size
from pipeline.contracts.result import Detections
from pipeline.wire.roboflow import Gaze

ARROW = "gaze"
"""The last keypoint of a face: where a look ends that begins in the middle of the face and is as long as that."""

_EDGE_PX = 0.01


def gazes_of(found: Detections, size: Size) -> list[Gaze] | None:
    """The faces with the angles that their arrows show; the inverse of the wire's `gaze_detections`.

    An arrow that ends at the picture's edge may have been cut off there, and says nothing about the angles: they are
    NaN then. None where these are no faces with arrows.
    """
    if found.keypoints is None or not found.keypoint_names or found.keypoint_names[-1] != ARROW:
        return None
    gazes = []
    for xyxy, score, points in zip(found.xyxy.tolist(), found.confidence.tolist(), found.keypoints, strict=True):
        left, top, right, bottom = xyxy
        landmarks = tuple((x, y) for x, y, _ in points[:-1].tolist() if math.isfinite(x + y))
        yaw, pitch = _angles((left, top, right, bottom), tuple(points[-1, :2].tolist()), size)
        gazes.append(Gaze((left, top, right, bottom), score, landmarks, yaw, pitch))
    return gazes


def _angles(box: tuple[float, float, float, float], end: tuple[float, float], size: Size) -> tuple[float, float]:
    """Yaw and pitch in radians."""
    left, top, right, bottom = box
    length = right - left
    cut = min(end[0], end[1], size.width - end[0], size.height - end[1]) <= _EDGE_PX
    if length <= 0 or cut or not math.isfinite(end[0] + end[1]):
        return math.nan, math.nan
    dx, dy = (end[0] - (left + right) / 2) / length, (end[1] - (top + bottom) / 2) / length
    pitch = -math.asin(max(-1.0, min(1.0, dy)))
    across = math.cos(pitch)
    yaw = -math.asin(max(-1.0, min(1.0, dx / across))) if across > 1e-6 else 0.0
    return yaw, pitch
