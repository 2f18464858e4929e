"""Measures Penstock, the limit and the rivals in one run, and writes `results/bench.md`, `.json` and `.png`.

Standard library only: this process must stay small, because a child's peak memory starts at that of its parent.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import cameras, subjects, timed
from tests.bench.jobs import JOBS, SHORT_FRAMES, Job, models, repository
from tests.bench.measure import ChildFailedError, energy_j, machine, note, run_child
from tests.bench.report import markdown
from tests.bench.timed import Bench

PARTS = ("jobs", "memory", "cameras", "curve")
OTHER_PARTS_S = 230.0
"""What memory and cameras take, about; the rest of the time is for rounds of the jobs."""


def make_clips(work: Path) -> dict[str, Path]:
    """All clips, made by a child."""
    wanted = {f"{job.size}:{n}" for job in JOBS for n in (job.frames, job.slow_frames, SHORT_FRAMES) if n}
    wanted |= {f"720:{frames}" for frames in cameras.FILE_FRAMES.values()} | {"720:600", "plain:600", "still:600"}
    note("making clips where they are missing (once, about a minute)")
    command = [sys.executable, "-m", "tests.bench.clips", *sorted(wanted), "--work", str(work)]
    return {name: Path(path) for name, path in run_child(command, repository()).said.items()}


def jobs_part(bench: Bench, chosen: Sequence[Job], rounds: int, budget_s: float) -> dict[str, Any]:
    """The jobs over files: a round with everybody, then as many more as there is time for.

    Every second one is with everybody, if that fits; the others are of Penstock and the limit, whose ratio is near 1.
    """
    found: dict[str, Any] = {
        job.name: {
            **asdict(job),
            "model": asdict(replace(bench.models[job.model], path=Path())),
            "why_not": {
                name: reason
                for name in bench.subjects
                if (reason := subjects.why_not(name, job, bench.models[job.model]))
            },
            "rounds": [],
        }
        for job in chosen
    }
    began = time.monotonic()
    took_s: dict[bool, float] = {}
    everybody = True
    for number in range(rounds):
        left_s = budget_s - (time.monotonic() - began)
        everybody = not everybody if number else True
        everybody = everybody and (not number or took_s[True] <= left_s)
        if number and took_s.get(everybody, took_s[True] / 2) > left_s:
            break
        note(f"round {number + 1}{'' if everybody else ', Penstock and the limit'}")
        round_began = time.monotonic()
        for job in chosen:
            if everybody or job.compared:
                found[job.name]["rounds"].append(timed.measure(bench, job, number, rivals=everybody))
        took_s[everybody] = time.monotonic() - round_began
    return {"jobs": found, "start_up_s": timed.start_up(bench)}


def memory_part(bench: Bench, chosen: Sequence[Job], rounds: int) -> dict[str, Any]:
    """16 files at once, and what a bare session takes."""
    bare = {job.name: timed.bare_session(bench, job) for job in chosen if job.does == "lines"}
    return {"many": timed.many_files(bench, rounds), "bare_rss_mib": bare}


def measure(bench: Bench, chosen: Sequence[Job], options: argparse.Namespace) -> dict[str, Any]:
    """The parts and jobs that were asked for; the others as they are in `bench.json`."""
    timed.warm_up(bench, [*chosen, cameras.JOB])
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "jobs": lambda: jobs_part(bench, chosen, options.rounds, 60 * options.minutes - OTHER_PARTS_S),
        "memory": lambda: memory_part(bench, chosen, 1 if options.quick else 2),
        "cameras": lambda: cameras.served(bench, options.span),
        "curve": lambda: cameras.curve(bench, options.span, 16 if options.quick else 32),
    }
    file = options.results / "bench.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    report = {name: part for name, part in report.items() if name in PARTS and "took_s" in part}
    for name in PARTS:
        if name in options.parts.split(","):
            began = time.monotonic()
            before = report.get(name, {})
            report[name] = parts[name]()
            if name == "jobs":
                report[name]["jobs"] = before.get("jobs", {}) | report[name]["jobs"]
            report[name] |= {
                "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "took_s": time.monotonic() - began,
                "machine": machine(repository()),
            }
    return report


def main() -> None:
    """Measure, print the page, write it; parts that were not asked for stay as they were in `bench.json`."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.5, help="for all but the curve: more rounds fit into more")
    parser.add_argument("--rounds", type=int, default=9, help="of the jobs at the most")
    parser.add_argument("--span", type=float, default=8.0, metavar="SECONDS", help="how long cameras are watched")
    parser.add_argument("--quick", action="store_true", help="one round and short spans, for a first look")
    parser.add_argument("--parts", default=",".join(PARTS[:-1]), help=f"which of {','.join(PARTS)}")
    parser.add_argument("--jobs", default=",".join(job.name for job in JOBS), help="which, with commas between")
    parser.add_argument("--subjects", default=",".join(subjects.SUBJECTS), help="which, with commas between")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock-bench"
    parser.add_argument("--work", type=Path, default=cache, help="where clips and outputs go")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.span = 1, 5.0
    chosen = [job for job in JOBS if job.name in options.jobs.split(",")]
    who = tuple(name for name in subjects.SUBJECTS if name in options.subjects.split(","))
    clips = make_clips(options.work)
    with tempfile.TemporaryDirectory(prefix="run-", dir=options.work) as folder:  # others may be at it, too
        report = measure(Bench(Path(folder), clips, who, models()), chosen, options)
    report["rivals"] = dict(subjects.notes())
    report["energy"] = energy_j() is not None
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / "bench.json"
    file.write_text(json.dumps(report, indent=1, default=str) + "\n")
    page = markdown(report)
    (options.results / "bench.md").write_text(page)
    run_child([sys.executable, "-m", "tests.bench.plot", str(file)], repository())
    print(page)


if __name__ == "__main__":
    try:
        main()
    except ChildFailedError as error:
        raise SystemExit(f"a measured program failed: {error}") from None
