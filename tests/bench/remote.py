"""How close a backend elsewhere comes to what its window allows: `python -m tests.bench.remote`.

The ideal is `max_concurrent_requests / latency`: each place of the window is always taken. The server is a process of
its own that sleeps for the latency; the frames are YUV of 1280x720, shrunk to 640 and sent as JPEG, all of that timed.
Beside it, by turns: the same picture, encoded once, sent by as many tasks of one bare aiohttp session.
"""

import argparse
import asyncio
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import av
import numpy as np
from aiohttp import web

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from looped import LoopedContext  # noqa: E402
from toy_remote import ToyConfig  # noqa: E402

from pipeline.backends._http_pictures import encode  # noqa: E402
from pipeline.contracts.frame import Frame  # noqa: E402
from pipeline.models.picture import VideoPicture  # noqa: E402

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

RESULTS = HERE / "results" / "remote.md"
HEAD = (
    "The ideal is `max_concurrent_requests / latency`. The server, another process on the same machine, sleeps for the",
    "latency and answers. Ours: 1280x720 frames in YUV, shrunk to 640, encoded, sent, checked, scaled back, with an",
    "adaptive window, as by default, and with a fixed one. Bare: the same JPEG, encoded once, by one aiohttp session",
    "without any care. Where the latency is short, two cores that all of them share are the limit, not the window.",
)
COLUMNS = (
    "| latency, ms | at once | ideal, 1/s | ours, 1/s | of the ideal | fixed | bare, 1/s | window at the end |",
    "|---|---|---|---|---|---|---|---|",
)
JOBS = ((0.05, 8), (0.05, 4), (0.2, 8), (0.01, 8))
ANSWER = b'{"boxes": [[1, 2, 300, 200, 0.9, 0], [5, 6, 70, 80, 0.5, 1]]}'


def serve(latency_s: float, port: "Connection") -> None:
    """The server's process: a port, then answers until it is killed."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(latency_s)
        return web.Response(body=ANSWER, content_type="application/json")

    async def run() -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/infer", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


def a_frame() -> Frame:
    """A picture with something in it, as a decoder gives it."""
    noise = np.random.default_rng(1).integers(0, 255, (45, 80, 3), np.uint8)
    small = av.VideoFrame.from_ndarray(noise, format="rgb24")
    return Frame("cam", 0, 0.0, 0.0, "pts", VideoPicture(small.reformat(1280, 720, "yuv420p")), 0.0)


def ours(port: int, requests: int, seconds: float, folder: Path, *, adaptive: bool) -> tuple[float, float]:
    """Frames a second through `HttpBackend`, asked by as many threads as the runner has; and its window at the end."""
    keys = {"url": f"http://127.0.0.1:{port}", "max_concurrent_requests": requests, "max_size": 640}
    with LoopedContext("cloud", folder) as ctx:
        backend = ToyConfig.model_validate({**keys, "adaptive": adaptive}).build(ctx)
        backend.open()
        picture = a_frame().picture
        frame = a_frame()
        assert isinstance(picture, VideoPicture)
        numbers, ends_at = count(), time.perf_counter() + seconds

        def work() -> None:
            while time.perf_counter() < ends_at:
                # A picture of its own each time: a picture keeps what it was converted to.
                (found,) = backend.infer([replace(frame, seq=next(numbers), picture=VideoPicture(picture.frame))])
                assert len(found.xyxy) == 2  # type: ignore[union-attr]

        threads = [threading.Thread(target=work) for _ in range(backend.concurrency)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.perf_counter() - start
        reading = backend.read()
        backend.close()
        assert reading.requests["ok"] == sum(reading.requests.values()), reading.requests
        return reading.requests["ok"] / took_s, reading.window


def bare(port: int, requests: int, seconds: float) -> float:
    """Requests a second of a loop without any care."""
    body = encode(a_frame(), 640, "jpeg", 85).data

    async def run() -> float:
        done, ends_at = 0, time.perf_counter() + seconds
        async with aiohttp.ClientSession() as session:

            async def work() -> None:
                nonlocal done
                while time.perf_counter() < ends_at:
                    async with session.post(f"http://127.0.0.1:{port}/infer", data=body) as answer:
                        await answer.read()
                    done += 1

            start = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(requests)))
            return done / (time.perf_counter() - start)

    return asyncio.run(run())


def main() -> None:
    """Measure and print; `--write` puts the table into results/remote.md."""
    parser = argparse.ArgumentParser(description="A backend elsewhere against the ideal of its window.")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, aiohttp {aiohttp.__version__}"
    lines = [
        "# A backend elsewhere, against the ideal of its window",
        "",
        *HEAD,
        f"Medians of {asked.rounds} rounds of {asked.seconds:g} s, by turns. `python -m tests.bench.remote --write`.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}.",
        "",
        *COLUMNS,
    ]
    folder = Path(tempfile.mkdtemp())
    for latency_s, requests in JOBS:
        here, there = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(latency_s, there), daemon=True)
        server.start()
        port = here.recv()
        ideal = requests / latency_s
        rounds = []
        try:
            bare(port, requests, 0.5)
            for _ in range(asked.rounds):
                adaptive, window = ours(port, requests, asked.seconds, folder, adaptive=True)
                fixed, _ = ours(port, requests, asked.seconds, folder, adaptive=False)
                rounds.append((adaptive, fixed, bare(port, requests, asked.seconds), window))
        finally:
            server.kill()
            server.join()
        adaptive, fixed, plain, window = (statistics.median(column) for column in zip(*rounds, strict=True))
        lines.append(
            f"| {1000 * latency_s:.0f} | {requests} | {ideal:.0f} | {adaptive:.1f} | **{adaptive / ideal:.3f}** | "
            f"{fixed / ideal:.3f} | {plain:.1f} | {window:.0f} |"
        )
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if asked.write:
        RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
