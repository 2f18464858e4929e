"""All clocks of a program many times as fast: libfaketime, and the one way of waiting that it leaves out."""

import shutil
import subprocess
from pathlib import Path

LIBFAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"
SHIM = Path(__file__).with_name("sem_clockwait.c")


def missing() -> str | None:
    """What is not installed, in words."""
    if shutil.which("cc") is None or not any(Path("/").glob(LIBFAKETIME[1:])):
        return "needs libfaketime and a C compiler (just setup-scorecard)"
    return None


def fast_clock(folder: Path, speed: int) -> dict[str, str]:
    """The environment of a program whose clocks go `speed` times as fast, the monotonic one too."""
    built = folder / "sem_clockwait.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(built), str(SHIM)], check=True)
    (found, *_) = sorted(Path("/").glob(LIBFAKETIME[1:]))
    return {
        "LD_PRELOAD": f"{built} {found}",
        "FAKETIME": f"+0 x{speed}",
        "FAKETIME_DONT_RESET": "1",
        "SPEED": str(speed),
    }
