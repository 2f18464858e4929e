"""What pre- and post-processing inside of the graph cost on a CPU, against the ways outside of it; and what they find.

Run: `python -m tests.bench.graph`; writes `tests/bench/results/graph.md`. Needs the labelled pictures that the tests
use, too (`shared_data`), the extra `demo` and the dependency group `dev`.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import onnxruntime
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.backends.onnx import OnnxBackendConfig
from pipeline.contracts.frame import Picture, Size
from pipeline.models.graph import Parts, compose
from pipeline.models.graph_bytes import PIXELS, bytes_buffer, bytes_graph
from pipeline.models.graph_picks import choice_of_picks, enough
from pipeline.models.graph_planes import SLOT, PlanesIn, SlotOut, planes_graph
from pipeline.models.picture import VideoPicture
from pipeline.models.preprocess import InputBuffer, Preprocess
from pipeline.models.reader import Reader
from pipeline.models.rules import ReadSettings
from pipeline.testing import PluginContext
from tests.bench.shrink import RoutedPicture, frames, production, reference_set

HERE = Path(__file__).resolve().parent
ROUNDS = 15
MODEL_ROUNDS = 12
CONFIDENCE = 0.25
STRETCH = Preprocess(resize="stretch")

Array = npt.NDArray[Any]
Fill = Callable[[av.VideoFrame], object]


@lru_cache(maxsize=256)
def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=256)
def _planes_model(planes: PlanesIn, slot: SlotOut, *, antialias: bool) -> bytes:
    return planes_graph(planes, slot, antialias=antialias)


def _run_planes(frame: av.VideoFrame, slot: SlotOut, *, antialias: bool) -> Array:
    yuv = VideoPicture(frame).yuv420p()
    pitches = frame.planes[0].line_size, frame.planes[1].line_size
    planes = PlanesIn("i420", Size(frame.width, frame.height), *pitches, yuv.matrix, yuv.full_range)
    feeds = {}
    for spec, plane in zip(planes.tensors, frame.planes, strict=True):
        shape = [int(side) for side in spec.shape]
        feeds[spec.name] = np.frombuffer(memoryview(plane), np.uint8)[: int(np.prod(shape))].reshape(shape)
    (found,) = _session(_planes_model(planes, slot, antialias=antialias)).run([SLOT], feeds)
    return np.asarray(found)


def ways(size: Size, input_size: Size) -> dict[str, Fill]:
    """Each way from a decoder's frame to a filled float32 input."""
    preprocess = Preprocess()
    place = preprocess.place(size, input_size)
    slot = SlotOut(preprocess, place)
    floats = InputBuffer(preprocess, input_size, np.float32, channels_last=False, batch=1)
    rounded = bytes_buffer(preprocess, input_size, batch=1)
    pixels = np.full((1, input_size.height, input_size.width, 3), preprocess.pad, np.uint8)
    middle = pixels[0, place.top : place.bottom, place.left : place.right]
    from_bytes = _session(bytes_graph(slot))
    shrink, convert = VideoReformatter(), VideoReformatter()

    def by_rounding(frame: av.VideoFrame) -> object:
        rounded.put(0, VideoPicture(frame), place)
        return from_bytes.run([SLOT], {PIXELS: rounded.tensor})

    def by_rgb(frame: av.VideoFrame) -> object:
        middle[...] = VideoPicture(frame).rgb(*place.content)
        return from_bytes.run([SLOT], {PIXELS: pixels})

    def by_yuv(frame: av.VideoFrame) -> object:
        across, down = place.content
        small = shrink.reformat(frame, across, down, "yuv420p", interpolation=Interpolation.AREA, threads=1)
        middle[...] = convert.reformat(small, format="rgb24", threads=1).to_ndarray()
        return from_bytes.run([SLOT], {PIXELS: pixels})

    return {
        "**outside: `Picture.gbr_planes` and three copies**": lambda frame: floats.put(0, VideoPicture(frame), place),
        '`in_graph = "input"`: the same rounded to bytes, the rest inside': by_rounding,
        "bytes by swscale (rgb24, AREA), the rest inside": by_rgb,
        "bytes by swscale (yuv420p AREA, then rgb24), the rest inside": by_yuv,
        "all inside, from the decoder's planes": lambda frame: _run_planes(frame, slot, antialias=False),
        "all inside, antialiased": lambda frame: _run_planes(frame, slot, antialias=True),
    }


