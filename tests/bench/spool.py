"""A day offline, compressed: so many results into a spool while the receiver is away, then all of them out of it.

`python -m tests.bench.spool [COUNT] [--write]`. The sink is the real `webhook` with its spool, threads and queue (no
camera and no model in front of it); the receiver is another process. Beside it a bare loop of the same client sends the
same bodies from memory: what the spool costs is the ratio of the two.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.contracts.clock import SystemClock
from pipeline.contracts.frame import Frame, NoPicture, Size
from pipeline.contracts.ids import new_id
from pipeline.contracts.result import Detections, Result
from pipeline.runtime.context import MainLoop, RunContext, Surroundings
from pipeline.runtime.ledger import Account, Page, ResultOutcome
from pipeline.runtime.queue import LaneLimits
from pipeline.runtime.route import Route
from pipeline.runtime.sending import Sending
from pipeline.runtime.sink_runner import SinkRunner
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics
from sinks.webhook import WebhookSinkConfig

RESULTS = Path(__file__).parent / "results" / "spool.md"
SOURCES = 8
BATCH = 100

RECEIVER = """
import asyncio, json, sys
from aiohttp import web

seen, last, wrong = 0, {}, 0

async def take(request):
    global seen, wrong
    items = await request.json()
    for item in items if isinstance(items, list) else [items]:
        wrong += item["frame_id"] != last.get(item["source"], -1) + 1
        last[item["source"]] = item["frame_id"]
        seen += 1
    return web.Response(status=204)

async def tell(request):
    return web.json_response({"seen": seen, "wrong": wrong})

app = web.Application(client_max_size=1 << 26)
app.router.add_post("/hook", take)
app.router.add_get("/", tell)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        count: results.
        accepted_per_s: put into the spool while the receiver was away.
        drained_per_s: arrived once it was back.
        bare_per_s: the same bodies, sent by a loop with the same client, concurrency and batches.
        base_mib: of the process before the first result.
        most_mib: at most, in between.
        spool_mib: the file, full.
        wrong: results that did not follow the one before them.
        left: results that were not there in the end.
    """

    count: int
    accepted_per_s: float
    drained_per_s: float
    bare_per_s: float
    base_mib: float
    most_mib: float
    spool_mib: float
    wrong: int
    left: int


class Receiver:
    """A server in a process of its own that counts what comes; a context manager."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __enter__(self) -> "Receiver":
        self._process = subprocess.Popen([sys.executable, "-c", RECEIVER, str(self._port)])
        while True:
            with contextlib.suppress(OSError):
                self.seen()
                return self
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def seen(self) -> dict[str, int]:
        """How many arrived, and how many of them out of order."""
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/", timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
            return found


def results(first: int, count: int) -> list[Result]:
    """Three boxes each, of eight cameras in turn."""
    boxes = Detections(
        xyxy=np.array([[10.5, 20.25, 110.5, 220.75], [300, 40, 420, 300], [5, 5, 60, 90]], np.float32),
        confidence=np.array([0.91, 0.72, 0.43], np.float32),
        class_id=np.array([0, 2, 0], np.int32),
        names=("person", "bicycle", "car"),
    )
    picture = NoPicture(Size(1920, 1080))
    made = []
    for number in range(first, first + count):
        seq = number // SOURCES
        source = f"cam{number % SOURCES}"
        frame = Frame(source, seq, seq / 25, 1.7e9 + seq / 25, "rtcp", picture, time.monotonic())
        made.append(Result(new_id(), frame, boxes, "local", "yolo11n", "0123456789ab", time.monotonic(), 0.02))
    return made


def rss_mib() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class Peak:
    """Looks at the memory ten times a second; a context manager."""

    def __init__(self) -> None:
        self.most = rss_mib()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            self.most = max(self.most, rss_mib())


class Rig:
    """A sink with its runner, as the topology puts them together; used on the loop that runs."""

    def __init__(self, folder: Path, port: int) -> None:
        clock = SystemClock()
        loop = MainLoop()
        loop.attach()
        events, metrics = Events(clock), Metrics("bench")
        surroundings = Surroundings(events, metrics, clock, lambda: None)
        context = RunContext("sink", "hook", clock, folder, loop, events, metrics)
        config = WebhookSinkConfig.model_validate(
            {
                "url": f"http://127.0.0.1:{port}/hook",
                "concurrency": SOURCES,
                "batch": {"max_items": BATCH, "max_wait_s": 0.05},
                "buffer": {"max_bytes": "4GiB", "min_free_bytes": 0},
                "retry": {"min_s": 0.1, "max_s": 1.0},
            }
        )
        self.page = Page("hook", ResultOutcome)
        sending = Sending(config.build(context), config, context, page=self.page, surroundings=surroundings)
        self.runner = SinkRunner("hook", sending, page=self.page, surroundings=surroundings)
        self.routes = {}
        for number in range(SOURCES):
            source = f"cam{number}"
            self.routes[source] = Route(source, Page(source, ()), metrics)
            self.runner.connect(self.routes[source], LaneLimits(max_items=512, when_full="block"))
        self.config, self.context = config, context

    def read(self) -> Account:
        """The sink's page."""
        return self.page.read()

    def offer(self, made: list[Result]) -> None:
        """As a backend's deliverer does."""
        for one in made:
            self.routes[one.frame.source].deliver(one)


