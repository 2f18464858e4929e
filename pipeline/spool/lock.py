"""`FileLock`: one process for one spool."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from pipeline.contracts.errors import FatalError
from pipeline.contracts.paths import FILE_MODE
from pipeline.spool.errors import SpoolError


class FileLock:
    """Holds `path` until it is released or the process ends, however it ends. Made by the store."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def taken(cls, path: Path) -> Self:
        """The lock on this file.

        Raises:
            FatalError: another process holds it.
            SpoolError: this process does, for a moment: a sink that is being replaced.
            OSError: the file cannot be made.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            if holder == str(os.getpid()):
                raise SpoolError(f"{path.name}: the sink before this one still uses its spool") from None
            raise FatalError(
                f"the spool {path.with_suffix('.db')} is in use by another process (pid {holder or 'unknown'}): "
                "two pipelines cannot share a data_dir"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        with contextlib.suppress(OSError):  # a full disk: the number is for people only
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let go; the file stays, since another may be waiting with it open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def holder_of(path: Path) -> str | None:
    """The process that holds this lock, as it wrote itself down ("" where it did not); None: nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    finally:
        os.close(descriptor)
    return None


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
