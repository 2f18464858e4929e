"""The ledger: every frame of a source and every result of a sink ends in exactly one counted outcome.

It is kept by double entry. A frame that was decoded is in flight until somebody settles it; both moves happen under
one lock, so that at any moment, at every scrape,

    decoded  = sum(outcomes) + in_flight      for each source
    accepted + restored = sum(outcomes) + pending        for each sink

`restored` is what waited in a sink's spool when it was opened, and `kept` is what waits there at the end.

A frame that got lost stays in flight for ever and shows after the drain; one that was settled twice makes
`in_flight` negative. `Account.fault` names either.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class FrameOutcome(StrEnum):
    """How a decoded frame can end: the `outcome` label of `penstock_frames_total`."""

    INFERRED = "inferred"
    SAMPLED_OUT = "sampled_out"
    GATED = "gated"
    DROPPED_QUEUE_FULL = "dropped_queue_full"
    DROPPED_STALE = "dropped_stale"
    DROPPED_SHUTDOWN = "dropped_shutdown"
    FAILED_DECODE = "failed_decode"
    FAILED_BACKEND = "failed_backend"


class ResultOutcome(StrEnum):
    """How a result that a sink accepted can end: the `outcome` label of `penstock_sink_results_total`."""

    DELIVERED = "delivered"
    DROPPED_QUEUE_FULL = "dropped_queue_full"
    DROPPED_SPOOL_FULL = "dropped_spool_full"
    DROPPED_EXPIRED = "dropped_expired"
    DROPPED_PURGED = "dropped_purged"
    DEAD_LETTERED = "dead_lettered"
    FAILED = "failed"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Account:
    """One page of the ledger at one moment.

    Attributes:
        name: the source or the sink.
        entered: frames decoded, or results accepted.
        outcomes: how many ended how; every outcome that exists is there.
        open: frames in flight, or results pending.
        restored: results that entered before, in another run or at somebody's order: out of a spool.
        skipped: frames that were never decoded, because nobody would have wanted them: they did not enter.
    """

    name: str
    entered: int
    outcomes: Mapping[str, int]
    open: int
    restored: int = 0
    skipped: int = 0

    def plus(self, other: "Account") -> "Account":
        """The sum of two pages, under this one's name."""
        outcomes = {name: count + other.outcomes[name] for name, count in self.outcomes.items()}
        entered, still_open = self.entered + other.entered, self.open + other.open
        restored, skipped = self.restored + other.restored, self.skipped + other.skipped
        return Account(self.name, entered, outcomes, still_open, restored, skipped)

    def fault(self, *, drained: bool) -> str | None:
        """What is wrong with this page, in words, or None; after a drain nothing may be open."""
        settled = sum(self.outcomes.values())
        if self.entered + self.restored != settled + self.open:
            entered = f"{self.entered} entered" + f" and {self.restored} restored" * bool(self.restored)
            return f"{self.name}: {entered}, but {settled} settled and {self.open} open"
        if self.open < 0:
            return f"{self.name}: {-self.open} settled twice"
        if drained and self.open:
            return f"{self.name}: {self.open} still open after the drain"
        return None


