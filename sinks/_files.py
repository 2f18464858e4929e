"""Files that appear complete: written beside their target, one writer at a time, renamed into place at the end."""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.paths import FILE_MODE, make_folders
from sinks._paths import display

PART_SUFFIX = ".part"

_MAX_SHOWN = 5  # file names in the summary

_MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""No room, or a disk that does not answer: both come back without anybody touching the configuration."""


def write_error(path: Path, error: OSError) -> PenstockError:
    """What it means that `path` cannot be written: no room may pass, anything else needs someone to act."""
    reason = error.strerror or type(error).__name__
    message = f"{display(path)} cannot be written: {reason}"
    return TransientError(message) if error.errno in _MAY_PASS else FatalError(message)


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it, for the owner and the group (0750).

    Raises:
        TransientError, FatalError: as `write_error` says.
    """
    try:
        make_folders(folder)
    except OSError as error:
        raise write_error(folder, error) from error


def free_bytes(path: Path) -> int:
    """Room on the disk of `path` for who is not root."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def keep_reserve(folder: Path, min_free_bytes: int) -> None:
    """Write nothing more where less than this is left on the disk of `folder`.

    Raises:
        TransientError: less is left.
    """
    if min_free_bytes == 0:
        return
    try:
        free = free_bytes(folder)
    except OSError:
        return  # whatever is wrong with it, the next write says it better
    if free < min_free_bytes:
        raise TransientError(
            f"{display(folder)} cannot be written: {free >> 20:,} MiB are free, and min_free_bytes keeps "
            f"{min_free_bytes / (1 << 20):,.0f} MiB"
        )


class OutputFile:
    """One file being written; used by one thread.

    With `atomic` it is `PATH.part` until `finish`, and what stands at PATH is left alone until then.

    Args:
        path: where it is to appear.
        atomic: write beside `path` and rename.
        keep: go on after what is in the file instead of starting empty.

    Raises:
        FatalError: it cannot be opened, or another process is writing it.
        TransientError: no room.
    """

    def __init__(self, path: Path, *, atomic: bool = True, keep: bool = False) -> None:
        self.path = path
        self.part = path.with_name(path.name + PART_SUFFIX) if atomic else path
        make_folder(path.parent)
        self._named = False  # whether its name is on the disk, too
        try:
            self.fd = self._open_locked(follow=not atomic)
        except OSError as error:
            raise write_error(self.part, error) from error
        self.atomic = atomic
        if not keep:
            os.ftruncate(self.fd, 0)

    def _open_locked(self, *, follow: bool) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        while True:
            fd = os.open(self.part, flags, FILE_MODE)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last writer may have renamed it between `open` and `flock`: then it is someone's finished file.
                if os.path.samestat(os.fstat(fd), self.part.stat()):
                    return fd
            except BlockingIOError as error:
                os.close(fd)
                raise FatalError(f"{display(self.part)} is being written by another process") from error
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def is_there(self) -> bool:
        """Whether it still has its name: nobody removed it, or moved it away."""
        try:
            return os.path.samestat(os.fstat(self.fd), self.part.stat())
        except OSError:
            return False

    def sync(self) -> None:
        """Bring what was written to the disk, and at the first time the name as well.

        Raises:
            OSError: it is not there.
        """
        if self._named:
            os.fdatasync(self.fd)
            return
        os.fsync(self.fd)
        sync_folder(self.part.parent)
        self._named = True

    def settle(self, target: Path) -> None:
        """Bring everything to the disk, then give the file this name; it stays open, and as it was where that fails.

        Raises:
            OSError: it could not be done.
        """
        os.fsync(self.fd)
        if self.part != target:
            self.part.replace(target)
            sync_folder(target.parent)

    def finish(self, target: Path | None = None) -> None:
        """Bring everything to the disk and the file to its final name; whatever fails, the descriptor is closed.

        Args:
            target: another final name than its path.

        Raises:
            FatalError, TransientError: it is not complete; `part` holds what there is.
        """
        try:
            self.settle(target or self.path)
        except OSError as error:
            raise write_error(target or self.path, error) from error
        finally:
            os.close(self.fd)

    def abandon(self, *, remove: bool) -> None:
        """Close it without the final name; `remove` it where what is in it is of no use to anyone."""
        try:
            if remove:
                self.part.unlink(missing_ok=True)
        finally:
            os.close(self.fd)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk.

    Raises:
        OSError: it cannot be done.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class FinishedFiles:
    """What a sink with very many files has to show for the summary at the end. Made and used by the sink."""

    def __init__(self) -> None:
        self._first: dict[str, None] = {}
        self._count = 0

    def add(self, path: Path) -> None:
        """This one is complete."""
        name = display(path)
        if name in self._first:
            return
        self._count += 1
        if len(self._first) < _MAX_SHOWN:
            self._first[name] = None

    def shown(self) -> Sequence[str]:
        """The first of them, and how many more there are."""
        more = self._count - len(self._first)
        return [*self._first, *([f"{more:,} more files"] if more > 0 else [])]
