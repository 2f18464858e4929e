"""What rewriting a model's graph saves on a CPU, each kind alone and all together, and how far the answers move.

Run: `python -m tests.bench.rewrite`; writes `tests/bench/results/rewrite.md`. Needs the models and pictures that the
tests use, too (`shared_data`), the extra `demo` and the dependency group `dev`.
"""

import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import onnxruntime

from pipeline.models.graph_rewrite import REWRITES, rewrite
from tests.bench.graph import table
from tests.bench.shrink import reference_set

HERE = Path(__file__).resolve().parent
WARM_RUNS = 2
RUNS_S = 6.0
"""How long the runs of one row may take, of both models together."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A model and what it is fed.

    Attributes:
        name: as the table calls it.
        path: the model.
        height: of the input, in pixels.
        width: of the input, in pixels.
        scale: what the model takes for white.
    """

    name: str
    path: Path
    height: int
    width: int
    scale: float = 1.0


def cases(data: Path, yolo11n: Path) -> list[Case]:
    """All models at hand."""
    models = data / "models"
    return [
        Case("yolox_nano 416x416", models / "yolox_nano_416.onnx", 416, 416, 255.0),
        Case("yolo11n 640x384", yolo11n, 384, 640),
        Case("yolo11n 640x640", yolo11n, 640, 640),
        Case("yolo11n-seg 640x640", models / "yolo11n-seg_640.onnx", 640, 640),
        Case("deimv2_atto 320x320", models / "deimv2_atto_320.onnx", 320, 320),
        Case("yolov5n fp16 640x640", models / "yolov5n_fp16_640.onnx", 640, 640),
        Case("yunet_n 320x320", models / "yunet_n_320.onnx", 320, 320, 255.0),
    ]


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    """On one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds_of(session: onnxruntime.InferenceSession, case: Case, photo: Path, batch: int = 1) -> dict[str, Array]:
    """A photograph first, then noise."""
    with av.open(str(photo)) as container:
        frame = next(container.decode(video=0))
    pixels = frame.to_ndarray(format="rgb24", width=case.width, height=case.height)
    fed = np.random.default_rng(7).random((batch, 3, case.height, case.width))
    fed[0] = pixels.transpose(2, 0, 1) / 255
    feeds = {}
    for taken in session.get_inputs():
        if len(taken.shape) == 4:
            feeds[taken.name] = (fed * case.scale).astype(np.float16 if "float16" in taken.type else np.float32)
        else:
            feeds[taken.name] = np.tile(np.array([[case.width, case.height]], np.int64), (batch, 1))
    return feeds


def ratio(plain: onnxruntime.InferenceSession, new: onnxruntime.InferenceSession, feeds: Any) -> tuple[float, ...]:
    """Milliseconds of the plain one, and the median and quartiles of new by plain, run in turns."""
    plain_ms: list[float] = []
    ratios: list[float] = []
    began = time.monotonic()
    while time.monotonic() - began < RUNS_S or len(ratios) < WARM_RUNS + 5:
        at = time.thread_time()
        plain.run(None, feeds)
        middle = time.thread_time()
        new.run(None, feeds)
        plain_ms.append((middle - at) * 1e3)
        ratios.append((time.thread_time() - middle) * 1e3 / plain_ms[-1])
    quartiles = np.quantile(ratios[WARM_RUNS:], [0.5, 0.25, 0.75])
    return statistics.median(plain_ms[WARM_RUNS:]), *(float(q) for q in quartiles)


def moved(plain: onnxruntime.InferenceSession, new: onnxruntime.InferenceSession, feeds: Any) -> tuple[float, float]:
    """The largest difference of any output, and the largest in parts of that output's largest value."""
    differences, parts = [0.0], [0.0]
    for before, after in zip(plain.run(None, feeds), new.run(None, feeds), strict=True):
        differences.append(float(np.abs(after.astype(np.float64) - before).max()))
        parts.append(differences[-1] / max(float(np.abs(before).max()), 1e-9))
    return max(differences), max(parts)


def rows_of(case: Case, photo: Path) -> list[list[str]]:
    """Each kind alone, and all together."""
    data = case.path.read_bytes()
    plain = session_of(data)
    kinds = [(name, (name,)) for name in REWRITES] + [("**all**", tuple(REWRITES))]
    done = [(name, rewrite(data, only=only)) for name, only in kinds]
    found = [(name, made) for name, made in done if made.done]
    if not found:
        return [[case.name, "nothing to rewrite", "", "", "", "", ""]]
    open_batch = not isinstance(plain.get_inputs()[0].shape[0], int)
    rows = []
    for name, made in found:
        new = session_of(made.data)
        plain_ms, median, low, high = ratio(plain, new, feeds_of(plain, case, photo))
        batches = [moved(plain, new, feeds_of(plain, case, photo, batch)) for batch in ((1, 4) if open_batch else (1,))]
        difference, part = (max(values) for values in zip(*batches, strict=True))
        cells = [f"{plain_ms:.1f}", f"{median:.3f}", f"{low:.3f} to {high:.3f}", f"{difference:.1e}", f"{part:.0e}"]
        rows.append([case.name, f"{name}: {', '.join(made.done)}" if name in REWRITES else name, *cells])
    return rows


def main() -> None:
    """Measure and write the table."""
    reference = reference_set()
    photo = reference.DATA / "images" / "bus.jpg"
    rows = []
    for case in cases(reference.DATA, reference.CASES["yolo11-640"].path()):
        rows += rows_of(case, photo)
        print("\n".join(" ".join(row) for row in rows[-len(REWRITES) - 1 :] if row[0] == case.name), flush=True)
    head = ["model", "rewritten", "file, ms", "by it", "quartiles", "difference", "in parts"]
    where = f"{platform.machine()}, onnxruntime {onnxruntime.__version__}, one thread"
    text = "\n".join(
        [
            "# Models' graphs rewritten, on a CPU",
            "",
            f"CPU time, the file as it is and the rewritten one run in turns. {where}.",
            "",
            "`by it`: the median of rewritten by plain, below 1 is faster. `difference`: the largest of any output,",
            "on a photograph and noise, with batches of 1 and 4 where the model takes them; `in parts` of the largest",
            "value.",
            "",
            *table(head, rows),
            "",
        ]
    )
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "rewrite.md").write_text(text)


if __name__ == "__main__":
    main()
