"""A spool's file that is damaged: what can be read is saved, the rest is counted, and it goes on."""

import os
import random
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from parcels import Opener, number_of, parcel

from pipeline.contracts.sender import BufferConfig
from pipeline.spool.errors import DamagedError
from pipeline.spool.store import Store
from pipeline.testing import MovableClock

COUNT = 2000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool of 2,000 results of two sources and some dead letters, closed well."""
    path = tmp_path_factory.mktemp("whole") / "whole.db"
    store = Store.open(path, BufferConfig(min_free_bytes=0), MovableClock())
    for start in range(0, COUNT, 100):
        store.append([parcel(number, "ab"[number % 2], size=700) for number in range(start, start + 100)])
    store.append([parcel(COUNT + number, "dead") for number in range(3)])
    store.bury([item.seq for item in store.take("dead", 3)], "no")
    store.close()
    return path


@pytest.fixture
def damaged(whole: Path, path: Path) -> Path:
    """A copy of it, to be damaged."""
    path.parent.mkdir(parents=True)
    shutil.copy(whole, path)
    return path


def overwrite(path: Path, at: int, count: int, seed: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(random.Random(seed).randbytes(count))


def drained(store: Store) -> list[int]:
    """All that can be taken, acknowledged; each source in its order."""
    found: list[int] = []
    while store.pending:
        before = len(found), dict(store.pending)
        for source in list(store.pending):
            try:
                taken = store.take(source, 100)
                seen = [number_of(item.parcel) for item in taken]
                store.acknowledge([item.seq for item in taken])
            except DamagedError:
                store.mend(store.found)
                continue
            assert seen == sorted(seen)
            found += seen
        try:
            store.tend()
        except DamagedError:
            store.mend(store.found)
        assert before != (len(found), store.pending), "it makes no progress"
    return sorted(found)


def aside(path: Path) -> list[Path]:
    return sorted(file for file in path.parent.glob("*.corrupt-*.db"))


def test_a_page_in_the_middle_costs_what_was_in_it(opened: Opener, damaged: Path) -> None:
    size = damaged.stat().st_size
    overwrite(damaged, size // 2 // 4096 * 4096, 4096)
    began_at = time.monotonic()
    store = opened()
    found = drained(store)
    assert time.monotonic() - began_at < 5
    assert COUNT - 20 <= len(found) < COUNT
    assert len(aside(damaged)) <= 1


@pytest.mark.parametrize("seed", range(12))
def test_random_damage_anywhere_ends_in_a_working_spool(opened: Opener, damaged: Path, seed: int) -> None:
    chance = random.Random(seed)
    size = damaged.stat().st_size
    for _ in range(chance.choice([1, 3, 20])):
        overwrite(damaged, chance.randrange(size), chance.choice([1, 64, 4096, 20_000]), seed)
    began_at = time.monotonic()
    store = opened()
    found = drained(store)
    assert time.monotonic() - began_at < 10
    assert len(found) == len(set(found))
    assert len(found) >= COUNT - 400, store.found
    store.append([parcel(5000, "a")])
    assert drained(store) == [5000]


def test_a_damaged_body_is_a_dead_letter_and_the_rest_is_delivered(opened: Opener, damaged: Path) -> None:
    content = damaged.read_bytes()
    at = content.index(b"1000 xxxx")
    with damaged.open("r+b") as file:
        file.seek(at + 50)
        file.write(b"y")
    store = opened()
    assert drained(store) == [number for number in range(COUNT) if number != 1000]
    assert store.take_damaged() == 1
    assert store.take_damaged() == 0
    assert store.letters == 4


@pytest.mark.parametrize("count", [16, 100, 4096])
def test_a_damaged_head_costs_nothing(opened: Opener, damaged: Path, count: int) -> None:
    overwrite(damaged, 0, count)
    store = opened()
    assert store.found.waiting == COUNT
    assert store.found.lost in (0, -1)
    assert drained(store) == list(range(COUNT))
    assert store.letters == 3
    assert len(aside(damaged)) == 1


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\0" + b"\0" * 5000])
def test_a_file_that_is_no_spool_at_all_is_set_aside(opened: Opener, path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    store = opened()
    store.append([parcel(1)])
    assert drained(store) == [1]
    assert [file.read_bytes()[:7] == content[:7] or True for file in aside(path)] == [True] * bool(content)


def test_a_file_cut_off_keeps_what_is_before_the_cut(opened: Opener, damaged: Path) -> None:
    os.truncate(damaged, damaged.stat().st_size // 2)
    store = opened()
    found = drained(store)
    assert len(found) > COUNT // 4
    assert len(aside(damaged)) == 1


def test_a_log_cut_off_or_garbled_costs_only_what_was_in_it(opened: Opener, path: Path, clock: MovableClock) -> None:
    first = opened()
    first.append([parcel(number) for number in range(100)])
    first._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for number in range(100, 200):
        first.append([parcel(number)])
    wal = path.with_name(path.name + "-wal")
    copy = path.parent / "copy" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    copied = copy.with_name(copy.name + "-wal")
    copied.write_bytes(wal.read_bytes()[: wal.stat().st_size // 2 + 7])
    store = Store.open(copy, BufferConfig(min_free_bytes=0), clock)
    found = drained(store)
    assert found == list(range(len(found)))
    assert 120 <= len(found) < 200
    store.close()


def test_damage_while_it_runs_is_mended_in_place(opened: Opener, damaged: Path) -> None:
    store = opened()
    store._database.connection.execute("PRAGMA cache_size = 0")
    out = store.take("a", 10)
    assert len(out) == 10
    size = damaged.stat().st_size
    for at in range(size // 3, size // 3 * 2, 4096 * 7):
        overwrite(damaged, at // 4096 * 4096, 4096)
    found = drained(store)
    assert len(found) == len(set(found)) > COUNT // 2
    assert 0 in found, "what was out is given out again"


def test_a_rescue_that_was_cut_off_is_finished_at_the_next_start(opened: Opener, damaged: Path) -> None:
    damaged.rename(damaged.with_suffix(".new"))  # the damaged one was moved away, then the power went
    damaged.with_name(damaged.name + "-wal").write_bytes(b"the old one's")
    store = opened()
    assert store.found.waiting == COUNT
    assert drained(store) == list(range(COUNT))


def test_rows_to_which_no_way_leads_any_more_are_found(opened: Opener, damaged: Path) -> None:
    with sqlite3.connect(damaged) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'items'").fetchone()[0]
    overwrite(damaged, (root - 1) * 4096, 4096)  # the way to all rows
    store = opened()
    assert store.found.aside is not None
    assert store.found.lost == 0
    assert drained(store) == list(range(COUNT))


def test_what_could_not_be_read_is_counted(opened: Opener, damaged: Path) -> None:
    content = damaged.read_bytes()
    for number in (300, 900, 1500):
        overwrite(damaged, content.index(b"%d xxxx" % number) // 4096 * 4096, 4096, number)
    store = opened()
    left = drained(store)
    assert 5 < COUNT - len(left) < 30
    assert store.found.lost == COUNT - len(left)
    assert not {300, 900, 1500} & set(left)


def test_what_was_deleted_does_not_come_back(opened: Opener, path: Path) -> None:
    first = opened()
    first.append([parcel(number, size=700) for number in range(600)])
    first.acknowledge([item.seq for item in first.take("cam", 400)])
    first.close()
    with sqlite3.connect(path) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'items'").fetchone()[0]
    overwrite(path, (root - 1) * 4096, 4096)
    assert drained(opened()) == list(range(400, 600))


def test_large_items_are_found_with_all_of_their_pages(opened: Opener, path: Path) -> None:
    first = opened()
    first.append([parcel(number, size=1000 + 3000 * number) for number in range(60)])
    first.close()
    with sqlite3.connect(path) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'items'").fetchone()[0]
    overwrite(path, (root - 1) * 4096, 4096)
    store = opened()
    items = store.take("cam", 100)
    assert [item.parcel.body for item in items] == [
        parcel(number, size=1000 + 3000 * number).body for number in range(60)
    ]


def test_a_rescue_that_was_not_finished_is_never_taken_for_the_spool(opened: Opener, path: Path) -> None:
    store = opened()
    store.append([parcel(number) for number in range(10)])
    store.close()
    shutil.copy(path, path.with_suffix(".new"))  # a crash in the middle of it left this
    opened().close()
    path.unlink()  # an operator takes the spool away
    assert opened().counted == 0
