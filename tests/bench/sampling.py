"""Who burns the CPU time of a command: by library and by libc's callers (Linux's `perf`), by Python function (py-spy).

What the samplers print is read by pure functions; nothing here knows what is measured.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.jobs import repository
from tests.bench.measure import environment

PERF_HZ = 997
STACKS_HZ = 499
PYTHON_HZ = 500
PY_SPY = "py-spy@0.4.3"
"""`uvx` keeps it in an environment of its own."""

LIBC = ("libc.so", "libc-", "ld-linux", "libpthread")
_STACK_BYTES = 16_384
_PYTHON_FRAME = re.compile(r"(?P<name>.+) \((?P<file>[^()]+?)(?::\d+)?\)")
_C_FRAME = re.compile(r"\s*[0-9a-f]+ (?P<symbol>.+) \((?P<library>[^()]+)\)")


class Call(NamedTuple):
    """Time inside of libc: what was done there, and the library on whose behalf."""

    does: str
    library: str


class Function(NamedTuple):
    """A Python function, by its name and the file that it stands in."""

    name: str
    file: str


def missing() -> str | None:
    """Which sampler is not there, and what to do about it; None: both are."""
    if shutil.which("perf") is None:
        return "perf is not installed: on Debian, apt install linux-perf"
    if shutil.which("uvx") is None:
        return "uvx is not on the PATH: it comes with uv"
    return None


def by_library(command: Sequence[str]) -> Counter[str]:
    """Samples of the CPU clock, at `PERF_HZ`, by the name of the library that ran."""
    with tempfile.NamedTemporaryFile(suffix=".perf") as data:
        _record(command, data.name, "-F", str(PERF_HZ))
        return libraries(_said("perf", "report", "-i", data.name, "--stdio", "--sort", "dso", "-n", "-q"))


def by_caller(command: Sequence[str]) -> Counter[Call]:
    """Samples inside of libc, at `STACKS_HZ`, by who called it."""
    with tempfile.NamedTemporaryFile(suffix=".perf") as data:
        _record(command, data.name, "-F", str(STACKS_HZ), "--call-graph", f"dwarf,{_STACK_BYTES}")
        return calls(_said("perf", "script", "--no-inline", "-i", data.name, "-F", "comm,ip,sym,dso").splitlines())


def by_function(command: Sequence[str]) -> Counter[tuple[Function, ...]]:
    """Samples of the thread that holds the interpreter's lock, at `PYTHON_HZ`, by its stack of Python functions.

    The process is not stopped for a sample: a stack that changes while it is read is left out.
    """
    with tempfile.NamedTemporaryFile(suffix=".raw") as data:
        how = ["--gil", "--nonblocking", "--rate", str(PYTHON_HZ), "--format", "raw", "--output", data.name]
        _run(["uvx", "--no-config", PY_SPY, "record", *how, "--", *command])
        return stacks(Path(data.name).read_text(encoding="utf-8").splitlines())


def libraries(report: str) -> Counter[str]:
    """What `perf report --sort dso -n` says."""
    found: Counter[str] = Counter()
    for row in report.splitlines():
        words = row.split()
        if len(words) >= 3 and words[1].isdigit():
            found[words[2]] += int(words[1])
    return found


def calls(script: Iterable[str]) -> Counter[Call]:
    """Of the stacks that `perf script` prints, innermost function first, those that end in libc."""
    found: Counter[Call] = Counter()
    for stack in _blocks(script):
        frames = [match.groups() for row in stack if (match := _C_FRAME.fullmatch(row.rstrip()))]
        libraries_of = [Path(library).name for _, library in frames]
        if frames and libraries_of[0].startswith(LIBC):
            callers = (library for library in libraries_of if not library.startswith((*LIBC, "[", "inlined")))
            found[Call(_does(frames[0][0]), next(callers, "?"))] += 1
    return found


def stacks(raw: Iterable[str]) -> Counter[tuple[Function, ...]]:
    """What py-spy writes with `--format raw`, outermost function first."""
    found: Counter[tuple[Function, ...]] = Counter()
    for row in raw:
        names, _, count = row.rstrip().rpartition(" ")
        matches = (_PYTHON_FRAME.fullmatch(name) for name in names.split(";"))
        stack = tuple(Function(match["name"], match["file"]) for match in matches if match is not None)
        if stack and count.isdigit():
            found[stack] += int(count)
    return found


def _does(symbol: str) -> str:
    """What a function of libc is for."""
    if re.search(r"mem(move|cpy|set|cmp)|mempcpy", symbol):
        return "copying and clearing"
    if re.search(r"alloc|free|unlink_chunk|malloc_consolidate|sysmalloc|systrim|memalign", symbol):
        return "asking for memory"
    if re.search(r"pthread|futex|sem_|lll_lock|cond_|clock_", symbol):
        return "locks and clocks"
    return "other"


def _blocks(rows: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for row in rows:
        if row.strip():
            block.append(row)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _record(command: Sequence[str], data: str, *how: str) -> None:
    _run(["perf", "record", "-q", "-e", "cpu-clock", *how, "-o", data, "--", *command])


def _run(command: Sequence[str]) -> None:
    ended = subprocess.run(command, cwd=repository(), env=environment(), capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}: exit code {ended.returncode}\n{ended.stderr[-2000:]}")


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
