"""Measures the ways of drawing boxes and labels on 1080p video, and of encoding it, interleaved in one run.

    python tests/bench/draw.py            prints a table and writes tests/bench/results/draw.md

Every route starts from a decoded yuv420p frame and ends at a yuv420p frame that an encoder takes. Scores change from
frame to frame, so that labels are new about as often as in a real run. supervision decides at its import whether it
has OpenCV, so that its two routes run in two processes, one after the other.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.result import Detections
from pipeline.models.picture import VideoPicture
from pipeline.testing import PluginContext, frame, result
from sinks._annotators import Annotators
from sinks._draw import Painter
from sinks._planes import copy_planes, planes_of
from sinks._style import Supervisions, SupervisionStep, style_of
from sinks.video import VideoSinkConfig

SIZE = Size(1920, 1080)
BOXES = (12, 40)
ENCODED_FRAMES = 60
PRESETS = ("ultrafast", "superfast", "veryfast")
Route = Callable[[VideoPicture, Detections], object]


def pictures(count: int) -> list[VideoPicture]:
    """Frames of a moving ramp with the noise of a sensor."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        picture = av.VideoFrame(*SIZE, "yuv420p")
        planes = planes_of(picture)
        rows, columns = np.mgrid[: SIZE.height, : SIZE.width]
        ramp = 60 + (rows + columns + 8 * index) // 24 % 120
        planes.y[:] = np.clip(ramp + rng.normal(0, 2, ramp.shape), 16, 235).astype(np.uint8)
        planes.u[:], planes.v[:] = 120, 136
        made.append(VideoPicture(picture))
    return made


def found(count: int, seed: int) -> Detections:
    """Boxes of the size of people and cars, the same in each frame but for their scores."""
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, [1700, 900], (count, 2))
    xyxy = np.hstack([corner, corner + rng.uniform(60, 300, (count, 2))]).astype(np.float32)
    scores = np.random.default_rng(seed).uniform(0.3, 1, count).astype(np.float32)
    names = tuple(f"class {index}" for index in range(80))
    return Detections(xyxy, scores, rng.integers(0, 12, count).astype(np.int32), names)


def in_yuv() -> Route:
    """Penstock's: copy the planes, draw into the copy."""
    painter = Painter(SIZE, "bt709", full_range=False, style=style_of())
    canvas = av.VideoFrame(*SIZE, "yuv420p")

    def route(picture: VideoPicture, what: Detections) -> object:
        canvas.make_writable()
        copy = planes_of(canvas)
        copy_planes(copy, picture.yuv420p())
        painter.paint(copy, what)
        return canvas

    return route


def copy_only() -> Route:
    """What of that is the copy."""
    canvas = av.VideoFrame(*SIZE, "yuv420p")

    def route(picture: VideoPicture, _: Detections) -> object:
        copy_planes(planes_of(canvas), picture.yuv420p())
        return canvas

    return route


def by_supervision() -> Route:
    """supervision's box and label annotators on a BGR copy, and back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import supervision as sv
    box, label = sv.BoxAnnotator(), sv.LabelAnnotator()
    there, back = VideoReformatter(), VideoReformatter()

    def route(picture: VideoPicture, what: Detections) -> object:
        scene: Any = there.reformat(picture.frame, format="bgr24", threads=1).to_ndarray().copy()
        detections = what.to_supervision()
        labels = [f"{what.label(index)} {what.confidence[index]:.2f}" for index in range(len(what))]
        label.annotate(box.annotate(scene, detections), detections, labels=labels)
        return back.reformat(av.VideoFrame.from_ndarray(scene, format="bgr24"), format="yuv420p", threads=1)

    return route


def conversions_only() -> Route:
    """What of that is YUV to BGR and back."""
    there, back = VideoReformatter(), VideoReformatter()

    def route(picture: VideoPicture, _: Detections) -> object:
        scene = there.reformat(picture.frame, format="bgr24", threads=1).to_ndarray().copy()
        return back.reformat(av.VideoFrame.from_ndarray(scene, format="bgr24"), format="yuv420p", threads=1)

    return route


def by_annotators(name: Supervisions) -> Route:
    """One of supervision's annotators as the video sink offers them."""
    annotators = Annotators([SupervisionStep(type=name)])

    def route(picture: VideoPicture, what: Detections) -> object:
        fresh = VideoPicture(picture.frame)  # a picture keeps its BGR form: here each frame is a new one
        return annotators.annotate(fresh, what, fresh.yuv420p())

    return route


