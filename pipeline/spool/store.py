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
from contextlib import suppress
from pathlib import Path
from typing import Self

from pipeline.contracts.clock import Clock
from pipeline.contracts.paths import FILE_MODE, make_folders
from pipeline.contracts.sender import BufferConfig, Parcel
from pipeline.spool.database import Database
from pipeline.spool.errors import DamagedError, SpoolError
from pipeline.spool.lock import FileLock
from pipeline.spool.records import (
    Appended,
    Opened,
    Removed,
    Spooled,
    Tended,
    in_ledger,
    newest_that_fit,
    waits_for_room,
)
from pipeline.spool.rescue import finish_rescue
from pipeline.spool.schema import COLUMNS, DATA_COLUMNS, parcel_of, row_of
from pipeline.spool.tally import Tally

MAX_LETTERS = 10_000
"""More dead letters than this, or than a quarter of `max_bytes`: the oldest go."""

MAX_ANSWER_CHARS = 1000


class Store:
    """Made by `open`; used by the accepting thread and the sending threads of one sink, which it keeps apart.

    Attributes:
        path: the file; None: memory.
        found: what was in the file at the start, or when it was mended.
        oldest_at: since when the oldest waits, Unix seconds on the wall clock; None: nothing does. As of `tend`.
    """

    def __init__(self, path: Path | None, buffer: BufferConfig, clock: Clock, lock: FileLock | None) -> None:
        """For `open` alone."""
        self.path = path
        self.oldest_at: float | None = None
        self._buffer = buffer
        self._lock = threading.RLock()
        self._file_lock = lock
        self._out: set[int] = set()
        self._damaged = 0
        self._changes = Tended()
        self._is_miscounted = False
        self._tally = Tally()
        self._database = Database(path, buffer, clock)
        try:
            self.found = self._counted()
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
    def pending(self) -> Mapping[str, int]:
        """How many wait, by source, notices among them."""
        return self._tally.pending

    @property
    def counted(self) -> int:
        """How many of those that wait are in the ledger."""
        return self._tally.counted

    @property
    def nbytes(self) -> int:
        """What those that wait take of `max_bytes`."""
        return self._tally.nbytes

    @property
    def letters(self) -> int:
        """How many dead letters there are."""
        return self._tally.letters

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
            room = self._database.room(self.nbytes)
            if force and self._buffer.when_full == "block" and not self.is_disk_tight:
                room = max(room, sum(parcel.nbytes for parcel in parcels))
            fitting, refused = self._fitting(parcels, room)
            with self._database.transaction(sync=self._database.is_due) as connection:
                over = sum(parcel.nbytes for parcel in fitting) - room
                drops = over > 0 and self._buffer.when_full == "drop_oldest"  # it may hold more than it may by now
                removed = self._drop_oldest(over) if drops else []
                at = self._database.time.now()
                connection.executemany(
                    f"INSERT INTO items ({DATA_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  (our own)
                    [row_of(parcel, at) for parcel in fitting],
                )
                self._database.set_clock(at)
            dropped = self._forget(removed)
            for parcel in fitting:
                self._tally.add(parcel.source, parcel.kind, parcel.nbytes)
            with suppress(SpoolError, DamagedError):  # then a moment later: this is done
                self._look_around()
            return Appended(len(fitting) + len(refused), in_ledger(fitting), dropped, in_ledger(refused))

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
        order = "DESC" if newest else "ASC"
        with self._lock:
            out = sum(after < seq and (up_to is None or seq <= up_to) for seq in self._out)
            rows = self._database.read(
                f"SELECT {COLUMNS} FROM items WHERE source = ? AND seq > ? AND seq <= ? "  # noqa: S608  (our own names)
                f"ORDER BY seq {order} LIMIT ?",
                (source, after, (1 << 62) if up_to is None else up_to, max_items + out),
            )
            taken: list[Spooled] = []
            for row in rows:
                if row[0] in self._out or len(taken) == max_items:
                    continue
                parcel, sound = parcel_of(row)
                if sound:
                    taken.append(Spooled(row[0], parcel))
                else:
                    self._damaged += self._bury((row[0],), "damaged in the spool")
                    self._is_miscounted = True  # it may have named another source
            self._look_around()  # what another process put back is known before it can arrive
            self._out.update(item.seq for item in taken)
            return sorted(taken)

    def acknowledge(self, seqs: Sequence[int]) -> int:
        """These have arrived: how many of the ledger's were still there.

        Raises:
            SpoolError: they are still there, and out.
            DamagedError: `mend` first.
        """
        with self._lock:
            with self._database.transaction():
                removed = self._delete(seqs)
            self._out.difference_update(seqs)
            return self._forget(removed)

    def bury(self, seqs: Sequence[int], answer: str) -> int:
        """The other side will never take these: they become dead letters. How many of the ledger's were still there.

        Raises:
            SpoolError: they are still there, and out.
            DamagedError: `mend` first.
        """
        with self._lock:
            return self._bury(seqs, answer)

    def release(self, seqs: Iterable[int]) -> None:
        """These have not arrived: they can be taken again."""
        with self._lock:
            self._out.difference_update(seqs)

    # Besides

    def tend(self) -> Tended:
        """Once a second: sync what is due, drop what is too old, look what other processes did, give back room.

        Raises:
            SpoolError: something of it failed; try again later.
            DamagedError: `mend` first.
        """
        with self._lock:
            if self._buffer.max_age_s is not None:
                self._expire(self._database.time.now() - self._buffer.max_age_s)
            self._look_around()
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
            found, self._changes = self._changes, Tended()
            return found

    def take_damaged(self) -> int:
        """How many were found damaged, and are dead letters, since this was asked last."""
        with self._lock:
            found, self._damaged = self._damaged, 0
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
            before = self.counted
            self._database.mend()
            self._out.clear()
            self.found = self._counted()
            return before - self.counted

    # What follows runs with the lock held.

    def _counted(self) -> Opened:
        """Count what is in the file."""
        for _ in range(2):
            try:
                self._tally.count(self._database)
                break
            except DamagedError:
                self._database.mend()
        else:
            raise SpoolError("the spool's file cannot be mended")
        return Opened(self.counted, self._database.lost, self._database.aside)

    def _fitting(self, parcels: Sequence[Parcel], room: int) -> tuple[Sequence[Parcel], Sequence[Parcel]]:
        """Those to put in, and those that are dropped at once, all from the front."""
        max_bytes = self._buffer.max_bytes
        if self._buffer.when_full == "block":
            return waits_for_room(parcels, room, max_bytes)
        # What can be freed: everything that is not out, and what the disk has left.
        return newest_that_fit(parcels, min(max_bytes, room + self.nbytes - self._nbytes_out()))

    def _nbytes_out(self) -> int:
        if not self._out:
            return 0
        marks = ",".join(map(str, sorted(self._out)))
        rows = self._database.read(f"SELECT SUM(nbytes) FROM items WHERE seq IN ({marks})", ())  # noqa: S608  (numbers)
        return int(rows[0][0] or 0)

    def _drop_oldest(self, nbytes: int) -> list[Removed]:
        """Delete from the oldest on until so many bytes are free; what is out stays."""
        seqs, last = [], -1
        while nbytes > 0:
            rows = self._database.connection.execute(
                "SELECT seq, nbytes FROM items WHERE seq > ? ORDER BY seq LIMIT 256", (last,)
            ).fetchall()
            if not rows:
                break
            for seq, size in rows:
                last = seq
                if nbytes > 0 and seq not in self._out:
                    seqs.append(seq)
                    nbytes -= size
        return self._delete(seqs)

    def _delete(self, seqs: Sequence[int]) -> list[Removed]:
        """Delete these; source, kind and size of those that were there."""
        removed: list[Removed] = []
        for start in range(0, len(seqs), 256):
            marks = ",".join(map(str, seqs[start : start + 256]))
            removed += self._database.connection.execute(
                f"DELETE FROM items WHERE seq IN ({marks}) RETURNING source, kind, nbytes"  # noqa: S608  (numbers)
            ).fetchall()
        return removed

    def _forget(self, removed: Iterable[Removed]) -> int:
        """Count those out that were deleted; how many of the ledger's."""
        before = self.counted
        for source, kind, nbytes in removed:
            self._tally.remove(source, kind, nbytes)
        return before - self.counted

    def _bury(self, seqs: Sequence[int], answer: str) -> int:
        marks = ",".join(map(str, seqs))
        with self._database.transaction() as connection:
            connection.execute(
                f"INSERT INTO letters (buried_at, answer, {DATA_COLUMNS}) "  # noqa: S608  (numbers, and our own names)
                f"SELECT ?, ?, {DATA_COLUMNS} FROM items WHERE seq IN ({marks}) ORDER BY seq",
                (self._database.time.now(), answer[:MAX_ANSWER_CHARS]),
            )
            removed = self._delete(seqs)
            letters = self._tally.letters + len(removed)
            nbytes = self._tally.letters_nbytes + sum(size for _, _, size in removed)
            while letters > MAX_LETTERS or (nbytes > self._buffer.max_bytes // 4 and letters > 1):
                row = connection.execute(
                    "DELETE FROM letters WHERE number = (SELECT MIN(number) FROM letters) RETURNING nbytes"
                ).fetchone()
                letters, nbytes = letters - 1, nbytes - (row[0] if row else 0)
        self._out.difference_update(seqs)
        self._tally.letters, self._tally.letters_nbytes = letters, nbytes
        return self._forget(removed)

    def _expire(self, before: float) -> None:
        while True:
            first = self._database.read("SELECT accepted_at FROM items ORDER BY seq LIMIT 1")
            if not first or first[0][0] >= before:
                return
            rows = self._database.read("SELECT seq, accepted_at FROM items ORDER BY seq LIMIT 1000")
            old = [int(seq) for seq, at in rows if at < before and seq not in self._out]
            if not old:
                return
            with self._database.transaction():
                removed = self._delete(old)
            self._changes = self._changes._replace(expired=self._changes.expired + self._forget(removed))

    def _look_around(self) -> None:
        """What another process did, as it wrote down itself."""
        if not self._is_miscounted and not self._tally.is_outdated(self._database):
            return
        before = self._tally.purged, self._tally.replayed
        self._tally.count(self._database)
        self._is_miscounted = False
        self._changes = self._changes._replace(
            purged=self._changes.purged + self._tally.purged - before[0],
            replayed=self._changes.replayed + self._tally.replayed - before[1],
        )
