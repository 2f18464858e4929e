"""The spool's store: what is in is in, what is out is out, and each is counted."""

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from parcels import Opener, number_of, parcel

from pipeline.contracts.errors import FatalError
from pipeline.contracts.sender import BufferConfig, Parcel
from pipeline.spool.errors import SpoolError
from pipeline.spool.operator import SpoolFile
from pipeline.spool.schema import VERSION
from pipeline.spool.stock import MAX_LETTERS
from pipeline.spool.store import Store
from pipeline.testing import MovableClock

MEMORY_OR_DISK = pytest.mark.parametrize("memory", [False, True], ids=["disk", "memory"])


def numbers(store: Store, source: str = "cam", count: int = 1000, **keys: Any) -> list[int]:
    """What would be taken; given back."""
    taken = store.take(source, count, **keys)
    store.release(item.seq for item in taken)
    return [number_of(item.parcel) for item in taken]


@MEMORY_OR_DISK
def test_what_goes_in_comes_out_as_it_was_in_the_order_of_its_source(opened: Opener, memory: bool) -> None:
    store = opened(memory=memory)
    whole = Parcel("a" * 32, "cam", "event", b"\0body", b"\xff\xd8picture", "topic/\u732b")
    store.append([parcel(0), parcel(1, "yard"), whole])
    store.append([parcel(2), parcel(3, "yard")])
    assert store.pending == {"cam": 3, "yard": 2}
    cam = [item.parcel for item in store.take("cam", 10)]
    assert [one.body for one in cam] == [parcel(0).body, whole.body, parcel(2).body]
    assert (cam[1].picture, cam[1].about, cam[1].kind, cam[1].id) == (whole.picture, whole.about, "event", "a" * 32)
    assert all(one.accepted_at > 0 for one in cam)


@MEMORY_OR_DISK
def test_what_is_out_is_not_given_out_again_before_it_is_given_back(opened: Opener, memory: bool) -> None:
    store = opened(memory=memory)
    store.append([parcel(number) for number in range(5)])
    first = store.take("cam", 2)
    assert numbers(store) == [2, 3, 4]
    store.release([first[0].seq])
    assert numbers(store) == [0, 2, 3, 4]
    assert store.acknowledge([first[1].seq]) == 1
    assert store.acknowledge([first[1].seq]) == 0
    assert store.counted == 4


def test_newest_and_bounds(opened: Opener) -> None:
    store = opened()
    store.append([parcel(number) for number in range(10)])
    assert numbers(store, count=3, newest=True) == [7, 8, 9]
    last = store.last_seq("cam")
    store.append([parcel(number) for number in range(10, 12)])
    assert numbers(store, after=last) == [10, 11]
    assert numbers(store, up_to=last) == list(range(10))
    assert store.last_seq("nobody") == -1


def test_what_was_accepted_is_there_after_the_process_ended_without_a_word(opened: Opener, path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, 'tests/support')\n"
        "from parcels import parcel; from pipeline.spool.store import Store\n"
        "from pipeline.contracts.sender import BufferConfig; from pipeline.contracts.clock import SystemClock\n"
        f"store = Store.open(Path({str(path)!r}), BufferConfig(min_free_bytes=0), SystemClock())\n"
        "store.append([parcel(number) for number in range(7)]); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=50, check=False).returncode == 9
    store = opened()
    assert store.found == (7, 0, None)
    assert numbers(store) == list(range(7))


def test_notices_wait_like_the_others_and_are_not_counted(opened: Opener) -> None:
    store = opened()
    done = store.append([parcel(0), parcel(1, "", "notice"), parcel(2, kind="event")])
    assert (done.taken, done.accepted) == (3, 2)
    assert store.counted == 2
    assert store.acknowledge([item.seq for item in store.take("", 9)]) == 0
    assert store.pending == {"cam": 2}


# Full


@MEMORY_OR_DISK
def test_a_full_spool_drops_the_oldest_of_all_sources_exactly(opened: Opener, memory: bool) -> None:
    store = opened(memory=memory, max_bytes=1 << 16)
    size = parcel(0, size=900).nbytes
    fits = (1 << 16) // size
    for number in range(fits):
        assert store.append([parcel(number, "ab"[number % 2], size=900)]).dropped == 0
    done = store.append([parcel(number, "c", size=900) for number in range(100, 103)])
    assert (done.taken, done.accepted, done.dropped, done.refused) == (3, 3, 3, 0)
    assert numbers(store, "a")[0] == 4 - 4 % 2
    assert numbers(store, "b")[0] == 3
    assert store.nbytes <= 1 << 16
    assert store.counted == fits


def test_what_is_being_sent_is_not_dropped(opened: Opener) -> None:
    store = opened(max_bytes=1 << 16)
    fits = (1 << 16) // parcel(0, size=900).nbytes
    store.append([parcel(number, size=900) for number in range(fits)])
    out = store.take("cam", 5)
    store.append([parcel(number, size=900) for number in range(fits, fits + 4)])
    assert store.acknowledge([item.seq for item in out]) == 5
    assert numbers(store)[0] == 9


