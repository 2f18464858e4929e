"""Every way into a model against the answers of an independent decoder, and against labelled pictures.

Run: `python -m tests.bench.accuracy`; writes `tests/bench/results/accuracy.md`. Needs the labelled pictures that the
tests use, too (`shared_data`), the extra `demo` and the dependency group `dev`. It takes about five minutes; `--quick`
leaves out INT8, whose models are made here first.
"""

import contextlib
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime

from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.testing import PluginContext
from tests.bench.shrink import reference_set

HERE = Path(__file__).resolve().parent

AP_MAY_LOSE = 0.01
STATED_OFF_BY = 0.001
"""What `penstock quantize` says that INT8 costs is measured on the same pictures: it must be what is found here."""
IOU_AT_LEAST, SCORE_OFF_BY = 0.95, 0.04
"""The bounds of tests/integration/test_reference_boxes.py, for boxes with a score above 0.4."""

CALIBRATED_ON = ("bikes.mp4", "vtest.avi")
DYNAMIC = ("yolo11-640", "yolo11-416", "yolo11-320")
QUANTISED = ("yolox", "yolo11-640")


@dataclass(frozen=True)
class Way:
    """One way into a model: its name, the keys that choose it, and whether its boxes are the reference's."""

    name: str
    keys: dict[str, Any]
    same_boxes: bool


SQUARE = Way("CPU, square", {"input_shape": "square"}, True)
RECTANGLE = Way("CPU, rectangle (default)", {"input_shape": "auto"}, False)
GRAPH = Way("CPU, pre- and post-processing in the graph", {"input_shape": "square", "in_graph": "both"}, True)
GRAPH_RECTANGLE = Way("the same, rectangle", {"input_shape": "auto", "in_graph": "both"}, False)


@dataclass(frozen=True)
class Row:
    """What one way into one model gave; `boxes` are the worst IoU and score difference, where they are compared."""

    way: str
    model: str
    ap: float
    wanted_ap: float
    may_lose: float
    boxes: tuple[float, float] | None = None
    note: str = ""

    @property
    def good(self) -> bool:
        """Whether it keeps its bounds."""
        same = self.boxes is None or (self.boxes[0] >= IOU_AT_LEAST and self.boxes[1] <= SCORE_OFF_BY)
        return self.ap >= self.wanted_ap - self.may_lose and same

    def __str__(self) -> str:
        boxes = "" if self.boxes is None else f"{self.boxes[0]:.4f} / {self.boxes[1]:.4f}"
        cells = (self.way, self.model, f"{self.ap:.4f}", f"{self.wanted_ap:.4f}", f"{self.ap - self.wanted_ap:+.4f}")
        bound = f"-{self.may_lose:.3f}{self.note}"
        return f"| {' | '.join((*cells, bound, boxes, 'yes' if self.good else '**no**'))} |"


@contextlib.contextmanager
def opened(case: Any, way: Way, **keys: Any) -> Iterator[OnnxBackend]:
    """The backend of a case, fed in this way, with a data folder of its own."""
    table = {"model": case.path(), "input_size": case.input_size, "labels": case.labels} | way.keys | keys
    with tempfile.TemporaryDirectory() as folder:
        context = PluginContext(data_dir=Path(folder))
        backend = OnnxBackendConfig(device="cpu", workers=1, **table).build(context)
        try:
            backend.open()
            if context.warnings:
                print(*context.warnings, sep="\n")
            yield backend
        finally:
            backend.close()


def worst_boxes(reference: ModuleType, case: Any, way: Way) -> tuple[float, float]:
    """The worst IoU and score difference to the reference's boxes with a score above 0.4."""
    overlaps, differences = [1.0], [0.0]
    with opened(case, way, confidence=0.25) as backend:
        for file, wanted in reference.reference_boxes(case).items():
            found = reference.find(backend, reference.from_decoder(reference.DATA / "images" / file))
            for box in (b for b in wanted if b["score"] > 0.4):
                overlap, difference = reference.nearest(box, found)
                overlaps.append(overlap)
                differences.append(difference)
    return float(np.min(overlaps)), float(np.max(differences))


def float_row(reference: ModuleType, name: str, way: Way) -> Row:
    """One way into one model as it is."""
    case = reference.CASES[name]
    with opened(case, way, confidence=0.001) as backend:
        ap = reference.measured_ap(backend, reference.from_decoder)
    boxes = worst_boxes(reference, case, way) if way.same_boxes else None
    return Row(way.name, name, ap, reference.reference_ap(case), AP_MAY_LOSE, boxes)


def int8_row(reference: ModuleType, name: str, float_ap: float) -> Row:
    """A model that `penstock quantize` makes here, calibrated on videos; judged by AP against the float model."""
    from pipeline.quantize.order import Order
    from pipeline.quantize.quantizing import quantize

    case = reference.CASES[name]
    videos = tuple(str(reference.DATA / "videos" / video) for video in CALIBRATED_ON)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"{name}_int8.onnx"
        order = Order(
            model=str(case.path()),
            pictures=videos,
            out=out,
            labels=reference.DATA / "coco_val32" / "instances.json",
            accept_loss=True,
            input_size=case.input_size,
        )
        outcome = quantize(order, say=lambda *_: None)
        way = Way("INT8 (`penstock quantize`)", {"model": out, "input_shape": "auto"}, False)
        with opened(case, way, confidence=0.001) as backend:
            ap = reference.measured_ap(backend, reference.from_decoder)
    stated = outcome.accuracy.loss
    return Row(way.name, name, ap, float_ap, max(stated, 0.0) + STATED_OFF_BY, None, f" (it says {stated:.3f})")


def rows_of(reference: ModuleType, *, quick: bool) -> Iterator[Row]:
    """All rows, as they are measured."""
    fed: dict[str, float] = {}
    for name in reference.CASES:
        for way in (SQUARE, RECTANGLE, GRAPH, GRAPH_RECTANGLE) if name in DYNAMIC else (SQUARE, GRAPH):
            row = float_row(reference, name, way)
            if "in_graph" not in way.keys:
                fed[name] = row.ap  # in the end the one that is the default
            yield row
    for name in () if quick else QUANTISED:
        yield int8_row(reference, name, fed[name])


def main() -> None:
    """Measure, write the table; exit code 1 where a bound is broken."""
    reference = reference_set()
    head = "| way | model | AP | wanted | difference | may lose | worst IoU / score off by | kept |"
    print(head)
    rows = []
    for row in rows_of(reference, quick="--quick" in sys.argv[1:]):
        rows.append(row)
        print(row, flush=True)
    intro = (
        "`just bench-accuracy`. "
        "AP (0.50 to 0.95, pycocotools' rules, score threshold 0.001) on the 32 labelled pictures of coco_val32. "
        "Wanted: the AP of an independent decoder, fed squares; for INT8 that of the float model as Penstock feeds it. "
        "Boxes: against the independent decoder's with a score above 0.4; at least IoU "
        f"{IOU_AT_LEAST}, at most {SCORE_OFF_BY} off in score. A rectangle is another input, and INT8 another model: "
        f"there only AP is compared. {platform.machine()}, onnxruntime {onnxruntime.__version__}."
    )
    lines = ["# Accuracy of every way into a model", "", intro, "", head, "|---|---|---|---|---|---|---|---|"]
    text = "\n".join((*lines, *map(str, rows)))
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "accuracy.md").write_text(text + "\n")
    sys.exit(0 if all(row.good for row in rows) else 1)


if __name__ == "__main__":
    main()
