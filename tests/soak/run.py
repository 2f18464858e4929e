"""Twenty minutes of all that goes wrong, at a pace at which a site needs weeks: `python -m tests.soak.run [MINUTES]`.

Eight synthetic cameras that disconnect, freeze, stand still and go black, one RTSP camera that is reset, refused,
damaged and frozen, a sink that is too slow, and every few seconds an order: a reload of an edited file (every fourth
with a mistake), a restart, a pause. Memory, threads, open files and the ledger are looked at every five seconds. The
table goes to `tests/bench/results/soak.md`.
"""

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from daemon import ONNX, Daemon, Usage  # noqa: E402
from media import camera_clip  # noqa: E402
from rtsp_server import RtspServer  # noqa: E402

RESULTS = HERE.parent / "bench/results/soak.md"
CAMERAS = 8
SAMPLE_EVERY_S = 5.0
ORDER_EVERY_S = 4.0
WARM_UP_S = 180.0
MAX_MIB_PER_10_MIN = 1.0
SINKS = """
[sinks.lines]
type = "jsonl"
path = "out/{source}.jsonl"
mode = "overwrite"
notices = ["sources"]

[sinks.slow]
type = "slow"
delay_s = 0.02
queue = { max_frames = 50 }
"""


@dataclass
class Sample:
    """One look from outside."""

    at_s: float
    usage: Usage
    decoded: float
    inferred: float
    up: float


