"""A decoder in hardware that is none: FFmpeg's own on the CPU, whose frames are then put into a fake GPU's memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import av
import pytest
from av.codec.context import CodecContext
from av.video.stream import VideoStream
from fake_cuda import fake_gpus, hw_frame

from pipeline.devices.decoders import Decoders

if TYPE_CHECKING:
    from av.packet import Packet

    from sources._hardware import NoHardwareError

Fault = Callable[[int], BaseException | None]
"""What the decoder raises at the packet of this number; None: nothing."""


class FakeContext:
    """What is used of a hardware decoder's `av.VideoCodecContext`.

    Attributes:
        asked: what `skip_frame` was for each packet.
    """

    def __init__(self, rig: "FakeHardware", stream: VideoStream) -> None:
        self._rig = rig
        own = stream.codec_context
        inner: Any = CodecContext.create(own.codec.name, "r")
        inner.extradata, inner.width, inner.height, inner.thread_count = own.extradata, own.width, own.height, 1
        self._inner = inner
        self.asked: list[str] = []
        self.is_open = True
        self._packets = 0

    @property
    def skip_frame(self) -> str:
        return str(self._inner.skip_frame)

    @skip_frame.setter
    def skip_frame(self, value: str) -> None:
        self._inner.skip_frame = value

    def decode(self, packet: "Packet[Any] | None") -> list[Any]:
        number, self._packets = self._packets, self._packets + 1
        self.asked.append(self.skip_frame)
        error = self._rig.fault(number)
        if error is not None:
            raise error
        return [self._rig.frame(frame) for frame in self._inner.decode(packet)]

    def flush_buffers(self) -> None:
        self._inner.flush_buffers()


class FakeHardware:
    """GPUs with a decoder each. Made by the fixture of a test.

    Attributes:
        driver: of the fake GPUs.
        decoders: their sessions.
        contexts: every decoder that was opened.
        fault: when it fails.
        planes: how its frames lie; None: they come from the CPU, as when FFmpeg goes on by itself.
        refuses: why there is no decoder for the stream.
    """

    def __init__(self, devices: int = 2) -> None:
        gpus, self.driver = fake_gpus(devices)
        self.decoders = Decoders(gpus, most=2)
        self.contexts: list[FakeContext] = []
        self.fault: Fault = lambda _: None
        self.planes: str | None = "nv12"
        self.refuses: NoHardwareError | None = None

    def open(self, stream: VideoStream, *_: object) -> Any:
        """In place of FFmpeg's."""
        if self.refuses is not None:
            raise self.refuses
        self.contexts.append(FakeContext(self, stream))
        return self.contexts[-1]

    def frame(self, frame: av.VideoFrame) -> Any:
        """A decoded frame, where it lies."""
        if self.planes is None:
            return frame
        on_device = hw_frame(self.driver, frame, "nv12")
        on_device.sw_format = on_device.sw_format._replace(name=self.planes)
        on_device.duration, on_device.pict_type = frame.duration, frame.pict_type
        on_device.rotation = 0  # the container's is told to its own decoder only
        return on_device


@contextmanager
def installed(devices: int = 2) -> Iterator[FakeHardware]:
    """Within, sources find these GPUs."""
    rig = FakeHardware(devices)
    with pytest.MonkeyPatch.context() as patch:
        if devices:
            patch.setattr("sources._hardware._accelerated", rig.open)
        patch.setattr("sources._hardware.decoders", lambda: rig.decoders)
        patch.setattr("sources._decoder.decoders", lambda: rig.decoders)
        yield rig
