"""`DevicePicture`: a decoded frame in a GPU's memory: a model on the same GPU reads it there, others get a copy."""

import threading
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange

from pipeline.contracts.frame import ColorMatrix, Size, YuvPlanes
from pipeline.contracts.surface import DevicePlane, Surface, SurfaceFormat
from pipeline.devices.driver import Span
from pipeline.devices.gpu import Gpu, Rows
from pipeline.models.luma import SAMPLES_PER_SIDE
from pipeline.models.picture import RotationDeg, VideoPicture

# By the decoder's name for the planes: ours, and the pixel format that a copy on the host has.
_FORMATS: dict[str, tuple[SurfaceFormat, str]] = {
    "nv12": ("nv12", "nv12"),
    "p010le": ("p010", "p010le"),
    "p016le": ("p010", "p010le"),  # 12 bits of 16: the upper 10 are read
}
_VALUE_BYTES: dict[SurfaceFormat, int] = {"nv12": 1, "p010": 2}
# AVColorSpace (ITU-T H.273, table 4); the others, and what is untagged, count as BT.601 as in FFmpeg.
_MATRICES: dict[int, ColorMatrix] = {1: "bt709", 7: "bt709", 9: "bt2020", 10: "bt2020"}


class DevicePicture:
    """A `Picture` around a hardware frame of PyAV, and `OnDevice`. Made by sources that decode on a GPU; any thread.

    Whatever asks for pixels gets them from a copy of the planes on the host, which is made once, when the first one
    asks; only `luma` copies no more rows than it looks at.

    Args:
        frame: the decoder's frame, whose format is "cuda"; the picture owns it from now on.
        gpu: where it lies.
        rotation_deg: by how much it must be turned clockwise to be upright.

    Raises:
        ValueError: planes that lie as no `Surface` does: decode such a stream on the CPU.
    """

    __slots__ = ("__weakref__", "_gpu", "_host", "_lock", "_nbytes", "_size", "_surface", "_tags")

    def __init__(self, frame: av.VideoFrame, gpu: Gpu, rotation_deg: RotationDeg = 0) -> None:
        self._gpu = gpu
        self._surface = surface_of(frame, gpu.number, rotation_deg)
        self._nbytes = sum(plane.pitch_bytes * plane.rows for plane in (self._surface.luma, self._surface.chroma))
        self._tags = _Tags(frame.colorspace, frame.color_range)
        width, height = self._surface.size
        self._size = Size(height, width) if rotation_deg in {90, 270} else self._surface.size
        self._host: VideoPicture | None = None
        self._lock = threading.Lock()

    @property
    def size(self) -> Size:
        """Width and height of the upright picture in pixels."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of the surface, in the device's memory; the same for as long as the picture lives."""
        return self._nbytes

    @property
    def surface(self) -> Surface:
        """The planes on the device."""
        return self._surface

    @property
    def frame(self) -> av.VideoFrame:
        """A copy on the host, not turned upright: made once."""
        return self._on_host().frame

    @property
    def rotation_deg(self) -> RotationDeg:
        """By how much `frame` must be turned clockwise to be upright."""
        return self._surface.rotation_deg

    def rgb(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        """See `Picture.rgb`."""
        return self._on_host().rgb(width, height)

    def bgr(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        """See `Picture.bgr`."""
        return self._on_host().bgr(width, height)

    def gbr_planes(self, width: int, height: int) -> npt.NDArray[np.float32]:
        """See `Picture.gbr_planes`."""
        return self._on_host().gbr_planes(width, height)

    def yuv420p(self) -> YuvPlanes:
        """See `Picture.yuv420p`."""
        return self._on_host().yuv420p()

    def luma(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        """See `Picture.luma`. Where there is no copy of the picture yet, only every n-th row is fetched for it."""
        with self._lock:
            host = self._host
        if host is None:
            rows = min(height, self._size.height) if self.rotation_deg in {0, 180} else min(width, self._size.width)
            step = max(1, self._surface.size.height // (rows * SAMPLES_PER_SIDE))
            if step > 1:
                return VideoPicture(self._some_luma(step), self.rotation_deg).luma(width, height)
            host = self._on_host()
        return host.luma(width, height)

    def _on_host(self) -> VideoPicture:
        """The copy; made by the first who asks.

        Raises:
            DeviceError: the GPU is gone. MemoryError, av.FFmpegError: there is no memory.
        """
        with self._lock:
            if self._host is None:
                surface = self._surface
                frame = av.VideoFrame(*surface.size, _host_format(surface.format))
                frame.colorspace, frame.color_range = self._tags
                row_bytes = surface.size.width * _VALUE_BYTES[surface.format]
                luma, chroma = frame.planes
                # An odd picture has one more pair of chroma values than half its width.
                both = row_bytes + row_bytes % (2 * _VALUE_BYTES[surface.format])
                self._gpu.copy([_whole(surface.luma, luma, row_bytes), _whole(surface.chroma, chroma, both)])
                self._host = VideoPicture(frame, surface.rotation_deg)
            return self._host

    def _some_luma(self, step: int) -> av.VideoFrame:
        """Every `step`-th row of the luma plane, from the middle of each strip, as a grey picture of its own."""
        (width, height), luma = self._surface.size, self._surface.luma
        value_bytes = _VALUE_BYTES[self._surface.format]
        frame = av.VideoFrame(width, height // step, "gray" if value_bytes == 1 else "gray16le")
        frame.color_range = ColorRange.JPEG  # as stored
        source = Span(luma.address + step // 2 * luma.pitch_bytes, step * luma.pitch_bytes, on_device=True)
        target = Span(frame.planes[0].buffer_ptr, frame.planes[0].line_size, on_device=False)
        self._gpu.copy([Rows(source, target, width * value_bytes, height // step)])
        return frame


class _Tags(NamedTuple):
    colorspace: int
    color_range: int


def surface_of(frame: av.VideoFrame, device: int, rotation_deg: RotationDeg = 0) -> Surface:
    """The surface of a hardware frame; it holds on to the frame.

    Raises:
        ValueError: the frame is on no CUDA device, or its planes lie otherwise (4:2:2, 4:4:4).
    """
    inner = frame.sw_format
    if inner is None or frame.format.name != "cuda":
        raise ValueError(f"a frame of the format {frame.format.name} is on no CUDA device")
    if inner.name not in _FORMATS:
        raise ValueError(f"the decoder gives {inner.name} on the GPU: only 4:2:0 of 8 or 10 bits is read there")
    luma, chroma = (_device_plane(plane) for plane in frame.planes)
    full_range = frame.color_range == ColorRange.JPEG
    return Surface(
        device=device,
        format=_FORMATS[inner.name][0],
        size=Size(frame.width, frame.height),
        luma=luma,
        chroma=chroma,
        matrix=_MATRICES.get(frame.colorspace, "bt601"),
        full_range=full_range,
        rotation_deg=rotation_deg,
        holder=frame,
    )


def _device_plane(plane: VideoPlane) -> DevicePlane:
    return DevicePlane(plane.buffer_ptr, plane.line_size, plane.height)


def _host_format(surface: SurfaceFormat) -> str:
    return "nv12" if surface == "nv12" else "p010le"


def _whole(device: DevicePlane, host: VideoPlane, row_bytes: int) -> Rows:
    source = Span(device.address, device.pitch_bytes, on_device=True)
    target = Span(host.buffer_ptr, host.line_size, on_device=False)
    return Rows(source, target, row_bytes, device.rows)
