"""Measures Penstock, the limit and the naive loop, interleaved in one run. Standard library only.

Every subject is a whole process. Each job is run on a short and on a long clip, one right after the other, and the
difference of the two is what counts: start-up, loading the model, filling and draining the pipeline are in both and
fall out, for every subject alike. The order of the subjects changes from round to round.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.jobs import JOBS, SHORT_FRAMES, Job, ModelFile, config, models, repository
from tests.bench.measure import ChildFailedError, Cost, machine, run_child
from tests.bench.report import markdown

SUBJECTS = ("penstock", "limit", "naive")
MANY = 16
MANY_ROUNDS = 3
ALONE_FRAMES = 40
START_UPS = 5


@dataclass(frozen=True)
class Bench:
    """What all measurements need: where the clips and the outputs lie, and who is measured."""

    work: Path
    clips: Mapping[str, Path]
    subjects: tuple[str, ...]
    models: Mapping[str, ModelFile]

    def run(self, subject: str, model: ModelFile, clips: list[Path], extra: tuple[str, ...] = ()) -> Cost:
        """One child, from start to end.

        Raises:
            ChildFailedError: it failed.
        """
        out = self.work / "out" / f"{subject}.jsonl"
        if subject == "penstock":
            file = self.work / "bench.toml"
            out = out.with_name("penstock_{source}.jsonl")
            file.write_text(config(model, clips, out))
            command = ["-m", "pipeline", "run", str(file), "--quiet"]
        else:
            size = (str(model.height), str(model.width))
            inputs = [str(clip) for clip in clips]
            command = ["-m", f"tests.bench.{subject}", str(model.path), str(out), *inputs, "--input", *size, *extra]
        return run_child([sys.executable, *command], repository())

    def written(self, subject: str) -> tuple[int, int]:
        """Lines and detections in what the subject's last run wrote."""
        lines = detections = 0
        for path in (self.work / "out").glob(f"{subject}*.jsonl"):
            with path.open() as file:
                for row in file:
                    lines += 1
                    detections += len(json.loads(row)["predictions"])
        return lines, detections


def one(bench: Bench, subject: str, job: Job) -> dict[str, Any]:
    """One subject on one job: the difference of a long and a short run."""
    for old in (bench.work / "out").glob("*.jsonl"):
        old.unlink()
    model = bench.models[job.model]
    short = bench.run(subject, model, [bench.clips[f"{job.size}:{SHORT_FRAMES}"]])
    long = bench.run(subject, model, [bench.clips[f"{job.size}:{job.frames}"]])
    lines, detections = bench.written(subject)
    more = job.frames - SHORT_FRAMES
    sample: dict[str, Any] = {
        "fps": more / (long.wall_s - short.wall_s),
        "cpu_ms": 1000 * (long.cpu_s - short.cpu_s) / more,
        "whole_fps": job.frames / long.wall_s,
        "rss_mib": long.rss_mib,
        "lines": lines,
        "detections": detections,
        "others_cores": (short.others_cores * short.wall_s + long.others_cores * long.wall_s)
        / (short.wall_s + long.wall_s),
    }
    sample["start_s"] = short.wall_s - SHORT_FRAMES / sample["fps"]
    if "in_run_cpu_ms" in long.said:
        sample["in_run_cpu_ms"] = long.said["in_run_cpu_ms"]
    return sample


def one_round(bench: Bench, job: Job, number: int) -> dict[str, Any]:
    """All subjects once, in an order that depends on the round, and the stages of the limit alone."""
    turn = number % len(bench.subjects)
    samples: dict[str, Any] = {}
    for subject in bench.subjects[turn:] + bench.subjects[:turn]:
        samples[subject] = one(bench, subject, job)
        sample = samples[subject]
        note(
            f"  {job.name:5} {subject:9} {sample['fps']:7.1f} fps {sample['cpu_ms']:6.2f} CPU ms"
            f" {sample['rss_mib']:5.0f} MiB {sample['detections']:6} found, others {sample['others_cores']:.2f} cores"
        )
    clip = bench.clips[f"{job.size}:{SHORT_FRAMES}"]
    alone = bench.run("limit", bench.models[job.model], [clip], ("--alone", str(ALONE_FRAMES)))
    samples["alone_cpu_ms"] = alone.said["alone_cpu_ms"]
    return samples


