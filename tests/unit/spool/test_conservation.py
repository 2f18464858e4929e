"""Nothing appears, and nothing vanishes: the store against a model of it, whatever is done in whatever order."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from parcels import number_of, parcel

from pipeline.contracts.sender import BufferConfig
from pipeline.spool.store import Store
from pipeline.testing import MovableClock

if TYPE_CHECKING:
    from pipeline.spool.records import Spooled

SOURCES = ("a", "b", "")
SIZE = 2000


class Conservation(RuleBasedStateMachine):
    """`waiting` is what must be in the store, by source and in order; `left` is what became of the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = MovableClock()
        self.number = 0
        self.waiting: dict[str, list[int]] = {source: [] for source in SOURCES}
        self.age: dict[int, float] = {}
        self.out: list[Spooled] = []
        self.accepted = self.left = 0

    @initialize(memory=st.booleans(), block=st.booleans(), aged=st.booleans())
    def begin(self, memory: bool, block: bool, aged: bool) -> None:
        self.path = None if memory else self.folder / "far.db"
        self.buffer = BufferConfig(
            max_bytes=1 << 16,
            when_full="block" if block else "drop_oldest",
            max_age_s=100.0 if aged else None,
            min_free_bytes=0,
        )
        self.store = Store.open(self.path, self.buffer, self.clock)

    @rule(sources=st.lists(st.sampled_from(SOURCES), min_size=1, max_size=20))
    def append(self, sources: list[str]) -> None:
        parcels = []
        for source in sources:
            kind = "notice" if source == "" else "result"
            parcels.append(parcel(self.number, source, kind, size=SIZE))
            self.number += 1
        done = self.store.append(parcels)
        if self.buffer.when_full == "drop_oldest":
            assert done.taken == len(parcels)
        else:
            assert done.dropped == done.refused == 0
        order = sorted((n, s) for s, found in self.waiting.items() for n in found)
        new = [(number_of(one), one.source) for one in parcels[: done.taken]]
        out = {number_of(item.parcel) for item in self.out}
        every = [one for one in order if one[0] not in out] + new
        kept_out = [one for one in order if one[0] in out]
        room = (1 << 16) // parcels[0].nbytes - len(kept_out) if parcels else 0
        keeps = every[max(0, len(every) - self.most(parcels, kept_out)) :]
        gone = [one for one in every if one not in keeps]
        assert done.dropped + done.refused == sum(source != "" for _, source in gone), room
        self.left += len(gone)
        self.accepted += len(new)
        for source in SOURCES:
            self.waiting[source] = sorted(n for n, s in [*keeps, *kept_out] if s == source)
        for number, _ in new:
            self.age[number] = self.clock.monotonic()

    def most(self, parcels: list, kept_out: list) -> int:  # type: ignore[type-arg]
        """How many fit besides what is out: all parcels are about as large, so count by bytes."""
        room = 1 << 16
        room -= sum(parcel(n, s, size=SIZE).nbytes for n, s in kept_out)
        every = sorted(
            [(n, s) for s, found in self.waiting.items() for n in found if (n, s) not in kept_out]
            + [(number_of(one), one.source) for one in parcels]
        )
        count = 0
        for number, source in reversed(every):
            room -= parcel(number, source, size=SIZE).nbytes
            if room < 0:
                break
            count += 1
        return count

    @rule(source=st.sampled_from(SOURCES), count=st.integers(1, 8), newest=st.booleans())
    def take(self, source: str, count: int, newest: bool) -> None:
        taken = self.store.take(source, count, newest=newest)
        out = {number_of(item.parcel) for item in self.out}
        here = [number for number in self.waiting[source] if number not in out]
        wanted = here[-count:] if newest else here[:count]
        assert [number_of(item.parcel) for item in taken] == wanted
        self.out += taken

    @precondition(lambda self: self.out)
    @rule(data=st.data(), how=st.sampled_from(["acknowledge", "bury", "release"]))
    def give_back(self, data: st.DataObject, how: str) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.out), min_size=1, unique=True))
        seqs = [item.seq for item in chosen]
        if how == "release":
            self.store.release(seqs)
        else:
            counted = self.store.acknowledge(seqs) if how == "acknowledge" else self.store.bury(seqs, "no")
            assert counted == sum(item.parcel.kind != "notice" for item in chosen)
            for item in chosen:
                self.waiting[item.parcel.source].remove(number_of(item.parcel))
            self.left += len(chosen)
        self.out = [item for item in self.out if item not in chosen]

    @rule(seconds=st.floats(0, 80))
    def time_goes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def tend(self) -> None:
        done = self.store.tend()
        out = {number_of(item.parcel) for item in self.out}
        expired = 0
        if self.buffer.max_age_s is not None:
            for source, found in self.waiting.items():
                old = [n for n in found if n not in out and self.clock.monotonic() - self.age[n] > 100.0]
                expired += len(old) if source != "" else 0
                self.left += len(old)
                self.waiting[source] = [n for n in found if n not in old]
        assert done == (expired, 0, 0)

    @precondition(lambda self: self.path is not None)
    @rule()
    def start_again(self) -> None:
        self.store.close()
        self.out = []
        self.store = Store.open(self.path, self.buffer, self.clock)
        assert self.store.found.lost == 0

    @invariant()
    def balanced(self) -> None:
        if not hasattr(self, "store"):
            return
        pending = {source: len(found) for source, found in self.waiting.items() if found}
        assert self.store.pending == pending
        assert self.store.counted == sum(len(found) for source, found in self.waiting.items() if source != "")
        assert self.accepted == self.left + sum(pending.values())
        assert self.store.nbytes == sum(
            parcel(n, source, size=SIZE).nbytes for source, found in self.waiting.items() for n in found
        )

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        shutil.rmtree(self.folder)


TestConservation = Conservation.TestCase
TestConservation.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
