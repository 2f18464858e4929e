"""`Afterwork`: closed files are made into others, a little at a time, so that writing never waits for it for long."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipeline.contracts.component import Context
from pipeline.contracts.errors import TransientError
from sinks._files import keep_reserve, write_error

_RETRY_S = 60.0


class Job(Protocol):
    """One file on its way to becoming another."""

    @property
    def path(self) -> Path:
        """The file that is read, and removed at the end."""
        ...

    @property
    def target(self) -> Path:
        """The file that it becomes."""
        ...

    def step(self) -> bool:
        """Some milliseconds of work; True: the target is complete, on the disk and under its name, the file removed.

        Raises:
            OSError: not now.
        """
        ...

    def abandon(self) -> None:
        """Leave nothing behind but the file as it was."""
        ...


class Afterwork:
    """Made by the sink that closes the files; used by its thread.

    What is not done when the process ends is done after the next start.

    Args:
        ctx: the sink's.
        begin: how to begin with a file; raises OSError.
        becomes: the name of what a file becomes.
        min_free_bytes: to be left on the disk.
    """

    def __init__(
        self, ctx: Context, begin: Callable[[Path], Job], becomes: Callable[[Path], Path], min_free_bytes: int
    ) -> None:
        self.becomes = becomes
        self._ctx = ctx
        self._begin = begin
        self._min_free_bytes = min_free_bytes
        self._waiting: deque[Path] = deque()
        self._job: Job | None = None
        self._not_before = -1.0

    def add(self, path: Path) -> None:
        """One more closed file."""
        self._waiting.append(path)

    def forget(self, path: Path) -> None:
        """It is written to again."""
        if self._job is not None and self._job.path == path:
            self.close()
        elif path in self._waiting:
            self._waiting.remove(path)

    def work(self, budget_s: float) -> dict[Path, Path]:
        """Go on for about so long; what became of which files."""
        done: dict[Path, Path] = {}
        clock = self._ctx.clock
        ends_at = clock.monotonic() + budget_s
        while (self._job or self._waiting) and self._not_before <= clock.monotonic() < ends_at:
            path = self._job.path if self._job else self._waiting.popleft()
            try:
                keep_reserve(path.parent, self._min_free_bytes)
                if self._job is None:
                    self._job = self._begin(path)
                if self._job.step():
                    done[path] = self._job.target
                    self._job = None
            except FileNotFoundError:
                self.close()  # removed meanwhile: by the operator, or by `keep`
            except (OSError, TransientError) as error:
                self.close()
                self._waiting.append(path)
                self._not_before = clock.monotonic() + _RETRY_S
                problem = write_error(path, error) if isinstance(error, OSError) else error
                self._ctx.tell("left as it is", f"{problem}; tried again in {_RETRY_S:.0f} s", well=False)
        return done

    def close(self) -> None:
        """Leave what is not done as it is."""
        if self._job is not None:
            self._job.abandon()
            self._job = None