def many_files(bench: Bench) -> dict[str, Any]:
    """Peak memory and throughput of 16 files at once, light model; the limit has one decoder thread a file."""
    found: dict[str, Any] = {}
    for size in ("720", "1080"):
        clips = [bench.clips[f"{size}:{SHORT_FRAMES}"]] * MANY
        costs: dict[str, list[Cost]] = {subject: [] for subject in bench.subjects if subject != "naive"}
        for _ in range(MANY_ROUNDS):
            for subject, samples in costs.items():
                samples.append(bench.run(subject, bench.models["light"], clips, ("--decode-threads", "1")))
        found[size] = {
            subject: {
                "rss_mib": median(cost.rss_mib for cost in samples),
                "whole_fps": median(MANY * SHORT_FRAMES / cost.wall_s for cost in samples),
            }
            for subject, samples in costs.items()
        }
        for subject, figures in found[size].items():
            note(f"  {MANY} x {size}p {subject:9} {figures['rss_mib']:5.0f} MiB {figures['whole_fps']:6.1f} fps")
    return found


def start_up(bench: Bench) -> dict[str, list[float]]:
    """Seconds that `penstock --help` and `penstock check` take, whole process."""
    file = bench.work / "bench.toml"
    file.write_text(config(bench.models["light"], [bench.clips[f"720:{SHORT_FRAMES}"]], bench.work / "out" / "x.jsonl"))
    script = Path(sys.executable).with_name("penstock")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "pipeline"]
    taken: dict[str, list[float]] = {"help": [], "check": []}
    for _ in range(START_UPS):
        taken["help"].append(run_child([*program, "--help"], repository()).wall_s)
        taken["check"].append(run_child([*program, "check", str(file)], repository()).wall_s)
    return taken


def make_clips(work: Path) -> dict[str, Path]:
    """All clips, made by a child: this process must stay small."""
    wanted = sorted({f"{job.size}:{n}" for job in JOBS for n in (job.frames, SHORT_FRAMES)})
    note("making clips where they are missing (once, under a minute)")
    command = [sys.executable, "-m", "tests.bench.clips", *wanted, "--work", str(work)]
    return {name: Path(path) for name, path in run_child(command, repository()).said.items()}


def note(text: str) -> None:
    """Progress goes to standard error."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print the table, write `results/bench.json` and `results/bench.md`."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round: under two minutes, for a first look")
    parser.add_argument("--jobs", default=",".join(job.name for job in JOBS), help="which, with commas between")
    parser.add_argument("--subjects", default=",".join(SUBJECTS), help="which, with commas between")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock-bench"
    parser.add_argument("--work", type=Path, default=cache, help="where clips and outputs go")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    chosen = [job for job in JOBS if job.name in options.jobs.split(",")]
    subjects = tuple(name for name in SUBJECTS if name in options.subjects.split(","))
    began = time.monotonic()
    (options.work / "out").mkdir(parents=True, exist_ok=True)
    bench = Bench(options.work, make_clips(options.work), subjects, models())
    report: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(repository()),
        "jobs": {
            j.name: {**asdict(j), "model": asdict(replace(bench.models[j.model], path=Path())), "rounds": []}
            for j in chosen
        },
        "bare_rss_mib": {j.name: [] for j in chosen},
    }
    for number in range(1 if options.quick else options.rounds):
        note(f"round {number + 1}")
        for job in chosen:
            report["jobs"][job.name]["rounds"].append(one_round(bench, job, number))
            model = bench.models[job.model]
            size = (str(model.height), str(model.width))
            bare = [sys.executable, "-m", "tests.bench.bare_session", str(model.path), "--input", *size]
            report["bare_rss_mib"][job.name].append(run_child(bare, repository()).said["peak_rss_mib"])
    report["many"] = many_files(bench)
    if "penstock" in subjects:
        report["start_up_s"] = start_up(bench)
    report["took_s"] = time.monotonic() - began
    table = markdown(report)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "bench.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
    (options.results / "bench.md").write_text(table)
    print(table)


if __name__ == "__main__":
    try:
        main()
    except ChildFailedError as error:
        raise SystemExit(f"a measured program failed: {error}") from None
