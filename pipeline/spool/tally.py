"""`Tally`: what is in the spool's file, in numbers, kept without asking it."""

import sqlite3
from contextlib import suppress

from pipeline.spool.database import Database


class Tally:
    """What is in the file, in numbers; made by the store and used with its lock held.

    Attributes:
        pending: how many wait, by source, notices among them.
        counted: how many of those that wait are in the ledger.
        nbytes: what they take of `max_bytes`.
        letters: how many dead letters there are.
        letters_nbytes: what they take.
        purged: how many another process took out, ever.
        replayed: how many it put back.
    """

    def __init__(self) -> None:
        self.pending: dict[str, int] = {}
        self.counted = self.nbytes = self.letters = self.letters_nbytes = self.purged = self.replayed = 0
        self._version = 0

    def is_outdated(self, database: Database) -> bool:
        """Whether another process changed something since. Raises `SpoolError`, `DamagedError`."""
        return database.number("PRAGMA data_version") != self._version

    def count(self, database: Database) -> None:
        """Count anew, in one transaction: what another process does is all in it or nothing. Raises the same."""
        self._version = database.number("PRAGMA data_version")
        database.read("BEGIN")
        try:
            self._count(database)
        finally:
            with suppress(sqlite3.Error):
                database.connection.execute("COMMIT")

    def _count(self, database: Database) -> None:
        pending: dict[str, int] = {}
        counted = nbytes = 0
        for source, kind, count, size in database.read(
            "SELECT source, kind, COUNT(*), SUM(nbytes) FROM items GROUP BY source, kind"
        ):
            pending[source] = pending.get(source, 0) + count
            nbytes += size
            counted += count if kind != "notice" else 0
        self.purged = database.number("SELECT value FROM meta WHERE key = 'purged'")
        self.replayed = database.number("SELECT value FROM meta WHERE key = 'replayed'")
        self.pending, self.counted, self.nbytes = pending, counted, nbytes
        self.count_letters(database)

    def count_letters(self, database: Database) -> None:
        """Count the dead letters alone. Raises the same."""
        letters, nbytes = database.read("SELECT COUNT(*), SUM(nbytes) FROM letters")[0]
        self.letters, self.letters_nbytes = letters, nbytes or 0

    def add(self, source: str, kind: str, nbytes: int) -> None:
        """One more waits."""
        self.pending[source] = self.pending.get(source, 0) + 1
        self.nbytes += nbytes
        self.counted += kind != "notice"

    def remove(self, source: str, kind: str, nbytes: int) -> None:
        """One waits no more."""
        left = self.pending.get(source, 0) - 1
        if left > 0:
            self.pending[source] = left
        else:
            self.pending.pop(source, None)
        self.nbytes -= nbytes
        self.counted -= kind != "notice"
