"""What tracking, zones and lines cost for each frame: `just bench-parts`, or `python tests/bench/tracking.py`.

Writes `tests/bench/results/tracking.md`.
"""

import platform
import statistics
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from moving import EPOCH, wanted

from pipeline.analytics.scene import SceneAnalyser
from pipeline.contracts.frame import Frame, NoPicture, Size
from pipeline.contracts.result import Detections, Result
from pipeline.wire.results import to_line

SIZE = Size(1920, 1080)
FRAMES = 120
FIRST = 20
"""So many frames are left out: tracks begin."""

HOW = """Objects that walk to and fro over a picture of 1920x1080 at 25 frames a second; two zones, two lines. CPU time
of one thread for one frame, medians, all three by turns. The ratio is of tracking, zones and lines together to one JSON
line of the same result, which every sink of lines pays."""

ZONES: dict[str, dict[str, Any]] = {
    "left": {"polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]},
    "door": {"polygon": [[0.6, 0.2], [0.9, 0.3], [0.8, 0.9], [0.55, 0.7]]},
}
LINES: dict[str, dict[str, Any]] = {
    "middle": {"start": [0.5, 0], "end": [0.5, 1]},
    "across": {"start": [0, 0.5], "end": [1, 0.5]},
}


def results(objects: int) -> list[Result]:
    """One source's results."""
    rng = np.random.default_rng(objects)
    start, speed = rng.uniform(0, 1, (objects, 2)), rng.normal(0, 0.1, (objects, 2))
    made = []
    for seq in range(FRAMES):
        place = 1 - np.abs((start + speed * seq / 25) % 2 - 1)  # reflected at the edges
        centre = place * (SIZE.width, SIZE.height) + rng.normal(0, 1.5, (objects, 2))
        half = np.array([30.0, 60.0])
        found = Detections(
            xyxy=np.concatenate([centre - half, centre + half], axis=1).astype(np.float32),
            confidence=rng.uniform(0.4, 0.9, objects).astype(np.float32),
            class_id=np.zeros(objects, np.int32),
            names=("person",),
        )
        frame = Frame("cam", seq, seq / 25, EPOCH + seq / 25, "pts", NoPicture(SIZE), seq / 25)
        made.append(Result(f"{seq:032x}", frame, found, "local", "model", "0" * 12, 0.0, 0.0))
    return made


def costs_ms(objects: int) -> tuple[float, ...]:
    """Of one frame: tracking; tracking, zones and lines; a JSON line."""
    plain, whole = (SceneAnalyser(asked, count(1).__next__) for asked in (wanted({}), wanted({}, ZONES, LINES)))
    spent: tuple[list[float], ...] = ([], [], [])
    for result in results(objects):
        for look, times in zip((plain.look, whole.look, to_line), spent, strict=True):
            began_s = time.thread_time()
            look(result)
            times.append(time.thread_time() - began_s)
    return tuple(statistics.median(times[FIRST:]) * 1e3 for times in spent)


def main() -> None:
    """Print the table, and write it."""
    lines = [
        "# What tracking, zones and lines cost",
        "",
        f"`python tests/bench/tracking.py`, {platform.machine()}, Python {platform.python_version()}.",
        "",
        HOW,
        "",
        "| objects | tracking, ms | with 2 zones and 2 lines, ms | JSON line, ms | ratio | of a core at 25 frames/s |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for objects in (1, 20, 100, 1000):
        tracking, everything, line = costs_ms(objects)
        lines.append(
            f"| {objects} | {tracking:.2f} | {everything:.2f} | {line:.2f} | {everything / line:.1f} "
            f"| {everything * 25 / 10:.1f} % |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    Path(__file__).with_name("results").joinpath("tracking.md").write_text(text)


if __name__ == "__main__":
    main()