def input_times_us(size: Size, input_size: Size, photo: Path) -> list[float]:
    """Median microseconds of CPU time of each way, interleaved."""
    pictures = frames(size.width, size.height, photo)
    fills = list(ways(size, input_size).values())
    taken: list[list[float]] = [[] for _ in fills]
    for number in range(ROUNDS + 1):
        for fill, samples in zip(fills, taken, strict=True):
            for frame in pictures[:: len(pictures) // 4]:
                began = time.thread_time()
                fill(frame)
                if number:
                    samples.append((time.thread_time() - began) * 1e6)
    return [statistics.median(samples) for samples in taken]


def _yuv420p(path: Path) -> av.VideoFrame:
    """A photograph as a camera would send it; the labelled ones are 4:4:4."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).reformat(format="yuvj420p", interpolation=Interpolation.AREA)


def precisions(reference: Any) -> list[list[str]]:
    """AP of the ways, in their order; columns as the cases."""

    def inside(antialias: bool) -> Callable[[av.VideoFrame, int, int], Array]:
        def route(frame: av.VideoFrame, width: int, height: int) -> Array:
            slot = SlotOut(STRETCH, STRETCH.place(Size(frame.width, frame.height), Size(width, height)))
            planes: Array = _run_planes(frame, slot, antialias=antialias)[0, (1, 2, 0)]
            return planes

        return route

    def packed(rgb: Array) -> Array:
        planes: Array = rgb[..., (1, 2, 0)].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        return planes

    def by_rgb(frame: av.VideoFrame, width: int, height: int) -> Array:
        return packed(VideoPicture(frame).rgb(width, height))

    def by_yuv(frame: av.VideoFrame, width: int, height: int) -> Array:
        small = VideoReformatter().reformat(frame, width, height, "yuvj420p", interpolation=Interpolation.AREA)
        return packed(VideoReformatter().reformat(small, format="rgb24").to_ndarray())

    routes = [production, production, by_rgb, by_yuv, inside(False), inside(True)]
    found = []
    for name in ("yolo11-640", "yolox"):
        column = []
        for row, route in enumerate(routes):
            with tempfile.TemporaryDirectory() as folder:
                case, keys = reference.CASES[name], {"in_graph": "input"} if row == 1 else {}
                config = OnnxBackendConfig(
                    model=case.path(), input_size=case.input_size, labels=case.labels, input_shape="square",
                    device="cpu", workers=1, tune=False, confidence=0.001, **keys,
                )  # fmt: skip
                backend = config.build(PluginContext(data_dir=Path(folder)))
                backend.open()

                def picture_of(path: Path, route: Any = route) -> Picture:
                    return RoutedPicture(_yuv420p(path), route)

                column.append(f"{reference.measured_ap(backend, picture_of):.4f}")
                backend.close()
        found.append(column)
    return found


def output_row(path: Path, photos: Sequence[Path]) -> list[str]:
    """What one model's run and reading cost with and without picking inside."""
    config = OnnxBackendConfig(model=path, device="cpu", confidence=CONFIDENCE, input_shape="square")
    plain_session = _session(path.read_bytes())
    model = config.describe()
    width, height = model.input_size
    empty = model.feeds(np.zeros((1, 3, height, width), model.image.dtype), model.input_size)
    names = [output.name for output in model.file.outputs]
    model = config.describe({n: o.shape for n, o in zip(names, plain_session.run(names, empty), strict=True)})
    plain = Reader(model, ReadSettings(confidence=CONFIDENCE))
    picks = plain.reading(choice_of_picks(model))
    both = {
        "plain": (plain_session, plain),
        "graph": (_session(compose(path.read_bytes(), model, Parts(picks=True))), picks),
    }
    run_ms: dict[str, list[float]] = {"plain": [], "graph": []}
    read_ms: dict[str, list[float]] = {"plain": [], "graph": []}
    home = {}
    for number in range(MODEL_ROUNDS + 1):
        with av.open(str(photos[number % len(photos)])) as container:
            picture = VideoPicture(next(container.decode(video=0)))
        feeds, place = plain.prepare([picture]), plain.place(picture.size)
        for way, (session, reader) in both.items():
            began = time.thread_time()
            outputs = session.run(list(reader.outputs), feeds)
            ran = time.thread_time()
            reader.read([output[0] for output in outputs], place, picture.size)
            if number:
                run_ms[way].append((ran - began) * 1e3)
                read_ms[way].append((time.thread_time() - ran) * 1e3)
            home[way] = sum(output.nbytes for output in outputs)
            assert way == "plain" or enough(outputs[0][0], CONFIDENCE)
    extra = statistics.median(g - p for g, p in zip(run_ms["graph"], run_ms["plain"], strict=True))
    medians = [statistics.median(values) for values in (run_ms["plain"], read_ms["plain"], read_ms["graph"])]
    gain = medians[1] - medians[2] - extra
    cells = [f"{medians[0]:.1f}", f"{medians[1]:.2f}", f"{extra:+.2f}", f"{medians[2]:.2f}", f"{gain:+.2f}"]
    return [path.stem, *cells, f"{home['plain'] / 1e3:.0f}", f"{home['graph'] / 1e3:.0f}"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def main() -> None:
    """Measure and write the tables."""
    reference = reference_set()
    photo = reference.DATA / "images" / "bus.jpg"
    columns = {
        "1080p to 640x640, us": (Size(1920, 1080), Size(640, 640)),
        "1080p to 640x384, us": (Size(1920, 1080), Size(640, 384)),
        "720p to 416x416, us": (Size(1280, 720), Size(416, 416)),
    }
    timed = [input_times_us(size, input_size, photo) for size, input_size in columns.values()]
    aps = precisions(reference)
    names = list(ways(Size(64, 64), Size(64, 64)))
    inputs = [
        [name, *(f"{times[row]:.0f}" for times in timed), *(ap[row] for ap in aps)] for row, name in enumerate(names)
    ]
    photos = sorted((reference.DATA / "coco_val32").rglob("*.jpg"))[:8]
    models = [reference.CASES["yolox"].path(), reference.CASES["yolo11-640"].path()]
    models += [reference.DATA / "models" / name for name in ("yolov5n_fp16_640.onnx", "yolo11n-seg_640.onnx")]
    outputs = [output_row(path, photos) for path in models]
    where = f"{platform.machine()}, PyAV {av.__version__}, onnxruntime {onnxruntime.__version__}, one thread"
    text = "\n".join(
        [
            "# Pre- and post-processing inside of the graph, on a CPU",
            "",
            f"`python -m tests.bench.graph`. CPU time, medians, ways interleaved. {where}.",
            "",
            "## From a decoded yuv420p frame to the filled float32 input, and AP on coco_val32 (made 4:2:0)",
            "",
            *table(["way", *columns, "AP yolo11n 640", "AP yolox_nano 416"], inputs),
            "",
            f"## From the input to boxes (confidence {CONFIDENCE})",
            "",
            "`more` is what picking adds to the run, `gain` what is left of what reading less saves; same boxes.",
            "",
            *table(
                [
                    "model",
                    "run, ms",
                    "read all, ms",
                    "more, ms",
                    "read picked, ms",
                    "gain, ms",
                    "all, KB",
                    "picked, KB",
                ],
                outputs,
            ),
            "",
        ]
    )
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "graph.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
