"""What a measurement was made on, in one line."""

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_STAT = Path("/proc/stat")
_MAX_CHARS = 60


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_s() -> float | None:
    """Seconds that all cores together were busy since the machine started; None where the system does not say."""
    if not _STAT.exists():
        return None
    user, nice, system, _, _, irq, softirq = (int(number) for number in _STAT.read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def machine() -> str:
    """Processor, cores, and whether it has instructions made for 8-bit models (where the system tells)."""
    text = _CPUINFO.read_text(errors="replace") if _CPUINFO.exists() else ""
    rows = dict(line.split(":", 1) for line in reversed(text.splitlines()) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in rows.items()}
    name = (facts.get("model name") or platform.processor() or platform.machine())[:_MAX_CHARS]
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    if flags & {"avx512_vnni", "avx_vnni"}:
        name += ", VNNI"
    elif flags & {"asimddp", "i8mm"}:
        name += ", 8-bit dot products"
    elif flags:
        name += ", no VNNI"
    count = cores()
    return f"{name}, {count} core{'s' * (count != 1)}"
