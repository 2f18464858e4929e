"""`Budget`: what was sent today, kept in a small file so that a restart does not forget it."""

import contextlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from pipeline.contracts.clock import Clock
from pipeline.contracts.component import Context
from pipeline.contracts.errors import BackendErrorCode, UnavailableError
from pipeline.contracts.paths import FILE_MODE, make_folders

_DAY_S = 86_400
_SAVED_EVERY_S = 1.0
_BELIEVED_BACK_DAYS = 2


class Budget:
    """Made by `HttpBackend`; `take` runs on the main loop, `save` in the workers' threads.

    A day is a day of UTC on the wall clock. A clock that jumps back fills nothing up again; one that stood days ahead
    and was put right is believed, with what was used. The file is written at most once a second: `kill -9` may lose
    what was sent in the last second.

    Args:
        file: where it is kept; None: nowhere, there is nothing to keep to.
        max_requests: per day; None: any number.
        max_bytes: of request bodies per day; None: any number.
        clock: whose wall clock says which day it is.
        warn: told once that the file cannot be written.
    """

    def __init__(
        self,
        file: Path | None,
        max_requests: int | None,
        max_bytes: int | None,
        clock: Clock,
        warn: Callable[[str], None],
    ) -> None:
        self.requests = 0
        self.bytes = 0
        self._file = file
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._clock = clock
        self._warn = warn
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._day = self._today()
        self._changed = False
        self._saved_at = float("-inf")
        self._warned = False

    @classmethod
    def of(cls, ctx: Context, max_requests: int | None, max_bytes: int | None) -> "Budget":
        """The budget of the backend `ctx.name`."""
        limited = max_requests is not None or max_bytes is not None
        file = ctx.data_dir / "budgets" / f"{ctx.name}.json" if limited else None
        return cls(file, max_requests, max_bytes, ctx.clock, ctx.warn)

    def load(self) -> None:
        """Read what was used before the restart; a file that makes no sense counts as nothing, and is told of."""
        if self._file is None:
            return
        try:
            kept = json.loads(self._file.read_bytes()[:4096])
            day, requests, sent = (int(kept[key]) for key in ("day", "requests", "bytes"))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            self._warn(f"{self._file}: cannot be read ({type(error).__name__}): today's budget starts at nothing")
            return
        with self._lock:
            self._day, self.requests, self.bytes = day, max(0, requests), max(0, sent)
            self._turn()

    def check(self, size_bytes: int = 0) -> None:
        """Look whether one more request would still fit.

        Raises:
            UnavailableError: it would not, and when the next day begins.
        """
        with self._lock:
            self._check(size_bytes)

    def take(self, size_bytes: int) -> None:
        """Count one request.

        Raises:
            UnavailableError: as `check`; nothing was counted.
        """
        with self._lock:
            self._check(size_bytes)
            self.requests += 1
            self.bytes += size_bytes
            self._changed = True

    def save(self, *, at_once: bool = False) -> None:
        """Write the file, unless it was written within the last second."""
        if self._file is None or not self._writing.acquire(blocking=at_once):
            return
        try:
            now = self._clock.monotonic()
            with self._lock:
                if not self._changed or (not at_once and now - self._saved_at < _SAVED_EVERY_S):
                    return
                self._changed, self._saved_at = False, now
                kept = {"day": self._day, "requests": self.requests, "bytes": self.bytes}
            self._write(self._file, json.dumps(kept).encode())
        finally:
            self._writing.release()

    def _write(self, file: Path, content: bytes) -> None:
        new = file.with_suffix(".new")
        try:
            make_folders(file.parent)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
            with open(descriptor, "wb") as stream:  # noqa: PTH123  (with a mode of our own)
                stream.write(content)
            new.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            if not self._warned:
                self._warned = True
                self._warn(f"{file}: cannot be written ({error.strerror}): a restart will forget today's budget")

    def _check(self, size_bytes: int) -> None:
        self._turn()
        if self._max_requests is not None and self.requests >= self._max_requests:
            what = f"{self._max_requests} requests a day (max_requests_per_day)"
        elif self._max_bytes is not None and self.bytes + size_bytes > self._max_bytes:
            what = f"{self._max_bytes} bytes a day (max_bytes_per_day)"
        else:
            return
        left_s = _DAY_S - self._clock.wall() % _DAY_S
        raise UnavailableError(f"the budget is used up: {what}", code=BackendErrorCode.BUDGET, retry_after_s=left_s)

    def _today(self) -> int:
        return int(self._clock.wall() // _DAY_S)

    def _turn(self) -> None:
        """Begin a new day where there is one. Call with the lock held."""
        today = self._today()
        if today > self._day:
            self._day, self.requests, self.bytes = today, 0, 0
            self._changed = True
        elif self._day - today > _BELIEVED_BACK_DAYS:
            self._day = today
            self._changed = True
