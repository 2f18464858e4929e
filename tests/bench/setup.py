"""Makes the virtual environments in which the rivals run (`just bench-setup`), each of exact versions in `pins/`.

They stand under the cache folder, apart from Penstock's own environment: the rivals want other versions of the same
packages. What cannot be installed leaves its reason, and the benchmark's rows say so. Standard library only.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PINS = Path(__file__).with_name("pins")
PYTHON = "3.11"
NAMES = ("naive", "streamvision", "ultralytics")
INSTALL_LIMIT_S = 1800.0
REASON_CHARACTERS = 400
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


def home() -> Path:
    """The folder of the virtual environments."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "penstock-bench" / "venvs"


def python_of(name: str) -> Path:
    """The interpreter of one of them."""
    return home() / name / "bin" / "python"


def missing(name: str) -> str | None:
    """Why this rival cannot run here, for the table; None when it can."""
    if _stamped(name):
        return None
    failed = home() / f"{name}.failed"
    if failed.exists():
        return f"not installed here: {failed.read_text(encoding='utf-8').strip()}"
    return "not installed here: run `just bench-setup`"


def remarks(name: str) -> str:
    """What is unusual about this environment, for the table; empty where nothing is."""
    note = home() / name / "remarks"
    return note.read_text(encoding="utf-8").strip() if note.exists() else ""


def pinned(name: str) -> dict[str, str]:
    """Version by package."""
    rows = (row.partition("==") for row in (PINS / f"{name}.txt").read_text(encoding="utf-8").splitlines())
    return {package: version for package, _, version in rows if version}


def make(name: str) -> str | None:
    """Make one, or do nothing where it is there already; why it failed, or None."""
    folder, failed = home() / name, home() / f"{name}.failed"
    if _stamped(name):
        failed.unlink(missing_ok=True)
        return None
    uv = shutil.which("uv")
    if uv is None:
        return "the program uv is not on the PATH"
    shutil.rmtree(folder, ignore_errors=True)
    reason = _build(name, folder, uv)
    if reason is None:
        (folder / "stamp").write_text(_stamp(name), encoding="utf-8")
        failed.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        failed.write_text(reason, encoding="utf-8")
    return reason


def _stamp(name: str) -> str:
    recipe = [PYTHON, TORCH, TORCHVISION, str(STUB), "compiled", (PINS / f"{name}.txt").read_text(encoding="utf-8")]
    return hashlib.sha256("\n".join(recipe).encode()).hexdigest()


def _stamped(name: str) -> bool:
    try:
        return (home() / name / "stamp").read_text(encoding="utf-8") == _stamp(name)
    except OSError:
        return False


def _build(name: str, folder: Path, uv: str) -> str | None:
    reason = _run([uv, "venv", "--quiet", "--no-config", "--python", PYTHON, str(folder)])
    # Without our own configuration of uv, which keeps the plain onnxruntime out.
    # Compiled at once: else whoever runs first is charged for it.
    install = [uv, "pip", "install", "--quiet", "--no-config", "--compile-bytecode", "--python", str(python_of(name))]
    # Every package stands in the pins, so nothing is left to resolve: --no-deps keeps it exact and quick.
    reason = reason or _run([*install, "--no-deps", "--requirement", str(PINS / f"{name}.txt")])
    if reason is None and name == "ultralytics":
        reason = _torch(install, folder)
    return reason


def _torch(install: Sequence[str], folder: Path) -> str | None:
    """PyTorch for a CPU: from its own index, or from folders of wheels (`PIP_FIND_LINKS`) and a stub of torchvision.

    What PyPI has is built for CUDA, 3 GB of it; it is the last resort.
    """
    both = [f"torch=={TORCH}", f"torchvision=={TORCHVISION}"]
    if _run([*install, "--no-deps", "--torch-backend", "cpu", *both]) is None:
        return None
    wheels = [word for place in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", place)]
    if wheels and _run([*install, "--no-deps", "--no-index", *wheels, f"torch=={TORCH}+cpu"]) is None:
        packages = next((folder / "lib").glob("python*/site-packages"))
        for file, text in STUB.items():
            (packages / file).parent.mkdir(exist_ok=True)
            (packages / file).write_text(text, encoding="utf-8")
        (folder / "remarks").write_text(
            "torchvision has no CPU build here: with ultralytics' own NMS", encoding="utf-8"
        )
        return None
    _note(f"  PyTorch's own index does not answer; from PyPI it is 3 GB ({', '.join(both)})")
    reason = _run([*install, *both])
    if reason is None:
        (folder / "remarks").write_text("PyTorch's build for CUDA, run on the CPU", encoding="utf-8")
    return reason


def _run(command: Sequence[str]) -> str | None:
    # An environment that is active is not the one to install into.
    environment = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the installation took more than {INSTALL_LIMIT_S:.0f} s"
    if done.returncode == 0:
        return None
    words = " ".join((done.stderr or done.stdout).split())
    return words[-REASON_CHARACTERS:] or f"the installation ended with status {done.returncode}"


def _note(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(names: Sequence[str]) -> int:
    """Make the named ones, all without names. One that fails is told, and is no failure of the whole."""
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        sys.stderr.write(f"unknown: {', '.join(unknown)}; known: {', '.join(NAMES)}\n")
        return 2
    home().mkdir(parents=True, exist_ok=True)
    for name in names or NAMES:
        _note(f"{name}: {len(pinned(name))} packages")
        began = time.monotonic()
        reason = make(name)
        state = reason or remarks(name) or "ready"
        _note(f"{name}: {state} ({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
