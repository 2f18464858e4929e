"""What an operator may do with a spool's file, while its pipeline runs or not: look, put back, take out.

A running pipeline holds the spool's lock; this goes beside it, as SQLite's transactions allow. What is changed is
written down in the file, so that the pipeline's ledger still balances: see `Store.tend`.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.contracts.errors import FatalError
from pipeline.contracts.sender import Parcel
from pipeline.spool.errors import DamagedError, SpoolError, translated
from pipeline.spool.lock import holder_of
from pipeline.spool.schema import COLUMNS, VERSION, connect, number, parcel_of

PAGE = 200


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, or something that waits.

    Attributes:
        number: of the letter, or its place in the queue.
        parcel: what is, or was, to be sent.
        sound: it is as it was written.
        answer: why it is dead; None: it waits.
        buried_at: Unix seconds.
    """

    number: int
    parcel: Parcel
    sound: bool
    answer: str | None = None
    buried_at: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """One spool at one moment.

    Attributes:
        path: the file.
        waiting: how many wait.
        nbytes: what they take of `max_bytes`.
        oldest_at: Unix seconds; since when the oldest waits; None: nothing does.
        letters: dead letters.
        holder: the process that runs with it, its number or "" where that is not known; None: none does.
    """

    path: Path
    waiting: int
    nbytes: int
    oldest_at: float | None
    letters: int
    holder: str | None


def spools_in(data_dir: Path) -> list[Path]:
    """The spools that there are, those that were set aside left out."""
    found = sorted((data_dir / "spool").glob("*.db"))
    return [path for path in found if len(path.name.split(".")) == 3]


class SpoolFile:
    """A spool's file, opened beside whoever runs with it; a context manager.

    Raises:
        FatalError: it is no spool, or of another version.
        SpoolError: it cannot be opened now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._connection = connect(path, sync=True)
        except sqlite3.Error as error:
            raise _told(path, error) from error
        try:
            version = number(self._connection, "PRAGMA user_version")
        except sqlite3.Error as error:
            self._connection.close()
            raise _told(path, error) from error
        if version != VERSION:
            self._connection.close()
            raise FatalError(f"{path}: a spool of version {version}; this Penstock reads {VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def summary(self) -> Summary:
        """What there is."""
        waiting, nbytes, oldest = self._rows("SELECT COUNT(*), SUM(nbytes), MIN(accepted_at) FROM items")[0]
        letters = self._rows("SELECT COUNT(*) FROM letters")[0][0]
        return Summary(self.path, waiting, nbytes or 0, oldest, letters, holder_of(self.path.with_suffix(".lock")))

    def letters(self) -> Iterator[Letter]:
        """The dead letters, oldest first."""
        last = -1
        columns = COLUMNS.replace("seq", "number", 1)
        while rows := self._rows(
            f"SELECT {columns}, answer, buried_at FROM letters WHERE number > ? ORDER BY number LIMIT {PAGE}",  # noqa: S608
            (last,),
        ):
            for *row, answer, buried_at in rows:
                parcel, sound = parcel_of(tuple(row))
                yield Letter(row[0], parcel, sound, str(answer), buried_at)
            last = rows[-1][0]

    def waiting(self) -> Iterator[Letter]:
        """What waits, oldest first."""
        last = -1
        while rows := self._rows(
            f"SELECT {COLUMNS} FROM items WHERE seq > ? ORDER BY seq LIMIT {PAGE}",  # noqa: S608
            (last,),
        ):
            for row in rows:
                yield Letter(row[0], *parcel_of(row))
            last = rows[-1][0]

    def replay(self, numbers: Sequence[int] | None = None) -> tuple[int, int]:
        """Put dead letters back to the end of the queue, all or these; (put back, damaged and left where they are)."""
        chosen = [letter for letter in self.letters() if numbers is None or letter.number in set(numbers)]
        sound = [letter.number for letter in chosen if letter.sound]
        columns = "nbytes, crc, kind, source, id, about, body, picture"
        counted = 0
        with _Transaction(self):
            now = max(time.time(), *(row[0] or 0.0 for row in self._clocks()))
            for one in sound:
                # In order, one by one: a daemon may have replayed or dropped some in the meantime.
                (moved,) = self._connection.execute(
                    "SELECT COUNT(*) FROM letters WHERE number = ? AND kind <> 'notice'", (one,)
                ).fetchone()
                self._connection.execute(
                    f"INSERT INTO items (accepted_at, {columns}) SELECT ?, {columns} FROM letters WHERE number = ?",  # noqa: S608
                    (now, one),
                )
                self._connection.execute("DELETE FROM letters WHERE number = ?", (one,))
                counted += moved
            self._count("replayed", counted)
        return len(sound), len(chosen) - len(sound)

    def purge_letters(self, numbers: Sequence[int] | None = None) -> int:
        """Throw dead letters away, all or these; how many."""
        with _Transaction(self):
            if numbers is None:
                return self._connection.execute("DELETE FROM letters").rowcount
            rows = [(one,) for one in numbers]
            return self._connection.executemany("DELETE FROM letters WHERE number = ?", rows).rowcount

    def purge_waiting(self) -> int:
        """Throw away all that waits; how many."""
        with _Transaction(self):
            (counted,) = self._connection.execute("SELECT COUNT(*) FROM items WHERE kind <> 'notice'").fetchone()
            gone = self._connection.execute("DELETE FROM items").rowcount
            self._count("purged", counted)
            return gone

    def _clocks(self) -> list[tuple[Any, ...]]:
        return self._connection.execute(
            "SELECT value FROM meta WHERE key = 'clock' UNION ALL SELECT MAX(accepted_at) FROM items"
        ).fetchall()

    def _count(self, key: str, count: int) -> None:
        self._connection.execute("UPDATE meta SET value = value + ? WHERE key = ?", (count, key))

    def _rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise _told(self.path, error) from error


class _Transaction:
    """One transaction of a `SpoolFile`."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._connection = file._connection

    def __enter__(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise _told(self._file.path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT" if error is None else "ROLLBACK")
        except sqlite3.Error as late:
            raise _told(self._file.path, late) from late
        if isinstance(error, sqlite3.Error):
            raise _told(self._file.path, error) from error


def _told(path: Path, error: sqlite3.Error) -> FatalError | SpoolError:
    problem = translated(error)
    if isinstance(problem, DamagedError):
        return FatalError(
            f"{path}: is no sound spool: {problem}; the next start of its pipeline saves what can be read"
        )
    return SpoolError(f"{path}: {error}")
