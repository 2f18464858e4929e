"""The spool's file: its tables, its version, and how a file of an older version becomes one of this.

`items` is what waits, `letters` is what the other side refused for good, `meta` holds the spool's clock and what other
processes did to it. `crc` is over everything that is sent, so that a damaged row is not.
"""

import sqlite3
import zlib
from pathlib import Path
from typing import Any

from pipeline.contracts.errors import FatalError
from pipeline.contracts.sender import Parcel

VERSION = 1
PAGE_BYTES = 4096
APPLICATION_ID = 0x50454E53  # "PENS"

COLUMNS = "seq, accepted_at, crc, kind, source, id, about, body, picture"
"""What `parcel_of` takes."""

DATA_COLUMNS = "nbytes, accepted_at, crc, kind, source, id, about, body, picture"
"""What `row_of` gives."""

_ITEMS = """
    nbytes INTEGER NOT NULL, accepted_at REAL NOT NULL, crc INTEGER NOT NULL, kind TEXT NOT NULL,
    source TEXT NOT NULL, id TEXT NOT NULL, about TEXT NOT NULL, body BLOB NOT NULL, picture BLOB NOT NULL
"""
TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    f"CREATE TABLE items (seq INTEGER PRIMARY KEY AUTOINCREMENT, {_ITEMS})",
    "CREATE INDEX items_by_source ON items (source, seq, nbytes, kind)",
    f"CREATE TABLE letters (number INTEGER PRIMARY KEY AUTOINCREMENT, buried_at REAL NOT NULL, answer TEXT, {_ITEMS})",
    "INSERT INTO meta VALUES ('clock', 0.0), ('purged', 0), ('replayed', 0), ('made_by', '')",
)

# Version 0 was never released: it had no `about`. It stands for what is to come.
MIGRATIONS: dict[int, tuple[str, ...]] = {
    0: (
        "ALTER TABLE items ADD COLUMN about TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE letters ADD COLUMN about TEXT NOT NULL DEFAULT ''",
    )
}


def connect(path: Path | None, *, sync: bool = False) -> sqlite3.Connection:
    """A connection to the file, or to memory, as a spool wants it; any thread may use it, one at a time.

    Raises:
        sqlite3.Error: it cannot be opened, or is no database.
    """
    where = ":memory:" if path is None else f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(
        where, uri=path is not None, isolation_level=None, check_same_thread=False, timeout=5.0, cached_statements=64
    )
    try:
        is_new = number(connection, "PRAGMA page_count") == 0
        for pragma in (
            *((f"page_size = {PAGE_BYTES}", "auto_vacuum = INCREMENTAL") if is_new else ()),
            "journal_mode = WAL",
            f"synchronous = {'FULL' if sync else 'NORMAL'}",
            "journal_size_limit = 4194304",
            "cache_size = -2000",
            "temp_store = MEMORY",
            "cell_size_check = ON",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    """Make the tables, or bring those of an older version up to this one.

    Raises:
        FatalError: the file is of a newer version.
        sqlite3.Error: as usual.
    """
    version = number(connection, "PRAGMA user_version")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version > VERSION:
        raise FatalError(
            f"the spool {path} was written by a newer Penstock (its version {version}, ours {VERSION}): "
            "run that one, or move the file away"
        )
    if version == VERSION and "items" in tables:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if "items" in tables:
            for older in range(version, VERSION):
                for statement in MIGRATIONS[older]:
                    connection.execute(statement)
            _sum_up(connection)
        else:
            for statement in TABLES:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def number(connection: sqlite3.Connection, query: str, *parameters: Any) -> int:
    """The one number that the query gives; 0 for none."""
    row = connection.execute(query, parameters).fetchone()
    return int(row[0]) if row is not None and row[0] is not None else 0


def checksum(parcel: Parcel) -> int:
    """Over all that is sent."""
    crc = zlib.crc32("\0".join((parcel.kind, parcel.source, parcel.id, parcel.about)).encode("utf-8", "surrogatepass"))
    return zlib.crc32(parcel.picture, zlib.crc32(parcel.body, crc))


def row_of(parcel: Parcel, at: float) -> tuple[Any, ...]:
    """The values of `items` behind `seq`, in their order."""
    return (
        *(parcel.nbytes, at, checksum(parcel), parcel.kind, parcel.source, parcel.id, parcel.about),
        *(parcel.body, parcel.picture),
    )


def parcel_of(row: tuple[Any, ...]) -> tuple[Parcel, bool]:
    """The parcel in a row of `COLUMNS`, and whether it is as it was written."""
    _, at, crc, kind, source, parcel_id, about, body, picture = row
    try:
        parcel = Parcel(str(parcel_id), str(source), kind, bytes(body), bytes(picture), str(about), float(at))
        return parcel, checksum(parcel) == crc
    except (TypeError, ValueError):  # a damaged row may hold values of any type
        return Parcel(str(parcel_id), str(source), "notice", b"", accepted_at=0.0), False


def _sum_up(connection: sqlite3.Connection) -> None:
    """The checksums of all rows anew: they are over more columns than before."""
    for table, key in (("items", "seq"), ("letters", "number")):
        columns = COLUMNS.replace("seq", key, 1)
        last = -1
        while rows := connection.execute(
            f"SELECT {columns} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT 100",  # noqa: S608  (our own names)
            (last,),
        ).fetchall():
            last = rows[-1][0]
            connection.executemany(
                f"UPDATE {table} SET crc = ? WHERE {key} = ?",  # noqa: S608
                [(checksum(parcel_of(row)[0]), row[0]) for row in rows],
            )
