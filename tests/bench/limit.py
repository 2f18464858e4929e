"""The limit: the cheapest loop one would write by hand for exactly this job, and each of its stages alone.

One thread decodes (FFmpeg's own threads help it), a bounded queue holds a few YUV frames, as many workers as cores
shrink, run the shared single-threaded session, suppress and write a line; lines leave in order. No counting, no
metrics, no errors, no stopping: what Penstock costs more is what those cost. With `--film` the lines' frames are also
drawn on and encoded, with `--server` a backend elsewhere is asked, with `--fps` the inputs are cameras.
"""

import argparse
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

import av

from tests.bench.lines import Line, Of, line
from tests.bench.measure import peak_rss_mib
from tests.bench.stages import FloatArray, Found, Model, Shrinker

if TYPE_CHECKING:
    from tests.bench.limit_film import Film


class Shrinks(Protocol):
    """From frames to what is inferred, and boxes back; one for each worker."""

    def shrink(self, frame: av.VideoFrame) -> Any:
        """What the finder takes."""

    def to_picture(self, xyxy: FloatArray, width: int, height: int) -> FloatArray:
        """Boxes in pixels of the original frame."""


class Finder(Protocol):
    """A model, here or elsewhere; shared by all workers."""

    @property
    def quoted(self) -> Sequence[str]:
        """The labels as JSON strings."""

    def shrinker(self, frame: av.VideoFrame) -> Shrinks:
        """For frames of this size."""

    def run(self, shrunk: Any, /) -> Any:
        """The raw answer."""

    def find(self, output: Any, /) -> Found:
        """What it says."""


class How(NamedTuple):
    """What the loop may choose: worker threads, FFmpeg's threads for each file (0: its own choice), queued frames; and
    with cameras how many frames of a second are looked at, or 0.
    """

    workers: int
    threads: int
    held: int
    fps: float = 0.0


@dataclass
class Spent:
    """CPU seconds of one thread, by what they went to; `own` is all that no stage accounts for."""

    shrink: float = 0.0
    infer: float = 0.0
    suppress: float = 0.0
    json: float = 0.0
    own: float = 0.0
    detections: int = 0


@dataclass
class Writer:
    """Lines of several sources, each in its own order, whichever worker is ready first."""

    file: IO[str]
    film: "Film | None" = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: dict[tuple[int, int], Line] = field(default_factory=dict)
    following: dict[int, int] = field(default_factory=dict)
    written: int = 0

    def put(self, source: int, seq: int, this: Line) -> None:
        """Write this line and those that waited for it, or let it wait."""
        with self.lock:
            self.waiting[source, seq] = this
            turn = self.following.get(source, 0)
            while (ready := self.waiting.pop((source, turn), None)) is not None:
                self.file.write(ready.text)
                if self.film is not None:
                    self.film.put(ready)
                turn += 1
                self.written += 1
            self.following[source] = turn


Job = tuple[int, Of] | None
"""Which source, which frame of it; None: nothing will come any more."""


def open_video(path: str, threads: int) -> tuple[av.container.InputContainer, av.VideoStream]:
    """A file or camera and its video. `threads`: 0 for FFmpeg's choice, else frame threading with as many, 1: none."""
    container = av.open(path, options={"rtsp_transport": "tcp"} if path.startswith("rtsp") else {})
    stream = container.streams.video[0]
    stream.thread_type = "SLICE" if threads == 1 else "AUTO"
    stream.codec_context.thread_count = threads
    return container, stream


def decode(source: int, path: str, how: How, frames: "queue.Queue[Job]") -> None:
    """Body of a decoder thread."""
    container, stream = open_video(path, how.threads)
    with container:
        wanted = container.decode(stream)
        if how.fps:
            if stream.codec_context.has_b_frames:
                stream.codec_context.skip_frame = "NONREF"  # not BIDIR: P-frames build on B-frames that are references
            wanted = sampled(wanted, how.fps)
        for seq, frame in enumerate(wanted):
            frames.put((source, Of(f"clip{source}", seq, path, frame, time.perf_counter())))


def sampled(frames: Iterator[av.VideoFrame], fps: float) -> Iterator[av.VideoFrame]:
    """The first one of each period, by time stamps."""
    due_s = 0.0
    for frame in frames:
        if frame.time is not None and frame.time >= due_s:
            due_s = max(due_s, frame.time - 1 / fps) + 1 / fps
            yield frame


