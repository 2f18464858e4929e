"""The jobs over files: each subject a whole process, a long run less a short one, by turns. Standard library only."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import equality, watch
from tests.bench.jobs import SHORT_FRAMES, Job, ModelFile, config, repository
from tests.bench.measure import Cost, note, run_child
from tests.bench.subjects import LIMIT, OURS, RIVALS, Task, command, why_not

ALONE_FRAMES = 40
MANY = 16
START_UPS = 3


@dataclass(frozen=True)
class Bench:
    """What all measurements need: where the clips and the outputs lie, and who is measured."""

    work: Path
    clips: Mapping[str, Path]
    subjects: tuple[str, ...]
    models: Mapping[str, ModelFile]

    def run(self, subject: str, task: Task) -> Cost:
        """One child, from start to end.

        Raises:
            ChildFailedError: it failed.
        """
        return run_child(command(subject, task, self.work), repository())

    def task(self, subject: str, job: Job, frames: int, server: str | None) -> Task:
        """A job over the clip of so many frames."""
        out = self.work / "out" / f"{subject}.jsonl"
        film = out.with_suffix(".mp4") if job.does == "video" else None
        return Task(self.models[job.model], [self.clips[f"{job.size}:{frames}"]], out, film=film, server=server)


@contextmanager
def elsewhere(job: Job) -> Iterator[str | None]:
    """The address of the backend elsewhere while it is there, for the job that wants one."""
    if job.does != "remote":
        yield None
        return
    with watch.server([sys.executable, "-m", "tests.bench.slow_server"], repository()) as port:
        yield f"http://127.0.0.1:{port}"


def measure(bench: Bench, job: Job, number: int, *, rivals: bool) -> dict[str, Any]:
    """All subjects once, in an order that depends on the round, and the stages of the limit alone.

    Args:
        bench: with what.
        job: which one.
        number: of the round; the first one also compares what was found.
        rivals: they, too.
    """
    turn = number % len(bench.subjects)
    samples: dict[str, Any] = {}
    equal = bench.work / "equal"
    with elsewhere(job) as server:
        for subject in bench.subjects[turn:] + bench.subjects[:turn]:
            if subject in RIVALS and (not rivals or not job.compared or why_not(subject, job, bench.models[job.model])):
                continue
            samples[subject] = sample = _one(bench, subject, job, server, equal)
            note(
                f"  {job.name:8} {subject:12} {sample['fps']:7.1f} fps {sample['cpu_ms']:6.2f} CPU ms"
                f" {sample['rss_mib']:5.0f} MiB, others {sample['others_cores']:.2f} cores"
            )
    if number == 0:
        for subject in samples:
            _compare(samples, subject, equal, by_number=job.does != "remote")
    if job.does == "lines" and LIMIT in samples:
        task = bench.task(LIMIT, job, SHORT_FRAMES, None)
        words = command(LIMIT, task, bench.work)
        samples["alone_cpu_ms"] = run_child([*words, "--alone", str(ALONE_FRAMES)], repository()).said["alone_cpu_ms"]
    return samples


def _one(bench: Bench, subject: str, job: Job, server: str | None, equal: Path) -> dict[str, Any]:
    """One subject on one job: the difference of a long and a short run."""
    shutil.rmtree(bench.work / "out", ignore_errors=True)
    (bench.work / "out").mkdir()
    equal.mkdir(exist_ok=True)
    frames = job.slow_frames if job.slow_frames and subject in RIVALS else job.frames
    brief = bench.task(subject, job, SHORT_FRAMES, server)
    short = bench.run(subject, brief)
    shutil.copy(brief.out, equal / brief.out.name)
    task = bench.task(subject, job, frames, server)
    long = bench.run(subject, task)
    found = equality.read(task.out)
    more = frames - SHORT_FRAMES
    sample: dict[str, Any] = {
        "fps": more / (long.wall_s - short.wall_s),
        "cpu_ms": 1000 * (long.cpu_s - short.cpu_s) / more,
        "whole_fps": frames / long.wall_s,
        "rss_mib": long.rss_mib,
        "joules": _joules(short, long, more),
        "lines": len(found),
        "missing_lines": frames - len(found),
        "detections": sum(len(boxes) for boxes in found.values()),
        "others_cores": (short.others_cores * short.wall_s + long.others_cores * long.wall_s)
        / (short.wall_s + long.wall_s),
    }
    sample["start_s"] = short.wall_s - SHORT_FRAMES / sample["fps"]
    if task.film is not None:
        sample["film_kib"] = task.film.stat().st_size / 1024
    if "in_run_cpu_ms" in long.said:
        sample["in_run_cpu_ms"] = long.said["in_run_cpu_ms"]
    return sample


def _joules(short: Cost, long: Cost, frames: int) -> float | None:
    """A frame's, or None where the machine does not tell."""
    if short.joules is None or long.joules is None:
        return None
    return (long.joules - short.joules) / frames


