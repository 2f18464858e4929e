"""Makes small videos whose every frame tells its number and whose colours are known, and reads sources to their end."""

import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.source import Source
from pipeline.testing import PluginContext
from sources.file import FileSource, FileSourceConfig

Rgb = npt.NDArray[np.uint8]

GREY_STEP = 8


def numbered(number: int, width: int = 64, height: int = 48) -> Rgb:
    """A grey picture that says which it is: `GREY_STEP` levels brighter than the one before it, 28 at the most."""
    return np.full((height, width, 3), 16 + number % 28 * GREY_STEP, np.uint8)


def number_of(frame: Frame) -> int:
    """The number of a frame made by `numbered`."""
    grey = float(frame.picture.rgb().mean())
    return round((grey - 16) / GREY_STEP)


def bars(width: int = 64, height: int = 48) -> Rgb:
    """Four quarters: red, green above blue, white."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[: height // 2, : width // 2] = (200, 30, 40)
    rgb[: height // 2, width // 2 :] = (30, 180, 60)
    rgb[height // 2 :, : width // 2] = (40, 50, 190)
    rgb[height // 2 :, width // 2 :] = (230, 230, 230)
    return rgb


def corners(rgb: Rgb) -> list[tuple[int, int, int]]:
    """The colours in the middle of the four quarters: top left, top right, bottom left, bottom right."""
    height, width = rgb.shape[:2]
    spots = [(height // 4, width // 4), (height // 4, width * 3 // 4)]
    spots += [(height * 3 // 4, width // 4), (height * 3 // 4, width * 3 // 4)]
    return [(int(rgb[y, x, 0]), int(rgb[y, x, 1]), int(rgb[y, x, 2])) for y, x in spots]


def as_format(
    rgb: Rgb, pix_fmt: str, matrix: Colorspace = Colorspace.ITU601, full_range: bool = False
) -> av.VideoFrame:
    """The picture in another pixel format, tagged with what it is."""
    color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
    frame = VideoReformatter().reformat(
        av.VideoFrame.from_ndarray(rgb, "rgb24"),
        format=pix_fmt,
        dst_colorspace=matrix,
        dst_color_range=color_range,
        interpolation=exact,
    )
    frame.colorspace = int(matrix)
    frame.color_range = int(color_range)
    return frame


def video(
    path: Path,
    pictures: Sequence[Rgb | av.VideoFrame],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container: str | None = None,
    pts: Sequence[int] | None = None,
    fps: int = 25,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    tags: tuple[int, int] | None = None,
) -> Path:
    """Write a video; `pts` in frames of `fps`, `tags` are matrix and range as H.273 numbers."""
    first = pictures[0]
    width, height = (
        (first.width, first.height) if isinstance(first, av.VideoFrame) else (first.shape[1], first.shape[0])
    )
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = Fraction(1, fps)
        if tags:
            stream.codec_context.colorspace, stream.codec_context.color_range = tags
        for number, picture in enumerate(pictures):
            frame = picture if isinstance(picture, av.VideoFrame) else as_format(picture, pix_fmt)
            frame.pts = number if pts is None else pts[number]
            frame.time_base = Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def numbered_video(path: Path, frames: int = 12, **settings: object) -> Path:
    """A video of `numbered` pictures."""
    return video(path, [numbered(number) for number in range(frames)], **settings)  # type: ignore[arg-type]


def sound(path: Path) -> Path:
    """A file with sound only."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def turned(path: Path, clockwise_deg: int) -> None:
    """Give an MP4 the display matrix of a phone held sideways (ISO/IEC 14496-12, track header box)."""
    one = 1 << 16
    matrix = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[clockwise_deg]
    a, b, c, d = matrix
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)


def file_source(path: Path | str | list[str], context: PluginContext | None = None, **keys: object) -> FileSource:
    """A file source as the config makes it."""
    named = path if isinstance(path, list) else str(path)
    config = FileSourceConfig.model_validate({"type": "file", "path": named, **keys})
    return config.build(context or PluginContext())


def read(source: Source) -> tuple[list[Frame], list[FailedFrame]]:
    """All that a source gives: frames and failures."""
    frames: list[Frame] = []
    failures: list[FailedFrame] = []
    for item in source.frames(threading.Event()):
        if isinstance(item, Frame):
            frames.append(item)
        else:
            failures.append(item)
    return frames, failures


def pts_of(frames: Sequence[Frame]) -> list[float]:
    """Their time stamps, rounded to a tenth of a millisecond."""
    return [round(frame.pts_s, 4) for frame in frames if frame.pts_s is not None]


def moving(number: int, width: int = 320, height: int = 240) -> Rgb:
    """A picture in which everything moves, so that a lost packet is seen: stripes that wander and a block of noise."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[..., 0] = (x * 2 + number * 7) % 256
    rgb[..., 1] = (y * 3 + number * 5) % 256
    rgb[..., 2] = (x + y + number * 11) % 256
    side = height // 3
    left = number * 4 % (width - side)
    rgb[side : 2 * side, left : left + side] = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    return rgb


def camera_clip(
    path: Path,
    *,
    codec: str = "h264",
    frames: int = 50,
    fps: int = 25,
    width: int = 320,
    height: int = 240,
    pictures: Sequence[Rgb | av.VideoFrame] | None = None,
) -> Path:
    """What a camera's encoder makes, for `RtspServer`: no B-frames, a keyframe a second; `h264`, `h265` or `mjpeg`."""
    pictures = pictures or [moving(number, width, height) for number in range(frames)]
    if codec == "mjpeg":
        settings = {"huffman": "default", "q": "5"}
        jpeg = [as_format(p, "yuvj420p", full_range=True) if isinstance(p, np.ndarray) else p for p in pictures]
        return video(path, jpeg, codec="mjpeg", pix_fmt="yuvj420p", container="matroska", fps=fps, options=settings)
    settings = {"preset": "ultrafast", "g": str(fps), "bf": "0"}
    if codec == "h265":
        settings["x265-params"] = f"log-level=none:keyint={fps}:bframes=0:repeat-headers=1"
    return video(path, pictures, codec={"h264": "libx264", "h265": "libx265"}[codec], fps=fps, options=settings)


def damaged_clip(original: Path, path: Path, first: int = 5, last: int = 20) -> Path:
    """A copy of a video with wrong bytes inside of some of its packets, whose headers are good."""
    with av.open(str(original)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.dts is None:
                continue
            data = bytearray(bytes(packet))
            if first <= number <= last:
                middle = len(data) // 2
                data[middle : middle + 40] = bytes(value ^ 0x55 for value in data[middle : middle + 40])
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
            output.mux(copy)
    return path
