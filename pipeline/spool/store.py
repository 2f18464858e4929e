"""`Store`: the durable queue of one sink, on SQLite in WAL mode: accepted means committed.

Contract:
- What `append` took is in the file when it returns: it survives the end of the process at any instruction. A power cut
  may cost what was committed within the last `sync_interval_s`.
- Every item leaves once: acknowledged, buried (a dead letter), dropped by the operator's rule or purged by the
  operator; each is counted, by who caused it.
- Items of one source are given out in the order in which they came, and not again before they were given back.
- What is in memory does not grow with what waits: numbers for each source, and what is given out.
- An operation that fails happened not at all; `SpoolError`: it may work later, `DamagedError`: the file is broken.
"""

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from pipeline.contracts.clock import Clock
from pipeline.contracts.paths import FILE_MODE, make_folders
from pipeline.contracts.sender import BufferConfig, Parcel
from pipeline.spool.database import Database
from pipeline.spool.errors import SpoolError
from pipeline.spool.lock import FileLock
from pipeline.spool.records import Appended, Opened, Spooled, Tended
from pipeline.spool.rescue import finish_rescue
from pipeline.spool.stock import Stock


class Store:
    """Made by `open`; used by the accepting thread and the sending threads of one sink, which it keeps apart.

    Attributes:
        path: the file; None: memory.
        oldest_at: since when the oldest waits, Unix seconds on the wall clock; None: nothing does. As of `tend`.
    """

    def __init__(self, path: Path | None, buffer: BufferConfig, clock: Clock, lock: FileLock | None) -> None:
        """For `open` alone."""
        self.path = path
        self.oldest_at: float | None = None
        self._buffer = buffer
        self._lock = threading.RLock()
        self._file_lock = lock
        self._database = Database(path, buffer, clock)
        try:
            self._stock = Stock(self._database, buffer)
        except BaseException:
            self._database.connection.close()
            raise

    @classmethod
    def open(cls, path: Path | None, buffer: BufferConfig, clock: Clock) -> Self:
        """The spool in this file, made if it is not there; None: in memory. A damaged file is replaced by what is left.

        Raises:
            FatalError: another process has it, or it is of a newer version.
            SpoolError: the disk does not take or give it now.
        """
        try:
            lock = None
            if path is not None:
                make_folders(path.parent)
                lock = FileLock.taken(path.with_suffix(".lock"))
            try:
                if path is not None:
                    finish_rescue(path)
                    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
                return cls(path, buffer, clock, lock)
            except BaseException:
                if lock is not None:
                    lock.release()
                raise
        except OSError as error:
            raise SpoolError(f"the spool {path}: {error.strerror or error}") from error

    @property
    def found(self) -> Opened:
        """What was in the file at the start, or when it was mended."""
        return self._stock.found

    @property
    def pending(self) -> Mapping[str, int]:
        """How many wait, by source, notices among them."""
        return self._stock.tally.pending

    @property
    def counted(self) -> int:
        """How many of those that wait are in the ledger."""
        return self._stock.tally.counted

    @property
    def nbytes(self) -> int:
        """What those that wait take of `max_bytes`."""
        return self._stock.tally.nbytes

    @property
    def letters(self) -> int:
        """How many dead letters there are."""
        return self._stock.tally.letters

    @property
    def is_disk_tight(self) -> bool:
        """Whether the disk, and not `max_bytes`, is what is full, or nearly. As of `append`."""
        return self._database.is_disk_tight

    # In

    def append(self, parcels: Sequence[Parcel], *, force: bool = False) -> Appended:
        """Put them in, as far as there is room; with `drop_oldest` there always is, in the end.

        Args:
            parcels: in the order in which they came.
            force: do not wait for room where that is the rule: they are the last.

        Raises:
            SpoolError: nothing of this happened; try again.
            DamagedError: nothing of this happened; `mend` first.
        """
        with self._lock:
            return self._stock.put(parcels, force=force)

    # Out

    def take(
        self, source: str, max_items: int, *, newest: bool = False, after: int = -1, up_to: int | None = None
    ) -> list[Spooled]:
        """Up to so many of this source that are not out, in their order: the oldest, or the newest.

        Those that are damaged are buried on the way. Whoever takes gives back: `acknowledge`, `bury` or `release`.

        Args:
            source: of these.
            max_items: at most so many.
            newest: the newest.
            after: only those with a greater `seq`.
            up_to: only those with no greater `seq`.

        Raises:
            SpoolError: nothing can be read now.
            DamagedError: `mend` first.
        """
        with self._lock:
            return self._stock.take(source, max_items, newest=newest, after=after, up_to=up_to)

    def acknowledge(self, seqs: Sequence[int]) -> int:
        """These have arrived: how many of the ledger's were still there.

        Raises:
            SpoolError: they are still there, and out.
            DamagedError: `mend` first.
        """
        with self._lock:
            return self._stock.remove(seqs)

    def bury(self, seqs: Sequence[int], answer: str) -> int:
        """The other side will never take these: they become dead letters. How many of the ledger's were still there.

        Raises:
            SpoolError: they are still there, and out.
            DamagedError: `mend` first.
        """
        with self._lock:
            return self._stock.bury(seqs, answer)

    def release(self, seqs: Iterable[int]) -> None:
        """These have not arrived: they can be taken again."""
        with self._lock:
            self._stock.out.difference_update(seqs)

    # Besides

    def tend(self) -> Tended:
        """Once a second: sync what is due, drop what is too old, look what other processes did, give back room.

        Raises:
            SpoolError: something of it failed; try again later.
            DamagedError: `mend` first.
        """
        with self._lock:
            if self._buffer.max_age_s is not None:
                self._stock.expire(self._database.time.now() - self._buffer.max_age_s)
            self._stock.look_around()
            self._database.sync(if_due=True)
            self._database.give_back_room()
            oldest = self._database.read("SELECT accepted_at FROM items ORDER BY seq LIMIT 1")
            self.oldest_at = self._database.time.as_wall(oldest[0][0]) if oldest else None
            return self.take_changes()

    def take_changes(self) -> Tended:
        """What happened to items besides, since this was asked last: in `tend`, and at the hands of other processes.

        What others put back is told before it is given out.
        """
        with self._lock:
            found, self._stock.changes = self._stock.changes, Tended()
            return found

    def take_damaged(self) -> int:
        """How many were found damaged, and are dead letters, since this was asked last."""
        with self._lock:
            found, self._stock.damaged = self._stock.damaged, 0
            return found

    def take_letters_dropped(self) -> int:
        """How many dead letters went to make room for others, notices among them, since this was asked last."""
        with self._lock:
            found, self._stock.letters_dropped = self._stock.letters_dropped, 0
            return found

    def last_seq(self, source: str) -> int:
        """The greatest of those that wait; -1: none do."""
        with self._lock:
            rows = self._database.read("SELECT MAX(seq) FROM items WHERE source = ?", (source,))
            return -1 if rows[0][0] is None else int(rows[0][0])

    def age_s(self, parcel: Parcel) -> float:
        """For how long it has waited."""
        return max(0.0, self._database.time.now() - parcel.accepted_at)

    def close(self) -> None:
        """Sync and close; nothing may be asked of it after that.

        Raises:
            SpoolError: what was committed last might not survive a power cut.
            DamagedError: likewise.
        """
        with self._lock:
            try:
                self._database.close()
            finally:
                if self._file_lock is not None:
                    self._file_lock.release()

    def mend(self, found: Opened) -> int:
        """After a `DamagedError`: save what can be read into a new file. What was out can be taken again.

        Args:
            found: what `found` was before the operation that failed; if it is not that any more, another thread has
                mended the file.

        Returns:
            How many of the ledger's are missing since; negative: there are more.

        Raises:
            FatalError: see `open`.
            SpoolError: the disk does not take it now; call it again.
        """
        with self._lock:
            if self.found is not found:
                return 0
            return self._stock.mend()
