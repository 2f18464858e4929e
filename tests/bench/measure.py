"""Runs a command as a child and says what it cost, as the kernel counted it; and what the machine is."""

import json
import os
import platform
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What one child process cost, from its start to its end.

    Attributes:
        wall_s: seconds on the clock.
        cpu_s: user and system seconds of all its threads.
        rss_mib: its peak resident memory in MiB.
        said: the JSON object that it printed, or nothing.
        others_cores: how many cores everybody else on the machine kept busy meanwhile.
    """

    wall_s: float
    cpu_s: float
    rss_mib: float
    said: Mapping[str, Any]
    others_cores: float


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


def run_child(command: Sequence[str], cwd: Path, timeout_s: float = 300.0) -> Cost:
    """Run to the end, wait, and read the kernel's account of it.

    Raises:
        ChildFailedError: it failed or took longer than `timeout_s`.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        busy_before, began = _machine_busy_s(), time.perf_counter()
        child = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        watchdog = _kill_after(child, timeout_s)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - began
        watchdog.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        busy_s = _machine_busy_s() - busy_before
        for stream in (out, err):
            stream.seek(0)
        text, errors = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if child.returncode:
        raise ChildFailedError(f"{' '.join(command)}: exit code {child.returncode}\n{text[-2000:]}\n{errors[-4000:]}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Cost(wall_s, cpu_s, usage.ru_maxrss / 1024, _said(text), max(0.0, busy_s - cpu_s) / wall_s)


def _kill_after(child: subprocess.Popen[bytes], timeout_s: float) -> threading.Timer:
    timer = threading.Timer(timeout_s, child.kill)
    timer.daemon = True
    timer.start()
    return timer


def _said(text: str) -> Mapping[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _machine_busy_s() -> float:
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