def work(model: Finder, frames: "queue.Queue[Job]", writer: Writer, spent: Spent) -> None:
    """Body of a worker thread."""
    now = time.thread_time
    shrinkers: dict[int, Shrinks] = {}
    started = now()
    while (job := frames.get()) is not None:
        source, of = job
        frame = of.frame
        shrinker = shrinkers.get(frame.width)
        if shrinker is None:
            shrinker = shrinkers[frame.width] = model.shrinker(frame)
        a = now()
        pixels = shrinker.shrink(frame)
        b = now()
        output = model.run(pixels)
        c = now()
        found = model.find(output)
        d = now()
        boxes = shrinker.to_picture(found.xyxy, frame.width, frame.height)
        text = line(model.quoted, of, found, boxes, d - a)
        writer.put(source, of.seq, Line(text, frame, found, boxes) if writer.film else Line(text))
        spent.json += now() - d
        spent.shrink += b - a
        spent.infer += c - b
        spent.suppress += d - c
        spent.detections += len(boxes)
        del job, of, frame  # or the decoder's picture lives until the next one is here
    spent.own = now() - started - spent.shrink - spent.infer - spent.suppress - spent.json


def run(paths: list[str], model: Finder, out: Path, how: How, film: "Film | None") -> dict[str, object]:
    """The whole job over all `paths` at once; what it cost, CPU in milliseconds per frame."""
    frames: queue.Queue[Job] = queue.Queue(how.held)
    spent = [Spent() for _ in range(how.workers)]
    with out.open("w", buffering=1 if how.fps else -1) as file:
        writer = Writer(file, film)
        decoders = [threading.Thread(target=decode, args=(i, p, how, frames)) for i, p in enumerate(paths)]
        hands = [threading.Thread(target=work, args=(model, frames, writer, s)) for s in spent]
        for thread in decoders + hands:
            thread.start()
        for thread in decoders:
            thread.join()
        for _ in hands:
            frames.put(None)
        for thread in hands:
            thread.join()
        if writer.film is not None:
            writer.film.close()
    stages = {name: sum(getattr(s, name) for s in spent) for name in ("shrink", "infer", "suppress", "json", "own")}
    per_frame = {name: 1000 * seconds / writer.written for name, seconds in stages.items()}
    return {"frames": writer.written, "detections": sum(s.detections for s in spent), "in_run_cpu_ms": per_frame}


def alone(path: str, model: Model, threads: int, frames: int) -> dict[str, float]:
    """Each stage by itself, CPU milliseconds per frame of the whole process."""
    cost: dict[str, float] = {}

    def timed(name: str, count: int, began: float) -> None:
        cost[name] = 1000 * (time.process_time() - began) / count

    began, count = time.process_time(), 0
    container, stream = open_video(path, threads)
    kept: list[av.VideoFrame] = []
    with container:
        for frame in container.decode(stream):
            count += 1
            if len(kept) < frames:
                kept.append(frame)
    timed("decode", count, began)
    shrinker = Shrinker(model, kept[0])
    shrinker.shrink(kept[0])
    began = time.process_time()
    for frame in kept:
        shrinker.shrink(frame)
    timed("shrink", len(kept), began)
    outputs = [model.run(shrinker.shrink(frame)) for frame in kept]
    pixels = shrinker.shrink(kept[-1])
    began = time.process_time()
    for _ in kept:
        model.run(pixels)
    timed("infer", len(kept), began)
    began = time.process_time()
    found = [model.find(output) for output in outputs]
    timed("suppress", len(kept), began)
    began = time.process_time()
    with Path(os.devnull).open("w") as nowhere:
        for seq, (frame, one) in enumerate(zip(kept, found, strict=True)):
            boxes = shrinker.to_picture(one.xyxy, frame.width, frame.height)
            nowhere.write(line(model.quoted, Of("clip0", seq, path, frame, began), one, boxes, 0.01))
    timed("json", len(kept), began)
    return cost


def main() -> None:
    """Run it over files and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path, help="the JSON lines")
    parser.add_argument("inputs", nargs="+", help="files or cameras, read all at once")
    parser.add_argument("--input", type=int, nargs=2, default=(640, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--film", type=Path, help="where the annotated video goes")
    parser.add_argument("--server", help="ask this one instead of running the model")
    parser.add_argument("--fps", type=float, default=0.0, help="look at so many frames of each camera's second")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--decode-threads", type=int, default=2)
    parser.add_argument("--queue", type=int, default=6, help="frames between the decoders and the workers")
    parser.add_argument("--alone", type=int, default=0, metavar="FRAMES", help="measure each stage instead")
    options = parser.parse_args()
    began, cpu = time.perf_counter(), time.process_time()
    report: dict[str, object]
    if options.server:
        from tests.bench.limit_elsewhere import Elsewhere

        how = How(Elsewhere.workers, options.decode_threads, options.queue)
        report = run(options.inputs, Elsewhere(options.server), options.out, how, None)
    elif options.alone:
        model = Model(options.model, *options.input)
        began, cpu = time.perf_counter(), time.process_time()
        report = {"alone_cpu_ms": alone(options.inputs[0], model, options.decode_threads, options.alone)}
    else:
        model = Model(options.model, *options.input)
        how = How(options.workers, options.decode_threads, options.queue, options.fps)
        film = None
        if options.film:
            from tests.bench.limit_film import Film

            film = Film(options.film)
        report = run(options.inputs, model, options.out, how, film)
    report |= {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    report["peak_rss_mib"] = peak_rss_mib()
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
