"""`Inference`: what becomes of one batch: asked of the backend, else of its fallback, and an answer in any case."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from pipeline.contracts.backend import Backend
from pipeline.contracts.errors import BackendErrorCode, ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Prediction
from pipeline.runtime.backoff import BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.fallback import Fallback
from pipeline.runtime.ledger import FrameOutcome
from pipeline.runtime.route import Waiting
from pipeline.runtime.use import Use

Said = Sequence[Prediction | FrameOutcome]


class Answered(NamedTuple):
    """What became of one batch: a prediction or an outcome for each frame, and who answered."""

    batch: list[Waiting]
    predictions: Said
    backend: str
    model: str
    inferred_at: float
    inference_s: float


class Inference:
    """Made by a backend's runner; `answer` is called by its workers, several at once, and never raises.

    Args:
        name: of the backend.
        backend: what is asked.
        use: the way to it.
        fallback: what is asked where it does not answer.
        give_up: told why the backend is over.
        surroundings: of the process.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        use: Use,
        *,
        fallback: Fallback | None,
        give_up: Callable[[PenstockError], None],
        surroundings: Surroundings,
    ) -> None:
        self._name = name
        self._backend = backend
        self._use = use
        self._fallback = fallback
        self._give_up = give_up
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._lock = threading.Lock()
        self._bugs = BugAllowance()
        self._trouble: Callable[[], TransientError] | None = None
        self._requests = partial(surroundings.metrics.requests, name)
        self._batch_frames = surroundings.metrics.batch_frames(name)
        for code in ("ok", "transient", "fatal", "bug"):
            self._requests(code)

    def not_open(self, why: TransientError | None) -> None:
        """Until it is told None, the backend is not asked, for this reason."""
        # Not the error itself: each time that it is raised it would keep one more batch of pictures with its traceback.
        self._trouble = None if why is None else partial(TransientError, str(why), code=why.code)

    def answer(self, batch: list[Waiting]) -> Answered:
        """Have the batch inferred; frames that nobody could infer have an outcome instead of a prediction."""
        began_at = self._clock.monotonic()
        for waiting in batch:
            waiting.route.waited(max(0.0, began_at - waiting.frame.decoded_at))
        who, model = self._name, self._backend.model
        predictions: Said = [FrameOutcome.FAILED_BACKEND] * len(batch)
        try:
            code, who, model, predictions = self._answer([waiting.frame for waiting in batch])
        except (FatalError, ConfigError) as error:
            code = "fatal"
            self._give_up(error)
        except BaseException as error:  # noqa: BLE001  (a plugin's bug: this batch failed; too many bugs are fatal)
            code = "bug"
            self._events.bug(f"backend {self._name}", error)
            with self._lock:
                may_pass = self._bugs.spend(began_at)
            if not may_pass:
                self._give_up(FatalError(f"{type(error).__name__}: {error}"))
        # An answer may wait for its turn: pixels that no sink wants need not wait with it.
        batch = [each if each.route.wants_pictures else Waiting(each.frame.released(), each.route) for each in batch]
        ended_at = self._clock.monotonic()
        self._requests(code).inc()
        self._batch_frames.observe(len(batch))
        return Answered(batch, predictions, who, model, ended_at, (ended_at - began_at) / len(batch))

    def _answer(self, frames: Sequence[Frame]) -> tuple[str, str, str, Said]:
        """How it ended, who answered, with which model, and what."""
        try:
            return "ok", self._name, self._backend.model, self._ask(frames)
        except TransientError as error:
            code = "transient" if error.code is None else error.code.value.lower()
            return code, *self._ask_fallback(frames, error)

    def _ask(self, frames: Sequence[Frame]) -> Sequence[Prediction]:
        trouble = self._trouble
        if trouble is not None:
            raise trouble()
        predictions = self._use.infer(frames)
        if self._fallback is not None:
            self._fallback.leave()
        return predictions

    def _ask_fallback(self, frames: Sequence[Frame], trouble: TransientError) -> tuple[str, str, Said]:
        """Who answered in its place, and what; or how the frames ended."""
        try:
            if self._fallback is None:
                raise trouble
            found = self._fallback.ask(frames, trouble)
        except TransientError as error:
            outcome = FrameOutcome.FAILED_BACKEND
            if error.code is BackendErrorCode.STALE:
                outcome = FrameOutcome.DROPPED_STALE
            else:
                self._events.backend_batch_failed(self._name, error)
            return self._name, self._backend.model, [outcome] * len(frames)
        predictions = [FrameOutcome.DROPPED_STALE if each is None else each for each in found.predictions]
        return found.backend, found.model, predictions
