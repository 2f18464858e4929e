"""supervision's annotators by name: slower than drawing in YUV, and there for what `_draw` does not draw."""

import dataclasses
import difflib
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

if TYPE_CHECKING:
    import supervision as sv

DRAWN_IN_YUV = ("box", "label")
CLASSES = {
    "background_overlay": "BackgroundOverlayAnnotator",
    "blur": "BlurAnnotator",
    "box_corner": "BoxCornerAnnotator",
    "circle": "CircleAnnotator",
    "color": "ColorAnnotator",
    "dot": "DotAnnotator",
    "ellipse": "EllipseAnnotator",
    "halo": "HaloAnnotator",
    "heat_map": "HeatMapAnnotator",
    "mask": "MaskAnnotator",
    "percentage_bar": "PercentageBarAnnotator",
    "pixelate": "PixelateAnnotator",
    "polygon": "PolygonAnnotator",
    "round_box": "RoundBoxAnnotator",
    "trace": "TraceAnnotator",
    "triangle": "TriangleAnnotator",
}

_NEEDS_TRACKS = frozenset({"trace"})
_NEEDS_MASKS = frozenset({"halo", "mask", "polygon"})


class _Annotator(Protocol):
    def annotate(self, scene: npt.NDArray[np.uint8], detections: "sv.Detections") -> npt.NDArray[np.uint8]: ...


def check_name(name: str) -> str:
    """`name`, if there is such an annotator.

    Raises:
        ValueError: there is none; with the nearest and all names.
    """
    known = sorted([*DRAWN_IN_YUV, *CLASSES])
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown annotator {name!r}{hint}; there are {', '.join(known)}")


def is_slow() -> bool:
    """Whether supervision has to do without OpenCV, some hundred times slower."""
    return importlib.util.find_spec("cv2") is None


class Annotators:
    """The annotators of one source, in the order of the config. They remember (traces, heat): one set for each source.

    Args:
        names: from `CLASSES`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        from av.video.reformatter import VideoReformatter

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is slow without OpenCV: the sink says so itself, once
            import supervision as sv

            self._annotators: list[tuple[str, _Annotator]] = [(name, getattr(sv, CLASSES[name])()) for name in names]
        self._converter = VideoReformatter()

    def annotate(self, picture: Picture, found: Detections, colors: YuvPlanes) -> YuvPlanes:
        """A copy of the picture with everything drawn on it, as 8-bit 4:2:0 planes in matrix and range of `colors`.

        Raises:
            FatalError: an annotator failed; its message says which.
        """
        scene: Any = picture.bgr().copy()
        detections = found.to_supervision()
        for name, annotator in self._annotators:
            if (name in _NEEDS_TRACKS and found.tracker_id is None) or (name in _NEEDS_MASKS and found.masks is None):
                continue
            try:
                scene = annotator.annotate(scene, detections)
            except Exception as error:  # a library of drawings, fed by a model: no telling what it raises
                raise FatalError(f"annotator {name!r} failed: {type(error).__name__}: {error}") from error
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
