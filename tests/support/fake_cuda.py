"""A CUDA driver that is none: device memory is the host's, copies wait in their streams until somebody synchronises,
and memory that was given back is overwritten at once; and decoded frames that lie in it."""

import ctypes
import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import av
import numpy as np
import numpy.typing as npt

from pipeline.devices.driver import DeviceError, Span
from pipeline.devices.gpu import Gpu
from pipeline.devices.gpus import Gpus

TORN = 0xA5
"""What memory holds once it was given back."""


class FakeDriver:
    """A `Driver` of so many devices. Every misuse that a real one would punish with torn pictures or a crash raises.

    Attributes:
        calls: names of the calls that change something, in their order.
        most_bytes: the most device memory that was in use at once.
        refuse: what `retain`, `allocate`, ... say no to, by the name of the call.
    """

    def __init__(self, devices: int = 1, total_bytes: int = 8 << 30) -> None:
        self.devices = devices
        self.calls: list[str] = []
        self.most_bytes = 0
        self.refuse: dict[str, str] = {}
        self.flags: dict[int, int] = {}
        self._total_bytes = total_bytes
        self._memory: dict[int, npt.NDArray[np.uint8]] = {}
        self._pinned: dict[int, int] = {}
        self._waiting: dict[int, list[tuple[Span, Span, int, int]]] = {}
        self._contexts: defaultdict[int, list[int]] = defaultdict(list)
        self._handles = itertools.count(1000)
        self._lock = threading.RLock()

    @property
    def alive_bytes(self) -> int:
        """Device memory that nobody gave back yet."""
        return sum(array.nbytes for array in self._memory.values())

    @property
    def open_streams(self) -> int:
        """Streams that nobody destroyed yet."""
        return len(self._waiting)

    @property
    def pinned(self) -> int:
        """Pieces of host memory that are still locked."""
        return len(self._pinned)

    def count(self) -> int:
        """See `Driver`."""
        self._may("count")
        return self.devices

    def name(self, device: int) -> str:
        """See `Driver`."""
        return f"Fake GPU {device}"

    def total_bytes(self, device: int) -> int:
        """See `Driver`."""
        del device
        return self._total_bytes

    def retain(self, device: int, flags: int) -> int:
        """See `Driver`."""
        self._may("retain")
        self.flags[device] = flags
        self.calls.append(f"retain {device}")
        return 1 + device

    def release(self, device: int) -> None:
        """See `Driver`."""
        self.calls.append(f"release {device}")

    def push(self, context: int) -> None:
        """See `Driver`."""
        self._contexts[threading.get_ident()].append(context)

    def pop(self) -> None:
        """See `Driver`."""
        self._contexts[threading.get_ident()].pop()

    def free_bytes(self) -> int:
        """See `Driver`."""
        self._in_context("free_bytes")
        return self._total_bytes - self.alive_bytes

    def stream(self) -> int:
        """See `Driver`."""
        self._in_context("stream")
        with self._lock:
            handle = next(self._handles)
            self._waiting[handle] = []
            return handle

    def destroy_stream(self, stream: int) -> None:
        """See `Driver`."""
        self._in_context("destroy_stream")
        with self._lock:
            if self._waiting.pop(stream):
                raise AssertionError("a stream was destroyed that still had work")

    def synchronize(self, stream: int) -> None:
        """See `Driver`: only now the copies are done."""
        self._in_context("synchronize")
        with self._lock:
            work, self._waiting[stream] = self._waiting[stream], []
            for source, target, width_bytes, rows in work:
                self._check(source, width_bytes, rows)
                self._check(target, width_bytes, rows)
                for row in range(rows):
                    ctypes.memmove(
                        target.address + row * target.pitch_bytes,
                        source.address + row * source.pitch_bytes,
                        width_bytes,
                    )

    def allocate(self, nbytes: int) -> int:
        """See `Driver`."""
        self._in_context("allocate")
        if self.alive_bytes + nbytes > self._total_bytes:
            raise DeviceError("CUDA: cuMemAlloc_v2 failed: out of memory (CUDA_ERROR_OUT_OF_MEMORY)")
        with self._lock:
            array = np.full(nbytes, TORN, np.uint8)
            self._memory[array.ctypes.data] = array
            self.most_bytes = max(self.most_bytes, self.alive_bytes)
            return array.ctypes.data

    def free(self, address: int) -> None:
        """See `Driver`."""
        self._in_context("free")
        self.take_back(address)

    def take_back(self, address: int) -> None:
        """What a decoder does with a surface that nobody holds any more: the next picture is written there."""
        with self._lock:
            self._memory.pop(address)[:] = TORN

    def pin(self, address: int, nbytes: int) -> None:
        """See `Driver`."""
        self._in_context("pin")
        self._pinned[address] = nbytes

    def unpin(self, address: int) -> None:
        """See `Driver`."""
        self._in_context("unpin")
        del self._pinned[address]

    def copy(self, source: Span, target: Span, width_bytes: int, rows: int, stream: int) -> None:
        """See `Driver`."""
        self._in_context("copy")
        if width_bytes > min(source.pitch_bytes, target.pitch_bytes):
            raise DeviceError("CUDA: cuMemcpy2DAsync_v2 failed with CUDA_ERROR_INVALID_VALUE")
        with self._lock:
            self._waiting[stream].append((source, target, width_bytes, rows))

    def _check(self, span: Span, width_bytes: int, rows: int) -> None:
        if not span.on_device:
            return
        end = span.address + (rows - 1) * span.pitch_bytes + width_bytes
        if not any(start <= span.address and end <= start + array.nbytes for start, array in self._memory.items()):
            raise DeviceError("CUDA: a copy reached outside of the device's memory (CUDA_ERROR_ILLEGAL_ADDRESS)")

    def _in_context(self, call: str) -> None:
        self._may(call)
        self.calls.append(call)
        if not self._contexts[threading.get_ident()]:
            raise DeviceError(f"CUDA: {call} failed with CUDA_ERROR_INVALID_CONTEXT")

    def _may(self, call: str) -> None:
        if call in self.refuse:
            raise DeviceError(f"CUDA: {call} failed with {self.refuse[call]}")


