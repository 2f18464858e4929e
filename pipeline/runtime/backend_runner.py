"""`BackendRunner`: the threads around one backend: batches in, results out in order, every frame settled."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple
from uuid import uuid4

from pipeline.contracts.backend import Backend
from pipeline.contracts.errors import BackendErrorCode, ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Embedding, Prediction, Result
from pipeline.runtime.backoff import Backoff, BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.fallback import Fallback, Lender
from pipeline.runtime.ledger import FrameOutcome
from pipeline.runtime.queue import Drops, Lane, LaneLimits, LaneQueue
from pipeline.runtime.reorder import InOrder
from pipeline.runtime.route import Waiting
from pipeline.runtime.use import Use
from pipeline.runtime.watch import Stage

DROPS = Drops(
    full=FrameOutcome.DROPPED_QUEUE_FULL, stale=FrameOutcome.DROPPED_STALE, closed=FrameOutcome.DROPPED_SHUTDOWN
)


class _Answer(NamedTuple):
    """What became of one batch: a prediction or an outcome for each frame, and who answered."""

    batch: list[Waiting]
    predictions: Sequence[Prediction | FrameOutcome]
    backend: str
    model: str
    inferred_at: float
    inference_s: float


class BackendRunner:
    """Made by the topology, started and joined by the supervisor.

    One thread opens the backend (again and again while it says it may work later), then `concurrency` workers take
    batches; with a fallback they do so already while it cannot be opened. The last one out closes the backend.
    `trial` and `go`: at a reload a backend is opened while the one that it will replace still works; it is given up at
    the first failure, and takes no frame before `go`.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        *,
        config_hash: str,
        surroundings: Surroundings,
        max_wait_s: float = 0.0,
        trial: bool = False,
        lender: Callable[[], Lender | None] | None = None,
    ) -> None:
        self.name = name
        self.backend = backend
        self.config_hash = config_hash
        self.error: PenstockError | None = None
        self.ready = False
        self.tried = False  # True once the first attempt to open it is over, however it ended
        self.ended = False
        self.unloaded = False  # by order of a client
        metrics = surroundings.metrics
        self.queue: LaneQueue[Waiting] = LaneQueue(on_drop=Waiting.settle, drops=DROPS, clock=surroundings.clock)
        self._max_wait_s = max_wait_s
        self._trial = trial
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._on_change = surroundings.changed
        self._bugs = BugAllowance()
        self._stages = [metrics.stage(stage, backend=name) for stage in ("preprocess", "infer", "postprocess")]
        self._batch_frames = metrics.batch_frames(name)
        self._requests = partial(metrics.requests, name)
        for code in ("ok", "transient", "fatal", "bug"):
            self._requests(code)
        self._fallback = (
            None
            if lender is None
            else Fallback(name, lender, events=surroundings.events, metrics=metrics, clock=surroundings.clock)
        )
        self._trouble: TransientError | None = None  # why it is not open yet
        self._client_lane: Lane[Waiting] | None = None
        self._go = threading.Event()
        self._gone = threading.Event()
        self._lock = threading.Lock()
        self._workers: list[threading.Thread] = []
        self._use = Use(backend, self._over, lambda error: self._events.bug(f"backend {name}", error))
        self._busy = self._delivering = 0
        self._answered = 0
        self._opener = threading.Thread(target=self._open_and_work, name=f"backend-{name}", daemon=True)
        self._in_order: InOrder[_Answer] = InOrder(self._deliver, window=2)
        if not trial:
            self._go.set()

    def start(self) -> None:
        """Open the backend in a thread of its own, and begin to work (after a trial: once told to `go`)."""
        self._opener.start()

    def go(self) -> None:
        """The trial is over: take frames, and try again from now on."""
        self._trial = False
        self._go.set()

    def finish(self) -> None:
        """No more will come: what waits is still inferred, but a backend that does not open is not tried again."""
        self._gone.set()
        self._go.set()
        with self._lock:
            if self._client_lane is not None:
                self._client_lane.close()
        self.queue.finish()
        if self._opener.ident is None:
            self.ended = True

    def abandon(self) -> None:
        """Drop what waits and take no more; a batch that is being inferred is left to its own end."""
        self.finish()
        self.queue.close(FrameOutcome.DROPPED_SHUTDOWN)

    def watch(self) -> Stage:
        """Whether it has work, and how much it has done."""
        # A sink that takes nothing is told of as what it is; one that is not open yet is no reason for an alarm.
        could_begin = self._go.is_set() and self._delivering == 0 and len(self.queue) > 0
        works = bool(self._workers)
        return Stage("backend", self.name, works and (self._busy > 0 or could_begin), self._answered)

    @property
    def model(self) -> str:
        """What the backend calls its model."""
        return self.backend.model

    @property
    def on_fallback(self) -> bool:
        """Whether another backend answers for it just now."""
        return self._fallback is not None and self._fallback.active

    @property
    def covered(self) -> bool:
        """Whether its frames are inferred: by itself, or by its fallback while it is not open yet."""
        return self.ready or bool(self._workers)

    def client_lane(self, limits: LaneLimits) -> Lane[Waiting] | None:
        """The one way in for pictures of clients, made when it is first asked for; None: it takes no more."""
        with self._lock:
            if self._gone.is_set():
                return None
            if self._client_lane is None:
                self._client_lane = self.queue.lane(limits)
            return self._client_lane

    def lend(self, frames: Sequence[Frame]) -> list[Prediction]:
        """See `Lender`."""
        return self._use.lend(frames)

    def embed_texts(self, texts: Sequence[str]) -> Sequence[Embedding]:
        """See `Use.embed_texts`."""
        return self._use.embed_texts(texts)

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that were started, to join."""
        return [self._opener, *self._workers]

    # The opening thread

    def _open_and_work(self) -> None:
        try:
            if self._open():
                self.ready = True
                self._use.begin()
                self._on_change()
                self._begin()
            elif self.error is not None or not self._workers:  # else its fallback infers what waits
                self.queue.close(FrameOutcome.DROPPED_SHUTDOWN if self._gone.is_set() else FrameOutcome.FAILED_BACKEND)
        except BaseException as error:  # noqa: BLE001  (whatever it is, nobody will take the frames)
            self._break(error)
        finally:
            self._use.leave()

    def _begin(self) -> None:
        """Let the workers begin, if they have not."""
        if self._workers:
            return
        concurrency = max(1, self.backend.concurrency)
        self._in_order = InOrder(self._deliver, window=2 * concurrency)
        self._use.allow(concurrency)
        workers = [
            threading.Thread(target=self._work, name=f"backend-{self.name}-{index}", daemon=True)
            for index in range(concurrency)
        ]
        self._go.wait()
        for worker in workers:
            self._use.enter()
            try:
                worker.start()
            except RuntimeError as error:  # the system gives no more threads
                self._break(error)
                self._use.leave()
                return
            self._workers.append(worker)

    def _open(self) -> bool:
        backoff = Backoff()
        self._events.backend_opening(self.name)
        while not self._gone.is_set():
            began_at = self._clock.monotonic()
            try:
                self.backend.open()
            except TransientError as error:
                if self._trial:
                    self._fail(error)
                    return False
                delay_s = backoff.next_s(error.retry_after_s)
                self._events.backend_retry(self.name, delay_s, error)
                self._trouble, self.tried = error, True
                if self._fallback is not None:
                    self._begin()
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
                taken = self.queue.get(max(1, self.backend.max_batch), self._max_wait_s)
                if not taken.items:
                    return
                with self._lock:
                    self._busy += 1
                try:
                    answer = self._infer(taken.items)
                finally:
                    with self._lock:
                        self._busy -= 1
                        self._delivering += 1
                try:
                    self._in_order.put(taken.number, answer)
                finally:
                    with self._lock:
                        self._delivering -= 1
                        self._answered += 1
                del taken, answer
        except BaseException as error:  # noqa: BLE001  (a worker that dies in silence would hang the whole run)
            self._break(error)
        finally:
            self._use.leave()

    def _over(self) -> None:
        """The last thread is out: nothing is left behind, so that no source waits for nobody."""
        self.queue.close(FrameOutcome.FAILED_BACKEND)
        self._close()

    def _break(self, error: BaseException) -> None:
        self._events.bug(f"backend {self.name}", error)
        self._fail(FatalError(f"{type(error).__name__}: {error}"))
        self.queue.close(FrameOutcome.FAILED_BACKEND)

    def _infer(self, batch: list[Waiting]) -> _Answer:
        began_at = self._clock.monotonic()
        for waiting in batch:
            waiting.route.waited(max(0.0, began_at - waiting.frame.decoded_at))
        frames = [waiting.frame for waiting in batch]
        who, model, code = self.name, self.backend.model, "ok"
        predictions: Sequence[Prediction | FrameOutcome] = [FrameOutcome.FAILED_BACKEND] * len(frames)
        try:
            predictions = self._ask(frames)
        except TransientError as error:
            code = "transient" if error.code is None else error.code.value.lower()
            who, model, predictions = self._ask_fallback(frames, error)
        except (FatalError, ConfigError) as error:
            code = "fatal"
            self._fail(error)
            self.queue.close(FrameOutcome.FAILED_BACKEND)
        except BaseException as error:  # noqa: BLE001  (a plugin's bug: this batch failed; too many bugs are fatal)
            code = "bug"
            with self._lock:
                may_pass = self._bugs.spend(began_at)
            if may_pass:
                self._events.bug(f"backend {self.name}", error)
            else:
                self._break(error)
        # An answer may wait for its turn: pixels that no sink wants need not wait with it.
        batch = [each if each.route.wants_pictures else Waiting(each.frame.released(), each.route) for each in batch]
        ended_at = self._clock.monotonic()
        self._requests(code).inc()
        self._batch_frames.observe(len(frames))
        return _Answer(batch, predictions, who, model, ended_at, (ended_at - began_at) / len(batch))

    def _ask(self, frames: Sequence[Frame]) -> Sequence[Prediction]:
        if not self.ready and self._trouble is not None:
            raise self._trouble
        predictions = self._use.infer(frames)
        if self._fallback is not None:
            self._fallback.leave()
        return predictions

    def _ask_fallback(
        self, frames: Sequence[Frame], trouble: TransientError
    ) -> tuple[str, str, Sequence[Prediction | FrameOutcome]]:
        """Who answered in its place, and what; or how the frames ended."""
        try:
            if self._fallback is None:
                raise trouble
            found = self._fallback.ask(frames, trouble)
        except TransientError as error:
            if error.code is BackendErrorCode.STALE:
                return self.name, self.backend.model, [FrameOutcome.DROPPED_STALE] * len(frames)
            self._events.backend_batch_failed(self.name, error)
            return self.name, self.backend.model, [FrameOutcome.FAILED_BACKEND] * len(frames)
        predictions = [FrameOutcome.DROPPED_STALE if each is None else each for each in found.predictions]
        return found.backend, found.model, predictions

    def _deliver(self, answer: _Answer) -> None:
        """Settle the frames of one batch and offer the results to their sinks; runs in one thread at a time."""
        for waiting, prediction in zip(answer.batch, answer.predictions, strict=True):
            if isinstance(prediction, FrameOutcome):
                waiting.settle(prediction)
                continue
            result = Result(
                uuid4().hex,
                waiting.frame,
                prediction,
                answer.backend,
                answer.model,
                self.config_hash,
                answer.inferred_at,
                answer.inference_s,
            )
            try:
                for stage_s, spent_s in zip(self._stages, prediction.timings, strict=True):
                    stage_s.observe(spent_s)
                waiting.route.note(result)
            except Exception as error:  # noqa: BLE001  (a prediction that contradicts itself: not counted by class)
                self._events.bug(f"backend {self.name}", error)
            waiting.route.deliver(result)
            waiting.settle(FrameOutcome.INFERRED)

    def _close(self) -> None:
        try:
            self.backend.close()
        except Exception as error:  # noqa: BLE001  (whatever it is, the backend is over; the exit code says so)
            self._events.bug(f"backend {self.name}", error)
            self._fail(FatalError(f"{type(error).__name__}: {error}"))
        self.ended = True
        self._on_change()

    def _fail(self, error: PenstockError) -> None:
        with self._lock:
            if self.error is not None:
                return
            self.error = error
        self._use.end()
        # At the start the supervisor tells all configuration errors, at a reload whatever it is.
        if not self._trial and (self.tried or self.ready or not isinstance(error, ConfigError)):
            self._events.backend_failed(self.name, error)
