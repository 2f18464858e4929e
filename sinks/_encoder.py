"""Which encoder writes a video, and how it is set: in software, or in hardware that has proven itself at the start."""

import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

Codec = Literal["h264", "hevc", "av1"]
Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
Device = Literal["nvenc", "qsv", "vaapi", "amf", "v4l2m2m", "videotoolbox"]
EncoderName = Literal["auto", "software"] | Device

TIME_BASE = Fraction(1, 90_000)  # of MPEG: exact for 24, 25, 30, 50, 60 and 29.97 frames a second

_SOFTWARE: dict[Codec, str] = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
_DEVICES: dict[Device, tuple[str, ...]] = {  # where the driver shows itself
    "nvenc": ("/dev/nvidiactl", "/dev/dxg"),
    "qsv": ("/dev/dri/renderD128",),
    "amf": ("/dev/kfd",),
    "v4l2m2m": ("/dev/video11",),
}
_PRESETS: tuple[Preset, ...] = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
)
_SVT_OF_PRESET = (11, 10, 9, 8, 7, 6, 4, 3, 2)
_NVENC_OF_PRESET = ("p1", "p1", "p2", "p3", "p3", "p4", "p5", "p6", "p7")
_QSV_OF_PRESET = ("veryfast", "veryfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
_AMF_OF_PRESET = ("speed", "speed", "speed", "speed", "balanced", "balanced", "quality", "quality", "quality")
_MAX_CRF: dict[Codec, int] = {"h264": 51, "hevc": 51, "av1": 63}

_AHEAD_S = 0.2
"""How far an encoder may look ahead where what it holds is lost in a crash. Against the default of x264, 10 to 60
frames, it costs nothing in size (measured on two clips)."""
_LEAST_AHEAD = 2
"""Up to so many frames it is not worth it: at a few frames a second, each one that is held back is half a second."""

_PROOF_FRAMES = 6
_PROOF_SIZE = (320, 256)  # no hardware takes less than 145x49
_MAX_PROOF_ERROR = 8.0  # mean difference of luma, of 255; another picture is 40 away


class Encoding(NamedTuple):
    """How to encode: what the config says.

    Attributes:
        codec: of the video.
        preset: slower ones make smaller files.
        crf: quality, 0 (best) to 51, on the scale of H.264.
        threads: of the encoder; 0: as many as it finds useful.
        fps: of sources without a timeline.
        ahead: "any": as the preset says; "little": what the encoder holds back is lost in a crash, so let it be little;
            "none": each frame comes out at once.
        keyframe_s: at most so long from one key frame to the next.
    """

    codec: Codec
    preset: Preset
    crf: int
    threads: int
    fps: float
    ahead: Literal["any", "little", "none"] = "little"
    keyframe_s: float = 4.0


class Encoder(NamedTuple):
    """An encoder of this FFmpeg.

    Attributes:
        name: FFmpeg's own.
        device: the hardware, or None.
        pix_fmt: what it takes: yuv420p or nv12.
    """

    name: str
    device: Device | None
    pix_fmt: str


def software(codec: Codec) -> Encoder:
    """The encoder that runs everywhere."""
    return Encoder(_SOFTWARE[codec], None, "yuv420p")


def choose(wanted: EncoderName, encoding: Encoding, ctx: Context) -> Encoder:
    """The encoder to use; hardware only where it encoded a few frames that could be decoded again.

    Raises:
        ConfigError: what is asked for by name is not there, or does not work.
    """
    plain = software(encoding.codec)
    if wanted != "auto" and wanted != "software":  # noqa: PLR1714  (so the type checker sees what is left)
        named = hardware(encoding.codec, wanted)
        fault = proof(named, encoding)
        if fault is not None:
            raise ConfigError(f"{wanted} cannot encode {encoding.codec} here: {fault}", key="encoder")
        return named
    if wanted == "auto":
        faults: dict[Device, str] = {}
        for device in present():
            fault = proof(hardware(encoding.codec, device), encoding)
            if fault is None:
                return hardware(encoding.codec, device)
            faults[device] = fault
        for device, fault in faults.items():
            ctx.fell_back(device, "software", f"it cannot encode {encoding.codec} here: {fault}")
    if not _is_known(plain.name):
        raise ConfigError(f"this FFmpeg has no encoder for {encoding.codec}", key="codec")
    return plain


def hardware(codec: Codec, device: Device) -> Encoder:
    """The encoder of that hardware."""
    return Encoder(f"{codec}_{device}", device, "nv12" if device == "qsv" else "yuv420p")


def present() -> list[Device]:
    """The hardware whose driver shows itself on this machine."""
    return [device for device, nodes in _DEVICES.items() if any(Path(node).exists() for node in nodes)]


def proof(encoder: Encoder, encoding: Encoding) -> str | None:
    """Encode a few frames as in earnest and decode them again; what is wrong, or None."""
    import av

    if not _is_known(encoder.name):
        return f"this FFmpeg has no {encoder.name}"
    try:
        pictures = _encoded_and_decoded(encoder, encoding)
    except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
        return getattr(error, "strerror", None) or type(error).__name__
    if len(pictures) != _PROOF_FRAMES:
        return f"of {_PROOF_FRAMES} frames {len(pictures)} came back"
    worst = max(abs(mean - _proof_grey(index)) for index, mean in enumerate(pictures))
    return f"the pictures that came back are others (by {worst:.0f} of 255)" if worst > _MAX_PROOF_ERROR else None


def set_up(codec: "VideoCodecContext", encoder: Encoder, encoding: Encoding, rate: float) -> None:
    """Give a codec context, whose size is set, everything else; `rate` in frames a second."""
    from av.codec.context import Flags

    codec.pix_fmt = encoder.pix_fmt
    codec.time_base = TIME_BASE
    codec.framerate = Fraction(rate).limit_denominator(1001)
    codec.flags |= Flags.frame_duration  # or the last picture is shown for as long as the one before
    codec.thread_count = encoding.threads
    codec.gop_size = max(1, round(rate * encoding.keyframe_s))
    codec.options = options(encoder, encoding, rate)
    if encoder.device == "v4l2m2m":  # knows no quality
        codec.bit_rate = round(codec.width * codec.height * rate * 0.1)


def options(encoder: Encoder, encoding: Encoding, rate: float) -> dict[str, str]:
    """The encoder's own options."""
    step = _PRESETS.index(encoding.preset)
    crf = str(round(encoding.crf * _MAX_CRF[encoding.codec] / 51))
    match encoder.device:
        case "nvenc":
            held = {"delay": "0", "zerolatency": "1", "bf": "0", "rc-lookahead": "0"}
            return {"preset": _NVENC_OF_PRESET[step], "rc": "vbr", "cq": crf, "b": "0", "forced-idr": "1", **held}
        case "qsv":
            return {"preset": _QSV_OF_PRESET[step], "global_quality": crf, "async_depth": "1", "bf": "0"}
        case "amf":
            quality = {"quality": _AMF_OF_PRESET[step], "rc": "cqp", "qp_i": crf, "qp_p": crf}
            return {"usage": "lowlatency", "forced_idr": "1", **quality}
        case "vaapi" | "v4l2m2m" | "videotoolbox":
            return {"bf": "0"}
        case None:
            return _software_options(encoding, crf, step, rate)


def _software_options(encoding: Encoding, crf: str, step: int, rate: float) -> dict[str, str]:
    given: dict[str, str] = {"preset": encoding.preset, "crf": crf}
    ahead = min(5, round(rate * _AHEAD_S))
    between = min(2, ahead - 1)  # B-frames; x265 wants to look further than that
    little = encoding.ahead == "little" and ahead > _LEAST_AHEAD
    none = encoding.ahead == "none" or (encoding.ahead == "little" and not little)
    if encoding.codec == "av1":
        given["preset"] = str(_SVT_OF_PRESET[step])
        if encoding.ahead != "any":
            given["svtav1-params"] = "pred-struct=1"  # each frame from those before it only
        return given
    given["forced-idr"] = "1"
    if none or (little and (encoding.codec, step) == ("h264", 0)):  # its fastest preset does not look ahead anyway
        given["tune"] = "zerolatency"
    elif little and encoding.codec == "h264":
        given |= {"rc-lookahead": str(ahead), "bf": str(between)}
    if encoding.codec == "hevc":
        bounds = f":rc-lookahead={ahead}:bframes={between}:frame-threads=1" if little else ""
        given["x265-params"] = f"log-level=none{bounds}"
    return given


def quiet() -> None:
    """Keep the encoder of AV1 from writing to standard error, unless somebody asked for it."""
    os.environ.setdefault("SVT_LOG", "1")  # errors only


def _is_known(name: str) -> bool:
    import av

    try:
        av.Codec(name, "w")
    except (av.FFmpegError, ValueError):
        return False
    return True


def _proof_grey(index: int) -> int:
    return 40 + 32 * index


def _encoded_and_decoded(encoder: Encoder, encoding: Encoding) -> list[float]:
    """Grey pictures there and back; the mean luma of each that came back."""
    import av
    import numpy as np

    quiet()
    codec: Any = av.CodecContext.create(encoder.name, "w")
    codec.width, codec.height = _PROOF_SIZE
    set_up(codec, encoder, encoding, 25.0)
    packets = []
    for index in range(_PROOF_FRAMES):
        grey = np.full((_PROOF_SIZE[1], _PROOF_SIZE[0]), _proof_grey(index), np.uint8)
        picture = av.VideoFrame.from_ndarray(grey, format="gray8")
        picture = picture.reformat(format=encoder.pix_fmt, src_color_range=1, dst_color_range=1)
        picture.pts, picture.time_base = round(index / 25 / TIME_BASE), TIME_BASE
        packets += codec.encode(picture)
    packets += codec.encode(None)
    decoder: Any = av.CodecContext.create({"av1": "libdav1d"}.get(encoding.codec, encoding.codec), "r")
    if codec.extradata:
        decoder.extradata = codec.extradata
    pictures = [picture for packet in packets for picture in decoder.decode(packet)] + list(decoder.decode(None))
    return [float(picture.reformat(format="gray8").to_ndarray().mean()) for picture in pictures]