def measure(routes: dict[str, Route], rounds: int) -> dict[str, float]:
    """Milliseconds a frame, the median over `rounds`, one frame of each route in turn."""
    frames = pictures(4)
    spent: dict[str, list[float]] = {name: [] for name in routes}
    for count in BOXES:
        for turn in range(rounds):
            for name, route in routes.items():
                what = found(count, turn)
                began = time.perf_counter()
                route(frames[turn % len(frames)], what)
                spent.setdefault(f"{name}, {count}", []).append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(times) for name, times in spent.items() if times}


def without_opencv(rounds: int) -> dict[str, float]:
    """supervision's routes in a process that has no OpenCV."""
    code = f"import sys; sys.modules['cv2'] = None; sys.argv = ['draw', '--child', '{rounds}']; import runpy; "
    code += f"runpy.run_path({__file__!r}, run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    said: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return said


def encode(preset: str, folder: Path) -> tuple[float, float, float]:
    """The video sink with 12 boxes: frames a second, CPU milliseconds a frame, kilobytes a frame."""
    config = VideoSinkConfig.model_validate({"path": str(folder / f"{preset}.mp4"), "preset": preset})
    sink = config.build(PluginContext("bench", folder))
    sink.open()
    sources = pictures(8)
    began, cpu_began = time.perf_counter(), time.process_time()
    for one in _frames(sources):
        sink.write([result(one, found(12, one.seq))])
    sink.close()
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    size = (folder / f"{preset}.mp4").stat().st_size
    return ENCODED_FRAMES / wall_s, cpu_s / ENCODED_FRAMES * 1e3, size / ENCODED_FRAMES / 1e3


def _frames(sources: list[VideoPicture]) -> Iterator[Frame]:
    for seq in range(ENCODED_FRAMES):
        yield replace(frame(seq), picture=sources[seq % len(sources)])


def main() -> None:
    """Measure, print, write."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--child", type=int, default=0, help="only supervision's routes; rounds")
    arguments.add_argument("--rounds", type=int, default=60)
    chosen = arguments.parse_args()
    if chosen.child:
        print(json.dumps(measure({"supervision": by_supervision()}, chosen.child)))
        return
    routes = {
        "Penstock, in YUV": in_yuv(),
        "of it: copying the planes": copy_only(),
        "YUV to BGR and back": conversions_only(),
    }
    if importlib.util.find_spec("cv2"):
        routes["supervision with OpenCV, and conversions"] = by_supervision()
        routes["annotator `color` with OpenCV, and conversions"] = by_annotators("color")
    costs = measure(routes, chosen.rounds)
    slow = without_opencv(max(3, chosen.rounds // 10))
    costs |= {
        name.replace("supervision", "supervision without OpenCV, and conversions"): ms for name, ms in slow.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        encoded = {preset: encode(preset, Path(folder)) for preset in PRESETS}
    page = _page(costs, encoded)
    print(page)
    Path(__file__).parent.joinpath("results", "draw.md").write_text(page)


def _page(costs: dict[str, float], encoded: dict[str, tuple[float, float, float]]) -> str:
    names = dict.fromkeys(name.rpartition(", ")[0] for name in costs)
    base = costs[f"Penstock, in YUV, {BOXES[0]}"]
    rows = [
        f"| {name} | "
        + " | ".join(f"{costs[f'{name}, {count}']:.2f}" for count in BOXES)
        + f" | {costs[f'{name}, {BOXES[0]}'] / base:.1f} |"
        for name in names
    ]
    presets = [f"| {name} | {fps:.0f} | {cpu:.1f} | {size:.0f} |" for name, (fps, cpu, size) in encoded.items()]
    return "\n".join(
        [
            "# Drawing on 1080p video",
            "",
            f"`python tests/bench/draw.py`, Python {platform.python_version()}, {os.cpu_count()} cores, not idle.",
            "Milliseconds a frame, medians of interleaved rounds.",
            "",
            f"| route | {BOXES[0]} boxes | {BOXES[1]} boxes | ratio |",
            "|---|---|---|---|",
            *rows,
            "",
            "The whole sink (copy, 12 boxes with labels, x264, MP4), no decoding:",
            "",
            "| preset | frames/s | CPU ms/frame | kB/frame |",
            "|---|---|---|---|",
            *presets,
            "",
        ]
    )


if __name__ == "__main__":
    main()