def test_where_everything_is_being_sent_the_new_are_refused(opened: Opener) -> None:
    store = opened(max_bytes=1 << 16)
    fits = (1 << 16) // parcel(0, size=900).nbytes
    store.append([parcel(number, size=900) for number in range(fits)])
    store.take("cam", fits)
    done = store.append([parcel(number, size=900) for number in range(3)])
    assert (done.taken, done.accepted, done.dropped, done.refused) == (3, 0, 0, 3)


@MEMORY_OR_DISK
@pytest.mark.parametrize("when_full", ["drop_oldest", "block"])
def test_a_parcel_that_never_fits_is_refused_alone(opened: Opener, memory: bool, when_full: str) -> None:
    store = opened(memory=memory, max_bytes=1 << 16, when_full=when_full)
    done = store.append([parcel(0, size=1 << 17)])
    assert (done.taken, done.accepted, done.refused) == (1, 0, 1)
    done = store.append([parcel(1)])
    assert (done.taken, done.accepted, done.refused) == (1, 1, 0)


def test_a_spool_that_blocks_takes_what_fits_and_leaves_the_rest(opened: Opener) -> None:
    store = opened(max_bytes=1 << 16, when_full="block")
    many = [parcel(number, size=900) for number in range(100)]
    done = store.append(many)
    fits = (1 << 16) // many[0].nbytes
    assert (done.taken, done.accepted, done.dropped, done.refused) == (fits, fits, 0, 0)
    assert store.append(many[fits:]).taken == 0
    store.acknowledge([store.take("cam", 1)[0].seq])
    assert store.append(many[fits:]).taken == 1
    assert store.append(many[fits + 1 :], force=True).taken == 100 - fits - 1


def test_the_file_does_not_grow_beyond_what_it_may_hold(opened: Opener, path: Path) -> None:
    store = opened(max_bytes=1 << 20)
    for start in range(0, 6000, 50):
        store.append([parcel(number, size=1000) for number in range(start, start + 50)])
        if start % 1000 == 0:
            store.tend()
    assert path.stat().st_size < 2 << 20
    while store.pending:
        store.acknowledge([item.seq for item in store.take("cam", 100)])
    for _ in range(5):
        store.tend()
    store.close()
    assert path.stat().st_size < 1 << 20


# Age


def test_what_is_too_old_goes_and_what_is_out_stays(opened: Opener, clock: MovableClock) -> None:
    store = opened(max_age_s=60.0)
    store.append([parcel(0), parcel(1), parcel(2, kind="notice")])
    clock.advance(40)
    store.append([parcel(3)])
    out = store.take("cam", 1)
    clock.advance(30)
    assert store.tend().expired == 1  # 1; the notice is not counted, 0 is being sent
    assert store.acknowledge([out[0].seq]) == 1
    assert numbers(store) == [3]


def test_a_wall_clock_that_jumps_makes_nothing_old(path: Path) -> None:
    class Jumping(MovableClock):
        def jump(self, seconds: float) -> None:
            self._wall += seconds

    clock = Jumping()
    store = Store.open(path, BufferConfig(max_age_s=60.0), clock)
    store.append([parcel(0)])
    clock.jump(3600)
    assert store.tend().expired == 0
    clock.jump(-7200)
    store.append([parcel(1)])
    assert store.tend().expired == 0
    assert store.oldest_at == pytest.approx(clock.wall(), abs=1)
    store.close()
    clock.jump(-3600)  # and a start with a clock that was put back
    store = Store.open(path, BufferConfig(max_age_s=60.0), clock)
    assert store.tend().expired == 0
    store.append([parcel(2)])
    ages = [store.age_s(item.parcel) for item in store.take("cam", 3)]
    assert ages == sorted(ages, reverse=True)
    clock.advance(61)
    store.release(range(10))
    assert store.tend().expired == 3
    store.close()


def test_time_goes_on_over_a_restart(opened: Opener, clock: MovableClock) -> None:
    store = opened(max_age_s=60.0)
    store.append([parcel(0)])
    store.close()
    clock.advance(3600)
    assert opened(max_age_s=60.0).tend().expired == 1


def test_since_when_the_oldest_waits(opened: Opener, clock: MovableClock) -> None:
    store = opened()
    assert store.oldest_at is None
    store.append([parcel(0)])
    since = clock.wall()
    clock.advance(100)
    store.append([parcel(1)])
    store.tend()
    assert store.oldest_at == pytest.approx(since)


# Dead letters


@MEMORY_OR_DISK
def test_a_dead_letter_keeps_everything_and_what_was_answered(opened: Opener, path: Path, memory: bool) -> None:
    store = opened(memory=memory)
    store.append([parcel(0), parcel(1)])
    taken = store.take("cam", 2)
    assert store.bury([taken[0].seq], "HTTP 400: " + "no" * 2000) == 1
    assert (store.letters, store.counted) == (1, 1)
    row = store._database.connection.execute("SELECT body, answer FROM letters").fetchone()
    assert row[0] == parcel(0).body
    assert row[1].startswith("HTTP 400: nono")
    assert len(row[1]) == 1000


