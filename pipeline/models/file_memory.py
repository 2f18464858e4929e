"""`FileMemory`: what was found out about a file, for as long as the file stays the same."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Stamp(NamedTuple):
    """What changes when a file is written or replaced."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class FileMemory(Generic[T]):
    """Remembers one finding for each of the last few files. Usable from any thread.

    Args:
        most: files that are remembered; the one that was asked for least recently goes first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[Path, tuple[_Stamp, T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> T | None:
        """What was found out, if the file is still the same."""
        with self._lock:
            stamp, known = self._found.get(path, (None, None))
            if stamp is None or stamp != _stamp(path):
                self._found.pop(path, None)
                return None
            self._found.move_to_end(path)
            return known

    @contextlib.contextmanager
    def remembering(self, path: Path) -> Iterator[Callable[[T], None]]:
        """Look at the file inside; what is handed over there holds for the file as it was before."""
        before = _stamp(path)
        findings: list[T] = []
        yield findings.append
        if not findings or before is None:
            return
        with self._lock:
            self._found[path] = before, findings[-1]
            self._found.move_to_end(path)
            while len(self._found) > self._most:
                self._found.popitem(last=False)


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # whoever opens the file says what is wrong with it
        return None
    return _Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
