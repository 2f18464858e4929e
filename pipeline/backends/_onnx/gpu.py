"""One model on the GPUs of this machine: sessions, batches, what happens without memory or device, and TensorRT."""

import contextlib
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy.typing as npt

from pipeline.backends._onnx.batching import MOST_FRAMES, BatchedFeed, BatchSize, find_batch, given_size
from pipeline.backends._onnx.device import TENSORRT, DeviceChoice
from pipeline.backends._onnx.exchange import ExchangeFeed
from pipeline.backends._onnx.feed import Feed, Placed, Ran
from pipeline.backends._onnx.session import Runtime, Session, raise_run_error, zeros
from pipeline.backends._onnx.spread import SpreadFeed
from pipeline.backends._onnx.tensorrt import EngineCache, Profile, library_version, load_libraries, tensorrt_choice
from pipeline.backends._onnx.tensorrt_thread import EngineBuilder
from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError
from pipeline.contracts.frame import Frame, Size
from pipeline.devices.gpus import gpus
from pipeline.models.description import ModelDescription
from pipeline.models.onnx_file import fingerprint

WORKERS_EACH = 2
"""Runs at once on each GPU: while one computes, the other's pictures are made ready and its answers are read."""

_TIMED_RUNS = 5

UseTensorRt = Literal["auto"] | bool


class GpuPlan(NamedTuple):
    """How a model shall run on GPUs.

    Attributes:
        runtime: what it is loaded with.
        first: the device on which it runs already.
        further: others that run the same model.
        make_session: loads the model for a device; None where its provider does not start.
        make_feed: the way into a session on a device, for at most so many rows.
        make_cpu_feed: what comes in the place of the last GPU that is lost; None: nothing does.
        tensorrt: whether it may, must or must not take over.
        fit: the input is shrunk to the frame's shape.
    """

    runtime: Runtime
    first: DeviceChoice
    further: Sequence[DeviceChoice]
    make_session: Callable[[DeviceChoice], Session | None]
    make_feed: Callable[[Session, DeviceChoice, int], Feed]
    make_cpu_feed: Callable[[], Feed] | None
    tensorrt: UseTensorRt
    fit: bool


class GpuFeed:
    """A model on one GPU or several. Made by `gpu_feed`; a `Feed` that also says how it is best used just now."""

    def __init__(self, feed: Feed, spread: SpreadFeed, batch: BatchSize, workers: int) -> None:
        self.workers = workers
        """So many threads should use it."""
        self._feed = feed
        self._spread = spread
        self._batch = batch

    @property
    def max_batch(self) -> int:
        """At most so many frames should be taken for the next run."""
        return self._batch.limit

    @property
    def device(self) -> str:
        """Where it runs: "cuda:0", "cuda:0,cuda:1", or "cpu" after all GPUs are lost."""
        return self._spread.device

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        """See `Feed`."""
        return self._feed.run(batch, places)

    def close(self) -> None:
        """See `Feed`."""
        self._feed.close()


def batch_on_gpu(
    session: Session,
    runtime: Runtime,
    model: ModelDescription,
    ctx: Context,
    *,
    max_batch: int | None,
    max_run_s: float,
) -> BatchSize:
    """How many frames the model should be given at once: as it is made, as the config says, or as measured.

    Args:
        session: the model on the device.
        runtime: what it is loaded with.
        model: how it is fed.
        ctx: of the backend.
        max_batch: what the config says.
        max_run_s: how long a run may take.

    Raises:
        TransientError: the device has no memory for one frame, just now.
        FatalError: the model does not run.
    """
    now_s = ctx.clock.monotonic
    given = model.fixed_batch or max_batch
    if given is not None:
        return given_size(given, now_s)

    def run_rows(rows: int) -> None:
        _run(session, runtime, empty_feeds(model, rows, model.input_size))

    return find_batch(run_rows, now_s, max_run_s=max_run_s, most=MOST_FRAMES)


def gpu_feed(plan: GpuPlan, session: Session, model: ModelDescription, batch: BatchSize, ctx: Context) -> GpuFeed:
    """Put together how a model runs on the GPUs of this machine; TensorRT's engines are begun in the background.

    Args:
        plan: how.
        session: the model on the first device; nobody but its feed keeps it, which may be exchanged.
        model: how it is fed.
        batch: how many frames go into a run.
        ctx: of the backend.

    Raises:
        ConfigError: key `tensorrt`: it is asked for and cannot be had.
        FatalError: a device failed.
    """
    tensorrt = uses_tensorrt(plan.tensorrt, plan.runtime.available)
    on_gpu = _OnGpu(plan, model, batch, ctx)
    with contextlib.ExitStack() as undo:
        feeds: dict[str, Feed] = {}
        for choice in (plan.first, *plan.further):
            ready = session if choice is plan.first else on_gpu.further(choice)
            if ready is None:
                continue
            feeds[choice.device] = exchange = ExchangeFeed(plan.make_feed(ready, choice, batch.most))
            undo.callback(exchange.close)
            if tensorrt:
                on_gpu.begin_engine(choice, ready, exchange)
        undo.pop_all()
    spread = SpreadFeed(feeds, last_resort=plan.make_cpu_feed, ctx=ctx)
    fixed = model.fixed_batch is not None
    return GpuFeed(BatchedFeed(spread, batch, ctx, fixed=fixed), spread, batch, WORKERS_EACH * len(feeds))