async def until(done: Any, every_s: float = 0.02) -> None:
    """Wait in the loop."""
    while not done():  # noqa: ASYNC110  (what is waited for happens in other threads)
        await asyncio.sleep(every_s)


async def carried(folder: Path, count: int, port: int) -> Figures:
    """One run: in, away; out, back; and the bare loop."""
    rig = Rig(folder, port)
    rig.runner.start()
    await until(lambda: rig.runner.opened)
    bodies = [rig.runner.sink.sender.pack(one).body for one in results(0, 2000)]  # type: ignore[attr-defined]
    base = rss_mib()
    with Peak() as peak:
        chunks = [results(first, min(1000, count - first)) for first in range(0, min(count, 20_000), 1000)]
        made = sum(map(len, chunks))
        took_s = 0.0
        first = 0
        while first < count:
            began_at = time.monotonic()
            for chunk in chunks:
                await asyncio.to_thread(rig.offer, chunk)
            await until(lambda: not rig.runner.watch().has_work, 0.002)
            took_s += time.monotonic() - began_at
            first += made
            made = min(made, count - first)  # the making is not measured, and nothing is kept
            chunks = [results(at, min(1000, first + made - at)) for at in range(first, first + made, 1000)]
        assert rig.read().entered == count
        accepted_per_s = count / took_s
        spool_mib = sum(file.stat().st_size for file in (folder / "spool").iterdir()) / (1 << 20)
        with Receiver(port) as receiver:
            began_at = time.monotonic()
            await until(lambda: rig.read().open == 0, 0.05)
            drained_per_s = count / (time.monotonic() - began_at)
            seen = await asyncio.to_thread(receiver.seen)
        rig.runner.finish(time.monotonic() + 10)
        await until(lambda: rig.runner.ended)
    for thread in rig.runner.threads:
        thread.join(10)
    bare_per_s = await bare(bodies, min(count, 100_000), port)
    left = count - rig.read().outcomes["delivered"] + abs(seen["seen"] - count)
    return Figures(count, accepted_per_s, drained_per_s, bare_per_s, base, peak.most, spool_mib, seen["wrong"], left)


async def bare(bodies: list[bytes], count: int, port: int) -> float:
    """The same client, batches and concurrency, without anything else: results a second."""
    import aiohttp

    batches = [b"[" + b",".join(bodies[at : at + BATCH]) + b"]" for at in range(0, len(bodies), BATCH)]
    left = count // BATCH

    async def one(session: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            headers = {"Content-Type": "application/json"}
            async with session.post(
                f"http://127.0.0.1:{port}/hook", data=batches[left % len(batches)], headers=headers
            ) as answer:
                await answer.read()

    with Receiver(port):
        async with aiohttp.ClientSession() as session:
            began_at = time.monotonic()
            await asyncio.gather(*(one(session) for _ in range(SOURCES)))
            return count // BATCH * BATCH / (time.monotonic() - began_at)


def free_port() -> int:
    """One that was free a moment ago."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def measured(count: int, folder: Path) -> Figures:
    """The run, in this process."""
    return asyncio.run(carried(folder, count, free_port()))


def page(figures: Figures) -> str:
    """What was measured, as a page."""
    one = figures
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return f"""# A day offline: {one.count:,} results

{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load};
`just bench-spool`.
The sink `webhook` with a spool on disk, {SOURCES} sources, requests of up to {BATCH} results; the receiver (aiohttp,
which reads the JSON and checks the order) on the same machine.

| | |
|---|---:|
| accepted while the receiver was away, results a second | {one.accepted_per_s:,.0f} |
| drained once it was back, results a second | {one.drained_per_s:,.0f} |
| a bare loop of the same client, results a second | {one.bare_per_s:,.0f} |
| drained / bare | {one.drained_per_s / one.bare_per_s:.2f} |
| memory before the first result, MiB | {one.base_mib:.0f} |
| memory on top at most, MiB | {one.most_mib - one.base_mib:.0f} |
| the spool's files when full, MiB | {one.spool_mib:.0f} |
| results out of order | {one.wrong} |
| results lost or doubled | {one.left} |
"""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=500_000)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-spool-") as folder:
        figures = measured(asked.count, Path(folder))
    print(json.dumps({name: round(value, 2) for name, value in asdict(replace(figures)).items()}))
    text = page(figures)
    print(text)
    if asked.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
