"""The process that makes a TensorRT engine: `python -m pipeline.backends._onnx.tensorrt_build JOB.json`.

A process of its own, because a build takes minutes in which nothing can stop it but a signal, takes memory that comes
back at once this way, and may end in a crash that ends nothing else. The engine stays in its folder; the daemon loads
it from there.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backends._onnx.device import CPU_CHOICE, TENSORRT, DeviceChoice
from pipeline.backends._onnx.session import Runtime, Session
from pipeline.backends._onnx.tensorrt import READY, load_libraries
from pipeline.contracts.errors import PenstockError

MAX_DIFFERENCE_RATIO = 0.02
"""Of an output's range: TensorFloat-32 rounds to one part in 2,000, which a deep network makes ten times as much."""

_NICE = 10
_PR_SET_PDEATHSIG = 1

Array = np.ndarray[Any, Any]


def main(path: Path) -> int:
    """Do the job in the file; 0 and a `ready.json` in the engine's folder, or 1 and a line on standard error."""
    os.nice(_NICE)
    if sys.platform == "linux":  # whoever started us may die without a word
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    job = json.loads(path.read_text("utf-8"))
    try:
        found = build(job)
    except (PenstockError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    ready = Path(job["folder"]) / READY
    unfinished = ready.with_suffix(".new")
    unfinished.write_text(json.dumps(found), "utf-8")
    unfinished.replace(ready)
    return 0


def build(job: Mapping[str, Any]) -> dict[str, float]:
    """Make the engine by loading the model, run all shapes, and compare one answer with the CPU's.

    Args:
        job: `model`, `providers`, `must_have`, `folder`, and `runs`: for each run the inputs' shapes and types.

    Returns:
        Seconds that it took, and the largest difference.

    Raises:
        PenstockError: it cannot be made, or its answers are others.
        OSError: there is no room for it.
    """
    began = time.monotonic()
    providers = tuple((name, dict(options)) for name, options in job["providers"])
    choice = DeviceChoice(providers, "cuda", job["must_have"])
    if choice.must_have == TENSORRT and (fault := load_libraries(to_build=True)) is not None:
        raise PenstockError(fault)
    runtime = Runtime()
    model = Path(job["model"])
    session = runtime.session(model, choice)
    if session is None:
        raise PenstockError(f"onnxruntime could not start {choice.must_have}")
    runs = [{name: _noise(*what) for name, what in run.items()} for run in job["runs"]]
    answers = [_run(session, feeds, runtime) for feeds in runs]
    built_s = time.monotonic() - began
    plain = runtime.session(model, CPU_CHOICE, intra_op_threads=1)
    if plain is None:
        raise PenstockError("onnxruntime could not start the CPU")
    difference = max(_difference(*pair) for pair in zip(answers[0], _run(plain, runs[0], runtime), strict=True))
    if not difference <= MAX_DIFFERENCE_RATIO:
        raise PenstockError(f"its answers differ from the CPU's by {difference:.1%} of their range")
    return {"built_s": built_s, "difference_ratio": difference}


def _noise(shape: Sequence[int], dtype: str) -> Array:
    """The same noise each time: 0..1, or 0..255 for bytes."""
    values = np.random.default_rng(0).random(tuple(shape))
    kind = np.dtype(dtype)
    return (values * 255 if kind.itemsize == 1 else values + 1 if kind.kind in "iu" else values).astype(kind)


def _run(session: Session, feeds: dict[str, Array], runtime: Runtime) -> list[Array]:
    try:
        return [np.asarray(output) for output in session.run(None, feeds)]
    except runtime.errors as error:
        raise PenstockError(" ".join(str(error).split())[:300]) from error


def _difference(found: Array, right: Array) -> float:
    if found.shape != right.shape:
        return float("inf")
    if found.size == 0:
        return 0.0
    largest = float(np.abs(right).max())
    difference = float(np.abs(found.astype(np.float64) - right.astype(np.float64)).max())
    return difference / largest if largest > 0 else difference


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
