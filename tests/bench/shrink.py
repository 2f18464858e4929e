"""What each way of shrinking a picture to the model's size costs in time and in average precision.

Run: `python tests/bench/shrink.py`; writes `tests/bench/results/shrink.md`. Needs the labelled pictures
that the tests use, too (`shared_data`), the extra `demo` and the dependency group `dev`.
"""

import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation as Flag
from av.video.reformatter import VideoReformatter
from PIL import Image

from pipeline.contracts.frame import Picture, Size, YuvPlanes
from pipeline.models.picture import VideoPicture
from pipeline.models.preprocess import InputBuffer, Preprocess

HERE = Path(__file__).resolve().parent
FRAMES = 12  # more than the caches hold, as in life
ROUNDS = 15

Planes = npt.NDArray[np.float32]
Route = Callable[[av.VideoFrame, int, int], Planes]


def reference_set() -> ModuleType:
    """The test that compares with the reference boxes: its pictures, models and AP are what is measured here."""
    path = HERE.parent / "integration" / "test_reference_boxes.py"
    spec = importlib.util.spec_from_file_location("test_reference_boxes", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def stacked(frame: av.VideoFrame) -> Planes:
    rows = [np.frombuffer(memoryview(p), np.float32).reshape(p.height, -1)[:, : p.width] for p in frame.planes]
    return np.stack(rows)


def to_float_planes(flag: Flag) -> Route:
    """One pass of the scaler to 32-bit float planes."""
    scaler = VideoReformatter()

    def route(frame: av.VideoFrame, width: int, height: int) -> Planes:
        scaled = scaler.reformat(frame, width, height, "gbrpf32le", interpolation=flag, threads=1)
        return stacked(scaled)

    return route


def packed(rgb: npt.NDArray[Any]) -> Planes:
    planes: Planes = rgb[..., (1, 2, 0)].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return planes


def to_rgb24(flag: Flag) -> Route:
    """One pass to 8-bit RGB, then NumPy."""
    scaler = VideoReformatter()

    def route(frame: av.VideoFrame, width: int, height: int) -> Planes:
        return packed(scaler.reformat(frame, width, height, "rgb24", interpolation=flag, threads=1).to_ndarray())

    return route


def by_yuv(flag: Flag) -> Route:
    """Shrink in YUV, then convert to 8-bit RGB, then NumPy."""
    shrink, convert = VideoReformatter(), VideoReformatter()

    def route(frame: av.VideoFrame, width: int, height: int) -> Planes:
        small = shrink.reformat(frame, width, height, "yuv420p", interpolation=flag, threads=1)
        return packed(convert.reformat(small, format="rgb24", threads=1).to_ndarray())

    return route


def opencv() -> Route:
    """What people write: a full-size RGB picture, `cv2.resize`, NumPy. Also the reference's own shrink."""
    scaler = VideoReformatter()

    def route(frame: av.VideoFrame, width: int, height: int) -> Planes:
        full = scaler.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return packed(cv2.resize(full, (width, height), interpolation=cv2.INTER_LINEAR))

    return route


def production(frame: av.VideoFrame, width: int, height: int) -> Planes:
    """What Penstock does."""
    return VideoPicture(frame).gbr_planes(width, height)


CANDIDATES: dict[str, Callable[[], Route]] = {
    "**production: `Picture.gbr_planes`**": lambda: production,
    "gbrpf32le FAST_BILINEAR": lambda: to_float_planes(Flag.FAST_BILINEAR),
    "gbrpf32le BILINEAR": lambda: to_float_planes(Flag.BILINEAR),
    "gbrpf32le AREA": lambda: to_float_planes(Flag.AREA),
    "gbrpf32le BICUBIC": lambda: to_float_planes(Flag.BICUBIC),
    "gbrpf32le POINT": lambda: to_float_planes(Flag.POINT),
    "rgb24 FAST_BILINEAR": lambda: to_rgb24(Flag.FAST_BILINEAR),
    "rgb24 BILINEAR": lambda: to_rgb24(Flag.BILINEAR),
    "rgb24 AREA": lambda: to_rgb24(Flag.AREA),
    "yuv420p AREA, then rgb24": lambda: by_yuv(Flag.AREA),
    "yuv420p FAST_BILINEAR, then rgb24": lambda: by_yuv(Flag.FAST_BILINEAR),
    "OpenCV linear (naive; the reference)": opencv,
}


class RoutedPicture:
    """A picture whose way into the model is one of the candidates."""

    def __init__(self, frame: av.VideoFrame, route: Route) -> None:
        self._frame = frame
        self._route = route
        self.size = Size(frame.width, frame.height)
        self.nbytes = 0

    def gbr_planes(self, width: int, height: int) -> Planes:
        return self._route(self._frame, width, height)

    def rgb(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        raise NotImplementedError

    def bgr(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        raise NotImplementedError

    def yuv420p(self) -> YuvPlanes:
        raise NotImplementedError

    def luma(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        raise NotImplementedError


def frames(width: int, height: int, photo: Path) -> list[av.VideoFrame]:
    """Photographs with noise, as a decoder gives them."""
    rng = np.random.default_rng(0)
    with Image.open(photo) as image:
        base = np.asarray(image.convert("RGB").resize((width, height)))
    made = []
    for _ in range(FRAMES):
        noisy = np.clip(base + rng.integers(-4, 5, base.shape), 0, 255).astype(np.uint8)
        made.append(av.VideoFrame.from_ndarray(noisy, format="rgb24").reformat(format="yuv420p"))
    return made


def times_us(routes: Sequence[Route], size: Size, side_px: int, photo: Path) -> list[float]:
    """Median microseconds from a decoder's frame to the filled input tensor, all routes interleaved."""
    preprocess, input_size = Preprocess(), Size(side_px, side_px)
    buffer = InputBuffer(preprocess, input_size, np.float32, channels_last=False, batch=1)
    placement = preprocess.place(size, input_size)
    pictures = frames(size.width, size.height, photo)
    samples: list[list[float]] = [[] for _ in routes]
    for _ in range(ROUNDS):
        for route, taken in zip(routes, samples, strict=True):
            for frame in pictures[:: len(pictures) // 4]:
                routed: Picture = RoutedPicture(frame, route)
                started = time.thread_time()
                buffer.put(0, routed, placement)
                taken.append((time.thread_time() - started) * 1e6)
    return [statistics.median(taken) for taken in samples]


def main() -> None:
    """Measure and write the table."""
    reference = reference_set()
    cases = [reference.CASES["yolo11-640"], reference.CASES["yolox"]]
    photo = reference.DATA / "images" / "bus.jpg"
    routes = [make() for make in CANDIDATES.values()]
    columns = [(f"{h}p to {side}", Size(w, h), side) for h, w in ((1080, 1920), (720, 1280)) for side in (640, 416)]
    timed = [times_us(routes, size, side, photo) for _, size, side in columns]
    precisions = []
    for case in cases:
        with reference.opened(case, confidence=0.001) as backend:

            def picture_of(path: Path, route: Route) -> Picture:
                with av.open(str(path)) as container:
                    frame = next(container.decode(video=0))
                return RoutedPicture(frame, route)

            precisions.append([reference.measured_ap(backend, lambda p, r=route: picture_of(p, r)) for route in routes])
    head = ["way", *(f"{name}, us" for name, _, _ in columns), "AP yolo11n 640", "AP yolox_nano 416"]
    wanted = " and ".join(str(reference.reference_ap(case)) for case in cases)
    intro = (
        "`python tests/bench/shrink.py`. "
        "CPU time of one thread from a decoded yuv420p frame to the filled, letterboxed float32 input (median, routes "
        f"interleaved), and AP on coco_val32 (JPEG decoded to YUV; reference AP: {wanted}). {platform.machine()}, "
        f"PyAV {av.__version__}."
    )
    lines = [
        "# Shrinking a picture to the model's size",
        "",
        intro,
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row, name in enumerate(CANDIDATES):
        cells = [f"{column[row]:.0f}" for column in timed] + [f"{ap[row]:.4f}" for ap in precisions]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    text = "\n".join(lines) + "\n"
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "shrink.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
