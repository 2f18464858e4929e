"""Job E and the curve: cameras over RTSP in real time, sampled at 5 frames a second. Standard library only.

A camera gives what it gives: what counts is whether all of it is served, and what that costs. The subject's CPU time
is read twice, once when all cameras have been seen and the first seconds are over, and once at the end.
"""

import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import quantiles
from typing import Any, Literal

from tests.bench import watch
from tests.bench.jobs import SHORT_FRAMES, Job, repository
from tests.bench.measure import ChildFailedError, machine_busy_s, note, run_child
from tests.bench.subjects import LIMIT, OURS, RIVALS, Task, command, why_not
from tests.bench.timed import Bench

CAMERAS = 16
FPS = 5.0
CURVE = (1, 2, 4, 8, 16, 32)
SETTLE_S = 5.0
LEARN_S = 15.0
"""For what a camera at rest weighs: four groups of pictures are looked at before any is left out."""
JOB = Job("E", "small", "720", 600)
Motion = Literal["all", "keyframes"] | None
STILL: tuple[tuple[str, Motion], ...] = (("without", None), ("with", "all"), ("keyframes", "keyframes"))
"""The still scene's rows: without the motion gate, with it, and with keyframes only while nothing moves."""
FILE_FRAMES = {1: 540, 2: 300, 4: 180, 8: 120, 16: 120, 32: 120}
"""Of each file in the curve of files, by their number; a run over the short clips is taken off."""


def watched(bench: Bench, subject: str, urls: Sequence[str], span_s: float, *, motion: Motion = None) -> dict[str, Any]:
    """One subject on running cameras.

    Raises:
        ChildFailedError: it did not see all of them.
    """
    out = bench.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    port = watch.free_port()
    task = Task(bench.models[JOB.model], urls, out / f"{subject}.jsonl", fps=FPS, motion=motion, port=port)
    ours = subject == OURS
    with watch.Watched(command(subject, task, bench.work), repository(), out) as program:
        start_s = program.wait_for(len(urls))
        program.span(LEARN_S if motion == "keyframes" else SETTLE_S)
        before = watch.outcomes(watch.scrape(port)) if ours else None
        busy_s = machine_busy_s()
        span = program.span(span_s)
        busy_s = machine_busy_s() - busy_s
        after = watch.outcomes(watch.scrape(port)) if ours else None
    wanted = len(urls) * FPS * span.seconds
    seen = span.frames.total()
    cents = quantiles(span.ages_s, n=100) if len(span.ages_s) > 1 else [0.0] * 99
    sample: dict[str, Any] = {
        "cameras": len(urls),
        "cores": span.cpu_s / span.seconds,
        "others_cores": (busy_s - span.cpu_s) / span.seconds,
        "fps": seen / span.seconds,
        "served": seen / wanted,
        "least_served": min(span.frames.values(), default=0) / (FPS * span.seconds)
        if len(span.frames) == len(urls)
        else 0.0,
        "cpu_ms": 1000 * span.cpu_s / seen if seen else None,
        "age_p50_ms": 1000 * cents[49],
        "age_p99_ms": 1000 * cents[98],
        "rss_mib": span.peak_mib,
        "start_s": start_s,
    }
    if before is not None and after is not None:
        sample["outcomes"] = dict(after - before)
    note(
        f"  {len(urls):2} cameras {subject:12} {sample['cores']:.2f} cores, {100 * sample['served']:.0f} % served,"
        f" age {sample['age_p50_ms']:.0f} / {sample['age_p99_ms']:.0f} ms, {sample['rss_mib']:.0f} MiB,"
        f" others {sample['others_cores']:.2f} cores {sample.get('outcomes', '')}"
    )
    return sample


def _serving(clip: Path, cameras: int) -> AbstractContextManager[int]:
    return watch.server([sys.executable, "-m", "tests.bench.cameras_server", str(clip), str(cameras)], repository())


def _urls(port: int, cameras: int) -> list[str]:
    return [f"rtsp://127.0.0.1:{port}/cam{number}" for number in range(cameras)]


def served(bench: Bench, span_s: float) -> dict[str, Any]:
    """Job E: 16 cameras for each subject; the same without B-frames; a still scene as in `STILL`."""
    found: dict[str, Any] = {"moving": {}, "plain": {}, "still": {}}
    with _serving(bench.clips["720:600"], CAMERAS) as port:
        for subject in bench.subjects:
            _try(bench, found["moving"], subject, _urls(port, CAMERAS), span_s)
    with _serving(bench.clips["plain:600"], CAMERAS) as port:
        for subject in (OURS, LIMIT, "streamvision"):
            if subject in bench.subjects:
                _try(bench, found["plain"], subject, _urls(port, CAMERAS), span_s)
    if OURS in bench.subjects:
        with _serving(bench.clips["still:600"], CAMERAS) as port:
            for name, motion in STILL:
                found["still"][name] = watched(bench, OURS, _urls(port, CAMERAS), span_s, motion=motion)
    return found


def _try(bench: Bench, found: dict[str, Any], subject: str, urls: Sequence[str], span_s: float) -> None:
    if subject in RIVALS and why_not(subject, JOB, bench.models[JOB.model]):
        return
    try:
        found[subject] = watched(bench, subject, urls, span_s)
    except ChildFailedError as error:
        if subject not in RIVALS:
            raise
        found[subject] = {"failed": str(error)[-400:]}
        note(f"  {subject}: {error}")


def curve(bench: Bench, span_s: float, most: int) -> dict[str, Any]:
    """What one frame costs Penstock with 1 to `most` cameras in real time, and as many files at full speed."""
    found: dict[str, Any] = {"cameras": [], "files": []}
    numbers = [number for number in CURVE if number <= most]
    with _serving(bench.clips["720:600"], most) as port:
        for number in numbers:
            found["cameras"].append(watched(bench, OURS, _urls(port, number), span_s))
    for number in numbers:
        frames = FILE_FRAMES[number]
        costs = []
        for length in (SHORT_FRAMES, frames):
            shutil.rmtree(bench.work / "out", ignore_errors=True)
            (bench.work / "out").mkdir()
            clips = [bench.clips[f"720:{length}"]] * number
            task = Task(bench.models["light"], clips, bench.work / "out" / f"{OURS}.jsonl")
            costs.append(run_child(command(OURS, task, bench.work), repository()))
        short, long = costs
        more = number * (frames - SHORT_FRAMES)
        sample = {
            "files": number,
            "fps": more / (long.wall_s - short.wall_s),
            "cpu_ms": 1000 * (long.cpu_s - short.cpu_s) / more,
            "rss_mib": long.rss_mib,
            "others_cores": long.others_cores,
        }
        found["files"].append(sample)
        note(f"  {number:2} files {sample['fps']:6.1f} fps {sample['cpu_ms']:.2f} CPU ms {sample['rss_mib']:.0f} MiB")
    return found
