"""`BackendRunner`: the threads around one backend: batches in, results out in order, every frame settled."""

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import uuid4

from pipeline.contracts.backend import Backend
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Detections, Prediction, Result
from pipeline.runtime.backoff import Backoff, BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.ledger import FrameOutcome, Page
from pipeline.runtime.queue import Drops, LaneQueue
from pipeline.runtime.reorder import InOrder
from pipeline.runtime.sink_runner import SinkRunner
from pipeline.telemetry.metrics import Metrics

DROPS = Drops(
    full=FrameOutcome.DROPPED_QUEUE_FULL, stale=FrameOutcome.DROPPED_STALE, closed=FrameOutcome.DROPPED_SHUTDOWN
)


class _Answer(NamedTuple):
    """What became of one batch; `predictions` is None when it failed."""

    frames: list[Frame]
    predictions: Sequence[Prediction] | None
    inferred_at: float
    inference_s: float


class _SourceRoute:
    """All that belongs to one source on the way from the backend to the sinks; bound once, not per frame."""

    def __init__(self, name: str, page: Page, sinks: Sequence[SinkRunner], metrics: Metrics) -> None:
        self.page = page
        self.with_pictures = [sink for sink in sinks if sink.sink.wants_pictures]
        self.without_pictures = [sink for sink in sinks if not sink.sink.wants_pictures]
        self.queue_s = metrics.stage("queue", source=name)
        self.age_s = metrics.age(name, "inferred")
        self.detections = metrics.detections(name)


