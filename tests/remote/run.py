"""Four cameras on a second Penstock that is stopped, killed, slowed, and answers 429: `python -m tests.remote.run`.

Two programs and a proxy of ours between them: `penstock serve` with a model, and `penstock run` with four synthetic
cameras whose backend is `type = "roboflow"`, with a local model as `fallback`. Every two seconds the ledger is checked
from outside. At the end: no crash, every frame accounted for, each camera's results in order, the fallback taken in
every fault and left after it. The table goes to `tests/remote/RESULTS.md`.
"""

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from daemon import JSONL, Daemon  # noqa: E402
from makers import brightness_model  # noqa: E402
from observed import Samples, until  # noqa: E402
from proxy import Proxy  # noqa: E402

RESULTS = HERE / "RESULTS.md"
CAMERAS = tuple(f"cam{number}" for number in range(4))
FPS = 10
LOOK_EVERY_S = 2.0
MINUTES = 5.0

HEAD = (
    f"{len(CAMERAS)} synthetic cameras, {FPS} frames a second each; their backend is `roboflow`, through a proxy, at a",
    "second Penstock (`penstock serve`), with `timeout_s = 1` and a local model as fallback. The ledger was checked at",
    "every look, the order of each camera's results at the end. `just remote`.",
)
COLUMNS = (
    "| the server | s | decoded | its answers | fallback's | taken after, s | back after, s | p95, ms | attempts |",
    "|---|---|---|---|---|---|---|---|---|",
)
SERVER = """
[models.far]
type = "onnx"
model = "model.onnx"
device = "cpu"
confidence = 0.01
aliases = ["cameras/1"]
"""


def pipeline(url: str) -> str:
    """The configuration of the box with the cameras."""
    cameras = "".join(
        f'[sources.{name}]\ntype = "synthetic"\nwidth = 320\nheight = 240\nfps = {FPS}\nbackend = "cloud"\n'
        f"max_staleness_s = 3\n"
        for name in CAMERAS
    )
    return f"""
{cameras}
[backends.cloud]
type = "roboflow"
url = "{url}"
model_id = "cameras/1"
confidence = 0.01
fallback = "local"
timeout_s = 1.0
max_concurrent_requests = 8
circuit = {{ failures = 5, open_s = 1, max_open_s = 4 }}

[backends.local]
type = "onnx"
model = "model.onnx"
device = "cpu"
confidence = 0.01
{JSONL}
"""


@dataclass
class Phase:
    """What was done to the server for a while, and what was seen of the cameras meanwhile."""

    name: str
    share: float
    is_fault: bool
    begin: Callable[[], None]
    seconds: float = 0.0
    decoded: float = 0
    answered: Counter[str] = field(default_factory=Counter)
    codes: dict[str, float] = field(default_factory=dict)
    circuits: set[str] = field(default_factory=set)
    fallback_s: float | None = None
    back_s: float | None = None
    p95_ms: float = 0.0


@dataclass
class Rig:
    """All that runs; the orders of the phases are its methods."""

    box: Daemon
    far: Daemon
    proxy: Proxy
    stack: ExitStack
    attempts: Counter[str] = field(default_factory=Counter)

    def well(self) -> None:
        self.proxy.mode = "through"

    def freeze(self) -> None:
        self.far.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.far.signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self.far.process is not None
        self.far.process.kill()
        self.far.process.wait(10)

    def restart(self) -> None:
        self.stack.enter_context(self.far)
        self.far.ready()

    def slow(self) -> None:
        self.proxy.mode = "slow"

    def too_many(self) -> None:
        self.proxy.mode = "429"

    def phases(self) -> list[Phase]:
        """In their order, each with its share of the time; all shares together are 1."""
        return [
            Phase("well", 0.10, False, self.well),
            Phase("stopped (SIGSTOP)", 0.10, True, self.freeze),
            Phase("goes on (SIGCONT)", 0.08, False, self.thaw),
            Phase("killed (SIGKILL)", 0.10, True, self.kill),
            Phase("restarted", 0.10, False, self.restart),
            Phase("slowed to 2 s", 0.14, True, self.slow),
            Phase("as fast as before", 0.10, False, self.well),
            Phase("answers 429", 0.14, True, self.too_many),
            Phase("well again", 0.14, False, self.well),
        ]


