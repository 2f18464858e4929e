"""What it saves not to decode what nobody wants, and not to smooth what is decoded: CPU time with and without.

`python tests/bench/skip.py [SECONDS]` encodes clips (with and without B-frames, a still scene, other codecs) and reads
each as fast as it goes: as a live stream, where frames are left out once its rhythm is known, and as a file, where they
are left out from the first on and the same frames are inferred; with the decoder's loop filter, and without. What
would drop the frames behind the decoder is no part of it. Writes `tests/bench/results/skip.md`; with `--only-pixels`
of that only the section on the pixels, into what stands there.
"""

import argparse
import os
import platform
import statistics
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

from pipeline.backends.onnx import OnnxBackendConfig
from pipeline.contracts.clock import SystemClock
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.packets import PacketRing
from pipeline.contracts.result import Detections
from pipeline.testing import PluginContext
from sources._decoding import Decoding
from sources._live import Plan
from sources._live_frames import LiveFrame
from sources._live_reader import Connection
from sources.file import FileSourceConfig

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / ".." / "shared" / "data"
ROUNDS = 5
FPS = 25
LIVE_TIMES = 4  # as long as the others: the rhythm of a live stream is learnt first
H264 = {"preset": "veryfast", "crf": "26"}
CLIPS: dict[str, tuple[str, dict[str, str]]] = {
    "H.264, no B-frames, keyframe a second": ("libx264", {**H264, "g": "25", "bf": "0"}),
    "H.264, two B-frames of three": (
        "libx264",
        {**H264, "g": "50", "bf": "2", "x264-params": "b-adapt=0:b-pyramid=0"},
    ),
    "H.264, B-pyramid, keyframe every 10 s": ("libx264", {"preset": "medium", "crf": "23", "g": "250"}),
    "H.265": ("libx265", {"preset": "fast", "x265-params": "log-level=none:keyint=50"}),
    "MPEG-4": ("mpeg4", {"b": "4M", "g": "12", "bf": "2"}),
    "MJPEG": ("mjpeg", {"qmin": "4", "qmax": "4"}),
}
STILL = "H.264, no B-frames, still scene"
LIVE = (
    ("H.264, no B-frames, keyframe a second", 1.0),
    ("H.264, two B-frames of three", 5.0),
    (STILL, 1.0),
    ("MJPEG", 5.0),
)
FILE: tuple[dict[str, float], ...] = ({"max_fps": 1.0}, {"max_fps": 5.0}, {"stride": 2})
WITH_B_FRAMES = ("H.264, two B-frames of three", "H.264, B-pyramid, keyframe every 10 s", "MPEG-4", "H.265")
PIXELS = "\n## What `skip_frame` leaves, and whether the pixels are right"
SMOOTHED = tuple(name for name in CLIPS if name.startswith("H.26"))

Picture = npt.NDArray[np.uint8]


