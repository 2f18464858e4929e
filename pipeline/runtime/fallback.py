"""`Fallback`: another backend that infers the frames which a backend could not, in their place and order."""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from pipeline.contracts.clock import Clock
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Prediction
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics


class Lender(Protocol):
    """A running backend that can infer for another one."""

    name: str

    @property
    def model(self) -> str:
        """What it calls its model."""
        ...

    @property
    def patience_s(self) -> float:
        """See `Patient`."""
        ...

    def lend(self, frames: Sequence[Frame]) -> list[Prediction]:
        """Predictions for any number of frames, in their order.

        Raises:
            TransientError: it cannot, just now.
        """
        ...


class Borrowed(NamedTuple):
    """What another backend said; None for frames that were too old by then."""

    backend: str
    model: str
    predictions: list[Prediction | None]


class Fallback:
    """The way out of one backend's trouble. Made by its runner; its workers call it, several at once.

    Args:
        name: of the backend in trouble.
        lender: finds the other one; None while there is none.
    """

    def __init__(
        self, name: str, lender: Callable[[], Lender | None], *, events: Events, metrics: Metrics, clock: Clock
    ) -> None:
        self._name = name
        self._lender = lender
        self._events = events
        self._clock = clock
        self._lent = metrics.fallback_frames(name)
        self._lock = threading.Lock()
        self._since: float | None = None
        self._frames = 0

    @property
    def active(self) -> bool:
        """Whether the last answer came from the other one."""
        return self._since is not None

    @property
    def patience_s(self) -> float:
        """For how long the other one may wait."""
        lender = self._lender()
        return 0.0 if lender is None else lender.patience_s

    def ask(self, frames: Sequence[Frame], trouble: TransientError) -> Borrowed:
        """Let the other backend infer what is not too old.

        Raises:
            TransientError: it cannot either; says both.
        """
        lender = self._lender()
        if lender is None:
            raise trouble
        now = self._clock.monotonic()
        fresh = [frame for frame in frames if frame.stale_at is None or frame.stale_at > now]
        try:
            found = iter(lender.lend(fresh) if fresh else ())
        except TransientError as error:
            raise TransientError(f"{trouble}; fallback {lender.name}: {error}", code=trouble.code) from error
        kept = {id(frame) for frame in fresh}
        answers = [next(found) if id(frame) in kept else None for frame in frames]
        if fresh:
            self._take(lender.name, len(fresh), trouble)
        return Borrowed(lender.name, lender.model, answers)

    def leave(self) -> None:
        """The backend answered by itself."""
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
            frames, self._frames = self._frames, 0
        if since is not None:
            self._events.fallback_left(self._name, frames, self._clock.monotonic() - since)

    def _take(self, lender: str, frames: int, trouble: TransientError) -> None:
        self._lent.inc(frames)
        with self._lock:
            begins = self._since is None
            if begins:
                self._since = self._clock.monotonic()
            self._frames += frames
        if begins:
            self._events.fallback_taken(self._name, lender, trouble)