def fake_gpus(devices: int = 1, total_bytes: int = 8 << 30) -> tuple[Gpus, FakeDriver]:
    """Devices, and the driver behind them."""
    driver = FakeDriver(devices, total_bytes)
    return Gpus(lambda: driver), driver


def fake_gpu() -> tuple[Gpu, FakeDriver]:
    """The first device, and the driver behind it."""
    gpus, driver = fake_gpus()
    return gpus.gpu(0), driver


class HwPlane(NamedTuple):
    """What is used of `av.VideoPlane` of a hardware frame."""

    buffer_ptr: int
    line_size: int
    width: int
    height: int


class HwFormat(NamedTuple):
    """What is used of `av.VideoFormat`."""

    name: str


class HwFrame:
    """A hardware frame as PyAV gives them, with the pixels of a software frame. When nobody holds it any more its
    memory is overwritten, as the decoder does with the next picture.

    Args:
        driver: whose device memory it lies in.
        frame: the pixels, in any pixel format.
        planes: "nv12" or "p010le", what the decoder writes.
        pitch_multiple: rows begin at multiples of so many bytes.
    """

    def __init__(
        self, driver: FakeDriver, frame: av.VideoFrame, planes: str = "nv12", pitch_multiple: int = 256
    ) -> None:
        self.format, self.sw_format = HwFormat("cuda"), HwFormat(planes)
        self.width, self.height = frame.width, frame.height
        self.colorspace, self.color_range = frame.colorspace, frame.color_range
        self.pts, self.time_base, self.key_frame = frame.pts, frame.time_base, frame.key_frame
        self.rotation, self.interlaced_frame, self.is_corrupt = frame.rotation, False, frame.is_corrupt
        inner = frame if frame.format.name == planes else frame.reformat(format=planes)
        found = [np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1) for plane in inner.planes]
        value_bytes = 2 if planes.startswith("p0") else 1
        widths = [frame.width * value_bytes, (frame.width + 1) // 2 * 2 * value_bytes]
        pitch = -(-max(widths) // pitch_multiple) * pitch_multiple
        driver.push(1)
        self._memory = driver.allocate(pitch * sum(len(rows) for rows in found))
        driver.pop()
        self._driver = driver
        self.planes = tuple(self._write(found, widths, pitch, inner))

    def _write(
        self, found: list[npt.NDArray[np.uint8]], widths: list[int], pitch: int, inner: av.VideoFrame
    ) -> Iterator[HwPlane]:
        address = self._memory
        for rows, width, plane in zip(found, widths, inner.planes, strict=True):
            for number, row in enumerate(rows):
                ctypes.memmove(address + number * pitch, row[:width].tobytes(), width)
            yield HwPlane(address, pitch, plane.width, plane.height)
            address += pitch * len(rows)

    def __del__(self) -> None:
        self._driver.take_back(self._memory)


def hw_frame(driver: FakeDriver, frame: av.VideoFrame, planes: str = "nv12", pitch_multiple: int = 256) -> Any:
    """A `HwFrame`, for what takes an `av.VideoFrame`."""
    return cast("Any", HwFrame(driver, frame, planes, pitch_multiple))
