"""What tracking, zones and lines cost for each frame: `just bench-parts`, or `python tests/bench/tracking.py`.

Objects that walk to and fro over a picture of 1920x1080 at 25 frames a second; two zones, two lines. The ratio is to
one JSON line of the same result, which every sink of lines pays.
"""

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

from pipeline.analytics.scene import SceneAnalyser, Wanted
from pipeline.contracts.frame import Frame, NoPicture, Size
from pipeline.contracts.result import Detections, Result
from pipeline.wire.results import to_line

SIZE = Size(1920, 1080)
FRAMES = 300
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


def median_ms(asked: Wanted, of: list[Result]) -> float:
    """Of one frame, the first ones left out."""
    analyser, spent = SceneAnalyser(asked, count(1).__next__), []
    for result in of:
        began_s = time.perf_counter()
        analyser.look(result)
        spent.append(time.perf_counter() - began_s)
    return statistics.median(spent[20:]) * 1e3


def main() -> None:
    """Print the table."""
    print("objects | tracking | tracking, 2 zones, 2 lines | JSON line | ratio to the line | of a core at 25 fps")
    for objects in (1, 20, 100, 1000):
        of = results(objects)
        tracking, everything = median_ms(wanted({}), of), median_ms(wanted({}, ZONES, LINES), of)
        began_s = time.perf_counter()
        for result in of[:50]:
            to_line(result)
        line = (time.perf_counter() - began_s) / 50 * 1e3
        print(
            f"{objects:7} | {tracking:5.2f} ms | {everything:5.2f} ms | {line:5.2f} ms | {everything / line:4.1f} | "
            f"{everything * 25 / 10:4.1f} %"
        )


if __name__ == "__main__":
    main()