def _compare(samples: dict[str, Any], subject: str, equal: Path, *, by_number: bool) -> None:
    """How far a subject agrees with the limit on the short clip."""
    if LIMIT not in samples or subject == LIMIT:
        return
    ours, theirs = (equality.read(equal / f"{name}.jsonl") for name in (LIMIT, subject))
    agreement = equality.compare(ours, theirs)
    samples[subject]["agreement"] = {**agreement._asdict(), "share": agreement.share, "holds": agreement.holds}
    if not agreement.holds:
        note(f"  NOT EQUAL: {subject} and the limit agree on {agreement.share:.3f} of their boxes ({agreement})")


def many_files(bench: Bench, rounds: int) -> dict[str, Any]:
    """Peak memory and throughput of 16 files at once, light model; the limit has one decoder thread a file."""
    subjects = [name for name in (OURS, LIMIT, "streamvision") if name in bench.subjects]
    job = Job("many", "light", "720", SHORT_FRAMES)
    costs: dict[str, list[Cost]] = {}
    for number in range(rounds):
        for subject in subjects:
            if why_not(subject, job, bench.models[job.model]) or (number and subject in RIVALS):
                continue
            task = bench.task(subject, job, SHORT_FRAMES, None)
            task = replace(task, inputs=[*task.inputs] * MANY, decode_threads=1)
            costs.setdefault(subject, []).append(bench.run(subject, task))
    found = {
        subject: {
            "rss_mib": median(cost.rss_mib for cost in samples),
            "whole_fps": median(MANY * SHORT_FRAMES / cost.wall_s for cost in samples),
        }
        for subject, samples in costs.items()
    }
    for subject, figures in found.items():
        note(f"  {MANY} files {subject:12} {figures['rss_mib']:5.0f} MiB {figures['whole_fps']:6.1f} fps")
    return found


def start_up(bench: Bench) -> dict[str, list[float]]:
    """Seconds that `penstock --help` and `penstock check` take, whole process."""
    file = bench.work / "bench.toml"
    clip = bench.clips[f"720:{SHORT_FRAMES}"]
    file.write_text(config(bench.models["light"], [clip], bench.work / "x.jsonl", data_dir=bench.work / "data"))
    script = Path(sys.executable).with_name("penstock")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "pipeline"]
    taken: dict[str, list[float]] = {"help": [], "check": []}
    for _ in range(START_UPS):
        taken["help"].append(run_child([*program, "--help"], repository()).wall_s)
        taken["check"].append(run_child([*program, "check", str(file)], repository()).wall_s)
    return taken


def bare_session(bench: Bench, job: Job) -> float:
    """MiB that a session takes that ran once, and nothing else."""
    model = bench.models[job.model]
    size = (str(model.height), str(model.width))
    bare = [sys.executable, "-m", "tests.bench.bare_session", str(model.path), "--input", *size]
    return float(run_child(bare, repository()).said["peak_rss_mib"])


def warm_up(bench: Bench, jobs: list[Job]) -> None:
    """Let Penstock tune each model as at a first start, so that no timed run does; its choices are kept in `data`."""
    shutil.rmtree(bench.work / "data", ignore_errors=True)
    (bench.work / "out").mkdir(exist_ok=True)
    for name in dict.fromkeys(job.model for job in jobs):
        job = next(job for job in jobs if job.model == name)
        if job.does == "remote":
            continue
        cost = bench.run(OURS, bench.task(OURS, job, SHORT_FRAMES, None))
        bench.run(LIMIT, bench.task(LIMIT, job, SHORT_FRAMES, None))  # its modules are compiled, the model's file read
        note(f"  first start with {bench.models[name].label}: {cost.wall_s:.1f} s")