class Page:
    """One page being written: touched by every thread that moves the source's frames or the sink's results."""

    def __init__(self, name: str, outcomes: Iterable[str]) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._entered = 0
        self._restored = self._skipped = 0
        self._open = 0
        self._written_off = False
        self._outcomes: dict[str, int] = {str(outcome): 0 for outcome in outcomes}
        self._when_settled: Callable[[], None] | None = None
        self._spools: dict[Path, Callable[[], int]] = {}

    def enter(self, count: int = 1) -> None:
        """`count` more were decoded (accepted): they are open until they are settled."""
        with self._lock:
            if not self._written_off:
                self._entered += count
                self._open += count

    def settle(self, outcome: str, count: int = 1) -> None:
        """`count` open ones ended in `outcome`."""
        with self._lock:
            if not self._written_off:
                self._open -= count
                self._outcomes[outcome] += count
            settled = self._when_settled if self._open == 0 else None
        if settled is not None:
            settled()

    def enter_settled(self, outcome: str, count: int = 1) -> None:
        """`count` more were decoded (accepted) and ended in `outcome` at once."""
        with self._lock:
            if not self._written_off:
                self._entered += count
                self._outcomes[outcome] += count

    def skip(self, count: int) -> None:
        """`count` more were never decoded, because nobody would have wanted them."""
        with self._lock:
            if not self._written_off:
                self._skipped += count

    def restore(self, count: int) -> None:
        """`count` are open that entered before: they were in a spool."""
        with self._lock:
            if not self._written_off:
                self._restored += count
                self._open += count

    def attach(self, spool: Path, waiting: Callable[[], int]) -> None:
        """Of those open from now on, so many are on disk in this spool, whatever becomes of the process.

        A sink that takes another's place takes over what that one left open in the same file; of any other file it is
        kept there, once that one is closed.
        """
        found = waiting()
        with self._lock:
            before = self._spools.pop(spool, None)
            self._spools[spool] = waiting
        left = 0 if before is None else before()
        if found >= left:
            self.restore(found - left)
        else:  # somebody else took them out in the meantime
            self.settle(ResultOutcome.DROPPED_PURGED, left - found)

    def detach(self, spool: Path, count: int) -> None:
        """This spool is closed, and so many are in it: they stay open until the books are closed; or until now, where
        there is another spool in its place."""
        with self._lock:
            if spool not in self._spools:
                return
            is_last = next(reversed(self._spools)) == spool
            if is_last:
                self._spools[spool] = lambda: count
            else:
                del self._spools[spool]
        if not is_last:
            self.settle(ResultOutcome.KEPT, count)

    def keep(self) -> None:
        """Nobody will send what is in the spool any more, in this run: it is kept there."""
        with self._lock:
            spools, self._spools = self._spools, {}
        for waiting in spools.values():
            self.settle(ResultOutcome.KEPT, waiting())

    def write_off(self, outcome: str) -> None:
        """Give up what is open: it ended in `outcome`, and whoever still holds some may settle it no more.

        What is on disk in a spool is kept there.
        """
        self.keep()
        with self._lock:
            self._outcomes[outcome] += self._open
            self._open = 0
            self._written_off = True

    def tell_when_settled(self, callback: Callable[[], None] | None) -> None:
        """From now on `callback` is called, by whoever settles, each time that nothing is open any more; None: nobody
        waits for that. With a camera it is after every frame."""
        self._when_settled = callback

    def read(self) -> Account:
        """The page as it is at this moment, in balance."""
        with self._lock:
            return Account(self.name, self._entered, dict(self._outcomes), self._open, self._restored, self._skipped)


class Ledger:
    """All pages of one run. Made by the topology; pages are added and removed by the main thread only."""

    def __init__(self) -> None:
        self.sources: dict[str, Page] = {}
        self.sinks: dict[str, Page] = {}
        self.clients: dict[str, Page] = {}
        """Pictures of clients, by the backend that they asked."""
        self.removed_sources = Account("removed", 0, dict.fromkeys(map(str, FrameOutcome), 0), 0)
        """Sum of the pages of sources that are no more."""
        self.removed_sinks = Account("removed", 0, dict.fromkeys(map(str, ResultOutcome), 0), 0)
        """Sum of the pages of sinks that are no more."""
        self._removed_faults: list[str] = []

    def source(self, name: str) -> Page:
        """The page of this source, a new one if it has none."""
        return self.sources.setdefault(name, Page(name, FrameOutcome))

    def sink(self, name: str) -> Page:
        """The page of this sink, a new one if it has none."""
        return self.sinks.setdefault(name, Page(name, ResultOutcome))

    def client(self, backend: str) -> Page:
        """The page of what clients ask of this backend, a new one if it has none."""
        return self.clients.setdefault(backend, Page(f"clients of {backend}", FrameOutcome))

    def remove_client(self, backend: str) -> None:
        """Close the page of a backend that is no more; what is still open then was dropped."""
        page = self.clients.pop(backend, None)
        if page is not None:
            page.write_off(FrameOutcome.DROPPED_SHUTDOWN)
            self._closed(page)

    def remove_source(self, name: str) -> Account:
        """Close the page of a source that is no more; what is still open then was dropped."""
        page = self.sources.pop(name)
        page.write_off(FrameOutcome.DROPPED_SHUTDOWN)
        account = self._closed(page)
        self.removed_sources = self.removed_sources.plus(account)
        return account

    def remove_sink(self, name: str) -> Account:
        """Close the page of a sink that is no more; what is still open then has failed."""
        page = self.sinks.pop(name)
        page.write_off(ResultOutcome.FAILED)
        account = self._closed(page)
        self.removed_sinks = self.removed_sinks.plus(account)
        return account

    def _closed(self, page: Page) -> Account:
        account = page.read()
        fault = account.fault(drained=True)
        if fault is not None:
            self._removed_faults.append(fault)
        return account

    def faults(self, *, drained: bool) -> list[str]:
        """What does not balance, in words; empty when every frame and every result is accounted for."""
        pages = [*self.sources.values(), *self.sinks.values(), *self.clients.values()]
        open_faults = [fault for page in pages if (fault := page.read().fault(drained=drained))]
        return self._removed_faults + open_faults


@contextlib.contextmanager
def telling(pages: Sequence[Page], settled: Callable[[], None]) -> Iterator[None]:
    """While somebody waits for these pages: `settled` is called each time that nothing is open on one of them."""
    for page in pages:
        page.tell_when_settled(settled)
    try:
        yield
    finally:
        for page in pages:
            page.tell_when_settled(None)