def run(rig: Rig, phase: Phase, seconds: float) -> None:
    """One phase: its beginning, a look every two seconds, its end."""
    start = time.monotonic()
    before = rig.box.scrape()
    seen = {name: len(rig.box.lines(f"out/{name}.jsonl")) for name in CAMERAS}
    phase.begin()
    while time.monotonic() < start + seconds:
        samples = rig.box.scrape()  # asserts the ledger
        now_s = time.monotonic() - start
        on_fallback = samples.of("penstock_backend_fallback_active", backend="cloud") == 1
        if on_fallback and phase.fallback_s is None:
            phase.fallback_s = now_s
        if not on_fallback and phase.back_s is None and is_far(samples, before):
            phase.back_s = now_s
        phase.circuits |= {
            dict(labels)["state"]
            for (metric, labels), value in samples.items()
            if metric == "penstock_backend_circuit_state" and value == 1
        }
        time.sleep(0.25 if now_s < 8 else LOOK_EVERY_S)
    samples = rig.box.scrape()
    phase.seconds = time.monotonic() - start
    phase.decoded = _more(samples, before, "penstock_frames_decoded_total")
    phase.codes = {
        code: more
        for code in (
            "ok",
            "timeout",
            "connection",
            "rate_limited",
            "server_error",
            "circuit_open",
            "stale",
            "bad_answer",
        )
        if (more := _more(samples, before, "penstock_backend_attempts_total", backend="cloud", code=code))
    }
    latencies = []
    for name in CAMERAS:
        for line in rig.box.lines(f"out/{name}.jsonl")[seen[name] :]:
            if "frame_id" in line:
                phase.answered[line["backend"]] += 1
                latencies.append(line["latency_s"])
    phase.p95_ms = 1000 * sorted(latencies)[int(0.95 * len(latencies))] if latencies else float("nan")
    if phase.is_fault:
        assert phase.answered["local"] > 0, f"{phase.name}: the fallback was not taken: {phase}"
        assert phase.fallback_s is not None, f"{phase.name}: no metric says that the fallback was taken: {phase}"
    else:
        assert phase.answered["cloud"] > 0, f"{phase.name}: the server was not asked again: {phase}"
        assert samples.of("penstock_backend_fallback_active", backend="cloud") == 0, f"{phase.name}: not left: {phase}"


def is_far(samples: Samples, before: Samples) -> bool:
    """Whether the server has answered since."""
    return _more(samples, before, "penstock_backend_attempts_total", backend="cloud", code="ok") > 0


def _more(samples: Samples, before: Samples, name: str, **labels: str) -> float:
    return samples.of(name, **labels) - before.of(name, **labels)


def check_order(box: Daemon) -> dict[str, int]:
    """Every camera's results are in the order of its frames, none twice; how many there are."""
    counts = {}
    for name in CAMERAS:
        numbers = [line["frame_id"] for line in box.lines(f"out/{name}.jsonl") if "frame_id" in line]
        assert all(one < other for one, other in pairwise(numbers)), f"{name}: out of order"
        counts[name] = len(numbers)
    return counts


def table(phases: list[Phase], outcomes: Counter[str], switches: tuple[int, int], usage: str) -> str:
    """The report."""
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    minutes = sum(phase.seconds for phase in phases) / 60
    frames = ", ".join(f"{name} {count:,}" for name, count in outcomes.items() if count)
    lines = [
        "# Four cameras on a server that fails",
        "",
        *HEAD,
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}; {minutes:.1f} minutes. {usage}",
        f"Frames: {frames}. Fallback taken {switches[0]} times, left {switches[1]} times, as the log says.",
        "",
        *COLUMNS,
    ]
    for phase in phases:
        taken = "" if not phase.is_fault or phase.fallback_s is None else f"{phase.fallback_s:.1f}"
        back = "" if phase.is_fault or phase.back_s is None else f"{phase.back_s:.1f}"
        codes = ", ".join(f"{code} {count:.0f}" for code, count in phase.codes.items())
        lines.append(
            f"| {phase.name} | {phase.seconds:.0f} | {phase.decoded:.0f} | {phase.answered['cloud']} | "
            f"{phase.answered['local']} | {taken} | {back} | {phase.p95_ms:.0f} | {codes} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run it all; 0 where everything held."""
    parser = argparse.ArgumentParser(description="Four cameras on a server that fails.")
    parser.add_argument("minutes", nargs="?", type=float, default=MINUTES)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="remote_"))
    (folder / "far").mkdir()
    (folder / "box").mkdir()
    brightness_model(folder / "far/model.onnx", ("far", "other"))
    brightness_model(folder / "box/model.onnx", ("near", "other"))
    with ExitStack() as stack:
        far = stack.enter_context(Daemon(folder / "far", SERVER, command="serve")).ready()
        proxy = stack.enter_context(Proxy(far.url))
        box = stack.enter_context(Daemon(folder / "box", pipeline(proxy.url))).ready()
        rig = Rig(box, far, proxy, stack)
        until("the server answers", lambda: is_far(box.scrape(), Samples()), 20)
        began = box.usage()
        phases = rig.phases()
        for phase in phases:
            run(rig, phase, phase.share * 60 * asked.minutes)
            print(f"{phase.name}: {dict(phase.answered)} {phase.codes} circuit {sorted(phase.circuits)}", flush=True)
        usage = box.usage()
        samples = box.scrape()
        outcomes = Counter(
            {
                outcome: int(samples.of("penstock_frames_total", outcome=outcome))
                for outcome in ("inferred", "dropped_stale", "dropped_queue_full", "failed_backend")
            }
        )
        box.stop()
        counts = check_order(box)
        text = box.log()
        switches = (text.count("its frames go to local"), text.count("answers again;"))
        assert "Traceback" not in text, text[text.index("Traceback") :][:2000]
        assert min(counts.values()) > 0
        told = (
            f"Memory {began.rss_mib:.0f} to {usage.rss_mib:.0f} MiB, threads {began.threads} to {usage.threads}, "
            f"open files {began.descriptors} to {usage.descriptors}."
        )
        report = table(phases, outcomes, switches, told)
    print(report)
    print(f"kept: {folder}")
    if asked.write:
        RESULTS.write_text(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