class BackendRunner:
    """Made by the topology, started and joined by the supervisor.

    One thread opens the backend (again and again while it says it may work later), then `concurrency` workers take
    batches. The last worker out closes the backend.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        *,
        routes: Mapping[str, tuple[Page, Sequence[SinkRunner]]],
        config_hash: str,
        surroundings: Surroundings,
    ) -> None:
        self.name = name
        self.backend = backend
        self.error: PenstockError | None = None
        self.ready = False
        self.tried = False  # True once the first attempt to open it is over, however it ended
        self.ended = False
        metrics = surroundings.metrics
        self.queue: LaneQueue[Frame] = LaneQueue(on_drop=self._dropped, drops=DROPS, clock=surroundings.clock)
        self._routes = {source: _SourceRoute(source, *route, metrics) for source, route in routes.items()}
        self._config_hash = config_hash
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._on_change = surroundings.changed
        self._bugs = BugAllowance()
        self._stages = [metrics.stage(stage, backend=name) for stage in ("preprocess", "infer", "postprocess")]
        self._batch_frames = metrics.batch_frames(name)
        self._codes = {code: metrics.requests(name, code) for code in ("ok", "transient", "fatal", "bug")}
        self._gone = threading.Event()
        self._lock = threading.Lock()
        self._workers: list[threading.Thread] = []
        self._working = 0
        self._opener = threading.Thread(target=self._open_and_work, name=f"backend-{name}", daemon=True)
        self._in_order: InOrder[_Answer] = InOrder(self._deliver, window=2)

    def start(self) -> None:
        """Open the backend in a thread of its own, and begin to work."""
        self._opener.start()

    def finish(self) -> None:
        """No more will come: what waits is still inferred, but a backend that does not open is not tried again."""
        self._gone.set()
        if self._opener.ident is None:
            self.ended = True

    def abandon(self) -> None:
        """Drop what waits and take no more; a batch that is being inferred is left to its own end."""
        self.finish()
        self.queue.close(FrameOutcome.DROPPED_SHUTDOWN)

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that were started, to join."""
        return [self._opener, *self._workers]

    # The opening thread

    def _open_and_work(self) -> None:
        try:
            opened = self._open()
        except BaseException as error:  # noqa: BLE001  (whatever it is, nobody will take the frames)
            self._break(error)
            opened = False
        if not opened:
            self.queue.close(FrameOutcome.DROPPED_SHUTDOWN if self._gone.is_set() else FrameOutcome.FAILED_BACKEND)
            self._close()
            return
        concurrency = max(1, self.backend.concurrency)
        self._in_order = InOrder(self._deliver, window=2 * concurrency)
        self._working = concurrency
        self._workers = [
            threading.Thread(target=self._work, name=f"backend-{self.name}-{index}", daemon=True)
            for index in range(concurrency)
        ]
        self.ready = True
        self._on_change()
        for index, worker in enumerate(self._workers):
            try:
                worker.start()
            except RuntimeError as error:  # the system gives no more threads
                self._break(error)
                self._leave(workers=concurrency - index)
                return

    def _open(self) -> bool:
        backoff = Backoff()
        self._events.backend_opening(self.name)
        while not self._gone.is_set():
            began_at = self._clock.monotonic()
            try:
                self.backend.open()
            except TransientError as error:
                delay_s = backoff.next_s(error.retry_after_s)
                self._events.backend_retry(self.name, delay_s, error)
                self.tried = True
                self._on_change()
                self._gone.wait(delay_s)
            except (FatalError, ConfigError) as error:
                self._fail(error)
                return False
            else:
                took_s = self._clock.monotonic() - began_at
                self._events.backend_ready(self.name, self.backend.describe(), took_s)
                return True
        return False

    # The workers

    def _work(self) -> None:
        try:
            while True:
                taken = self.queue.get(max(1, self.backend.max_batch))
                if not taken.items:
                    return
                self._in_order.put(taken.number, self._infer(taken.items))
                del taken
        except BaseException as error:  # noqa: BLE001  (a worker that dies in silence would hang the whole run)
            self._break(error)
        finally:
            self._leave()

    def _leave(self, workers: int = 1) -> None:
        """The last worker out closes what is left, so that no source waits for nobody."""
        with self._lock:
            self._working -= workers
            is_last = self._working == 0
        if is_last:
            self.queue.close(FrameOutcome.FAILED_BACKEND)
            self._close()

    def _break(self, error: BaseException) -> None:
        self._events.bug(f"backend {self.name}", error)
        self._fail(FatalError(f"{type(error).__name__}: {error}"))
        self.queue.close(FrameOutcome.FAILED_BACKEND)

    def _infer(self, frames: list[Frame]) -> _Answer:
        began_at = self._clock.monotonic()
        for frame in frames:
            self._routes[frame.source].queue_s.observe(max(0.0, began_at - frame.decoded_at))
        code = "ok"
        predictions: Sequence[Prediction] | None = None
        try:
            predictions = self.backend.infer(frames)
            if len(predictions) != len(frames) or not all(isinstance(each, Prediction) for each in predictions):
                what = [type(each).__name__ for each in predictions]
                raise RuntimeError(f"the answer to {len(frames)} frames is {what}")  # noqa: TRY301
        except TransientError as error:
            code = "transient"
            self._events.backend_batch_failed(self.name, error)
        except (FatalError, ConfigError) as error:
            code = "fatal"
            self._fail(error)
            self.queue.close(FrameOutcome.FAILED_BACKEND)
        except BaseException as error:  # noqa: BLE001  (a plugin's bug: this batch failed; too many bugs are fatal)
            code, predictions = "bug", None
            with self._lock:
                may_pass = self._bugs.spend(began_at)
            if may_pass:
                self._events.bug(f"backend {self.name}", error)
            else:
                self._break(error)
        # An answer may wait for its turn: pixels that no sink wants need not wait with it.
        frames = [frame if self._routes[frame.source].with_pictures else frame.released() for frame in frames]
        ended_at = self._clock.monotonic()
        self._codes[code].inc()
        self._batch_frames.observe(len(frames))
        return _Answer(frames, predictions, ended_at, (ended_at - began_at) / len(frames))

    def _deliver(self, answer: _Answer) -> None:
        """Settle the frames of one batch and offer the results to their sinks; runs in one thread at a time."""
        if answer.predictions is None:
            for frame in answer.frames:
                self._routes[frame.source].page.settle(FrameOutcome.FAILED_BACKEND)
            return
        for frame, prediction in zip(answer.frames, answer.predictions, strict=True):
            result = Result(
                uuid4().hex,
                frame,
                prediction,
                self.name,
                self.backend.model,
                self._config_hash,
                answer.inferred_at,
                answer.inference_s,
            )
            route = self._routes[frame.source]
            route.page.settle(FrameOutcome.INFERRED)
            try:
                self._observe(route, result)
            except Exception as error:  # noqa: BLE001  (a prediction that contradicts itself: not counted by class)
                self._events.bug(f"backend {self.name}", error)
            for sink in route.with_pictures:
                sink.offer(result)
            if route.without_pictures:
                released = result.released() if route.with_pictures else result
                for sink in route.without_pictures:
                    sink.offer(released)

    def _observe(self, route: _SourceRoute, result: Result) -> None:
        for stage_s, spent_s in zip(self._stages, result.prediction.timings, strict=True):
            stage_s.observe(spent_s)
        route.age_s.observe(result.latency_s)
        if isinstance(result.prediction, Detections):
            route.detections.count(result.prediction)

    def _close(self) -> None:
        try:
            self.backend.close()
        except Exception as error:  # noqa: BLE001  (whatever it is, the backend is over; the exit code says so)
            self._events.bug(f"backend {self.name}", error)
            self._fail(FatalError(f"{type(error).__name__}: {error}"))
        self.ended = True
        self._on_change()

    def _dropped(self, frame: Frame, reason: str) -> None:
        self._routes[frame.source].page.settle(reason)

    def _fail(self, error: PenstockError) -> None:
        with self._lock:
            if self.error is not None:
                return
            self.error = error
        if (
            self.tried or self.ready or not isinstance(error, ConfigError)
        ):  # at the start the supervisor tells all of those
            self._events.backend_failed(self.name, error)
