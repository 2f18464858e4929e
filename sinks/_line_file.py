"""`LineFile`: one file of whole lines, whatever a crash or a full disk does to it."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.contracts.component import Context
from sinks._files import OutputFile, write_error
from sinks._paths import display
from sinks._rotation import piece_path

_CHUNK_BYTES = 65_536
_MAX_LINE_BYTES = 64 << 20  # a torn end longer than this is none of our lines


class LineFile:
    """One open file of lines. Made by `LineFiles`; used by its thread.

    Args:
        path: where it is to appear.
        atomic: written as `PATH.part` until it is finished.
        keep: go on after what is in it; a last line that was torn is mended first, and told.
        head: what stands in front of the first line, as the header of a CSV file.
        is_whole: whether a last line without its end is one all the same.
        ctx: the sink's.

    Raises:
        FatalError, TransientError: it cannot be opened.
    """

    def __init__(
        self, path: Path, *, atomic: bool, keep: bool, head: bytes, is_whole: Callable[[bytes], bool], ctx: Context
    ) -> None:
        self.out = OutputFile(path, atomic=atomic, keep=keep)
        self.head = head
        self.is_dirty = False  # holds what is not known to be on the disk
        self.was_torn = False  # and mended
        self._torn = False  # something may stand behind `size_bytes`
        try:
            self.changed_at = os.fstat(self.out.fd).st_mtime
            self.size_bytes = self._mend(is_whole, ctx) if keep else 0
            self.is_foreign = bool(head and self.size_bytes) and os.pread(self.out.fd, len(head), 0) != head
        except BaseException:
            self.out.abandon(remove=False)
            raise

    @property
    def has_lines(self) -> bool:
        """Whether there is anything in it but its head; what has another head is taken to have."""
        return self.size_bytes > len(self.head) or self.is_foreign

    def append(self, data: bytes) -> None:
        """Write all of `data` behind what is there; on an error the caller calls `cut`.

        Raises:
            OSError: it is not all there.
        """
        if self._torn:
            os.ftruncate(self.out.fd, self.size_bytes)
            self._torn = False
        stat = os.fstat(self.out.fd)
        self.size_bytes = min(self.size_bytes, stat.st_size)  # somebody emptied it: go on where it ends, leave no hole
        if self.size_bytes == 0:
            data = self.head + data
        self.is_dirty = self._torn = True
        done = 0
        while done < len(data):  # a disk that is nearly full takes a part, and says why at the next call
            done += os.pwrite(self.out.fd, memoryview(data)[done:], self.size_bytes + done)
        self.size_bytes += done
        self._torn = False

    def cut(self, size_bytes: int) -> None:
        """Take back what was written behind `size_bytes`: no torn line stays. What cannot be cut now is at the next
        `append`, or at the end.

        Raises:
            OSError: it could not be cut.
        """
        self.size_bytes = min(self.size_bytes, size_bytes)
        self._torn = True
        os.ftruncate(self.out.fd, self.size_bytes)
        self._torn = False

    def sync(self) -> None:
        """Bring what was written to the disk.

        Raises:
            OSError: it is not there.
        """
        if self.is_dirty:
            self.out.sync()
            self.is_dirty = False

    def close_as(self, target: Path) -> None:
        """Give it its last name, complete and on the disk; where that fails, it stays open, and under its old one.

        Raises:
            TransientError, FatalError: it could not be done.
        """
        try:
            if self._torn:
                self.cut(self.size_bytes)
            self.out.settle(target)
        except OSError as error:
            raise write_error(target, error) from error
        os.close(self.out.fd)

    def set_aside(self, now: float, becomes: Callable[[Path], Path]) -> Path:
        """Close what a run before left, as a piece named by the time of its last line; whatever fails, it is closed.

        Raises:
            TransientError, FatalError: it could not be done; it is as it was.
        """
        try:
            at = min(max(self.changed_at, 0.0), now)
            with contextlib.suppress(OSError):  # somebody else's file: its age is a little off
                os.utime(self.out.fd, (at, at))  # mending it made it no younger
            piece = piece_path(self.out.path, at, becomes)
            self.close_as(piece)
        except BaseException:
            self.out.abandon(remove=False)
            raise
        return piece

    def _mend(self, is_whole: Callable[[bytes], bool], ctx: Context) -> int:
        """Bring a file that ends in the middle of a line (a crash, a full disk) back to whole lines; its size."""
        fd = self.out.fd
        size = os.fstat(fd).st_size
        keep = _end_of_lines(fd, size)
        torn_bytes = size - keep
        if torn_bytes == 0:
            return size
        if torn_bytes <= _MAX_LINE_BYTES and is_whole(os.pread(fd, torn_bytes, keep)):
            os.pwrite(fd, b"\n", size)
            return size + 1
        os.ftruncate(fd, keep)
        self.was_torn = True
        ctx.warn(f"{display(self.out.path)} ended in the middle of a line: its last {torn_bytes} bytes were cut off")
        return keep


def _end_of_lines(fd: int, size: int) -> int:
    """Where the last whole line of a file ends."""
    start = size
    while start > 0:
        step = min(_CHUNK_BYTES, start)
        start -= step
        found = os.pread(fd, step, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0
