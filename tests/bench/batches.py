"""What batches, kinds and two runs in flight are worth on an accelerator: frames a second through a running pipeline.

`python tests/bench/batches.py` sends 16 sources of two shapes through the real queue and runners to a stand-in for a
GPU (no GPU is needed, and none is measured): it computes one run at a time, each takes 4 ms and 1 ms for each frame,
and making a picture ready takes 1 ms of a worker beside it. Prints medians of interleaved rounds; `--write` keeps the
table.
"""

import argparse
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from harness import run  # noqa: E402

from pipeline.backends._onnx.batching import BatchSize, find_batch, given_size  # noqa: E402
from pipeline.contracts.backend import BackendConfig  # noqa: E402
from pipeline.contracts.component import Context  # noqa: E402
from pipeline.contracts.frame import Frame  # noqa: E402
from pipeline.contracts.result import Detections, Prediction  # noqa: E402
from pipeline.testing import detections  # noqa: E402

ROUNDS = 5
SOURCES, FRAMES = 16, 60
RUN_S, FRAME_S, READY_S = 0.004, 0.001, 0.001
SIZES = ((32, 18), (24, 24))


class StandInConfig(BackendConfig):
    """A stand-in for a model on a GPU."""

    type: Literal["stand_in"] = "stand_in"
    workers: int = 2
    batch: int | None = 1
    kinds: bool = True

    def build(self, ctx: Context) -> "StandIn":
        return StandIn(self, ctx)


class StandIn:
    """Its engine is a lock: one run at a time, frames of one shape in each."""

    model = "stand-in"
    device = "stand-in"

    def __init__(self, config: StandInConfig, ctx: Context) -> None:
        self._config = config
        self._now_s = ctx.clock.monotonic
        self._engine = threading.Lock()
        self._batch: BatchSize = given_size(1, self._now_s)
        self.concurrency, self.max_batch = config.workers, 1
        self.runs: list[int] = []
        self.began_s = self.ended_s = 0.0

    def open(self) -> None:
        given = self._config.batch
        self._batch = (
            given_size(given, self._now_s) if given is not None else find_batch(self._run, self._now_s, max_run_s=0.033)
        )
        self.max_batch = self._batch.limit
        self.runs.clear()

    def kind_of(self, frame: Frame) -> Hashable:
        return frame.picture.size if self._config.kinds else None

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        self.began_s = self.began_s or self._now_s()
        time.sleep(READY_S * len(batch))
        for size in dict.fromkeys(frame.picture.size for frame in batch):
            rows = sum(frame.picture.size == size for frame in batch)
            began = self._now_s()
            self._run(rows)
            self._batch.observe(rows, self._now_s() - began)
        self.max_batch, self.ended_s = self._batch.limit, self._now_s()
        nothing: Detections = detections()
        return [nothing] * len(batch)

    def describe(self) -> str:
        return "a stand-in"

    def close(self) -> None:
        pass

    def _run(self, rows: int) -> None:
        with self._engine:
            time.sleep(RUN_S + FRAME_S * rows)
            self.runs.append(rows)


class Case(NamedTuple):
    """One line of the table."""

    name: str
    workers: int
    batch: int | None
    kinds: bool


CASES = (
    Case("one frame, one worker", 1, 1, True),
    Case("one frame, two in flight", 2, 1, True),
    Case("8 frames as they come, two in flight", 2, 8, False),
    Case("8 frames of a kind, one worker", 1, 8, True),
    Case("8 frames of a kind, two in flight", 2, 8, True),
    Case("size found by measuring (runs up to 33 ms)", 2, None, True),
)


def measure(case: Case) -> tuple[float, float]:
    """Frames a second, and frames in a run."""
    sources = {
        f"cam{number}": {"frames": FRAMES, "pixels": list(SIZES[number % len(SIZES)])} for number in range(SOURCES)
    }
    model = {"type": "stand_in", "workers": case.workers, "batch": case.batch, "kinds": case.kinds}
    this = run({"sources": sources, "backends": {"model": model}}, plugins=[StandInConfig])
    backend = this.supervisor.topology.backends["model"].backend
    assert isinstance(backend, StandIn)
    return SOURCES * FRAMES / (backend.ended_s - backend.began_s), statistics.mean(backend.runs)


def table() -> str:
    """The measurement as Markdown."""
    found: dict[Case, list[tuple[float, float]]] = {case: [] for case in CASES}
    for _ in range(ROUNDS):
        for case in CASES:
            found[case].append(measure(case))
    first = statistics.median(fps for fps, _ in found[CASES[0]])
    lines = [
        "# Batches on an accelerator",
        "",
        (
            "`python tests/bench/batches.py --write`. "
            f"A stand-in for a GPU (nothing here was measured on one): {SOURCES} sources of two shapes, a run takes "
            f"{RUN_S * 1000:.0f} ms + {FRAME_S * 1000:.0f} ms a frame, one at a time; a picture is made ready in "
            f"{READY_S * 1000:.0f} ms beside it. The queue, the runners and the search for a size are the real ones. "
            f"Medians of {ROUNDS} interleaved rounds, {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}. Counted from the first frame: the search, of 0.4 s, comes before it."
        ),
        "",
        "| | frames/s | against the first | frames in a run |",
        "|---|---:|---:|---:|",
    ]
    for case in CASES:
        fps = statistics.median(each[0] for each in found[case])
        rows = statistics.median(each[1] for each in found[case])
        lines.append(f"| {case.name} | {fps:.0f} | {fps / first:.2f} | {rows:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the table in tests/bench/results/batches.md")
    text = table()
    print(text)
    if parser.parse_args().write:
        (HERE / "results" / "batches.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
