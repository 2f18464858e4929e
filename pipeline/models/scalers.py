"""What a thread converts pictures with: a scaler for each geometry, and memory for planes that is used again."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple, TypeVar, cast

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.plane import VideoPlane
from av.video.reformatter import Colorspace, VideoReformatter

from pipeline.contracts.frame import Size

_PER_THREAD = 8

_FILTERS_NAME_OF_MATRIX = {
    Colorspace.ITU709: "bt709",
    Colorspace.FCC: "fcc",
    Colorspace.ITU601: "bt601",
    Colorspace.SMPTE240M: "smpte240m",
    Colorspace.BT2020: "bt2020",
}
_TIME_BASE = Fraction(1, 1000)  # a graph wants one; nobody reads the time stamps of what comes out

S = TypeVar("S")
Rescale = Callable[[av.VideoFrame], av.VideoFrame]


class Geometry(NamedTuple):
    """What a scaler is set up for: asking it for anything else makes it start over."""

    from_format: str
    from_size: Size
    to_format: str
    to_size: Size
    matrix: int
    full_range: bool


class Scalers(threading.local):
    """Each thread's scalers, least recently used first.

    Setting up a scaler costs as much as using it, and several consumers in one thread alternate between sizes.
    """

    def __init__(self) -> None:
        self._reformatters: OrderedDict[Geometry, VideoReformatter] = OrderedDict()
        self._planes: OrderedDict[Geometry, PlaneScaler] = OrderedDict()

    def reformatter(self, geometry: Geometry) -> VideoReformatter:
        """PyAV's own scaler: each picture in memory of its own."""
        return _kept(self._reformatters, geometry, VideoReformatter)

    def planes(self, geometry: Geometry) -> "PlaneScaler":
        """The one for a model's planes, which are let go as soon as the model has them."""
        return _kept(self._planes, geometry, lambda: PlaneScaler(geometry))


class PlaneScaler:
    """Scales to float planes in memory that FFmpeg keeps for the next picture. Belongs to one thread.

    PyAV's reformatter asks for a megabyte anew each time: the heaps fragment, 378 MiB in place of 360 with 16 files; or
    each is a mapping of its own and 300 page faults, 0.96 ms of CPU in place of 0.43 for 720p to 416x234. FFmpeg's own
    graph does the same scaling into a pool. What it cannot see is where a frame's chroma samples lie, and PyAV does not
    tell: the second picture is scaled both ways, and where no position gives the same values the reformatter stays. A
    picture without colours, as of a camera at night, fits several positions: then a later one is looked at.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._pooled: Rescale | None = None
        self._seen = 0
        self._try_at = 2  # single pictures, each of another size, are not worth a graph

    def scale(self, frame: av.VideoFrame, reformat: Rescale) -> av.VideoFrame:
        """The planes of `frame`, which is of this scaler's geometry; `reformat` does the same in new memory."""
        if self._pooled is not None:
            return self._pooled(frame)
        scaled = reformat(frame)
        self._seen += 1
        if self._seen == self._try_at:
            self._try_at *= 2
            self._pooled = self._same_as(scaled, frame)
        return scaled

    def _same_as(self, scaled: av.VideoFrame, frame: av.VideoFrame) -> Rescale | None:
        found: list[Rescale] = []
        for chroma in _chroma_places(self._geometry.from_format):
            try:
                pooled = _pooling(self._geometry, chroma)
                if _equal(pooled(frame), scaled):
                    found.append(pooled)
            except (av.FFmpegError, ValueError):  # a format that the filter does not take
                return None
        return found[0] if len(found) == 1 else None


def _chroma_places(pixels: str) -> tuple[str, ...]:
    """Where its chroma samples may lie, as far as that makes a difference."""
    video = av.VideoFormat(pixels)
    if video.chroma_height(8) < 8:
        return ("left", "center", "topleft")
    return ("left", "center") if video.chroma_width(8) < 8 else ("left",)


def _pooling(geometry: Geometry, chroma: str) -> Rescale:
    """A graph that scales to float planes; the function holds it, for its filters do not."""
    graph = Graph()
    graph.threads = 1
    width, height = geometry.from_size
    matrix = _FILTERS_NAME_OF_MATRIX[Colorspace(geometry.matrix)]
    options = (
        f"w={geometry.to_size.width}:h={geometry.to_size.height}:flags=fast_bilinear:in_color_matrix={matrix}:"
        f"in_range={'pc' if geometry.full_range else 'tv'}:out_range=pc:in_chroma_loc={chroma}"
    )
    begin = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat(geometry.from_format), time_base=_TIME_BASE
    )
    end = graph.add("buffersink")
    for one, next_one in pairwise((begin, graph.add("scale", options), graph.add("format", geometry.to_format), end)):
        one.link_to(next_one)
    graph.configure()

    def pooled(frame: av.VideoFrame, graph: Graph = graph) -> av.VideoFrame:
        begin.push(frame)
        return cast("av.VideoFrame", end.pull())

    return pooled


def _equal(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    """Whether two pictures have the same float planes, whatever stands behind the ends of their rows."""
    return all(np.array_equal(_values(a), _values(b)) for a, b in zip(one.planes, other.planes, strict=True))


def _values(plane: VideoPlane) -> npt.NDArray[np.float32]:
    return np.frombuffer(memoryview(plane), np.float32).reshape(plane.height, -1)[:, : plane.width]


def _kept(kept: OrderedDict[Geometry, S], geometry: Geometry, make: Callable[[], S]) -> S:
    scaler = kept.pop(geometry, None) or make()
    kept[geometry] = scaler
    if len(kept) > _PER_THREAD:
        kept.popitem(last=False)
    return scaler
