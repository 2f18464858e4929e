"""supervision's annotators: slower than drawing in YUV, and there for what `_draw` does not draw."""

import dataclasses
import importlib.util
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.contracts.errors import FatalError
from pipeline.contracts.frame import Picture, YuvPlanes
from pipeline.contracts.result import Detections
from sinks._planes import planes_of
from sinks._style import SupervisionStep

if TYPE_CHECKING:
    import supervision as sv

CLASSES = {
    "background_overlay": "BackgroundOverlayAnnotator",
    "box_corner": "BoxCornerAnnotator",
    "circle": "CircleAnnotator",
    "color": "ColorAnnotator",
    "dot": "DotAnnotator",
    "ellipse": "EllipseAnnotator",
    "halo": "HaloAnnotator",
    "heat_map": "HeatMapAnnotator",
    "percentage_bar": "PercentageBarAnnotator",
    "polygon": "PolygonAnnotator",
    "round_box": "RoundBoxAnnotator",
    "triangle": "TriangleAnnotator",
}

_NEEDS_MASKS = frozenset({"halo", "polygon"})


class _Annotator(Protocol):
    def annotate(self, scene: npt.NDArray[np.uint8], detections: "sv.Detections") -> npt.NDArray[np.uint8]: ...


def is_slow() -> bool:
    """Whether supervision has to do without OpenCV, some hundred times slower."""
    return importlib.util.find_spec("cv2") is None


class Annotators:
    """The annotators of one source, in the order of the config. They remember (traces, heat): one set for each source.

    Args:
        steps: which ones.
    """

    def __init__(self, steps: Sequence[SupervisionStep]) -> None:
        from av.video.reformatter import VideoReformatter

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is slow without OpenCV: the sink says so itself, once
            import supervision as sv

            self._annotators: list[tuple[SupervisionStep, _Annotator]] = [
                (step, getattr(sv, CLASSES[step.type])()) for step in steps
            ]
        self._converter = VideoReformatter()

    def annotate(self, picture: Picture, found: Detections, colors: YuvPlanes) -> YuvPlanes:
        """A copy of the picture with everything drawn on it, as 8-bit 4:2:0 planes in matrix and range of `colors`.

        Raises:
            FatalError: an annotator failed; its message says which.
        """
        scene: Any = picture.bgr().copy()
        for step, annotator in self._annotators:
            if step.type in _NEEDS_MASKS and found.masks is None:
                continue
            shown = found
            if step.classes is not None:
                shown = found.picked([row for row in range(len(found)) if found.label(row) in step.classes])
            try:
                scene = annotator.annotate(scene, shown.to_supervision())
            except Exception as error:  # a library of drawings, fed by a model: no telling what it raises
                raise FatalError(f"annotator {step.type!r} failed: {type(error).__name__}: {error}") from error
        return self._to_yuv(np.ascontiguousarray(scene), colors)

    def _to_yuv(self, bgr: npt.NDArray[np.uint8], colors: YuvPlanes) -> YuvPlanes:
        import av
        from av.video.reformatter import ColorRange, Colorspace

        spaces = {"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709, "bt2020": Colorspace.BT2020}
        frame = self._converter.reformat(
            av.VideoFrame.from_ndarray(bgr, format="bgr24"),
            format="yuv420p",
            dst_colorspace=spaces[colors.matrix],
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if colors.full_range else ColorRange.MPEG,
            threads=1,
        )
        y, u, v = planes_of(frame)
        return dataclasses.replace(colors, y=y, u=u, v=v)
