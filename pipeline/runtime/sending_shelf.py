"""`Shelf`: the spool of one sink with the sink's page of the ledger: what becomes of results in it is settled here."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.contracts.component import Name
from pipeline.contracts.sender import BufferConfig, Parcel
from pipeline.runtime.backoff import Backoff
from pipeline.runtime.context import Surroundings
from pipeline.runtime.ledger import Page, ResultOutcome
from pipeline.runtime.sink_health import SinkHealth
from pipeline.spool.errors import DamagedError, SpoolError
from pipeline.spool.records import Spooled, Tended
from pipeline.spool.store import Store
from pipeline.telemetry.readings import SpoolReading

RETRY_S = (0.1, 5.0)
"""The delays between attempts to write to a disk that takes nothing."""

T = TypeVar("T")


class Shelf:
    """Made by `Sending`; used by its runner's thread and by its sending threads. A damaged file is mended on the way.

    Args:
        sink: whose.
        path: the spool's file; None: memory.
        buffer: its limits.
        page: of the ledger.
        surroundings: of the process.
        health: told whether the disk takes and gives it.
    """

    def __init__(
        self,
        sink: Name,
        path: Path | None,
        buffer: BufferConfig,
        *,
        page: Page,
        surroundings: Surroundings,
        health: SinkHealth,
    ) -> None:
        self._sink = sink
        self._path = path
        self._buffer = buffer
        self._page = page
        self._clock = surroundings.clock
        self._events = surroundings.events
        self._health = health
        self._store: Store | None = None
        self._mend_lock = threading.Lock()
        self._change_lock = threading.Lock()
        self._corrupt = self._letters_dropped = 0

    def open(self) -> None:
        """Open the spool, unless it is; what is in it is restored to the ledger.

        Raises:
            FatalError: another process has it, or it is of a newer version.
            SpoolError: the disk does not take or give it now.
        """
        if self._store is not None:
            return
        store = self._store = Store.open(self._path, self._buffer, self._clock)
        if self._path is not None:
            self._page.attach(self._path, lambda: store.counted)
        self._tell_found()

    @property
    def pending(self) -> Mapping[str, int]:
        """How many wait, by source."""
        return self._known().pending

    def put(self, parcels: Sequence[Parcel], *, force: bool) -> int:
        """Put them in; so many from the front are settled. See `Store.append`.

        Raises:
            SpoolError: none is.
        """
        done = self._mended(lambda store: store.append(parcels, force=force))
        self._health.good("spool")
        self._settle_changes()
        dropped = done.dropped + done.refused
        if dropped:
            self._page.settle(ResultOutcome.DROPPED_SPOOL_FULL, dropped)
            self._events.spool_dropped(self._sink, ResultOutcome.DROPPED_SPOOL_FULL, dropped)
            self.tell_full("the oldest results are dropped")
        return done.taken

    def tell_full(self, then: str) -> None:
        """There is no room, and that is what happens therefore."""
        is_disk = self._known().is_disk_tight
        self._health.full("the disk is full (min_free_bytes)" if is_disk else "it holds as much as it may", then)

    def take(self, source: str, most: int, *, newest: bool, after: int = -1, up_to: int | None = None) -> list[Spooled]:
        """See `Store.take`.

        Raises:
            SpoolError: nothing can be read now.
        """
        found = self._mended(lambda store: store.take(source, most, newest=newest, after=after, up_to=up_to))
        self._settle_changes()
        damaged = self._known().take_damaged()
        if damaged:
            self._corrupt += damaged
            self._page.settle(ResultOutcome.DEAD_LETTERED, damaged)
            self._events.spool_damaged(self._sink, damaged, None)
            self._tell_letters_dropped(damaged)
        return found

    def last_seq(self, source: str) -> int:
        """See `Store.last_seq`.

        Raises:
            SpoolError: nothing can be read now.
        """
        return self._mended(lambda store: store.last_seq(source))

    def release(self, seqs: Iterable[int]) -> None:
        """These can be taken again."""
        self._known().release(seqs)

    def delivered(self, seqs: Sequence[int], wait: Callable[[float], bool]) -> None:
        """These have arrived; `wait` waits for a disk that does not take it, and is False when it is over."""
        self._surely(lambda store: store.acknowledge(seqs), ResultOutcome.DELIVERED, wait)

    def bury(self, seqs: Sequence[int], answer: str, wait: Callable[[float], bool]) -> None:
        """These will never arrive: dead letters."""
        answer = self._events.mask(answer)
        count = self._surely(lambda store: store.bury(seqs, answer), ResultOutcome.DEAD_LETTERED, wait)
        self._events.dead_letter(self._sink, count, answer)
        self._tell_letters_dropped(count)

    def tend(self) -> bool:
        """Once a second: see `Store.tend`. Whether another process changed what waits."""
        try:
            done = self._mended(lambda store: store.tend())
        except SpoolError as error:
            self._health.bad("spool", error)
            return self._settle_changes()  # part of it may have happened
        self._health.good("spool")
        self._health.has_room()
        return self._settle(done)

    def read(self) -> SpoolReading:
        """The spool at this moment; waits for nobody."""
        store, capacity = self._store, self._buffer.max_bytes
        if store is None:
            return SpoolReading(0, capacity, None, 0, self._corrupt, self._letters_dropped)
        return SpoolReading(
            store.nbytes, capacity, store.oldest_at, store.letters, self._corrupt, self._letters_dropped
        )

    def close(self) -> None:
        """What is left stays on disk; in memory it is lost."""
        store = self._store
        if store is None:
            return
        left = store.counted
        try:
            store.close()
        except (SpoolError, DamagedError) as error:
            self._events.note(f"sink {self._sink}", f"the spool was not closed well: {error}")
        if self._path is not None:
            self._page.detach(self._path, left)
        elif left:
            self._page.settle(ResultOutcome.FAILED, left)
            self._events.sink_write_failed(self._sink, left, "not sent, and kept in memory only")

    def _settle_changes(self) -> bool:
        with self._change_lock:  # who comes second goes on when the first has settled them
            return self._settle(self._known().take_changes())

    def _settle(self, done: Tended) -> bool:
        """Whether another process changed what waits."""
        if done.replayed:
            self._page.restore(done.replayed)
        for outcome, count in (
            (ResultOutcome.DROPPED_EXPIRED, done.expired),
            (ResultOutcome.DROPPED_PURGED, done.purged),
        ):
            if count:
                self._page.settle(outcome, count)
                self._events.spool_dropped(self._sink, outcome, count)
        return bool(done.purged or done.replayed)

    def _known(self) -> Store:
        if self._store is None:
            raise RuntimeError("the spool is not open")
        return self._store

    def _mended(self, work: Callable[[Store], T]) -> T:
        """What `work` gives; where the file is damaged, what is left of it is saved first.

        Raises:
            SpoolError: the disk does not take or give it.
        """
        store = self._known()
        found = store.found
        try:
            return work(store)
        except DamagedError:
            with self._mend_lock:
                lost = store.mend(found)
                if lost > 0:
                    self._page.settle(ResultOutcome.FAILED, lost)
                elif lost < 0:
                    self._page.restore(-lost)
                if store.found is not found:
                    self._tell_found()
        try:
            return work(store)
        except DamagedError as error:
            raise SpoolError(f"the spool is damaged: {error}") from error

    def _surely(self, work: Callable[[Store], int], outcome: str, wait: Callable[[float], bool]) -> int:
        """Write down what has happened already, and try again until the disk takes it; how many of the ledger's."""
        backoff = Backoff(*RETRY_S)
        while True:
            try:
                count = self._mended(work)
            except SpoolError as error:
                self._health.bad("spool", error)
                if not wait(backoff.next_s()):
                    return 0  # it will be sent once more
            else:
                if count:
                    self._page.settle(outcome, count)
                return count

    def _tell_letters_dropped(self, results: int) -> None:
        """Those that went for so many new ones of the ledger."""
        with self._change_lock:
            dropped = self._known().take_letters_dropped()
            self._letters_dropped += dropped
            total = self._letters_dropped
        if dropped:
            self._events.dead_letters_dropped(self._sink, dropped, total, results)

    def _tell_found(self) -> None:
        found = self._known().found
        if found.aside is not None:
            self._corrupt += max(1, found.lost)
            self._events.spool_damaged(self._sink, found.lost, found.aside)
