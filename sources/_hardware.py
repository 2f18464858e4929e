"""Decoders in hardware, through FFmpeg: NVDEC, VAAPI and V4L2 M2M; each as a codec context of its own, or why not."""

from dataclasses import dataclass
from typing import cast

import av
from av.codec.codec import UnknownCodecError
from av.codec.context import CodecContext, ThreadType
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipeline.devices.decoders import DecoderLease, Decoders, decoders
from pipeline.devices.driver import DeviceError
from pipeline.devices.gpu import Gpu
from sources._decoding import Decoding
from sources._open import MEDIA_ERRORS, reason

# VAAPI hands out the pictures of its own pool: so many may be on their way to a model. NVDEC copies each out of its
# pool (FFmpeg does, as long as nobody asks for "unsafe" output), needs none, and refuses to have more than 32.
_VAAPI_EXTRA_SURFACES = 8
_V4L2_NAMES = {"mpeg1video": "mpeg1", "mpeg2video": "mpeg2"}


class NoHardwareError(Exception):
    """The device cannot be had for this stream; the text says why, in a few words.

    Attributes:
        unsuited: it never could: nothing to tell where nobody asked for that device.
    """

    def __init__(self, why: str, *, unsuited: bool = False) -> None:
        super().__init__(why)
        self.unsuited = unsuited


@dataclass(frozen=True, slots=True)
class Hardware:
    """One stream's decoder on one device. Made by `open_hardware`; whoever has it closes it.

    Attributes:
        device: "cuda:0", "vaapi", "v4l2m2m".
        context: takes the stream's packets.
        formats: what its frames are in; others come from the CPU, where FFmpeg goes on by itself. Empty: any.
        gpu: where its frames lie; None: in the host's memory.
    """

    device: str
    context: VideoCodecContext
    formats: frozenset[str]
    gpu: Gpu | None = None
    lease: DecoderLease | None = None

    def close(self) -> None:
        """Give the session back; frames that were handed out stay good."""
        if self.lease is not None:
            self.lease.close()


def open_hardware(stream: VideoStream, decoding: Decoding, wish: str, sessions: Decoders | None = None) -> Hardware:
    """A decoder for the stream on the wished device ("cuda", "cuda:N", "vaapi" or "v4l2m2m").

    It is no part of the container, so that the CPU's decoder stands beside it, and so that AV1, which FFmpeg gives to
    a decoder without hardware, can be had.

    Raises:
        NoHardwareError: it cannot be had.
    """
    if wish == "v4l2m2m":
        return _v4l2(stream, decoding)
    if wish == "vaapi":
        accel = HWAccel("vaapi") if _is_built_in("vaapi") else None
        context = _accelerated(stream, decoding, accel, "VAAPI", {"extra_hw_frames": str(_VAAPI_EXTRA_SURFACES)})
        return Hardware("vaapi", context, frozenset(["nv12", "p010le"]))
    try:
        lease = (sessions or decoders()).lease(_number(wish))
    except DeviceError as error:
        raise NoHardwareError(str(error)) from error
    try:
        accel = HWAccel("cuda", device=str(lease.gpu.number), is_hw_owned=True) if _is_built_in("cuda") else None
        context = _accelerated(stream, decoding, accel, "NVDEC", {})
    except BaseException:
        lease.close()
        raise
    return Hardware(lease.gpu.device, context, frozenset(["cuda"]), lease.gpu, lease)


def _number(wish: str) -> int | None:
    _, _, number = wish.partition(":")
    return int(number) if number else None


def _is_built_in(kind: str) -> bool:
    return kind in hwdevices_available()


def _accelerated(
    stream: VideoStream, decoding: Decoding, accel: HWAccel | None, shown: str, options: dict[str, str]
) -> VideoCodecContext:
    if accel is None:
        raise NoHardwareError(f"this build of PyAV has no {shown}")
    name = stream.codec_context.codec.canonical_name
    try:
        context = cast("VideoCodecContext", CodecContext.create(name, "r", accel))
    except UnknownCodecError as error:
        raise NoHardwareError(f"there is no {shown} decoder for {name}", unsuited=True) from error
    except MEDIA_ERRORS as error:
        raise NoHardwareError(f"{shown} cannot be opened: {reason(error)}") from error
    if not context.is_hwaccel:
        raise NoHardwareError(f"there is no {shown} decoder for {name}", unsuited=True)
    _set_up(context, stream, decoding, options)
    return _opened(context, shown)


def _v4l2(stream: VideoStream, decoding: Decoding) -> Hardware:
    codec = stream.codec_context.codec.canonical_name
    try:
        context = CodecContext.create(f"{_V4L2_NAMES.get(codec, codec)}_v4l2m2m", "r")
    except UnknownCodecError as error:
        raise NoHardwareError(f"this build of PyAV has no V4L2 M2M decoder for {codec}", unsuited=True) from error
    video = cast("VideoCodecContext", context)
    _set_up(video, stream, decoding, {})
    return Hardware("v4l2m2m", _opened(video, "V4L2 M2M"), frozenset())


def _set_up(context: VideoCodecContext, stream: VideoStream, decoding: Decoding, options: dict[str, str]) -> None:
    """What a container tells its own decoders."""
    like = stream.codec_context
    context.extradata = like.extradata
    context.width, context.height = like.width, like.height
    context.codec_tag = like.codec_tag
    # Where the stream itself is silent, these hold: else colours would be others than the CPU's, and the first
    # pictures in another order.
    context.colorspace, context.color_range = like.colorspace, like.color_range
    context.color_primaries, context.color_trc = like.color_primaries, like.color_trc
    context.reorder_depth = like.reorder_depth
    context.thread_count, context.thread_type = 1, ThreadType.NONE  # each thread would hold surfaces of its own
    base = stream.time_base
    if base is not None:  # V4L2 hands time stamps through the driver, in seconds
        options = {**options, "pkt_timebase": f"{base.numerator}/{base.denominator}"}
    context.options = {**options, "max_pixels": str(decoding.max_pixels)}
    if decoding.low_delay:
        context.flags |= av.codec.context.Flags.low_delay


def _opened(context: VideoCodecContext, shown: str) -> VideoCodecContext:
    try:
        context.open()
    except MEDIA_ERRORS as error:
        raise NoHardwareError(f"no {shown} decoder takes the stream: {reason(error)}") from error
    return context
