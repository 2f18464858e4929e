"""Sources, backends and sinks that do what a test tells them to: good, slow, failing, stuck."""

import sys
import threading
from collections.abc import Hashable, Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np

from pipeline.contracts.backend import BackendConfig, ModelInfo
from pipeline.contracts.component import Context, FrozenModel
from pipeline.contracts.errors import ConfigError, FatalError, SourceErrorCode, TransientError
from pipeline.contracts.event import Event
from pipeline.contracts.frame import FailedFrame, Frame, Size, Wishes
from pipeline.contracts.result import Detections, Embedding, Prediction, Result, Timings
from pipeline.contracts.sink import SinkConfig
from pipeline.contracts.source import LiveSourceConfig, SourceConfig
from pipeline.models.picture import from_rgb

Failure = Literal["none", "transient", "fatal", "config", "bug", "exit"]

STUCK = threading.Event()
"""What is `stuck` waits for this; a test sets it at its end, so that no thread is left behind."""

PICTURE = from_rgb(np.zeros((16, 16, 3), np.uint8))


def fail(failure: Failure, what: str) -> None:
    """Raise what is asked for."""
    if failure == "transient":
        raise TransientError(f"{what} failed for now", code=SourceErrorCode.CONNECTION_FAILED, retry_after_s=0.01)
    if failure == "fatal":
        raise FatalError(f"{what} failed for good", code=SourceErrorCode.NOT_FOUND)
    if failure == "config":
        raise ConfigError(f"{what} cannot be had", key="failure")
    if failure == "exit":
        sys.exit(what)
    if failure == "bug":
        raise ZeroDivisionError(f"{what} has a bug")


class FakeKeys(FrozenModel):
    """`frames` frames, those in `broken` not decodable; fails at `fail_at`, the first `fail_times` times."""

    frames: int = 10
    live: bool = False
    endless: bool = False
    fps: float = 0.0
    pixels: tuple[int, int] = (16, 16)
    broken: tuple[int, ...] = ()
    corrupt: tuple[int, ...] = ()
    jumps: tuple[int, ...] = ()
    clock_offset_s: float | None = None
    decode_s: float | None = None
    failure: Failure = "none"
    fail_at: int = 0
    fail_times: int = 1_000_000
    stuck: bool = False
    stuck_at: int = -1
    alias: str | None = None


class FakeSourceConfig(FakeKeys, SourceConfig):
    type: Literal["fake"] = "fake"

    def build(self, ctx: Context) -> "FakeSource":
        return FakeSource(self, ctx)


class LiveFakeConfig(FakeKeys, LiveSourceConfig):
    type: Literal["live"] = "live"

    def build(self, ctx: Context) -> "FakeSource":
        return FakeSource(self, ctx)


class FakeSource:
    def __init__(self, config: FakeKeys, ctx: Context) -> None:
        self.live = config.live
        size = config.pixels
        self._picture = PICTURE if size == (16, 16) else from_rgb(np.zeros((size[1], size[0], 3), np.uint8))
        self._config = config
        self._ctx = ctx
        self._seq = 0
        self._failed = 0

    @property
    def expected_frames(self) -> int | None:
        return self._config.frames

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        config = self._config
        while (config.endless or self._seq < config.frames) and not stop.is_set():
            if self._seq == config.fail_at and config.failure != "none" and self._failed < config.fail_times:
                self._failed += 1
                fail(config.failure, "the source")
            if config.fps and stop.wait(1 / config.fps):
                return
            seq = self._seq
            self._seq += 1
            if seq in config.broken:
                yield FailedFrame(f"frame {seq}")
                continue
            if seq == config.stuck_at:
                STUCK.wait(30)
            now = self._ctx.clock.monotonic()
            yield Frame(
                config.alias or self._ctx.name,
                seq,
                seq / 25,
                1e9 + seq / 25,
                "pts",
                self._picture,
                now,
                corrupt=seq in config.corrupt,
                time_jump=seq in config.jumps,
                clock_offset_s=config.clock_offset_s,
                decode_s=config.decode_s,
            )
        if config.stuck:
            STUCK.wait(30)


class FakeBackendConfig(BackendConfig):
    """Finds one box in every frame; fails every `fail_every`-th batch, or at `open`."""

    type: Literal["fake"] = "fake"
    concurrency: int = 2
    max_batch: int = 1
    failure: Failure = "none"
    fail_every: int = 0
    fail_batches: int = 1_000_000
    open_failure: Failure = "none"
    open_failures: int = 1
    open_delay_s: float = 0.0
    label: str = "thing"
    delay_s: float = 0.0
    infer_s: float = 0.0
    stuck_at: int = -1
    short_answer: bool = False
    answer: Literal["boxes", "none", "exit"] = "boxes"
    takes_texts: bool = True
    speechless: bool = False
    kinds: Literal["one", "by size", "bug"] = "one"
    shrinks: bool = False

    def build(self, ctx: Context) -> "FakeBackend":
        return FakeBackend(self)


