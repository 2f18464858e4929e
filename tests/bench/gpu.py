"""What a GPU gives: decoder alone, session alone, and Penstock with both; writes results/gpu.md and gpu.json.

    python -m tests.bench.gpu             # jobs A and B; about four minutes
    python -m tests.bench.gpu --rehearse  # the same on the CPU, briefly, into nowhere: does the harness work?

The limit is what both devices must do for every frame: the slower of NVDEC's rate and the session's, each alone.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.gpu_page import page
from tests.bench.jobs import CONFIDENCE, IOU_THRESHOLD, ModelFile, models, repository
from tests.bench.measure import ChildFailedError, machine, note, run_child
from tests.bench.watch import Watched, free_port, scrape

CLIP = "1080:600"
FILES = 8
"""Files at full speed: enough to keep several decoders busy."""
CAMERAS = 16
FPS = 30
SETTLE_S, SPAN_S = 5.0, 20.0
JOBS = {"A": "heavy", "B": "light"}


class Run(NamedTuple):
    """One run of Penstock.

    Attributes:
        model: that is run.
        clip: played again and again.
        sources: how many times at once.
        where: "cuda" or "cpu".
        live: in real time, like cameras.
        span_s: for how long it is watched.
    """

    model: ModelFile
    clip: Path
    sources: int
    where: str
    live: bool
    span_s: float


def config(run: Run, out: Path, data_dir: Path, port: int) -> str:
    """A pipeline.toml as users write it.

    Args:
        run: of what.
        out: folder of the JSON lines.
        data_dir: kept, so that a model is prepared once.
        port: of the HTTP server.
    """
    model, pace = run.model, "realtime" if run.live else "fast"
    size = "" if model.input_size is None else f"input_size = {model.input_size}\n"
    texts = (json.dumps(str(path)) for path in (data_dir, model.path, out / "{source}.jsonl", run.clip))
    data, weights, lines, clip = texts
    tables = [f"data_dir = {data}", f'[server]\nlisten = "127.0.0.1:{port}"']
    tables.append(
        f'[backends.local]\ntype = "onnx"\nmodel = {weights}\ndevice = "{run.where}"\n{size}'
        f"confidence = {CONFIDENCE}\niou_threshold = {IOU_THRESHOLD}"
    )
    # "append": lines stand under the file's own name from the first on.
    tables.append(f'[sinks.out]\ntype = "jsonl"\npath = {lines}\nmode = "append"')
    tables += [
        f'[sources.cam{number}]\ntype = "file"\npath = {clip}\nloop = true\ndecode = "{run.where}"\npace = "{pace}"'
        for number in range(run.sources)
    ]
    return "\n\n".join(tables) + "\n"


def whole(run: Run, data_dir: Path) -> dict[str, Any]:
    """`penstock run` on so many sources, watched for a while once it has settled."""
    sources = run.sources
    with tempfile.TemporaryDirectory() as folder:
        out, port = Path(folder) / "out", free_port()
        out.mkdir()
        file = Path(folder) / "pipeline.toml"
        file.write_text(config(run, out, data_dir, port))
        command = [sys.executable, "-m", "pipeline", "run", str(file)]
        with Watched(command, repository(), out) as program:
            program.wait_for(sources, timeout_s=180)
            program.span(SETTLE_S)
            before = scrape(port)
            span = program.span(run.span_s)
            after = scrape(port)
    frames = span.frames.total()
    copied = {
        direction: sum(
            value - before.get(name, 0.0)
            for name, value in after.items()
            if name.startswith("penstock_device_copy_bytes_total{") and direction in name
        )
        for direction in ("to_host", "to_device")
    }
    fallbacks = sum(value for name, value in after.items() if name.startswith("penstock_device_fallbacks_total"))
    ages = sorted(span.ages_s) or [0.0]
    return {
        "sources": sources,
        "frames": frames,
        "seconds": span.seconds,
        "fps": frames / span.seconds,
        "served": frames / (sources * FPS * span.seconds) if run.live else None,
        "cpu_ms": 1000 * span.cpu_s / max(1, frames),
        "core_percent_each": 100 * span.cpu_s / span.seconds / sources,
        "age_p50_ms": 1000 * ages[len(ages) // 2],
        "age_p99_ms": 1000 * ages[len(ages) * 99 // 100],
        "rss_mib": span.peak_mib,
        "to_host_bytes_each": copied["to_host"] / max(1, frames),
        "to_device_bytes_each": copied["to_device"] / max(1, frames),
        "fallbacks": fallbacks,
    }


def measure(job: str, clip: Path, data_dir: Path, *, where: str, span_s: float) -> dict[str, Any]:
    """One job: both devices alone, then Penstock at full speed, then with cameras."""
    model = models()[JOBS[job]]
    note(f"job {job}: {model.label}")
    rehearsal = where == "cpu"
    alone = [
        sys.executable,
        "-m",
        "tests.bench.gpu_alone",
        str(clip),
        str(model.path),
        where,
        str(model.input_size or 0),
    ]
    found: dict[str, Any] = {"model": model.label, "alone": dict(run_child(alone, repository(), timeout_s=300).said)}
    note(f"  alone: {found['alone']}")
    files, cameras = (2, 1) if rehearsal else (FILES, CAMERAS)
    found["files"] = whole(Run(model, clip, files, where, False, span_s), data_dir)
    note(f"  {files} files: {found['files']['fps']:.0f} frames a second")
    found["cameras"] = whole(Run(model, clip, cameras, where, True, span_s), data_dir)
    note(f"  {cameras} cameras: {found['cameras']['core_percent_each']:.2f} % of a core each")
    limit = min(found["alone"]["decode_fps"], found["alone"]["session_fps"])
    found["limit_fps"] = limit
    found["ratio"] = found["files"]["fps"] / limit
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all jobs; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--rehearse", action="store_true")
    chosen = parser.parse_args(arguments)
    where = "cpu" if chosen.rehearse else "cuda"
    work = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock-bench"
    told = run_child([sys.executable, "-m", "tests.bench.gpu_alone", "--about"], repository()).said
    if not told.get("gpu") and not chosen.rehearse:
        note(f"no GPU here ({told.get('why')}): nothing is measured")
        return 2
    clips = [sys.executable, "-m", "tests.bench.clips", CLIP, "--work", str(work)]
    clip = Path(run_child(clips, repository(), timeout_s=400).said[CLIP])
    began = time.perf_counter()
    jobs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as data_dir:
        for job in chosen.jobs.split(","):
            try:
                span_s = 3.0 if chosen.rehearse else SPAN_S
                jobs[job] = measure(job, clip, Path(data_dir), where=where, span_s=span_s)
            except ChildFailedError as error:
                note(f"job {job} failed: {error}")
                jobs[job] = {"failed": str(error)[:500]}
    report = {
        "machine": machine(repository()) | dict(told),
        "minutes": (time.perf_counter() - began) / 60,
        "jobs": jobs,
    }
    text = page(report)
    print(text)
    if not chosen.rehearse:
        results = repository() / "tests" / "bench" / "results"
        (results / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
        (results / "gpu.md").write_text(text)
    return 0 if all("failed" not in job for job in jobs.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