def test_dead_letters_have_a_bound(opened: Opener) -> None:
    store = opened(max_bytes=1 << 18)
    for start in range(0, 200, 20):
        store.append([parcel(number, size=900) for number in range(start, start + 20)])
        store.bury([item.seq for item in store.take("cam", 20)], "no")
    assert 1 < store.letters <= (1 << 16) // 900
    assert store.letters < MAX_LETTERS
    last = store._database.connection.execute("SELECT body FROM letters ORDER BY number DESC LIMIT 1").fetchone()
    assert last[0] == parcel(199, size=900).body
    assert store.take_letters_dropped() == 200 - store.letters
    assert store.take_letters_dropped() == 0


def test_dead_letters_that_an_operator_took_out_were_not_dropped(opened: Opener, path: Path) -> None:
    store = opened(max_bytes=1 << 18)
    store.append([parcel(number, size=900) for number in range(80)])
    first, rest = store.take("cam", 60), store.take("cam", 20)
    store.bury([item.seq for item in first], "no")
    with SpoolFile(path) as file:
        file.purge_letters([letter.number for letter in file.letters()][:-1])
    store.bury([item.seq for item in rest], "no")
    store.tend()
    assert (store.letters, store.take_letters_dropped()) == (1 + 20, 0)


# Files and processes


def test_files_are_not_for_others(opened: Opener, path: Path) -> None:
    opened().append([parcel(0)])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o640}
    assert len(list(path.parent.iterdir())) == 4  # with -wal, -shm and .lock


def test_a_second_process_is_refused_with_the_first_ones_number(opened: Opener, path: Path) -> None:
    opened()
    code = (
        "from pathlib import Path; from pipeline.spool.store import Store; from pipeline.contracts.sender import *\n"
        "from pipeline.contracts.clock import SystemClock; from pipeline.contracts.errors import FatalError\n"
        f"try: Store.open(Path({str(path)!r}), BufferConfig(), SystemClock())\n"
        "except FatalError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], timeout=50, check=True, capture_output=True, text=True)
    assert f"is in use by another process (pid {os.getpid()})" in run.stdout
    assert run.stdout.count("\n") == 1


def test_the_same_process_may_have_it_once_it_is_closed(opened: Opener, path: Path, clock: MovableClock) -> None:
    first = opened()
    with pytest.raises(SpoolError, match="the sink before this one"):
        Store.open(path, BufferConfig(), clock)
    first.close()
    opened()


def test_a_file_of_a_newer_version_is_refused_and_left_alone(opened: Opener, path: Path, clock: MovableClock) -> None:
    opened().close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(FatalError, match="newer Penstock"):
        Store.open(path, BufferConfig(), clock)
    assert path.read_bytes() == before


def test_a_file_of_an_older_version_is_brought_up_to_date(opened: Opener, path: Path) -> None:
    path.parent.mkdir(parents=True)
    columns = (
        "nbytes INTEGER NOT NULL, accepted_at REAL NOT NULL, crc INTEGER NOT NULL, kind TEXT NOT NULL, "
        "source TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL, picture BLOB NOT NULL"
    )
    with closing(sqlite3.connect(path)) as old:
        old.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID")
        old.execute(f"CREATE TABLE items (seq INTEGER PRIMARY KEY AUTOINCREMENT, {columns})")
        old.execute("CREATE INDEX items_by_source ON items (source, seq, nbytes, kind)")
        letters = f"number INTEGER PRIMARY KEY AUTOINCREMENT, buried_at REAL NOT NULL, answer TEXT, {columns}"
        old.execute(f"CREATE TABLE letters ({letters})")
        old.execute("INSERT INTO meta VALUES ('clock', 5.0), ('purged', 0), ('replayed', 0)")
        for number in range(300):
            old.execute(
                "INSERT INTO items (nbytes, accepted_at, crc, kind, source, id, body, picture) "
                "VALUES (200, 5.0, 0, 'result', 'cam', ?, ?, x'')",
                (f"{number:032x}", b"%d x" % number),
            )
        old.commit()
    store = opened()
    assert store.found == (300, 0, None)
    assert numbers(store) == list(range(300))
    store.append([parcel(300)])
    assert numbers(store)[-1] == 300
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_what_another_process_takes_out_or_puts_back_is_noticed(opened: Opener, path: Path) -> None:
    store = opened()
    store.append([parcel(number) for number in range(10)])
    out = store.take("cam", 2)
    with closing(sqlite3.connect(path)) as other:
        other.execute("DELETE FROM items WHERE seq IN (1, 5, 6)")
        other.execute("UPDATE meta SET value = value + 3 WHERE key = 'purged'")
        other.commit()
    assert store.acknowledge([item.seq for item in out]) == 1
    done = store.tend()
    assert (done.purged, done.replayed) == (3, 0)
    assert store.counted == store.pending["cam"] == 6
    assert store.tend() == (0, 0, 0)
