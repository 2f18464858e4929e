"""`Stock`: what is in a spool's file, with what is out of it just now: the work of the store."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from pipeline.contracts.sender import BufferConfig, Parcel
from pipeline.spool.database import Database
from pipeline.spool.errors import DamagedError, SpoolError
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
from pipeline.spool.schema import COLUMNS, DATA_COLUMNS, parcel_of, row_of
from pipeline.spool.tally import Tally

MAX_LETTERS = 10_000
"""More dead letters than this, or than a quarter of `max_bytes`: the oldest go."""

MAX_ANSWER_CHARS = 1000


class Stock:
    """Made by the store and used with its lock held.

    Every method may raise `SpoolError`: it may work later, and `DamagedError`: `mend` first.

    Attributes:
        database: the file.
        tally: what is in it, in numbers.
        out: the `seq` of those that were given out.
        found: what was in the file at the start, or when it was mended.
        changes: what happened to items besides, and was not told yet.
        damaged: how many were found damaged, and were not told yet.
        letters_dropped: how many dead letters went to make room for others, and were not told yet.
    """

    def __init__(self, database: Database, buffer: BufferConfig) -> None:
        self.database = database
        self.tally = Tally()
        self.out: set[int] = set()
        self.changes = Tended()
        self.damaged = self.letters_dropped = 0
        self._buffer = buffer
        self._is_miscounted = False
        self.found = self._counted()

    def mend(self) -> int:
        """Save what can be read into a new file; how many of the ledger's are missing since. Nothing is out."""
        before = self.tally.counted
        self.database.mend()
        self.out.clear()
        self.found = self._counted()
        return before - self.tally.counted

    def put(self, parcels: Sequence[Parcel], *, force: bool) -> Appended:
        """See `Store.append`."""
        room = self.database.room(self.tally.nbytes)
        if force and self._buffer.when_full == "block" and not self.database.is_disk_tight:
            room = max(room, sum(parcel.nbytes for parcel in parcels))
        fitting, refused = self._fitting(parcels, room)
        with self.database.transaction(sync=self.database.is_due) as connection:
            over = sum(parcel.nbytes for parcel in fitting) - room
            drops = over > 0 and self._buffer.when_full == "drop_oldest"  # it may hold more than it may by now
            removed = self._drop_oldest(over) if drops else []
            at = self.database.time.now()
            connection.executemany(
                f"INSERT INTO items ({DATA_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  (our own)
                [row_of(parcel, at) for parcel in fitting],
            )
            self.database.set_clock(at)
        dropped = self._forget(removed)
        for parcel in fitting:
            self.tally.add(parcel.source, parcel.kind, parcel.nbytes)
        with suppress(SpoolError, DamagedError):  # then a moment later: this is done
            self.look_around()
        return Appended(len(fitting) + len(refused), in_ledger(fitting), dropped, in_ledger(refused))

    def take(
        self, source: str, max_items: int, *, newest: bool, after: int = -1, up_to: int | None = None
    ) -> list[Spooled]:
        """See `Store.take`."""
        order = "DESC" if newest else "ASC"
        out = sum(after < seq and (up_to is None or seq <= up_to) for seq in self.out)
        rows = self.database.read(
            f"SELECT {COLUMNS} FROM items WHERE source = ? AND seq > ? AND seq <= ? "  # noqa: S608  (our own names)
            f"ORDER BY seq {order} LIMIT ?",
            (source, after, (1 << 62) if up_to is None else up_to, max_items + out),
        )
        taken: list[Spooled] = []
        for row in rows:
            if row[0] in self.out or len(taken) == max_items:
                continue
            parcel, sound = parcel_of(row)
            if sound:
                taken.append(Spooled(row[0], parcel))
            else:
                self.damaged += self.bury((row[0],), "damaged in the spool")
                self._is_miscounted = True  # it may have named another source
        self.look_around()  # what another process put back is known before it can arrive
        self.out.update(item.seq for item in taken)
        return sorted(taken)

    def remove(self, seqs: Sequence[int]) -> int:
        """Take these out; how many of the ledger's were still there."""
        with self.database.transaction():
            removed = self._delete(seqs)
        self.out.difference_update(seqs)
        return self._forget(removed)

    def bury(self, seqs: Sequence[int], answer: str) -> int:
        """See `Store.bury`."""
        marks = ",".join(map(str, seqs))
        dropped = 0
        with self.database.transaction() as connection:
            if self.tally.is_outdated(self.database):  # an operator may have made room
                self.tally.count_letters(self.database)
            connection.execute(
                f"INSERT INTO letters (buried_at, answer, {DATA_COLUMNS}) "  # noqa: S608  (numbers, and our own names)
                f"SELECT ?, ?, {DATA_COLUMNS} FROM items WHERE seq IN ({marks}) ORDER BY seq",
                (self.database.time.now(), answer[:MAX_ANSWER_CHARS]),
            )
            removed = self._delete(seqs)
            letters = self.tally.letters + len(removed)
            nbytes = self.tally.letters_nbytes + sum(size for _, _, size in removed)
            while letters > MAX_LETTERS or (nbytes > self._buffer.max_bytes // 4 and letters > 1):
                row = connection.execute(
                    "DELETE FROM letters WHERE number = (SELECT MIN(number) FROM letters) RETURNING nbytes"
                ).fetchone()
                letters, nbytes = letters - 1, nbytes - (row[0] if row else 0)
                dropped += row is not None
        self.out.difference_update(seqs)
        self.tally.letters, self.tally.letters_nbytes = letters, nbytes
        self.letters_dropped += dropped
        return self._forget(removed)

    def expire(self, before: float) -> None:
        """Drop those that came before then, on the spool's clock; what is out stays."""
        while True:
            first = self.database.read("SELECT accepted_at FROM items ORDER BY seq LIMIT 1")
            if not first or first[0][0] >= before:
                return
            rows = self.database.read("SELECT seq, accepted_at FROM items ORDER BY seq LIMIT 1000")
            old = [int(seq) for seq, at in rows if at < before and seq not in self.out]
            if not old:
                return
            with self.database.transaction():
                removed = self._delete(old)
            self.changes = self.changes._replace(expired=self.changes.expired + self._forget(removed))

    def look_around(self) -> None:
        """What another process did, as it wrote down itself."""
        if not self._is_miscounted and not self.tally.is_outdated(self.database):
            return
        before = self.tally.purged, self.tally.replayed
        self.tally.count(self.database)
        self._is_miscounted = False
        self.changes = self.changes._replace(
            purged=self.changes.purged + self.tally.purged - before[0],
            replayed=self.changes.replayed + self.tally.replayed - before[1],
        )

    def _counted(self) -> Opened:
        """Count what is in the file."""
        for _ in range(2):
            try:
                self.tally.count(self.database)
                break
            except DamagedError:
                self.database.mend()
        else:
            raise SpoolError("the spool's file cannot be mended")
        return Opened(self.tally.counted, self.database.lost, self.database.aside)

    def _fitting(self, parcels: Sequence[Parcel], room: int) -> tuple[Sequence[Parcel], Sequence[Parcel]]:
        """Those to put in, and those that are dropped at once, all from the front."""
        max_bytes = self._buffer.max_bytes
        if self._buffer.when_full == "block":
            return waits_for_room(parcels, room, max_bytes)
        # What can be freed: everything that is not out, and what the disk has left.
        return newest_that_fit(parcels, min(max_bytes, room + self.tally.nbytes - self._nbytes_out()))

    def _nbytes_out(self) -> int:
        if not self.out:
            return 0
        marks = ",".join(map(str, sorted(self.out)))
        rows = self.database.read(f"SELECT SUM(nbytes) FROM items WHERE seq IN ({marks})", ())  # noqa: S608  (numbers)
        return int(rows[0][0] or 0)

    def _drop_oldest(self, nbytes: int) -> list[Removed]:
        """Delete from the oldest on until so many bytes are free; what is out stays."""
        seqs, last = [], -1
        while nbytes > 0:
            rows = self.database.connection.execute(
                "SELECT seq, nbytes FROM items WHERE seq > ? ORDER BY seq LIMIT 256", (last,)
            ).fetchall()
            if not rows:
                break
            for seq, size in rows:
                last = seq
                if nbytes > 0 and seq not in self.out:
                    seqs.append(seq)
                    nbytes -= size
        return self._delete(seqs)

    def _delete(self, seqs: Sequence[int]) -> list[Removed]:
        """Delete these; source, kind and size of those that were there."""
        removed: list[Removed] = []
        for start in range(0, len(seqs), 256):
            marks = ",".join(map(str, seqs[start : start + 256]))
            removed += self.database.connection.execute(
                f"DELETE FROM items WHERE seq IN ({marks}) RETURNING source, kind, nbytes"  # noqa: S608  (numbers)
            ).fetchall()
        return removed

    def _forget(self, removed: Iterable[Removed]) -> int:
        """Count those out that were deleted; how many of the ledger's."""
        before = self.tally.counted
        for source, kind, nbytes in removed:
            self.tally.remove(source, kind, nbytes)
        return before - self.tally.counted
