"""Draws what a style asks for straight into 8-bit 4:2:0 planes: areas, points and lines, then boxes, then labels."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.contracts.analysis import Direction, Scene
from pipeline.contracts.frame import ColorMatrix, Size
from pipeline.contracts.result import Classification, Detections, Prediction, Text, label_of
from sinks._brush import Brush, Cells
from sinks._colors import Rgb, class_color, hex_color
from sinks._planes import Planes
from sinks._style import (
    BoxStep,
    KeypointStep,
    LabelStep,
    LineStep,
    MaskStep,
    Style,
    TraceStep,
    ZoneStep,
)

Path = npt.NDArray[np.float64]
"""Where an object came from: float (N, 2), x and y in pixels, oldest first."""

_CACHED = 512
_NO_ZONE: Mapping[str, int] = {}
_WAYS: tuple[Direction, Direction] = ("in", "out")


class Painter:
    """Draws predictions into pictures of one size and colour. Made for each kind of picture, used by one thread at a
    time.

    Args:
        size: of the planes, even.
        matrix: of the planes.
        full_range: of the planes.
        style: what to draw; its privacy steps and its annotators are drawn by others, before.
    """

    def __init__(self, size: Size, matrix: ColorMatrix, *, full_range: bool, style: Style) -> None:
        self._style = style
        self._brush = Brush(size, matrix, full_range=full_range)
        self._class_color = functools.lru_cache(maxsize=_CACHED)(class_color)
        self._shape = functools.lru_cache(maxsize=_CACHED)(self._rastered)
        self._area = functools.lru_cache(maxsize=16)(self._filled)

    @property
    def thickness_px(self) -> int:
        """Of a line, where nothing else is asked for."""
        return self._brush.thickness_px

    def paint(
        self,
        planes: Planes,
        prediction: Prediction,
        scene: Scene | None = None,
        paths: Mapping[int, Path] | None = None,
    ) -> None:
        """Draw what there is to draw; embeddings and class maps have nothing.

        Args:
            planes: writable, of the painter's size.
            prediction: what was found.
            scene: zones and lines.
            paths: by row of the detections, where the object came from.
        """
        found = prediction if isinstance(prediction, Detections) else None
        for step in self._style.marks:
            if isinstance(step, ZoneStep | LineStep):
                if scene is not None:
                    self._paint_scene(planes, scene, step)
            elif found is not None:
                self._paint_mark(planes, found, step, paths or {})
        if found is not None:
            self._paint_detections(planes, found)
        elif self._style.labels:
            self._paint_caption(planes, prediction)

    def _paint_caption(self, planes: Planes, prediction: Prediction) -> None:
        match prediction:
            case Classification() if len(prediction.scores):
                best = int(np.nan_to_num(prediction.scores, nan=-1.0).argmax())
                text = f"{label_of(prediction.names, best)} {prediction.scores[best]:.2f}"
                self._brush.text(planes, text, self._class_color(best), 0, 0)
            case Text() if prediction.text:
                self._brush.text(planes, prediction.text, self._class_color(0), 0, 0)
            case _:
                pass

    def _paint_detections(self, planes: Planes, found: Detections) -> None:
        if not (self._style.boxes or self._style.labels):
            return
        boxes, indices = self._brush.visible(found.xyxy)
        # The most confident come first in `found`: drawn last, they are on top. Labels lie over all boxes.
        rows = list(zip(boxes.tolist(), indices.tolist(), strict=True))[::-1]
        class_ids = found.class_id.tolist()
        tracks = None if found.tracker_id is None else found.tracker_id.tolist()
        for step in self._style.boxes:
            line_px = self._line_px(step)
            for box, row in rows:
                if _is_wanted(found, row, step.classes):
                    color = self._brush.color(self._rgb(step.color, class_ids[row], tracks, row))
                    self._brush.frame(planes, box, color, line_px)
        for label in self._style.labels:
            for (left, top, _, _), row in rows:
                if _is_wanted(found, row, label.classes):
                    rgb = self._rgb(label.color, class_ids[row], tracks, row)
                    self._brush.text(planes, _text(found, row, tracks, label), rgb, left, top, above=True)

    def _paint_mark(
        self, planes: Planes, found: Detections, step: MaskStep | KeypointStep | TraceStep, paths: Mapping[int, Path]
    ) -> None:
        brush = self._brush
        tracks = None if found.tracker_id is None else found.tracker_id.tolist()
        for row in _rows(found, step.classes):
            color = brush.color(self._rgb(step.color, int(found.class_id[row]), tracks, row))
            match step:
                case MaskStep() if found.masks is not None:
                    brush.tint(planes, found.masks[row], color, step.opacity)
                case KeypointStep() if found.keypoints is not None:
                    points = found.keypoints[row]
                    with np.errstate(invalid="ignore"):
                        sure = points[points[:, 2] >= step.min_confidence]
                    radius_px = step.radius_px or 2 * brush.thickness_px
                    brush.fill(planes, brush.disc(sure[:, :2].astype(np.float64), radius_px), color)
                case TraceStep() if row in paths and len(paths[row]) > 1:
                    brush.fill(planes, brush.line(paths[row], self._line_px(step)), color)
                case _:
                    pass

    def _paint_scene(self, planes: Planes, scene: Scene, step: ZoneStep | LineStep) -> None:
        rgb = hex_color(step.color)
        color = self._brush.color(rgb)
        shapes = scene.zone_shapes if isinstance(step, ZoneStep) else scene.line_shapes
        for name, corners in shapes.items():
            points, line_px = tuple(corners), step.thickness_px or self.thickness_px
            if isinstance(step, ZoneStep) and step.opacity:
                self._brush.tint(planes, self._area(points), color, step.opacity)
            cells = self._shape(points, line_px, isinstance(step, ZoneStep))
            self._brush.fill(planes, cells, color)
            if step.counts:
                left, top = (
                    round(share * side / 2) * 2 for share, side in zip(points[0], self._brush.size, strict=True)
                )
                self._brush.text(planes, _count(scene, name, step), rgb, left, top)

    def _rastered(self, shares: tuple[tuple[float, float], ...], line_px: int, closed: bool) -> Cells:
        return self._brush.line(np.array(shares, np.float64) * self._brush.size, line_px, closed=closed)

    def _filled(self, shares: tuple[tuple[float, float], ...]) -> npt.NDArray[np.bool_]:
        from PIL import Image, ImageDraw

        width, height = self._brush.size
        image = Image.new("1", (width, height))
        ImageDraw.Draw(image).polygon([(x * width, y * height) for x, y in shares], fill=1)
        return np.asarray(image)

    def _line_px(self, step: BoxStep | TraceStep) -> int:
        return self.thickness_px if step.thickness_px is None else -(-step.thickness_px // 2) * 2

    def _rgb(self, color: str, class_id: int, tracks: Sequence[int] | None, row: int) -> Rgb:
        if color == "class" or (color == "track" and (tracks is None or tracks[row] < 0)):
            return self._class_color(class_id)
        return self._class_color(tracks[row]) if color == "track" and tracks is not None else hex_color(color)


def _is_wanted(found: Detections, row: int, classes: Sequence[str] | None) -> bool:
    return classes is None or found.label(row) in classes


def _rows(found: Detections, classes: Sequence[str] | None) -> Iterator[int]:
    """The rows of these classes, the most confident last."""
    return (row for row in reversed(range(len(found))) if _is_wanted(found, row, classes))


def _text(found: Detections, row: int, tracks: Sequence[int] | None, step: LabelStep) -> str:
    words = []
    for part in step.show:
        if part == "track" and tracks is not None and tracks[row] >= 0:
            words.append(f"#{tracks[row]}")
        elif part == "class":
            words.append(found.label(row))
        elif part == "confidence":
            words.append(f"{found.confidence[row]:.2f}")
    return " ".join(words)


def _count(scene: Scene, name: str, step: ZoneStep | LineStep) -> str:
    if isinstance(step, ZoneStep):
        return f"{name} {sum(scene.occupancy.get(name, _NO_ZONE).values())}"
    crossed = scene.crossed.get(name, {})
    count_in, count_out = (sum(crossed.get(way, _NO_ZONE).values()) for way in _WAYS)
    return f"{name} in {count_in}, out {count_out}"