@dataclass
class Soak:
    """The run: what is configured now, what was done to it, what was seen."""

    daemon: Daemon
    server: RtspServer
    url: str
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    fps: dict[str, int] = field(default_factory=lambda: {f"cam{number}": 20 for number in range(CAMERAS)})
    done: dict[str, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    paused: str | None = None
    reloads: int = 0

    def text(self, mistake: str = "") -> str:
        """The configuration as it should be now."""
        tables = [text(self.url), mistake]
        for number, (name, fps) in enumerate(self.fps.items()):
            faults = (
                f'{{ mean_s = 12, kinds = ["disconnect", "freeze", "corrupt", "still", "black"], seed = {number} }}'
            )
            tables.append(
                f'[sources.{name}]\ntype = "synthetic"\nwidth = 160\nheight = 90\nfps = {fps}\nfaults = {faults}\n'
                "stall_timeout_s = 2\nreconnect = { min_s = 0.2, max_s = 1 }\n"
            )
        return "\n".join([*tables, ONNX, SINKS])

    def count(self, what: str) -> None:
        """One more of it was done."""
        self.done[what] = self.done.get(what, 0) + 1

    def order(self) -> None:
        """Do something to the running program."""
        name = self.chance.choice(list(self.fps))
        {0: self.edit, 1: self.edit, 2: self.ask_restart, 3: self.pause, 4: self.break_camera}[
            self.chance.randrange(5)
        ](name)

    def edit(self, name: str) -> None:
        """Reload: other frame rates, a camera that goes while another comes, and now and then a mistake."""
        self.reloads += 1
        if self.reloads % 4 == 0:
            self.daemon.write(self.text("[sources.broken]\ntype = 'synthetik'\n"))
            assert not self.daemon.reload(), "a file with a mistake was taken"
            self.count("reloads refused")
            return
        fps = self.chance.choice((10, 15, 20, 25))
        if self.chance.random() < 0.3:
            del self.fps[name]
            name = f"cam{CAMERAS + self.reloads}" if name[3:].isdecimal() and int(name[3:]) < CAMERAS else "cam0"
            while name in self.fps:
                name = f"{name}x"
        self.fps[name] = fps
        self.daemon.write(self.text())
        assert self.daemon.reload(), "a good file was refused"
        self.count("reloads")

    def ask_restart(self, name: str) -> None:
        """Connect anew."""
        assert self.daemon.request(f"/api/v1/sources/{name}/restart", "POST")[0] == 200
        self.count("restarts")

    def pause(self, name: str) -> None:
        """Pause one, and let the one before go on, if it is still there."""
        if self.paused is not None:
            assert self.daemon.request(f"/api/v1/sources/{self.paused}/resume", "POST")[0] in (200, 404)
        assert self.daemon.request(f"/api/v1/sources/{name}/pause", "POST")[0] == 200
        self.paused = name
        self.count("pauses")

    def break_camera(self, _: str) -> None:
        """The RTSP camera fails in one more way, or is well again."""
        fault = self.server.fault
        kind = self.chance.randrange(5)
        fault.freeze, fault.corrupt, fault.status = kind == 0, 0.1 * (kind == 1), None
        if kind == 2:
            self.server.close_all()
        elif kind == 3:
            fault.status = "404 Not Found"
            self.server.close_all()
        self.count("faults of the RTSP camera")

    def sample(self, start: float) -> None:
        """Look, with the ledger checked."""
        seen = self.daemon.scrape()
        one = Sample(
            time.monotonic() - start,
            self.daemon.usage(),
            seen.of("penstock_frames_decoded_total"),
            seen.of("penstock_frames_total", outcome="inferred"),
            seen.of("penstock_source_up"),
        )
        self.samples.append(one)

    def run(self, minutes: float) -> None:
        """From the start to the last sample."""
        start = time.monotonic()
        next_sample, next_order = start, start + ORDER_EVERY_S
        while (now := time.monotonic()) < start + minutes * 60:
            if now >= next_sample:
                self.sample(start)
                next_sample += SAMPLE_EVERY_S
            if now >= next_order:
                self.order()
                next_order = max(next_order + ORDER_EVERY_S, time.monotonic() + 1)
            time.sleep(max(0.0, min(next_sample, next_order) - time.monotonic()))


def text(url: str) -> str:
    """The table of the RTSP camera."""
    return (
        f'[sources.rtsp]\ntype = "rtsp"\nurl = "{url}"\nstall_timeout_s = 2\nopen_timeout_s = 3\n'
        "reconnect = { min_s = 0.2, max_s = 1 }\n"
    )


def slope_per_10_min(points: list[tuple[float, float]]) -> float:
    """Least squares, of (seconds, value)."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return 600 * rise / sum((x - mean_x) ** 2 for x, _ in points)


def judge(samples: list[Sample], warm_up_s: float) -> tuple[list[str], list[str]]:
    """The figures, and what is wrong with them."""
    warm = [sample for sample in samples if sample.at_s >= warm_up_s]
    early = [sample for sample in samples if sample.at_s < warm_up_s]
    wrong, lines = [], []
    mib = slope_per_10_min([(sample.at_s, sample.usage.rss_mib) for sample in warm])
    lines.append(f"* memory: {mib:+.2f} MiB in 10 minutes after warm-up (limit {MAX_MIB_PER_10_MIN:g})")
    if mib >= MAX_MIB_PER_10_MIN:
        wrong.append(f"memory grows by {mib:.2f} MiB in 10 minutes")
    for what in ("threads", "descriptors"):
        values = [(sample.at_s, float(getattr(sample.usage, what))) for sample in warm]
        most, before = max(value for _, value in values), max(getattr(sample.usage, what) for sample in early)
        rise = slope_per_10_min(values)
        lines.append(f"* {what}: {rise:+.2f} in 10 minutes; at most {before} in the warm-up, {most:.0f} after it")
        if rise > 1 or most > before + 3:
            wrong.append(f"{what} grow: {rise:+.2f} in 10 minutes, {before} before, {most:.0f} after")
    lines.append(f"* ledger: balanced at {len(samples)} of {len(samples)} scrapes and at the end")
    return lines, wrong


def report(soak: Soak, minutes: float, figures: list[str], wrong: list[str]) -> str:
    """The page that is kept."""
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    done = ", ".join(f"{count} {what}" for what, count in sorted(soak.done.items()))
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    verdict = "It held." if not wrong else f"IT DID NOT HOLD: {'; '.join(wrong)}"
    lines = [
        "# Soak",
        "",
        f"{minutes:g} minutes, {when}, {machine}; `just soak`. {verdict}",
        "",
        (__doc__ or "").split("\n\n", 1)[1].strip(),
        "",
        f"Done to it: {done}.",
        "",
        *figures,
        "",
        "| minute | RSS MiB | threads | open files | cameras up | frames decoded | inferred |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    step = max(1, len(soak.samples) // 20)
    for sample in [*soak.samples[::step], soak.samples[-1]]:
        use = sample.usage
        lines.append(
            f"| {sample.at_s / 60:.1f} | {use.rss_mib:.1f} | {use.threads} | {use.descriptors} | {sample.up:.0f} "
            f"| {sample.decoded:,.0f} | {sample.inferred:,.0f} |"
        )
    # Cameras that are taken out take their counts along: the last two columns may fall.
    return "\n".join([*lines, "", "A camera that is taken out or made anew takes its counts along."]) + "\n"


def main() -> int:
    """Run it and write the page; 1 where it did not hold."""
    parser = argparse.ArgumentParser(description="Run the soak.")
    parser.add_argument("minutes", type=float, nargs="?", default=20.0)
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS.name}, for a run of 20 minutes or more")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, RtspServer() as server:
        folder = Path(name)
        url = server.add("/cam", camera_clip(folder / "cam.mkv"))
        soak = Soak(Daemon(folder, ""), server, url)
        soak.daemon.write(soak.text())
        with soak.daemon as daemon:
            daemon.ready()
            soak.run(asked.minutes)
            gone_s = daemon.stop(20, code=None)
        print("\n".join(daemon.log().splitlines()[-30:]), f"\ngone {gone_s:.1f} s after SIGTERM")
        assert "Traceback" not in daemon.log(), daemon.log()[-3000:]
    figures, wrong = judge(soak.samples, min(WARM_UP_S, asked.minutes * 60 / 3))
    page = report(soak, asked.minutes, figures, wrong)
    print(page)
    output = asked.output or (RESULTS if asked.minutes >= 20 else None)
    if output is not None:
        output.write_text(page)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
