"""`Drawing`: what a sink has drawn on pictures, on a copy, once for all sinks that show the same; and JPEGs of it."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pipeline.contracts.analysis import Scene
from pipeline.contracts.event import ObjectEvent
from pipeline.contracts.frame import NoPicture, Picture, Size, YuvPlanes
from pipeline.contracts.result import Detections, Prediction, Result
from sinks._annotators import Annotators
from sinks._draw import Painter, Path
from sinks._jpeg import Box, as_frame, cut_of, cut_picture, cut_prediction, cut_scene, encoded
from sinks._planes import Planes, copy_planes
from sinks._privacy import hide
from sinks._style import Style, TraceStep
from sinks._traces import Traces

_PAINTERS = 8
_NO_PATHS: Mapping[int, Path] = {}


class _View(NamedTuple):
    """What is to be drawn, and on which picture.

    Attributes:
        source: name of the source.
        planes: the picture, read-only.
        picture: the same, for annotators that need it in RGB; None: it has to be made of the planes.
        prediction: what to draw.
        everything: all that is in the picture, for who hides something; None: not known.
        scene: zones and lines, and what tracked objects are taken for.
        paths: where the objects came from, by row.
    """

    source: str
    planes: YuvPlanes
    picture: Picture | None
    prediction: Prediction
    everything: Prediction | None
    scene: Scene | None
    paths: Mapping[int, Path]


class Drawing:
    """Draws one style. Made by a sink in its `open` (it loads fonts), used by the sink's thread only.

    Args:
        style: what to draw.
    """

    def __init__(self, style: Style) -> None:
        self._style = style
        self._painters: OrderedDict[tuple[Style, Size, str, bool], Painter] = OrderedDict()
        self._annotators: dict[str, Annotators] = {}  # by source: heat maps remember
        lengths_s = [step.length_s for step in style.marks if isinstance(step, TraceStep)]
        self._traces = Traces(max(lengths_s)) if lengths_s else None

    def draw(self, result: Result, onto: Planes, planes: YuvPlanes | None = None) -> None:
        """Copy the picture into `onto`, which is as large, or one row or column larger to be even, and draw there.

        Args:
            result: with its picture.
            onto: writable.
            planes: of the picture, where the sink has asked for them already.

        Raises:
            FatalError: it cannot be drawn, and will not be.
            TransientError: this picture cannot be drawn, or must not be shown.
        """
        # Also where another sink has drawn it: the next one may be this sink's.
        paths = _NO_PATHS if self._traces is None else self._traces.follow(result)
        if result.shared is None or self._style.remembers:
            self._draw(self._view(result, paths, planes), onto, self._style)
            return
        drawn = result.shared.once(
            (self._style, result.prediction, onto.y.shape),
            lambda: self._on_fresh(self._view(result, paths, planes), onto),
        )
        for to, of in zip(onto, drawn, strict=True):
            to[:] = of

    def jpeg(
        self,
        item: Result | ObjectEvent,
        *,
        max_size: int | None = None,
        quality: int = 85,
        boxes: bool = True,
        crop: Box | None = None,
    ) -> bytes:
        """The picture of a result or event as JPEG, with what was found in it, or with the event's object alone.

        Nothing where the item has no picture: the end of an event has none.

        Args:
            item: with its picture.
            max_size: the longer side has at most so many pixels.
            quality: 1 to 95.
            boxes: draw more than what hides something.
            crop: only this part of the picture.

        Raises:
            FatalError, TransientError: as `draw`.
        """
        frame = item.frame
        if isinstance(frame.picture, NoPicture):
            return b""
        cut = cut_of(frame.picture.size, crop, max_size)
        planes = cut_picture(frame.picture.yuv420p(), cut)
        result = item if isinstance(item, Result) else item.result
        everything = None if result is None else _everything(result)
        view = _View(
            source=frame.source,
            planes=planes,
            picture=None,
            prediction=cut_prediction(_told(item), cut),
            everything=None if everything is None else cut_prediction(everything, cut),
            scene=cut_scene(None if result is None else result.scene, cut, frame.picture.size),
            paths=_NO_PATHS,
        )
        onto = _blank(cut.size)
        self._draw(view, onto, self._style if boxes else Style(privacy=self._style.privacy))
        return encoded(onto, planes, cut.size, quality)

    def forget(self, source: str) -> None:
        """This source is over."""
        self._annotators.pop(source, None)
        if self._traces is not None:
            self._traces.forget(source)

    def _view(self, result: Result, paths: Mapping[int, Path], planes: YuvPlanes | None) -> _View:
        picture = result.frame.picture
        return _View(
            source=result.frame.source,
            planes=picture.yuv420p() if planes is None else planes,
            picture=picture,
            prediction=result.prediction,
            everything=_everything(result),
            scene=result.scene,
            paths=paths,
        )

    def _on_fresh(self, view: _View, like: Planes) -> Planes:
        fresh = Planes(*(np.empty(plane.shape, np.uint8) for plane in like))
        self._draw(view, fresh, self._style)
        return fresh

    def _draw(self, view: _View, onto: Planes, style: Style) -> None:
        copy_planes(onto, view.planes)
        if style.privacy:
            hide(onto, view.everything, style.privacy, view.scene)
        if style.supervision and isinstance(view.prediction, Detections):
            self._annotate(view, view.prediction, onto, style)
        if style.marks or style.boxes or style.labels:
            self._painter(view.planes, onto, style).paint(onto, view.prediction, view.scene, view.paths)

    def _annotate(self, view: _View, found: Detections, onto: Planes, style: Style) -> None:
        from pipeline.models.picture import VideoPicture

        if view.source not in self._annotators:
            self._annotators[view.source] = Annotators(style.supervision)
        picture, colors = view.picture, view.planes
        if picture is None or style.privacy:  # what was hidden stays hidden
            height, width = colors.y.shape
            half = np.s_[: (height + 1) // 2, : (width + 1) // 2]
            frame = as_frame(YuvPlanes(onto.y[:height, :width], onto.u[half], onto.v[half], colors.matrix, False))
            frame.colorspace = {"bt601": 5, "bt709": 1, "bt2020": 9}[colors.matrix]  # ITU-T H.273, table 4
            frame.color_range = 2 if colors.full_range else 1
            picture = VideoPicture(frame)
        copy_planes(onto, self._annotators[view.source].annotate(picture, found, colors))

    def _painter(self, like: YuvPlanes, onto: Planes, style: Style) -> Painter:
        height, width = onto.y.shape
        key = (style, Size(width, height), like.matrix, like.full_range)
        painter = self._painters.pop(key, None)
        if painter is None:
            painter = Painter(key[1], like.matrix, full_range=like.full_range, style=style)
        self._painters[key] = painter
        if len(self._painters) > _PAINTERS:
            self._painters.popitem(last=False)
        return painter


def _blank(size: Size) -> Planes:
    width, height = (side + side % 2 for side in size)
    half = (height // 2, width // 2)
    return Planes(np.empty((height, width), np.uint8), np.empty(half, np.uint8), np.empty(half, np.uint8))


def _everything(result: Result) -> Prediction:
    """What the model found, whatever of it this sink is about."""
    return result.prediction if result.unfiltered is None else result.unfiltered


def _told(item: Result | ObjectEvent) -> Prediction:
    """What the item is about: of an event its object, where that is in the picture."""
    if isinstance(item, Result):
        return item.prediction
    found = None if item.result is None else item.result.prediction
    names = found.names if isinstance(found, Detections) and found.names else (item.class_name,)
    class_id = names.index(item.class_name) if item.class_name in names else len(names)
    names = names if item.class_name in names else (*names, item.class_name)
    return Detections(
        xyxy=np.array([item.xyxy], np.float32),
        confidence=np.array([item.confidence], np.float32),
        class_id=np.array([class_id], np.int32),
        names=names,
        tracker_id=None if item.tracker_id is None else np.array([item.tracker_id], np.int32),
    )
