"""What it saves not to decode what nobody wants: CPU time per second of stream, with and without.

`python tests/bench/skip.py [SECONDS]` encodes three clips (a keyframe a second; B-frames; MJPEG), and decodes each with
the reader of live sources as fast as it goes, with `max_fps` unset and set, alternately; the lane's sampler, which
would drop the frames in both cases, is no part of it. Prints medians and their ratio, for the committed table.
"""

import argparse
import os
import platform
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from pipeline.contracts.clock import SystemClock
from pipeline.contracts.errors import TransientError
from pipeline.contracts.packets import PacketRing
from sources._live import Plan
from sources._live_reader import Connection, LiveFrame

ROUNDS = 5
FPS = 25


@dataclass(frozen=True)
class Job:
    """One line of the table."""

    name: str
    file: str
    max_fps: float


JOBS = (
    Job("H.264, a keyframe a second", "keyframes.mkv", 1.0),
    Job("H.264, two B-frames of three", "b_frames.mkv", 5.0),
    Job("MJPEG", "mjpeg.mkv", 5.0),
)


def clips(folder: Path, seconds: int) -> None:
    """Write the three clips: shapes that wander over a noisy ground, 1280x720 at 25 frames a second."""
    ground = np.random.default_rng(1).integers(0, 256, (90, 160, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    pictures = [np.ascontiguousarray(np.roll(ground, number * 6, 1)) for number in range(2 * FPS)]

    def write(name: str, codec: str, pix_fmt: str, options: dict[str, str]) -> None:
        with av.open(str(folder / name), "w") as output:
            stream = output.add_stream(codec, rate=FPS, options=options)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = 1280, 720, pix_fmt
            for number in range(seconds * FPS):
                frame = av.VideoFrame.from_ndarray(pictures[number % len(pictures)], "rgb24").reformat(format=pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))

    h264 = {"preset": "veryfast", "crf": "28"}
    write("keyframes.mkv", "libx264", "yuv420p", {**h264, "g": "25", "bf": "0"})
    write("b_frames.mkv", "libx264", "yuv420p", {**h264, "g": "50", "bf": "2", "x264-params": "b-adapt=0:b-pyramid=0"})
    write("mjpeg.mkv", "mjpeg", "yuvj420p", {"qmin": "4", "qmax": "4"})


def cost(plan: Plan, seconds: int) -> tuple[float, int]:
    """Milliseconds of CPU time per second of stream, and frames decoded per second of stream."""
    connection = Connection(plan, SystemClock(), PacketRing())
    frames = 0
    started_s = time.process_time()
    try:
        for item in connection.items(threading.Event()):
            frames += isinstance(item, LiveFrame)
    except TransientError:  # the end of the clip
        pass
    finally:
        connection.close()
    return (time.process_time() - started_s) * 1000 / seconds, round(frames / seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", nargs="?", type=int, default=40)
    seconds = parser.parse_args().seconds
    print(f"1280x720, {FPS} frames a second, {seconds} s, {ROUNDS} rounds, alternately; one thread decodes.")
    print("The rhythm is learnt first: four keyframe intervals, or 48 frames.")
    print(f"PyAV {av.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores.\n")
    print("| stream | `max_fps` | all decoded, ms/s | decoded by need, ms/s | frames decoded a second | ratio |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        clips(Path(folder), seconds)
        for job in JOBS:
            all_of_it = Plan(
                address=Path(folder) / job.file,
                shown=job.name,
                transport="file",
                open_timeout_s=10,
                first_frame_timeout_s=10,
                stall_timeout_s=10,
                decode_threads=1,
                max_pixels=10**8,
                on_corrupt="flag",
            )
            by_need = replace(all_of_it, max_fps=job.max_fps)
            rounds = [(cost(all_of_it, seconds), cost(by_need, seconds)) for _ in range(ROUNDS)]
            full_ms = statistics.median(full[0] for full, _ in rounds)
            less_ms = statistics.median(less[0] for _, less in rounds)
            ratio = statistics.median(less[0] / full[0] for full, less in rounds)
            decoded = f"{rounds[0][0][1]} and {rounds[0][1][1]}"
            print(f"| {job.name} | {job.max_fps:g} | {full_ms:.1f} | {less_ms:.1f} | {decoded} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
