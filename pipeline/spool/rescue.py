"""Saving what can be read of a damaged file into a new one; the old one is set aside."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.contracts.paths import FILE_MODE
from pipeline.spool.errors import is_damage
from pipeline.spool.pages import rows_in
from pipeline.spool.schema import PAGE_BYTES, connect, parcel_of, prepare

_COPIED = {
    "items": "seq, nbytes, accepted_at, crc, kind, source, id, about, body, picture",
    "letters": "number, buried_at, answer, nbytes, accepted_at, crc, kind, source, id, about, body, picture",
}
ITEM_COLUMNS, LETTER_COLUMNS = (len(columns.split(",")) for columns in _COPIED.values())
UNKNOWN = -1
MAX_PIECES = 2000
"""Tries to read a piece of a table in SQLite's way; then its pages are looked at one by one."""


def rescued(path: Path, now: float) -> tuple[int, Path]:
    """Put a new file in the place of `path`, with all that can be read.

    Returns:
        How many items could not be read (`UNKNOWN` where the file does not tell), and where the old file is.

    Raises:
        sqlite3.Error: the new file cannot be written; all is as it was.
        OSError: likewise.
    """
    new = path.with_suffix(".new")
    _remove(new)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    target = connect(new, sync=True)
    try:
        prepare(target, new)
        lost = _copy_all(path, target)
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        target.close()
    aside = _free_name(path, now)
    _move(path, aside)
    finish_rescue(path)
    return lost, aside


def finish_rescue(path: Path) -> None:
    """Once the damaged file is out of the way: put the new one in its place. Also after a crash in between.

    Raises:
        OSError: a file cannot be renamed.
    """
    new = path.with_suffix(".new")
    if path.exists():  # one that was not finished must never be taken for the spool
        _remove(new)
        return
    if not new.exists():
        return
    # A log of the old file would be taken for one of the new.
    _move(path, path.with_name(f"{path.stem}.corrupt-log.db"))
    new.rename(path)
    _sync_folder(path.parent)


def _remove(path: Path) -> None:
    for old in _files(path):
        old.unlink(missing_ok=True)


def _move(path: Path, to: Path) -> None:
    for old in _files(path):
        if old.exists():
            old.rename(to.with_name(to.name + old.name.removeprefix(path.name)))


def _copy_all(path: Path, target: sqlite3.Connection) -> int:
    with contextlib.closing(_reader(path)) as source:
        is_readable = _has_tables(source)
    if not is_readable:
        _give_head(path, target)
    with contextlib.closing(_reader(path)) as source:
        if not _has_tables(source):
            _copy_pages(path, target, None)
            return UNKNOWN
        with contextlib.suppress(sqlite3.Error):  # what is in the log only would not be found in the pages
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        known = _known(source)
        _copy(source, target, "items", "seq", known)
        _copy(source, target, "letters", "number", None)
        for key in ("clock", "purged", "replayed"):
            with contextlib.suppress(sqlite3.Error):
                row = source.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
                target.execute("UPDATE meta SET value = ? WHERE key = ?", (float(row[0]), key))
    _copy_pages(path, target, known)
    (copied,) = target.execute("SELECT COUNT(*) FROM items").fetchone()
    return UNKNOWN if known is None else max(0, len(known) - copied)


def _copy_pages(path: Path, target: sqlite3.Connection, known: set[int] | None) -> None:
    """Add the rows that no way leads to any more, as far as they are whole; of the items only those that are known."""
    items = {row[0] for row in target.execute("SELECT seq FROM items")}
    letters = {row[0] for row in target.execute("SELECT number FROM letters")}
    if known is not None and known <= items:
        return
    target.execute("BEGIN")
    try:
        for key, values in rows_in(path, lambda key: key not in items or key not in letters):
            if len(values) == ITEM_COLUMNS:
                table, is_missing = "items", key not in items if known is None else key in known - items
            elif len(values) == LETTER_COLUMNS:
                table, is_missing = "letters", key not in letters
            else:
                continue
            at, crc = values[-8:-6]
            if is_missing and parcel_of((key, at, crc, *values[-6:]))[1]:
                columns = _COPIED[table]
                marks = ", ".join("?" * len(values))
                target.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", (key, *values[1:]))  # noqa: S608
    finally:
        target.execute("COMMIT")


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)


def _has_tables(source: sqlite3.Connection) -> bool:
    try:
        return bool(source.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'items'").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return False
        raise


def _give_head(path: Path, like: sqlite3.Connection) -> None:
    """Overwrite the first page, which is no page of a database any more, with that of a new file: it says where the
    tables begin, and in a file of the same version they begin where they always do.

    Format: https://www.sqlite.org/fileformat.html, "The Database Header".
    """
    like.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (name,) = (file for _, _, file in like.execute("PRAGMA database_list"))
    head = bytearray(Path(name).read_bytes()[:PAGE_BYTES])
    pages = path.stat().st_size // PAGE_BYTES
    head[28:32] = pages.to_bytes(4)
    head[32:40] = bytes(8)  # no free pages: they are not needed for reading
    head[92:96] = head[24:28]  # the number of pages is valid
    with path.open("r+b") as file:
        file.write(head)


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, table: str, key: str, known: set[int] | None) -> None:
    """Copy the rows that can be read, in ever smaller pieces around those that cannot."""
    columns = _COPIED[table]
    marks = ", ".join("?" * len(columns.split(",")))
    lo, hi = _bounds(source, table, known)
    pieces, tries = [(lo, hi)], 0
    while pieces and tries < MAX_PIECES:
        first, last = pieces.pop()
        tries += 1
        try:
            rows = source.execute(
                f"SELECT {columns} FROM {table} NOT INDEXED WHERE {key} BETWEEN ? AND ? ORDER BY {key}",  # noqa: S608
                (first, last),
            )
            batch: list[Any] = []
            target.execute("BEGIN")
            try:
                while batch := rows.fetchmany(256):
                    target.executemany(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", batch)  # noqa: S608
                    first = batch[-1][0] + 1
            finally:
                target.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            if first < last:
                middle = (first + last) // 2
                pieces += [(middle + 1, last), (first, middle)]


def _known(source: sqlite3.Connection) -> set[int] | None:
    """The numbers of all items as the index knows them; None: it cannot be read either."""
    try:
        return {row[0] for row in source.execute("SELECT seq FROM items INDEXED BY items_by_source")}
    except sqlite3.DatabaseError:
        return None


def _bounds(source: sqlite3.Connection, table: str, known: set[int] | None) -> tuple[int, int]:
    if known is not None:
        return (min(known), max(known)) if known else (0, -1)
    with contextlib.suppress(sqlite3.DatabaseError):
        row = source.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        return (0, int(row[0])) if row else (0, -1)
    return 0, 1 << 40


def _files(path: Path) -> Iterator[Path]:
    for ending in ("", "-wal", "-shm"):
        yield path.with_name(path.name + ending)


def _free_name(path: Path, now: float) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    aside = path.with_name(f"{path.stem}.corrupt-{stamp}.db")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.stem}.corrupt-{stamp}-{number}.db")
    return aside


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
