"""`Database`: one SQLite file of results, objects and events, opened, filled and kept small."""

import os
import sqlite3
import urllib.parse
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.paths import FILE_MODE
from sinks._files import make_folder, write_error
from sinks._paths import display
from sinks._rows import Row
from sinks._tables import (
    APPLICATION_ID,
    EVENT,
    INSERT_EVENT,
    INSERT_OBJECT,
    INSERT_RESULT,
    OBJECT,
    RESULT,
    prepare,
    refuse_foreign,
)

_BUSY_S = 5.0
_WAL_BYTES = 64 << 20
_SLICE = 2_000
_VACUUM_PAGES = 2_000
_MAGIC = b"SQLite format 3\0"
_APPLICATION_AT = 68  # https://www.sqlite.org/fileformat2.html, "The Database Header"


class Database:
    """Made by the sink `sqlite` for each of its files; used by its thread. Others may read it at any time.

    Args:
        path: of the file; made where there is none.
        sync: what is committed survives a power cut at once, not only after the next `checkpoint`.
        ctx: the sink's.

    Raises:
        ConfigError: the file is something else, or of a newer Penstock.
        TransientError, FatalError: it cannot be opened.
    """

    def __init__(self, path: Path, *, sync: bool, ctx: Context) -> None:
        self.path = path
        self._ctx = ctx
        make_folder(path.parent)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
            head = _head(path)
        except OSError as error:
            raise write_error(path, error) from error
        if head and not head.startswith(_MAGIC) and head.strip(b"\0"):
            raise ConfigError(f"{display(path)} is no SQLite database", key="path")
        try:
            self._db = self._opened(sync)
        except sqlite3.Error as error:
            if not is_corrupt(error) or not _is_ours(head):
                raise database_error(path, error) from error
            self.set_aside()
            try:
                self._db = self._opened(sync)
            except sqlite3.Error as again:
                raise database_error(path, again) from again

    def insert(self, results: Iterable[Sequence[Row]], events: Iterable[Row], written_at: float) -> None:
        """Add results, each as its rows, and events: all of them, or none.

        Raises:
            sqlite3.Error: none of them was added.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for rows in results:
                cursor = self._db.execute(INSERT_RESULT, [*map(rows[0].get, RESULT), written_at])
                if cursor.rowcount == 1:  # 0: it is there already
                    found = [(cursor.lastrowid, *map(row.get, OBJECT)) for row in rows if "object" in row]
                    self._db.executemany(INSERT_OBJECT, found)
            self._db.executemany(INSERT_EVENT, [[*map(row.get, EVENT), written_at] for row in events])
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def prune(self, older_than: float | None, max_bytes: int | None) -> bool:
        """Remove some of what is too old or too much, the oldest first; True where there may be more of it.

        Raises:
            sqlite3.Error: not now.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            too_large = max_bytes is not None and self.used_bytes() > max_bytes
            removed = 0
            for table in ("results", "events"):
                rows = self._db.execute(f"SELECT n, written_at FROM {table} ORDER BY n LIMIT {_SLICE}").fetchall()  # noqa: S608
                old = [n for n, at in takewhile(lambda row: older_than is not None and row[1] < older_than, rows)]
                share = rows[: max(1, len(rows) // 4)] if too_large and rows else []
                last = max([*old[-1:], *(n for n, _ in share[-1:])], default=None)
                if last is not None:
                    if table == "results":
                        self._db.execute("DELETE FROM objects WHERE result <= ?", [last])
                    removed += self._db.execute(f"DELETE FROM {table} WHERE n <= ?", [last]).rowcount  # noqa: S608
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        if removed:
            self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")  # `execute` would free one page
        return removed > 0

    def used_bytes(self) -> int:
        """What is in use of the file."""
        pages, free, size = (self._number(name) for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size

    def checkpoint(self) -> None:
        """Bring what was committed to the disk, as far as no reader is in the way.

        Raises:
            sqlite3.Error: it is not there.
        """
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Close it; what is in the log beside it goes into the file.

        Raises:
            FatalError, TransientError: it is in the log, and will be brought in at the next opening.
        """
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            raise database_error(self.path, error) from error
        finally:
            self._db.close()

    def drop(self) -> None:
        """Close a file that is beyond help, and set it aside: the next one begins anew."""
        self._db.close()
        self.set_aside()

    def set_aside(self) -> None:
        """Give the file and its log other names, and tell it.

        Raises:
            FatalError, TransientError: that cannot be done.
        """
        stamp = f".corrupt-{self._ctx.clock.wall():.0f}"
        try:
            for suffix in ("-wal", "-shm", ""):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(self.path.with_name(self.path.name + stamp + suffix))
        except OSError as error:
            raise write_error(self.path, error) from error
        self._ctx.tell("set aside", f"{display(self.path)} is damaged: it is {self.path.name}{stamp} now", well=False)

    def _opened(self, sync: bool) -> sqlite3.Connection:
        uri = f"file:{urllib.parse.quote(str(self.path))}?mode=rwc"
        db = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)
        try:
            refuse_foreign(db, self.path)
            if db.execute("PRAGMA page_count").fetchone()[0] == 0:
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            db.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
            db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}").fetchall()
            prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # a disk that is full may have ended it already
            self._db.execute("ROLLBACK")

    def _number(self, pragma: str) -> int:
        number: int = self._db.execute(f"PRAGMA {pragma}").fetchone()[0]
        return number


def database_error(path: Path, error: sqlite3.Error) -> PenstockError:
    """What an error of SQLite means: no room, a disk that does not answer and a lock may pass."""
    may_pass = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    message = f"{display(path)} cannot be written: {error}"
    return TransientError(message) if _code(error) in may_pass or is_corrupt(error) else FatalError(message)


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file itself is damaged."""
    return _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 0 for errors of the module itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _is_ours(head: bytes) -> bool:
    """Whether a file that cannot be read was one of ours, or holds nothing at all."""
    return head[_APPLICATION_AT : _APPLICATION_AT + 4] == APPLICATION_ID.to_bytes(4, "big") or not head.strip(b"\0")