def uses_tensorrt(wish: UseTensorRt, available: Collection[str]) -> bool:
    """Whether TensorRT shall take over; loads its libraries, where it shall.

    Args:
        wish: of the config.
        available: what this build of onnxruntime has.

    Raises:
        ConfigError: key `tensorrt`: it is asked for and cannot be had.
    """
    if wish is False:
        return False
    fault = load_libraries() if TENSORRT in available else "this onnxruntime is built without it"
    if fault is not None and wish is True:
        raise ConfigError(f"tensorrt = true, but {fault}; install TensorRT 10, or leave the key out", key="tensorrt")
    return fault is None


def empty_feeds(model: ModelDescription, rows: int, size: Size) -> dict[str, npt.NDArray[Any]]:
    """All inputs of the model for so many black pictures."""
    rows = model.fixed_batch or rows
    shape = (rows, size.height, size.width, 3) if model.channels_last else (rows, 3, size.height, size.width)
    return model.feeds(zeros(shape, model.image.dtype), size)


class _OnGpu:
    """What `gpu_feed` needs for each device. Its methods are also called by the threads that make engines."""

    def __init__(self, plan: GpuPlan, model: ModelDescription, batch: BatchSize, ctx: Context) -> None:
        self._plan = plan
        self._runtime = plan.runtime
        self._model = model
        self._batch = batch
        self._most = batch.most
        self._ctx = ctx

    def further(self, choice: DeviceChoice) -> Session | None:
        """The model on one more device, warm; None, said aloud, where that one does not work."""
        reason = "onnxruntime could not start CUDA on it"
        try:
            gpus().gpu(choice.gpu or 0)
            session = self._plan.make_session(choice)
            if session is not None:
                _run(session, self._runtime, empty_feeds(self._model, self._most, self._model.input_size))
                return session
        except (PenstockError, OSError) as error:
            reason = str(error)
        self._ctx.fell_back(choice.device, self._plan.first.device, reason)
        return None

    def begin_engine(self, choice: DeviceChoice, session: Session, exchange: ExchangeFeed) -> None:
        """Have TensorRT's engine made for a device, to take over there."""
        # Engines are made beside each other, and who makes one clears up what was not finished there.
        cache = EngineCache(self._ctx.data_dir / "tensorrt" / self._ctx.name / choice.device.replace(":", "-"))
        profile = self._profile()
        gpu = gpus().gpu(choice.gpu or 0)
        versions = (self._runtime.version, library_version(), gpu.name)
        folder = cache.folder(fingerprint(self._model.file), profile, versions)
        better = tensorrt_choice(choice, folder, cache.timing, profile)
        job = {
            "model": str(self._model.file.path),
            "folder": str(folder),
            "providers": better.providers,
            "must_have": better.must_have,
            "runs": self._runs(),
        }

        def take_over(found: Mapping[str, float]) -> tuple[str, bool]:
            return self._take_over(better, session, exchange, found["built_s"])

        builder = EngineBuilder(job, cache=cache, take_over=take_over, ctx=self._ctx)
        exchange.before_close(builder.stop)
        builder.start()

    def _take_over(
        self, better: DeviceChoice, session: Session, exchange: ExchangeFeed, built_s: float
    ) -> tuple[str, bool]:
        """Let TensorRT run the model from now on, if it is faster; what to say, and whether it does."""
        found = self._plan.make_session(better)
        if found is None:
            raise FatalError("onnxruntime could not start it")
        gain = self._gain(session, found)
        if gain <= 1.0:
            return (
                f"TensorRT is ready on {better.device} and not faster ({gain:.2f} times as fast): CUDA goes on",
                False,
            )
        feed = self._plan.make_feed(found, better, self._most)
        if not exchange.exchange(feed):
            feed.close()
            return "the backend is closed", False
        return (
            f"TensorRT took over from CUDA on {better.device}: {gain:.2f} times as fast, ready after {built_s:.0f} s",
            True,
        )

    def _gain(self, before: Session, after: Session) -> float:
        """How many times as fast; measured in turns, since frames are inferred meanwhile."""
        feeds = empty_feeds(self._model, self._batch.limit, self._model.input_size)
        now_s = self._ctx.clock.monotonic
        took: tuple[list[float], list[float]] = ([], [])
        for session in (before, after):
            _run(session, self._runtime, feeds)
        for _ in range(_TIMED_RUNS):
            for session, each in zip((before, after), took, strict=True):
                began = now_s()
                _run(session, self._runtime, feeds)
                each.append(now_s() - began)
        return statistics.median(took[0]) / statistics.median(took[1])

    def _profile(self) -> Profile:
        pair = ((1, self._least_size), (self._most, self._model.input_size))
        least, most = (
            {name: array.shape for name, array in empty_feeds(self._model, rows, size).items()} for rows, size in pair
        )
        return Profile(least, most, most)

    @property
    def _least_size(self) -> Size:
        stride_px = self._model.stride_px
        return Size(stride_px, stride_px) if self._plan.fit else self._model.input_size

    def _runs(self) -> list[dict[str, tuple[tuple[int, ...], str]]]:
        """One picture of full size, whose answer is compared; then what the engine must be able to do at the least and
        at the most."""
        full, least = self._model.input_size, self._least_size
        cases = ((1, full), (self._most, full), (1, least), (self._most, least))
        return [
            {name: (array.shape, array.dtype.name) for name, array in empty_feeds(self._model, rows, size).items()}
            for rows, size in dict.fromkeys(cases)
        ]


def _run(session: Session, runtime: Runtime, feeds: dict[str, npt.NDArray[Any]]) -> None:
    try:
        session.run(None, feeds)
    except runtime.errors as error:
        raise_run_error(error)
