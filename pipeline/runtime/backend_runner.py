"""`BackendRunner`: the threads around one backend: batches in, results out in order, every frame settled."""

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError

from pipeline.contracts.backend import Backend, Grouping, Located, Patient
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.ids import new_id
from pipeline.contracts.result import Embedding, Prediction, Result
from pipeline.runtime.backoff import Backoff
from pipeline.runtime.context import Surroundings
from pipeline.runtime.fallback import Fallback, Lender
from pipeline.runtime.inference import Answered, Inference
from pipeline.runtime.ledger import FrameOutcome
from pipeline.runtime.queue import Drops, Lane, LaneLimits, LaneQueue
from pipeline.runtime.reorder import InOrder
from pipeline.runtime.route import Waiting
from pipeline.runtime.use import Use
from pipeline.runtime.watch import Stage

DROPS = Drops(
    full=FrameOutcome.DROPPED_QUEUE_FULL, stale=FrameOutcome.DROPPED_STALE, closed=FrameOutcome.DROPPED_SHUTDOWN
)


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
        interrupt: Callable[[], None],
        surroundings: Surroundings,
        max_wait_s: float = 0.0,
        trial: bool = False,
        fallback: str | None = None,
        lender: Callable[[], Lender | None] | None = None,
    ) -> None:
        self.name = name
        self.backend = backend
        self.config_hash = config_hash
        self.fallback = fallback  # its name
        self.error: PenstockError | None = None
        self.ready = False
        self.tried = False  # True once the first attempt to open it is over, however it ended
        self.ended = False
        self.unloaded = False  # by order of a client
        metrics = surroundings.metrics
        self.queue: LaneQueue[Waiting] = LaneQueue(on_drop=Waiting.settle, drops=DROPS, clock=surroundings.clock)
        self._max_wait_s = max_wait_s
        self._kind_of = backend.kind_of if isinstance(backend, Grouping) else None
        self._trial = trial
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._interrupt = interrupt
        self._on_change = surroundings.changed
        self._stages = [metrics.stage(stage, backend=name) for stage in ("preprocess", "infer", "postprocess")]
        self._fallback = (
            None
            if lender is None
            else Fallback(name, lender, events=surroundings.events, metrics=metrics, clock=surroundings.clock)
        )
        self._client_lane: Lane[Waiting] | None = None
        self._go = threading.Event()
        self._gone = threading.Event()
        self._lock = threading.Lock()
        self._workers: list[threading.Thread] = []
        self._use = Use(backend, self._over, lambda error: self._events.bug(f"backend {name}", error))
        self._inference = Inference(
            name, backend, self._use, fallback=self._fallback, give_up=self._give_up, surroundings=surroundings
        )
        self._busy = self._delivering = 0
        self._answered = 0
        self._opener = threading.Thread(target=self._open_and_work, name=f"backend-{name}", daemon=True)
        self._in_order: InOrder[Answered] = InOrder(self._deliver, window=2)
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
        waits = not self.ready and not self._gone.is_set()
        self._gone.set()
        if waits:  # for a server that hangs, in vain
            self._interrupt()
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
        patience_s = self.patience_s + (0.0 if self._fallback is None else self._fallback.patience_s)
        return Stage("backend", self.name, works and (self._busy > 0 or could_begin), self._answered, patience_s)

    @property
    def patience_s(self) -> float:
        """See `Patient`."""
        return self.backend.patience_s if isinstance(self.backend, Patient) else 0.0

    @property
    def model(self) -> str:
        """What the backend calls its model."""
        return self.backend.model

    @property
    def devices(self) -> tuple[str, ...]:
        """Those of this machine that it runs on, once it is open."""
        return tuple(self.backend.device.split(",")) if self.ready and isinstance(self.backend, Located) else ()

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
        predictions = self._use.lend(frames)
        for prediction in predictions:
            self._measure(prediction)
        return predictions

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
                self._inference.not_open(None)
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
                if self._gone.is_set():
                    return False
                if self._trial:
                    self._fail(error)
                    return False
                delay_s = backoff.next_s(error.retry_after_s)
                self._events.backend_retry(self.name, delay_s, error)
                self._inference.not_open(error)
                if self._fallback is not None:
                    self._begin()
                self.tried = True  # whoever waits for that finds the fallback at work
                self._on_change()
                self._gone.wait(delay_s)
            except (FatalError, ConfigError) as error:
                self._fail(error)
                return False
            except CancelledError:  # because it is gone: whether it could be opened is nobody's question any more
                return False
            else:
                took_s = self._clock.monotonic() - began_at
                self._events.backend_ready(self.name, self.backend.describe(), took_s)
                return True
        return False

    # The workers

    def _work(self) -> None:
        kind = None if self._kind_of is None else self._kind
        try:
            while True:
                taken = self.queue.get(max(1, self.backend.max_batch), self._max_wait_s, kind=kind)
                if not taken.items:
                    return
                with self._lock:
                    self._busy += 1
                try:
                    answer = self._inference.answer(taken.items)
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

    def _kind(self, waiting: Waiting) -> Hashable:
        try:
            return None if self._kind_of is None else self._kind_of(waiting.frame)
        except Exception:  # noqa: BLE001  (a plugin's bug, in the queue's lock: `infer` will meet it again, and tell)
            return None

    def _over(self) -> None:
        """The last thread is out: nothing is left behind, so that no source waits for nobody."""
        self.queue.close(FrameOutcome.FAILED_BACKEND)
        self._close()

    def _break(self, error: BaseException) -> None:
        self._events.bug(f"backend {self.name}", error)
        self._give_up(FatalError(f"{type(error).__name__}: {error}"))

    def _give_up(self, error: PenstockError) -> None:
        self._fail(error)
        self.queue.close(FrameOutcome.FAILED_BACKEND)

    def _deliver(self, answer: Answered) -> None:
        """Settle the frames of one batch and offer the results to their sinks; runs in one thread at a time."""
        for waiting, prediction in zip(answer.batch, answer.predictions, strict=True):
            if isinstance(prediction, FrameOutcome):
                waiting.settle(prediction)
                continue
            result = Result(
                new_id(),
                waiting.frame,
                prediction,
                answer.backend,
                answer.model,
                self.config_hash,
                answer.inferred_at,
                answer.inference_s,
            )
            try:
                if answer.backend == self.name:  # else it was measured there
                    self._measure(prediction)
                waiting.route.note(result)
            except Exception as error:  # noqa: BLE001  (a prediction that contradicts itself: not counted by class)
                self._events.bug(f"backend {self.name}", error)
            waiting.route.deliver(result)
            waiting.settle(FrameOutcome.INFERRED)

    def _measure(self, prediction: Prediction) -> None:
        for stage_s, spent_s in zip(self._stages, prediction.timings, strict=True):
            stage_s.observe(spent_s)

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
