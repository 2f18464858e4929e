"""`Decoder`: one video stream's decoder: in hardware where that is wished for and can be had, else on the CPU."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import av
from av.codec.context import Flags, ThreadType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.contracts.frame import Picture
from pipeline.devices.decoders import decoders
from pipeline.models.device_picture import DevicePicture
from pipeline.models.picture import RotationDeg, VideoPicture
from sources._cores import cores
from sources._decoding import Decoding, LoopFilter
from sources._hardware import Hardware, NoHardwareError, open_hardware
from sources._open import MEDIA_ERRORS, reason

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext

    from pipeline.devices.gpu import Gpu

FellBack = Callable[[str, str, str], None]
"""`Context.fell_back`: what was wanted, what is taken in its place, and why."""

CPU = "cpu"
_ON_DEVICE = "cuda"
_SURFACES = frozenset(["nv12", "p010le", "p016le"])  # what a `DevicePicture` reads
_SKIP: dict[LoopFilter, str] = {"all": "default", "references": "noref", "none": "all"}


def unheard(_wanted: str, _got: str, _why: str) -> None:
    """A `FellBack` for who reads without an operator."""


class HardwareLostError(Exception):
    """The device has failed, or cannot decode what comes; the text says why. The CPU goes on: `Decoder.use_cpu`."""


class Decoder:
    """Made by whoever opened the container, used by its thread only; close it.

    A frame that the device cannot give, FFmpeg decodes on the CPU by itself where it notices in time: that is seen by
    the frame's format, and told. Where it does not, `HardwareLostError` is raised.

    Args:
        stream: an open container's; its own decoder is the CPU's.
        decoding: how.
        fell_back: told when a device cannot be had, or fails.
        turned: whether the container may say that pictures are turned: it tells only its own decoder.
    """

    def __init__(self, stream: VideoStream, decoding: Decoding, fell_back: FellBack, *, turned: bool = False) -> None:
        self._stream = stream
        self._decoding = decoding
        self._fell_back = fell_back
        self._hardware: Hardware | None = None
        self._gpu: Gpu | None = None
        self._keyframes_failed = 0
        self._only_references = False
        self._rotation: RotationDeg | None = None if turned else 0
        self.device = CPU
        self.context: VideoCodecContext = stream.codec_context
        wish = decoding.wish
        if wish == "auto":
            wish = "cuda" if decoders().count() else CPU
        if wish == CPU:
            self._set_up_cpu()
            return
        try:
            hardware = open_hardware(stream, decoding, wish)
        except NoHardwareError as error:
            if not (error.unsuited and decoding.wish == "auto"):
                fell_back(wish, CPU, str(error))
            self._set_up_cpu()
            return
        self._hardware, self._gpu = hardware, hardware.gpu
        self.device, self.context = hardware.device, hardware.context

    def decode(self, packet: "Packet[VideoStream]", *, only_reference: bool = False) -> list[VideoFrame]:
        """The frames that are ready after this packet.

        Args:
            packet: the next one.
            only_reference: pass it over if no other builds on it.

        Raises:
            HardwareLostError: the device gives no more frames.
            Exception: one of `MEDIA_ERRORS`: the packet cannot be decoded.
        """
        hardware = self._hardware
        if only_reference is not self._only_references:
            self._only_references = only_reference
            self.context.skip_frame = "NONREF" if only_reference else "DEFAULT"
        if hardware is None:
            with cores:
                return self.context.decode(packet)
        if self._rotation is None:
            self._rotation = self._container_rotation(packet)
        try:
            frames = self.context.decode(packet)
        except MEDIA_ERRORS as error:
            if self._is_lost(error, packet):
                raise HardwareLostError(reason(error)) from error
            raise
        if frames:
            self._keyframes_failed = 0
            self._look_at(frames[0], hardware)
        return frames

    def drain(self) -> list[VideoFrame]:
        """The frames that the decoder held back."""
        return self.context.decode(None)

    def use_cpu(self, why: str) -> None:
        """From the next keyframe on the CPU decodes."""
        self._leave_hardware(why)
        self.context, self._only_references = self._stream.codec_context, False
        self._set_up_cpu()

    def picture(self, frame: VideoFrame) -> Picture:
        """The frame's pixels, where they lie."""
        if self._gpu is not None and frame.format.name == _ON_DEVICE:
            return DevicePicture(frame, self._gpu, self._clockwise(frame))
        return VideoPicture(frame, self._clockwise(frame))

    def close(self) -> None:
        """Give the device's session back; frames that were handed out stay good."""
        hardware, self._hardware = self._hardware, None
        if hardware is not None:
            hardware.close()

    def _is_lost(self, error: BaseException, packet: "Packet[VideoStream]") -> bool:
        """Whether the device is at fault and not the packet: two keyframes with nothing between them are enough."""
        self._keyframes_failed += packet.is_keyframe
        return self._keyframes_failed > 1 or not isinstance(error, av.InvalidDataError)

    def _look_at(self, frame: VideoFrame, hardware: Hardware) -> None:
        name = frame.format.name
        if hardware.formats and name not in hardware.formats:
            if self.device != CPU:
                self._leave_hardware("the device's decoder does not take the stream, or has no session left")
        elif name == _ON_DEVICE and (frame.sw_format is None or frame.sw_format.name not in _SURFACES):
            raise HardwareLostError("its pictures are not 4:2:0")

    def _leave_hardware(self, why: str) -> None:
        before, self.device = self.device, CPU
        self.close()
        if before != CPU:
            self._fell_back(before, CPU, why)

    def _set_up_cpu(self) -> None:
        context, decoding = self.context, self._decoding
        context.options = {"max_pixels": str(decoding.max_pixels)}
        if decoding.loop_filter != "all":
            context.options["skip_loop_filter"] = _SKIP[decoding.loop_filter]
        if not context.is_open:
            context.thread_count = decoding.threads
            # Frame threads hold back one frame for each thread; slices and a single thread hold back none.
            several = ThreadType.SLICE if decoding.low_delay else ThreadType.AUTO
            context.thread_type = several if decoding.threads > 1 else ThreadType.NONE
        if decoding.low_delay:
            context.flags |= Flags.low_delay

    def _container_rotation(self, packet: "Packet[VideoStream]") -> RotationDeg | None:
        """By the CPU's decoder, once; None: the packet is no whole picture."""
        if not packet.is_keyframe:
            return None
        own = self._stream.codec_context
        if not own.is_open:
            own.thread_count, own.thread_type = 1, ThreadType.NONE
        with contextlib.suppress(*MEDIA_ERRORS):
            frames = own.decode(packet) or own.decode(None)
            own.flush_buffers()
            return clockwise(frames[0].rotation) if frames else None
        return None

    def _clockwise(self, frame: VideoFrame) -> RotationDeg:
        return clockwise(frame.rotation) or self._rotation or 0


def clockwise(counter_clockwise_deg: int) -> RotationDeg:
    """What FFmpeg counts against the clock, as `VideoPicture` wants it."""
    turns: tuple[RotationDeg, ...] = (0, 90, 180, 270)
    return turns[round(-counter_clockwise_deg / 90) % 4]
