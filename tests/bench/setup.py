"""Makes the virtual environments in which the rivals run (`just bench-setup`).

What cannot be installed leaves its reason, and the benchmark's rows say so. Standard library only.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from environments import PYTHON, Environments, Install, say

TORCH, TORCHVISION = "2.13.0", "0.28.0"
"""Of ultralytics: for these two it has to be asked where there is a build for a CPU."""

STUB = {
    "torchvision/__init__.py": '"""Stands in for torchvision, which has no build for a CPU here."""\n\n'
    "from . import ops\n",
    "torchvision/ops.py": '"""What ultralytics calls of it, by ultralytics\' own means."""\n\n\n'
    "def nms(boxes, scores, iou_threshold):\n"
    "    from ultralytics.utils.nms import TorchNMS\n\n"
    "    return TorchNMS.nms(boxes, scores, iou_threshold)\n",
    f"torchvision-{TORCHVISION}.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchvision\n"
    f"Version: {TORCHVISION}\n",
}
"""By name, the files that stand in for torchvision where its build for a CPU cannot be installed."""


def remarks(name: str) -> str:
    """What is unusual about this environment, for the table; empty where nothing is."""
    note = RIVALS.home / name / "remarks"
    return note.read_text(encoding="utf-8").strip() if note.exists() else ""


def _finish(name: str, folder: Path, install: Install) -> str | None:
    return _torch(folder, install) if name == "ultralytics" else None


def _torch(folder: Path, install: Install) -> str | None:
    """PyTorch for a CPU: from its own index, or from folders of wheels (`PIP_FIND_LINKS`) and a stub of torchvision.

    What PyPI has is built for CUDA, 3 GB of it; it is the last resort.
    """
    both = [f"torch=={TORCH}", f"torchvision=={TORCHVISION}"]
    if install(["--no-deps", "--torch-backend", "cpu", *both]) is None:
        return None
    wheels = [word for place in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", place)]
    if wheels and install(["--no-deps", "--no-index", *wheels, f"torch=={TORCH}+cpu"]) is None:
        packages = next((folder / "lib").glob("python*/site-packages"))
        for file, text in STUB.items():
            (packages / file).parent.mkdir(exist_ok=True)
            (packages / file).write_text(text, encoding="utf-8")
        (folder / "remarks").write_text(
            "torchvision has no CPU build here: with ultralytics' own NMS", encoding="utf-8"
        )
        return None
    say(f"  PyTorch's own index does not answer; from PyPI it is 3 GB ({', '.join(both)})")
    reason = install(both)
    if reason is None:
        (folder / "remarks").write_text("PyTorch's build for CUDA, run on the CPU", encoding="utf-8")
    return reason


RIVALS = Environments(
    project="penstock-bench",
    command="just bench-setup",
    pins=Path(__file__).with_name("pins"),
    names=("naive", "streamvision", "ultralytics"),
    recipe="\n".join([PYTHON, TORCH, TORCHVISION, str(STUB), "compiled", ""]),
    options=("--compile-bytecode",),  # else whoever runs first is charged for it
    finish=_finish,
)


def main(names: list[str]) -> int:
    """Make the named ones, all without names; say what is unusual about those that are there."""
    code = RIVALS.main(names)
    for name in RIVALS.names:
        if remarks(name):
            say(f"{name}: {remarks(name)}")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
