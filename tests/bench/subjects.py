"""Who is measured, and the command line by which each does a job. Standard library only."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.bench import setup
from tests.bench.jobs import Job, ModelFile, config

OURS = "penstock"
LIMIT = "limit"
RIVALS = ("naive", "streamvision", "ultralytics")
SUBJECTS = (OURS, LIMIT, *RIVALS)

TITLES = {
    OURS: "Penstock",
    LIMIT: "the hand-written limit",
    "naive": "OpenCV loop",
    "streamvision": "InferencePipeline",
    "ultralytics": "ultralytics",
}
_MODULES = {
    "naive": "tests.bench.rivals.naive",
    "streamvision": "tests.bench.rivals.inference_pipeline",
    "ultralytics": "tests.bench.rivals.ultralytics_stream",
}


@dataclass(frozen=True)
class Task:
    """One run of one subject.

    Attributes:
        model: that is run.
        inputs: files, or the URLs of cameras.
        out: the JSON lines; a subject may add the source's name to the file's.
        film: the annotated video, if one is wanted.
        server: the backend elsewhere, if one is asked.
        fps: frames of each camera's second; 0: the inputs are files.
        motion: with Penstock's motion gate, and what it decodes while nothing moves.
        port: of Penstock's HTTP server; 0: any.
        decode_threads: of the limit, for each file.
    """

    model: ModelFile
    inputs: Sequence[Path | str]
    out: Path
    film: Path | None = None
    server: str | None = None
    fps: float = 0.0
    motion: Literal["all", "keyframes"] | None = None
    port: int = 0
    decode_threads: int = 2


def why_not(subject: str, job: Job, model: ModelFile) -> str | None:
    """Why this one does not run this job, in words for the table; None when it does."""
    if subject not in RIVALS:
        return None
    if subject == "ultralytics" and job.does == "remote":
        return "asks no other machine"
    if subject == "ultralytics" and model.family == "yolox":
        return "does not read YOLOX"
    return setup.RIVALS.missing(subject)


def command(subject: str, task: Task, work: Path) -> list[str]:
    """What to run, in the repository's root.

    Args:
        subject: one of `SUBJECTS`.
        task: what it shall do.
        work: where Penstock's configuration and data are.
    """
    if subject == OURS:
        return _ours(task, work)
    inputs = [str(given) for given in task.inputs]
    rival = subject in RIVALS
    size = task.model.tutorial_size if rival and not _fits(subject) else (task.model.height, task.model.width)
    if task.model.square:
        size = task.model.tutorial_size
    words = [str(task.model.path), str(task.out), *inputs, "--input", str(size[0]), str(size[1])]
    if task.film:
        words += ["--film", str(task.film)]
    if task.server:
        words += ["--server", task.server]
    if task.fps:
        words += ["--fps", str(task.fps)]
    if rival:
        return [str(setup.RIVALS.python_of(subject)), "-m", _MODULES[subject], *words]
    threads = 1 if task.fps or len(inputs) > 1 else task.decode_threads
    held = max(6, len(inputs)) if task.fps else 6
    more = ["--decode-threads", str(threads), "--queue", str(held)]
    return [sys.executable, "-m", "tests.bench.limit", *words, *more]


def _fits(subject: str) -> bool:
    """It feeds the rectangle by itself."""
    return subject == "ultralytics"


def _ours(task: Task, work: Path) -> list[str]:
    file = work / "bench.toml"
    several = len(task.inputs) > 1
    out = task.out.with_name(f"{task.out.stem}_{{source}}.jsonl") if several else task.out
    text = config(
        task.model,
        task.inputs,
        out,
        data_dir=work / "data",
        film=task.film,
        server=task.server,
        max_fps=task.fps or None,
        motion=task.motion,
        port=task.port,
    )
    file.write_text(text)
    return [sys.executable, "-m", "pipeline", "run", str(file), "--quiet"]


def notes() -> Mapping[str, str]:
    """For the page: by title, each rival's version, what is unusual about its environment, or why it is not there."""
    told = {}
    for name, package in (
        ("naive", "opencv-python-headless"),
        ("streamvision", "streamvision"),
        ("ultralytics", "ultralytics"),
    ):
        missing, remarks = setup.RIVALS.missing(name), setup.remarks(name)
        pins = setup.RIVALS.pinned(name)
        version = f"{package} {pins[package]}, onnxruntime {pins['onnxruntime']}"
        told[TITLES[name]] = missing or version + (f" ({remarks})" if remarks else "")
    return told
