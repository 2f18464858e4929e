"""Makes the virtual environments in which the vendors' own clients and servers run (`just conformance-setup`).

Each is made of the exact versions in `pins/NAME.txt` and stands under the cache folder; a stamp says of which pins it
was made, so that a second call is quick. One that cannot be made leaves its reason in `NAME.failed`: the tests that
want it are skipped and quote it.
"""

import fcntl
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
# The quick and much used ones first: who waits for one need not wait for all.
NAMES = ("sdk", "hf24", "hf17", "triton", "roboflow", "sly", "sdk037", "rfs", "pytriton")
INSTALL_LIMIT_S = 900.0
REASON_CHARACTERS = 600


def rigs() -> Path:
    """The folder of the virtual environments."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "penstock-rigs" / "venvs"


def python_of(name: str) -> Path:
    """The interpreter of one of them."""
    return rigs() / name / "bin" / "python"


def missing(name: str) -> str | None:
    """Why this one cannot be used, in words for a skipped test; None when it can."""
    if _stamped(name):
        return None
    failed = rigs() / f"{name}.failed"
    if failed.exists():
        return f"{name} could not be made by `just conformance-setup`: {failed.read_text(encoding='utf-8').strip()}"
    return f"{name} is not there: run `just conformance-setup`"


def make(name: str) -> str | None:
    """Makes one, or does nothing when it is there already; returns why it failed."""
    folder, failed = rigs() / name, rigs() / f"{name}.failed"
    if _stamped(name):
        failed.unlink(missing_ok=True)
        return None
    shutil.rmtree(folder, ignore_errors=True)
    reason = _build(name, folder)
    if reason is None:
        (folder / "stamp").write_text(_stamp(name), encoding="utf-8")
        failed.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        failed.write_text(reason, encoding="utf-8")
    return reason


def _stamp(name: str) -> str:
    pins = (PINS / f"{name}.txt").read_bytes()
    return hashlib.sha256(PYTHON.encode() + pins).hexdigest()


def _stamped(name: str) -> bool:
    try:
        return (rigs() / name / "stamp").read_text(encoding="utf-8") == _stamp(name)
    except OSError:
        return False


def _build(name: str, folder: Path) -> str | None:
    uv = shutil.which("uv")
    if uv is None:
        return "the program uv is not on the PATH"
    pins = str(PINS / f"{name}.txt")
    # Every package stands in the pins, so nothing is left to resolve: --no-deps keeps it exact and quick.
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--requirement", pins]
    return _run([uv, "venv", "--quiet", "--python", PYTHON, str(folder)]) or _run(
        [*install, "--python", str(folder / "bin" / "python")]
    )


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


def main(names: Sequence[str]) -> int:
    """Makes the named ones, all without names. One that fails is told, and is no failure of the whole."""
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        sys.stderr.write(f"unknown: {', '.join(unknown)}; known: {', '.join(NAMES)}\n")
        return 2
    rigs().mkdir(parents=True, exist_ok=True)
    with (rigs() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two of these at once would write into the same folders
        for name in names or NAMES:
            start_s = time.monotonic()
            reason = make(name)
            took_s = time.monotonic() - start_s
            sys.stdout.write(f"{name}: {reason or 'ready'} ({took_s:.1f} s)\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
