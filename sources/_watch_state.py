"""`DoneFiles`: which files of a watched folder were read, kept in a small database so that a restart knows it too."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.paths import FILE_MODE, make_folders

GONE_LIMIT = 10_000
"""So many files that are no longer there are remembered; the oldest are forgotten first."""

_BUSY_S = 1.0  # another process, or the same source of before a reload, has the database
_SCHEMA = "CREATE TABLE IF NOT EXISTS done (path BLOB PRIMARY KEY, size_bytes INTEGER, mtime_ns INTEGER)"


class Version(NamedTuple):
    """What tells one content of a file from the next one under the same name."""

    size_bytes: int
    mtime_ns: int


class DoneFiles:
    """Made, used and closed by one source's thread. A record that was added is there after `kill -9`.

    Args:
        path: of the database; its folder is made. A database that is damaged is put aside, which is told by `warn`.
        warn: tells the operator.

    Raises:
        TransientError: INTERNAL, it cannot be opened.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        try:
            make_folders(path.parent)
            self._database, self._done = _opened(path)
        except sqlite3.OperationalError as error:
            raise self._cannot("be opened", error) from error
        except sqlite3.DatabaseError:
            aside = path.with_name(path.name + ".damaged")
            warn(f"{path} was damaged: it is kept as {aside.name}, and files that are still there are read again")
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.replace(aside)
            self._database, self._done = _opened(path)
        except OSError as error:
            raise self._cannot("be made", error) from error

    def __contains__(self, item: tuple[str, Version]) -> bool:
        path, version = item
        if self._done.get(path) == version:
            return True
        # At a reload the source of before may still add to it.
        query = "SELECT size_bytes, mtime_ns FROM done WHERE path = ?"
        try:
            row = self._database.execute(query, (_key(path),)).fetchone()
        except sqlite3.Error as error:
            raise self._cannot("be read", error) from error
        if row is None or Version(*row) != version:
            return False
        self._done[path] = version
        return True

    def add(self, path: str, version: Version) -> None:
        """Remember that this version of the file was read.

        Raises:
            TransientError: INTERNAL, it cannot be written: the disk may be full.
        """
        self._done.pop(path, None)  # so that it is the newest
        self._done[path] = version
        try:
            with self._database:
                self._database.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?)", (_key(path), *version))
        except sqlite3.Error as error:
            raise self._cannot("be written", error) from error

    def forget_gone(self, present: Collection[str]) -> None:
        """Forget the oldest files that are no longer there, but for `GONE_LIMIT` of them.

        A folder without any file may be one whose disk is not mounted: then nothing is forgotten.
        """
        if not present or len(self._done) <= len(present) + GONE_LIMIT:
            return
        gone = [path for path in self._done if path not in present]
        too_many = gone[: max(0, len(gone) - GONE_LIMIT)]
        for path in too_many:
            del self._done[path]
        with contextlib.suppress(sqlite3.Error), self._database:  # it is tried again with the next scan after a restart
            self._database.executemany("DELETE FROM done WHERE path = ?", [(_key(path),) for path in too_many])

    def close(self) -> None:
        """Give the database back."""
        self._database.close()

    def _cannot(self, what: str, error: Exception) -> TransientError:
        reason = error.strerror if isinstance(error, OSError) else error
        return TransientError(f"{self._path} cannot {what}: {reason}", code=SourceErrorCode.INTERNAL)


def _opened(path: Path) -> tuple[sqlite3.Connection, dict[str, Version]]:
    # SQLite would make it for everybody to read; the files beside it take its mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    database = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)  # whoever collects it may close it
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(_SCHEMA)
        rows = database.execute("SELECT path, size_bytes, mtime_ns FROM done ORDER BY rowid")
        return database, {_path(key): Version(size_bytes, mtime_ns) for key, size_bytes, mtime_ns in rows}
    except BaseException:
        database.close()
        raise


def _key(path: str) -> bytes:
    """File names are bytes, not all of them text."""
    return path.encode("utf-8", "surrogateescape")


def _path(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
