"""`Use`: one backend used by many threads: at most so many at once, and the last one out closes it."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from pipeline.contracts.backend import Backend, TextEncoder
from pipeline.contracts.errors import ConfigError, FatalError, TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Embedding, Prediction

T = TypeVar("T")

BORROW_S = 30.0
"""How long who is no worker of the backend waits for a turn."""


class Use:
    """Made by the backend's runner. Its threads `enter` and `leave`; others borrow.

    Args:
        backend: what is used.
        over: called once, by the last one out.
        bug: told of what a backend should not raise, where nobody else would tell.
    """

    def __init__(self, backend: Backend, over: Callable[[], None], bug: Callable[[BaseException], None]) -> None:
        self._backend = backend
        self._over = over
        self._bug = bug
        self._lock = threading.Lock()
        self._inside = 1  # who made it is the first
        self._turns = threading.Semaphore(0)
        self._open = False

    def allow(self, concurrency: int) -> None:
        """From now on so many may infer at once."""
        for _ in range(concurrency):
            self._turns.release()

    def begin(self) -> None:
        """It is open: it may be borrowed."""
        self._open = True

    def end(self) -> None:
        """It failed, or is on its way out: nobody may borrow it any more."""
        self._open = False

    def enter(self) -> None:
        """One more thread uses it."""
        with self._lock:
            self._inside += 1

    def leave(self) -> None:
        """One less; the last one ends it."""
        with self._lock:
            self._inside -= 1
            is_last = self._inside == 0
        if is_last:
            self._over()

    def infer(self, frames: Sequence[Frame]) -> list[Prediction]:
        """What the backend says, checked: a prediction for each frame.

        Raises:
            RuntimeError: the backend has a bug; or whatever it raises.
        """
        with self._turns:
            return self._checked(frames)

    def lend(self, frames: Sequence[Frame]) -> list[Prediction]:
        """The same for frames of another backend, in batches as this one takes them.

        Raises:
            TransientError: it cannot, just now.
        """
        size = max(1, self._backend.max_batch)
        found: list[Prediction] = []
        for begin in range(0, len(frames), size):
            found += self._borrow(partial(self._checked, frames[begin : begin + size]))
        return found

    def embed_texts(self, texts: Sequence[str]) -> Sequence[Embedding]:
        """A vector for each text.

        Raises:
            TransientError: it cannot, just now; or it takes no texts.
        """
        backend = self._backend
        if not isinstance(backend, TextEncoder):
            raise TransientError("it takes no texts")
        return self._borrow(partial(backend.embed_texts, texts))

    def _checked(self, frames: Sequence[Frame]) -> list[Prediction]:
        predictions = self._backend.infer(frames)
        if len(predictions) != len(frames) or not all(isinstance(each, Prediction) for each in predictions):
            what = [type(each).__name__ for each in predictions]
            raise RuntimeError(f"the answer to {len(frames)} frames is {what}")
        return list(predictions)

    def _borrow(self, use: Callable[[], T]) -> T:
        with self._lock:
            if self._inside == 0 or not self._open:
                raise TransientError("it is not ready")
            self._inside += 1
        try:
            if not self._turns.acquire(timeout=BORROW_S):
                raise TransientError("it has too much to do")
            try:
                return use()
            except TransientError:
                raise
            except (FatalError, ConfigError) as error:
                raise TransientError(str(error)) from error
            except BaseException as error:  # whatever it is, it shall not end the thread of who borrows
                self._bug(error)
                raise TransientError(f"{type(error).__name__}: {error}") from error
            finally:
                self._turns.release()
        finally:
            self.leave()
