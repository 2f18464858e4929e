"""A program that runs until it is told to end: what it costs between two moments, and what it wrote between them.

Standard library only, Linux only: it reads /proc.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.measure import ChildFailedError, environment

LOOK_INTERVAL_S = 0.1


@dataclass(frozen=True)
class Span:
    """What happened between two moments.

    Attributes:
        seconds: on the clock.
        cpu_s: of the program, all its threads.
        frames: lines it wrote, by source.
        ages_s: how old each frame was when its line was written, as the program tells it.
        peak_mib: resident memory, since the start.
    """

    seconds: float
    cpu_s: float
    frames: Counter[str]
    ages_s: list[float] = field(repr=False)
    peak_mib: float


class Watched:
    """One program, from start to end. Used as a context manager by the harness.

    Args:
        command: to run.
        cwd: in which folder.
        lines: the folder in which it writes files of JSON lines, and nobody else does.
    """

    def __init__(self, command: Sequence[str], cwd: Path, lines: Path) -> None:
        self._command, self._cwd, self._lines = command, cwd, lines
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the program runs

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            self._command,
            cwd=self._cwd,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(15)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._errors.close()

    def wait_for(self, sources: int, timeout_s: float = 60.0) -> float:
        """Wait until lines of so many sources are there; the seconds that it took.

        Raises:
            ChildFailedError: it ended, or it takes too long.
        """
        began = time.perf_counter()
        while time.perf_counter() - began < timeout_s:
            if self._child.poll() is not None:
                break
            if len(Counter(source for source, _ in self._rows({}))) >= sources:
                return time.perf_counter() - began
            time.sleep(LOOK_INTERVAL_S)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")[-3000:]
        raise ChildFailedError(f"{' '.join(self._command)[:500]}: no lines of {sources} sources\n{said}")

    def span(self, seconds: float) -> Span:
        """Watch it for so long."""
        offsets = {path: path.stat().st_size for path in self._lines.glob("*.jsonl")}
        began, cpu_s = time.perf_counter(), self._cpu_s()
        time.sleep(seconds)
        cpu_s, took_s = self._cpu_s() - cpu_s, time.perf_counter() - began
        frames: Counter[str] = Counter()
        ages_s = []
        for source, age_s in self._rows(offsets):
            frames[source] += 1
            ages_s.append(age_s)
        return Span(took_s, cpu_s, frames, ages_s, self._peak_mib())

    def _rows(self, offsets: dict[Path, int]) -> Iterator[tuple[str, float]]:
        """Source and age of each whole line behind the offsets."""
        for path in sorted(self._lines.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(offsets.get(path, 0))
                for row in file.read().splitlines():
                    with contextlib.suppress(ValueError):  # the rest of a line that began before, or half of the last
                        document = json.loads(row)
                        yield document["source"], document["latency_s"]

    def _cpu_s(self) -> float:
        words = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def _peak_mib(self) -> float:
        rows = Path(f"/proc/{self._child.pid}/status").read_text().splitlines()
        return next(int(row.split()[1]) / 1024 for row in rows if row.startswith("VmHWM:"))


def free_port() -> int:
    """A port of 127.0.0.1 at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def scrape(port: int) -> dict[str, float]:
    """Penstock's counters by their whole names, labels included."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = {}
    for row in text.splitlines():
        name, _, value = row.rpartition(" ")
        if name and not name.startswith("#"):
            found[name] = float(value)
    return found


def outcomes(metrics: dict[str, float]) -> Counter[str]:
    """How many frames of all sources ended how, and under "decoded" how many there were."""
    told: Counter[str] = Counter()
    for name, value in metrics.items():
        if name.startswith("penstock_frames_total{"):
            told[name.partition('outcome="')[2].partition('"')[0]] += int(value)
        elif name.startswith("penstock_frames_decoded_total{"):
            told["decoded"] += int(value)
    return told


@contextlib.contextmanager
def server(command: Sequence[str], cwd: Path) -> Iterator[int]:
    """A helper that prints its port and ends with its standard input; the port."""
    child = subprocess.Popen(
        command, cwd=cwd, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        told = child.stdout.readline().strip()
        if not told.isdigit():
            raise ChildFailedError(f"{' '.join(command)}: it did not start")
        yield int(told)
    finally:
        child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
