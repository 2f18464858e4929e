"""All that needs a GPU, by one command: `python -m tests.gpu`. Writes results/gpu.json and results/gpu.md."""

import json
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest

from pipeline.devices.driver import DeviceError
from pipeline.devices.gpus import gpus

HERE = Path(__file__).parent
MOST_S = 180
"""For the tests of one file."""
MOST_OF_FILES_S = {"test_tensorrt": 900}  # engines are built, three times

_ENDED = re.compile(r"^\S*::(.+) (PASSED|FAILED|SKIPPED|ERROR)\b")
_BEGUN = re.compile(r"^\S*::(.+)")
_WORDS = {"PASSED": "passed", "SKIPPED": "skipped"}


class Outcome(NamedTuple):
    """How one test ended: "passed", "failed" or "skipped", and why."""

    test: str
    outcome: str
    seconds: float
    why: str


def main() -> int:
    """Run the tests, each file's in a process of their own: what crashes or hangs takes no other results along."""
    code, outcomes = 0, list[Outcome]()
    machine = about()
    for path in sorted(HERE.glob("test_*.py")):
        ended, found = run(path, sys.argv[1:], MOST_OF_FILES_S.get(path.stem, MOST_S))
        code = code or (0 if ended == pytest.ExitCode.NO_TESTS_COLLECTED else ended)
        outcomes += found
        write(machine, outcomes)
    return code


def run(path: Path, arguments: Sequence[str], most_s: float) -> tuple[int, list[Outcome]]:
    """Run a file's tests; pytest's exit code, or what ended its process, and the outcomes."""
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", str(path), "-v", "-p", "no:cacheprovider", f"--junitxml={junit}"]
        process = subprocess.Popen(
            [*command, *arguments], cwd=HERE.parents[1], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        killer = threading.Timer(most_s, process.kill)
        killer.start()
        lines = []
        with process:
            for line in process.stdout or ():
                sys.stdout.write(line)
                sys.stdout.flush()
                lines.append(line.rstrip())
        killer.cancel()
        killer.join()
        if junit.is_file():
            return process.returncode, read(junit)
    return process.returncode, told(lines, path.stem, f"its process ended with {process.returncode}")


def told(lines: Sequence[str], file: str, end: str) -> list[Outcome]:
    """What can be known of a file's tests whose process died: what it said of each before, and which one it was at."""
    found: dict[str, Outcome] = {}
    for line in lines:
        if (ended := _ENDED.match(line)) is not None:
            outcome = _WORDS.get(ended[2], "failed")
            found[ended[1]] = Outcome(f"{file}::{ended[1]}", outcome, 0.0, "")
        elif (begun := _BEGUN.match(line)) is not None:
            name = begun[1].strip()
            found[name] = Outcome(f"{file}::{name}", "failed", 0.0, end)
    if all(outcome.why != end for outcome in found.values()):
        found[""] = Outcome(file, "failed", 0.0, end)
    return list(found.values())


def write(machine: dict[str, str], outcomes: list[Outcome]) -> None:
    """The page and its figures."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    document = {"machine": machine, "tests": [outcome._asdict() for outcome in outcomes]}
    (results / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
    (results / "gpu.md").write_text(page(machine, outcomes))


def about() -> dict[str, str]:
    """What ran the tests."""
    try:
        gpu = gpus().gpu(0)
        device = f"{gpu.name}, {gpu.total_bytes / 2**30:.0f} GiB"
    except DeviceError as error:
        device = f"none: {error}"
    packages = ("av", "onnxruntime-gpu", "numpy")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": device,
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def read(junit: Path) -> list[Outcome]:
    """What pytest wrote."""
    outcomes = []
    for case in ET.parse(junit).iter("testcase"):  # noqa: S314  (our own pytest wrote it)
        ends = {child.tag: child.get("message", "") for child in case}
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        failed = ends.get("failure", ends.get("error"))
        outcome, why = ("skipped", ends["skipped"]) if "skipped" in ends else ("passed", "")
        if failed is not None:
            outcome, why = "failed", failed
        outcomes.append(Outcome(name, outcome, float(case.get("time", 0)), " ".join(why.split())[:300]))
    return outcomes


def page(machine: dict[str, str], outcomes: list[Outcome]) -> str:
    """The results for people."""
    counts = {each: sum(o.outcome == each for o in outcomes) for each in ("passed", "failed", "skipped")}
    lines = ["# Tests on a GPU", "", ", ".join(f"{key}: {value}" for key, value in machine.items()) + ".", ""]
    lines += [", ".join(f"{count} {name}" for name, count in counts.items()) + ".", ""]
    lines += ["| test | outcome | seconds | why |", "|---|---|---|---|"]
    lines += [f"| {o.test} | {o.outcome} | {o.seconds:.1f} | {o.why.replace('|', '/')} |" for o in outcomes]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
