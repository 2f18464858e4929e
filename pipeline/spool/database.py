"""`Database`: the spool's file as the store uses it: transactions, syncs, what the disk has left, and mending."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.contracts.clock import Clock
from pipeline.contracts.sender import BufferConfig
from pipeline.spool.ages import SpoolClock
from pipeline.spool.errors import DamagedError, SpoolError, translated
from pipeline.spool.rescue import rescued
from pipeline.spool.schema import PAGE_BYTES, connect, prepare

LOG_BYTES = 4 << 20
SHORT_LOG_PAGES = 32
MIN_SPARE_BYTES = 1 << 20
"""With less than that above `min_free_bytes` the disk counts as full."""

SPARE_PAGES = 128
VACUUM_PAGES = 1024
"""What is free in the file beyond some, and a quarter of it, is given back to the disk, so much at a time: 4 MiB take
some milliseconds."""


class Database:
    """Made by the store, used with its lock held.

    Attributes:
        time: the spool's clock.
        is_disk_tight: the disk is full, or nearly. As of `room`.
        lost: how many items could not be read at the last mending; -1: that cannot be said; 0: the file was sound.
        aside: the damaged file under its new name.
    """

    def __init__(self, path: Path | None, buffer: BufferConfig, clock: Clock) -> None:
        """Open the file, which is there, or memory; where it is damaged, save what can be read.

        Raises:
            FatalError: it is of a newer version.
            SpoolError: the disk does not take or give it now.
        """
        self.is_disk_tight = False
        self.lost = 0
        self.aside: Path | None = None
        self._path = path
        self._buffer = buffer
        self._clock = clock
        self._is_damaged = self._is_distrusted = self._is_unsynced = False
        self._is_log_short = self._sync_is_full = False
        self._synced_at = clock.monotonic()
        try:
            self._begin()
        except DamagedError:
            self.mend()
        self.time = self._clock_of_file()

    def mend(self) -> None:
        """Save what can be read into a new file.

        Raises:
            FatalError: see `__init__`.
            SpoolError: the disk does not take it now; call it again.
        """
        self._is_damaged = True
        with suppress(AttributeError, sqlite3.Error):
            self.connection.close()
        if self._path is None:
            raise SpoolError("the spool in memory is damaged")
        try:
            self.lost, self.aside = rescued(self._path, self._clock.wall())
            self._begin()
        except sqlite3.Error as error:
            raise SpoolError(f"the spool's file cannot be mended: {error}") from error
        except DamagedError as error:
            raise SpoolError(f"the spool's file cannot be mended: {error}") from error
        except OSError as error:
            raise SpoolError(f"the spool's file cannot be mended: {error.strerror or error}") from error

    def read(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows.

        Raises:
            SpoolError: nothing can be read now.
            DamagedError: `mend` first.
        """
        self._check()
        try:
            return self.connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise translated(error) from error

    def number(self, query: str) -> int:
        """The one number that the query gives; 0 for none. Raises the same."""
        rows = self.read(query)
        return int(rows[0][0] or 0) if rows else 0

    @contextmanager
    def transaction(self, *, sync: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction; with `sync` it and all before it survive a power cut when it is over. Raises the same."""
        self._check()
        connection = self.connection
        try:
            if self._is_distrusted:
                # After a sync that failed the system may take pages for written that are not. What is still in its
                # cache goes into the file itself.
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self._is_distrusted = bool(busy)
            if sync is not self._sync_is_full:
                connection.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
                self._sync_is_full = sync
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            self._is_distrusted |= sync and self._path is not None
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                with suppress(sqlite3.Error):  # what the log takes may be all the room that is missing
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            raise translated(error) from error
        except BaseException:
            self._roll_back()
            raise
        self._is_unsynced = not sync
        if sync:
            self._synced_at = self._clock.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the next commit must be one that survives a power cut."""
        interval_s = self._buffer.sync_interval_s
        return self._path is not None and self._clock.monotonic() - self._synced_at >= interval_s

    def sync(self, *, if_due: bool) -> None:
        """What was committed survives a power cut when it is over. Raises the same."""
        if self._is_unsynced and (self.is_due or not if_due):
            with self.transaction(sync=True):
                self.set_clock(self.time.now())

    def set_clock(self, at: float) -> None:
        """In a transaction: the spool's clock was there."""
        self.connection.execute("UPDATE meta SET value = ? WHERE key = 'clock'", (at,))

    def room(self, nbytes: int) -> int:
        """Bytes that fit in besides `nbytes`; negative where that is more than `max_bytes` already. A disk that is full
        is no reason to drop what stands on it: what comes then takes the place of as much. Raises the same."""
        room = self._buffer.max_bytes - nbytes
        if self._path is None:
            return room
        try:
            disk = os.statvfs(self._path.parent)
        except OSError as error:
            raise SpoolError(f"the spool {self._path}: {error.strerror or error}") from error
        spare = disk.f_bavail * disk.f_frsize - self._buffer.min_free_bytes
        if spare < room:  # what is free inside of the file needs no disk
            spare += PAGE_BYTES * self.number("PRAGMA freelist_count")
        self.is_disk_tight = spare < min(room, MIN_SPARE_BYTES)
        self._keep_log_short(spare < LOG_BYTES * 4)
        return min(room, max(0, spare))

    def give_back_room(self) -> None:
        """Give some of what is free in the file back to the disk. Raises the same."""
        if self._path is None:
            return
        free, all_pages = self.number("PRAGMA freelist_count"), self.number("PRAGMA page_count")
        if free > SPARE_PAGES and free > all_pages // 4:
            try:  # `execute` would go one step only: one page
                self.connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
            except sqlite3.Error as error:
                raise translated(error) from error

    def close(self) -> None:
        """Sync and close. Raises the same."""
        try:
            if not self._is_damaged:
                self.sync(if_due=False)
        finally:
            self.connection.close()

    def _begin(self) -> None:
        try:
            self.connection = connect(self._path)
            try:
                prepare(self.connection, self._path)
            except BaseException:
                self.connection.close()
                raise
        except sqlite3.Error as error:
            raise translated(error) from error
        self._is_damaged = self._is_log_short = self._sync_is_full = False
        self._synced_at = self._clock.monotonic()

    def _check(self) -> None:
        if self._is_damaged:
            raise DamagedError("it could not be mended yet")

    def _clock_of_file(self) -> SpoolClock:
        try:
            last = [
                *self.read("SELECT value FROM meta WHERE key = 'clock'"),
                *self.read("SELECT accepted_at FROM items ORDER BY seq DESC LIMIT 1"),
            ]
        except DamagedError:
            self.mend()
            return self._clock_of_file()
        return SpoolClock(self._clock, max((float(row[0]) for row in last), default=0.0))

    def _roll_back(self) -> None:
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise translated(error) from error

    def _keep_log_short(self, short: bool) -> None:
        """SQLite's log takes room besides: as little as may be where there is little."""
        if short is not self._is_log_short:
            self.read(f"PRAGMA wal_autocheckpoint = {SHORT_LOG_PAGES if short else LOG_BYTES // PAGE_BYTES}")
            self._is_log_short = short