def scene(still: bool) -> Callable[[int], Picture]:
    """Frames of a street with sensor noise, or one of them again and again, where the data of the tests are there;
    else shapes that wander."""
    path = DATA / "videos" / "vtest.avi"
    noise = np.random.default_rng(1).integers(-3, 4, (8, 720, 1280, 3)).astype(np.int16)
    if path.is_file():
        with av.open(str(path)) as container:
            pictures = [
                frame.reformat(1280, 720, "rgb24").to_ndarray()
                for frame, _ in zip(container.decode(video=0), range(50), strict=False)
            ]
    else:
        ground = np.random.default_rng(1).integers(0, 256, (90, 160, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        pictures = [np.ascontiguousarray(np.roll(ground, number * 6, 1)) for number in range(50)]

    def picture(number: int) -> Picture:
        at = 0 if still else len(pictures) - 1 - abs(number % (2 * len(pictures) - 2) - len(pictures) + 1)
        noisy: Picture = np.clip(pictures[at] + noise[number % len(noise)], 0, 255).astype(np.uint8)
        return noisy

    return picture


def encode(path: Path, codec: str, options: dict[str, str], seconds: int, *, still: bool) -> None:
    """One clip, 1280x720 at 25 frames a second."""
    picture = scene(still)
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=FPS, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, pix_fmt
        for number in range(seconds * FPS):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds, and frames decoded, per second of stream."""

    cpu_ms: float
    decoded: float


def live(path: Path, seconds: int, max_fps: float | None) -> Cost:
    """Read as a live stream."""
    plan = Plan(
        address=path,
        shown="clip",
        transport="file",
        open_timeout_s=10,
        first_frame_timeout_s=10,
        stall_timeout_s=10,
        decoding=Decoding("cpu", 1, 10**8, low_delay=True),
        on_corrupt="flag",
        max_fps=max_fps,
    )
    connection = Connection(plan, SystemClock(), PacketRing())
    frames, started_s = 0, time.process_time()
    try:
        for item in connection.items(threading.Event()):
            frames += isinstance(item, LiveFrame)
    except TransientError:  # the end of the clip
        pass
    finally:
        connection.close()
    return Cost((time.process_time() - started_s) * 1000 / seconds, frames / seconds)


def frames_of(path: Path, **keys: Any) -> Iterator[Frame]:
    """A file's frames, as its source gives them."""
    config = FileSourceConfig.model_validate(
        {"type": "file", "path": str(path), "decode": "cpu", "decode_threads": 1, **keys}
    )
    return (item for item in config.build(PluginContext()).frames(threading.Event()) if isinstance(item, Frame))


def file(path: Path, seconds: int, **keys: Any) -> Cost:
    """Read as a file."""
    started_s = time.process_time()
    frames = sum(1 for _ in frames_of(path, **keys))
    return Cost((time.process_time() - started_s) * 1000 / seconds, frames / seconds)


def compared(what: str, one: Callable[[], Cost], other: Callable[[], Cost]) -> str:
    """A line of a table: medians of rounds in turns."""
    rounds = [(one(), other()) for _ in range(ROUNDS)]
    full, less = (statistics.median(costs[side].cpu_ms for costs in rounds) for side in (0, 1))
    ratio = statistics.median(costs[1].cpu_ms / costs[0].cpu_ms for costs in rounds)
    decoded = f"{rounds[0][0].decoded:.0f} and {rounds[0][1].decoded:.1f}"
    return f"| {what} | {full:.1f} | {less:.1f} | {decoded} | {ratio:.2f} |"


def agreement(path: Path, how: str) -> str:
    """F1 of a detector's boxes on pictures without the loop filter, against those with it, by IoU of 0.5."""
    model = DATA / "models" / "yolox_nano_416.onnx"
    if not model.is_file():
        return "not measured: the model is not there"
    backend = OnnxBackendConfig.model_validate({"type": "onnx", "model": str(model), "device": "cpu"}).build(
        PluginContext(data_dir=Path(tempfile.mkdtemp()))
    )
    backend.open()
    try:
        found = [
            [backend.infer([frame])[0] for frame in frames_of(path, loop_filter=way, stride=10)] for way in ("all", how)
        ]
    finally:
        backend.close()
    same = total = 0
    for with_it, without in zip(*found, strict=True):
        assert isinstance(with_it, Detections)
        assert isinstance(without, Detections)
        same += 2 * matches(with_it, without)
        total += len(with_it.xyxy) + len(without.xyxy)
    return f"{same / max(1, total):.3f}"


def matches(one: Detections, other: Detections) -> int:
    """How many boxes of one class overlap by half."""
    free, count = list(range(len(other.xyxy))), 0
    for box, kind in zip(one.xyxy, one.class_id, strict=True):
        best, best_iou = None, 0.5
        for index in free:
            if other.class_id[index] == kind and (iou := overlap(box, other.xyxy[index])) >= best_iou:
                best, best_iou = index, iou
        if best is not None:
            free.remove(best)
            count += 1
    return count


def overlap(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Intersection over union."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / (float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - shared)


def lowres(path: Path, seconds: int, factor: int) -> Cost:
    """Decoded at a fraction of the size, by FFmpeg's own option."""
    frames, started_s = 0, time.process_time()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.options, stream.codec_context.thread_count = {"lowres": str(factor)}, 1
        frames = sum(1 for _ in container.decode(stream))
    return Cost((time.process_time() - started_s) * 1000 / seconds, frames / seconds)


def decoded(path: Path, skip_frame: Literal["DEFAULT", "NONREF", "BIDIR"]) -> dict[int | None, tuple[int, bool]]:
    """By time stamp: the sum over a frame's pixels, and whether the decoder says that they are in part made up."""
    found: dict[int | None, tuple[int, bool]] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.skip_frame = 1, skip_frame
        for frame in container.decode(stream):
            found[frame.pts] = (zlib.crc32(frame.to_ndarray(format="yuv420p").tobytes()), bool(frame.is_corrupt))
    return found


def pixels(paths: Mapping[str, Path]) -> Iterator[str]:
    """The section on what is left where frames are left out."""
    yield f"{PIXELS}\n"
    yield "Frames that come, those of them that are the same bit by bit as where all are decoded, and those that the"
    yield "decoder flags as damaged. A B-frame that others build on must not be left out: the pictures of those are"
    yield "wrong then, and nothing says so. So `NONREF` is used where frames are left out, and `BIDIR` never.\n"
    yield "| file, `skip_frame` | frames | come | bit-equal | flagged |\n|---|---|---|---|---|"
    for name in WITH_B_FRAMES:
        whole = decoded(paths[name], "DEFAULT")
        ways: tuple[Literal["NONREF", "BIDIR"], ...] = ("NONREF", "BIDIR")
        for way in ways:
            left = decoded(paths[name], way)
            equal = sum(pts in whole and whole[pts][0] == total for pts, (total, _) in left.items())
            flagged = sum(is_corrupt for _, is_corrupt in left.values())
            yield f"| {name}, {way} | {len(whole)} | {len(left)} | {equal} | {flagged} |"


def only_pixels(folder: Path, seconds: int, before: str) -> list[str]:
    """The committed file with that section made anew, at its end."""
    paths = {name: folder / f"{index}.mkv" for index, name in enumerate(WITH_B_FRAMES)}
    for name, path in paths.items():
        encode(path, *CLIPS[name], seconds, still=False)
    return [before.split(f"{PIXELS}\n", maxsplit=1)[0].rstrip("\n"), *pixels(paths)]


def report(folder: Path, seconds: int) -> Iterator[str]:
    """The lines of the committed file."""
    paths = {name: folder / f"{index}.mkv" for index, name in enumerate((*CLIPS, STILL))}
    for name, path in paths.items():
        codec, options = CLIPS.get(name, CLIPS["H.264, no B-frames, keyframe a second"])
        encode(path, codec, options, seconds, still=name == STILL)
        if name in dict(LIVE):
            encode(path.with_suffix(".live.mkv"), codec, options, seconds * LIVE_TIMES, still=name == STILL)
    yield "# Not decoding what nobody wants\n"
    yield "CPU time of the process, milliseconds per second of stream, decoded as fast as it goes by one thread"
    yield f"(`tests/bench/skip.py`): medians of {ROUNDS} rounds in turns. 1280x720, {FPS} frames a second, {seconds} s."
    yield f"PyAV {av.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores.\n"
    head = "| all, ms/s | fewer, ms/s | frames decoded a second | ratio |\n|---|---|---|---|---|"
    yield "## Live: `max_fps` unset and set\n"
    yield f"Clips of {seconds * LIVE_TIMES} s. The rhythm is learnt first: four keyframe intervals, or 48 frames.\n"
    yield f"| stream, `max_fps` {head}"
    for name, max_fps in LIVE:
        path, length = paths[name].with_suffix(".live.mkv"), seconds * LIVE_TIMES
        yield compared(f"{name}, {max_fps:g}", partial(live, path, length, None), partial(live, path, length, max_fps))
    yield "\n## Files: the same frames are inferred\n"
    yield f"| file, keys {head}"
    for name, path in paths.items():
        for keys in FILE:
            shown = ", ".join(f"{key} {value:g}" for key, value in keys.items())
            whole = partial(file, path, seconds)
            yield compared(f"{name}, {shown}", whole, partial(whole, **keys))
    yield "\n## `loop_filter`: frames that are not smoothed\n"
    yield "Agreement: F1 of yolox_nano's boxes with those on the smoothed pictures, every tenth frame.\n"
    yield "| file, `loop_filter` | smoothed, ms/s | not, ms/s | frames decoded a second | ratio | agreement |"
    yield "|---|---|---|---|---|---|"
    for name in SMOOTHED:
        for how in ("references", "none"):
            whole = partial(file, paths[name], seconds)
            line = compared(f"{name}, {how}", whole, partial(whole, loop_filter=how))
            yield f"{line} {agreement(paths[name], how)} |"
    yield "\n## FFmpeg's `lowres`, which is not offered\n"
    yield "Its transforms of other sizes have no SIMD, and boxes would be in pixels of the smaller picture.\n"
    yield f"| file, size {head}"
    for name in ("MJPEG", "MPEG-4"):
        for factor in (1, 2):
            smaller = partial(lowres, paths[name], seconds)
            yield compared(f"{name}, 1/{2**factor}", partial(smaller, 0), partial(smaller, factor))
    yield from pixels(paths)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", nargs="?", type=int, default=6)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "skip.md")
    parser.add_argument("--only-pixels", action="store_true", help="make that section of the file anew, and no other")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.only_pixels:
            lines = only_pixels(Path(folder), given.seconds, given.out.read_text())
        else:
            lines = list(report(Path(folder), given.seconds))
    given.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