class FakeBackend:
    model = "fake"

    def __init__(self, config: FakeBackendConfig) -> None:
        self.concurrency = config.concurrency
        self.max_batch = config.max_batch
        self.opened = self.closed = 0
        self._config = config
        self.wishes: list[Wishes | None] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self._batches = 0
        self.device = "fake:0,fake:1"
        self.sizes: list[list[Size]] = []

    def kind_of(self, frame: Frame) -> Hashable:
        if self._config.kinds == "bug":
            raise ZeroDivisionError("which kind?")
        return frame.picture.size if self._config.kinds == "by size" else None

    def info(self) -> ModelInfo:
        return ModelInfo("object-detection", (self._config.label,), Size(16, 16))

    def embed_texts(self, texts: Sequence[str]) -> Sequence[Embedding]:
        if not self._config.takes_texts:
            raise TransientError("no texts")
        return [Embedding(np.array([len(text)], np.float32)) for text in texts]

    def open(self) -> None:
        self.opened += 1
        if self._config.open_delay_s:
            threading.Event().wait(self._config.open_delay_s)
        if self.opened <= self._config.open_failures:
            fail(self._config.open_failure, "opening")

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return self._infer(batch)
        finally:
            with self._lock:
                self._at_once -= 1

    def _infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        config = self._config
        with self._lock:
            number = self._batches
            self._batches += 1
            self.wishes += [frame.wishes for frame in batch]
            self.sizes.append([frame.picture.size for frame in batch])
            if config.shrinks:
                self.max_batch = max(1, self.max_batch - 1)
        if number == config.stuck_at:
            STUCK.wait(30)
        if config.answer == "none":
            return [None] * len(batch)  # type: ignore[list-item]
        if config.answer == "exit":
            sys.exit("from a plugin")
        if config.delay_s or config.infer_s:
            threading.Event().wait(config.infer_s + config.delay_s * (1 + number % 3))
        if config.fail_every and number % config.fail_every == config.fail_every - 1 and number < config.fail_batches:
            fail(config.failure, "the batch")
        box = Detections(
            xyxy=np.array([[1, 2, 5, 6]], np.float32),
            confidence=np.array([0.9], np.float32),
            class_id=np.array([0], np.int32),
            names=(config.label,),
            timings=Timings(0.001, 0.002, 0.001),
        )
        return [box] * (len(batch) - config.short_answer)

    def describe(self) -> str:
        if self._config.speechless:
            raise ZeroDivisionError("it has no words")
        return "a fake"

    def close(self) -> None:
        self.closed += 1


class FakeSinkConfig(SinkConfig):
    """Keeps what it is given; fails every `fail_every`-th result, at `open` or at `close`; may be slow or stuck."""

    takes_events: ClassVar[bool] = True

    type: Literal["fake"] = "fake"
    wants_pictures: bool = False
    failure: Failure = "none"
    fail_every: int = 0
    open_failure: Failure = "none"
    close_failure: Failure = "none"
    open_delay_s: float = 0.0
    delay_s: float = 0.0
    stuck_at: int = -1
    path: str | None = None

    def build(self, ctx: Context) -> "FakeSink":
        return FakeSink(self)


class FakeSink:
    def __init__(self, config: FakeSinkConfig) -> None:
        self.wants_pictures = config.wants_pictures
        self.results: list[Result] = []
        self.events: list[Event] = []
        self.released: list[tuple[str, int]] = []
        self.opened = self.closed = 0
        self._config = config
        self._writes = 0

    def open(self) -> None:
        self.opened += 1
        if self._config.open_delay_s:
            threading.Event().wait(self._config.open_delay_s)
        if self.opened == 1:
            fail(self._config.open_failure, "opening")

    def write(self, results: Sequence[Result]) -> None:
        config = self._config
        if self.closed:
            raise AssertionError("written to after close")
        for _ in results:
            if self._writes == config.stuck_at:
                STUCK.wait(30)
            if config.delay_s:
                threading.Event().wait(config.delay_s)
            self._writes += 1
            if config.fail_every and self._writes % config.fail_every == 0:
                fail(config.failure, "the write")
        self.results += results

    def notice(self, event: Event) -> None:
        self.events.append(event)

    def release(self, source: str) -> None:
        self.released.append((source, len([result for result in self.results if result.frame.source == source])))

    def close(self) -> None:
        self.closed += 1
        fail(self._config.close_failure, "closing")

    @property
    def results_seen(self) -> int:
        return len(self.results)

    def written(self) -> Sequence[str]:
        return ()
