"""Runs a command as a child and says what it cost, as the kernel counted it; and what the machine is."""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def environment() -> dict[str, str]:
    """What every child gets: compiled modules are kept, as on a user's machine, whatever this shell says of them."""
    own = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return own | {"ORT_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class Cost:
    """What one child process cost, from its start to its end.

    Attributes:
        wall_s: seconds on the clock.
        cpu_s: user and system seconds of all its threads.
        rss_mib: its peak resident memory in MiB.
        said: the JSON object that it printed, or nothing.
        others_cores: how many cores everybody else on the machine kept busy meanwhile.
        joules: what the processor took meanwhile, where the machine tells it (RAPL); None where it does not.
    """

    wall_s: float
    cpu_s: float
    rss_mib: float
    said: Mapping[str, Any]
    others_cores: float
    joules: float | None = None


class ChildFailedError(Exception):
    """A child ended with another exit code than 0; the message holds the end of what it said."""


def peak_rss_mib() -> float:
    """The peak resident memory of this process in MiB; inherited from nobody, where the system can say so."""
    status = Path("/proc/self/status")
    if status.exists():
        for row in status.read_text().splitlines():
            if row.startswith("VmHWM:"):
                return int(row.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_child(command: Sequence[str], cwd: Path, timeout_s: float = 120.0) -> Cost:
    """Run to the end, wait, and read the kernel's account of it.

    Raises:
        ChildFailedError: it failed or took longer than `timeout_s`.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        busy_before, joules, began = machine_busy_s(), energy_j(), time.perf_counter()
        child = subprocess.Popen(command, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        watchdog = _kill_after(child, timeout_s)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - began
        watchdog.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        busy_s = machine_busy_s() - busy_before
        joules_now = energy_j()
        for stream in (out, err):
            stream.seek(0)
        text, errors = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if child.returncode:
        raise ChildFailedError(f"{' '.join(command)}: exit code {child.returncode}\n{text[-2000:]}\n{errors[-4000:]}")
    cpu_s = usage.ru_utime + usage.ru_stime
    others = max(0.0, busy_s - cpu_s) / wall_s
    taken = None if joules is None or joules_now is None or joules_now < joules else joules_now - joules
    return Cost(wall_s, cpu_s, usage.ru_maxrss / 1024, _said(text), others, taken)


def energy_j(folder: Path = Path("/sys/class/powercap")) -> float | None:
    """Joules that all processors took since some moment, or None where the machine does not tell (or not to us)."""
    try:
        counters = [zone / "energy_uj" for zone in folder.glob("intel-rapl:*") if zone.name.count(":") == 1]
        return sum(int(counter.read_text()) for counter in counters) / 1e6 if counters else None
    except OSError:
        return None


def note(text: str) -> None:
    """Progress goes to standard error."""
    print(text, file=sys.stderr, flush=True)


def _kill_after(child: subprocess.Popen[bytes], timeout_s: float) -> threading.Timer:
    timer = threading.Timer(timeout_s, child.kill)
    timer.daemon = True
    timer.start()
    return timer


def _said(text: str) -> Mapping[str, Any]:
    try:
        said = json.loads(text.splitlines()[-1])  # some libraries greet on standard output
    except (ValueError, IndexError):
        return {}
    return said if isinstance(said, dict) else {}


def machine_busy_s() -> float:
    """Seconds that all cores together were busy since the machine started; 0 where the system does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq = (int(n) for n in stat.read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def machine(root: Path) -> dict[str, str]:
    """What stands above the table: processor, cores, versions, commit."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            row.split(":", 1)[1].strip() for row in cpuinfo.read_text().splitlines() if row.startswith("model name")
        ]
        model = names[0] if names else model
    facts = {
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory_gib": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": _commit(root),
    }
    for package in ("penstock", "av", "numpy", "onnxruntime-gpu", "onnxruntime", "opencv-python-headless"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def _commit(root: Path) -> str:
    head = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    if head.returncode:
        return "none yet"
    dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False)
    return head.stdout.strip() + (" and changes" if dirty.stdout.strip() else "")
