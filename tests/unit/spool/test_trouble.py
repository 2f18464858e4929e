"""The spool's store when the disk, another process or a limit gets in its way: nothing is lost, stuck or miscounted."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from parcels import Opener, number_of, parcel

from pipeline.spool.errors import SpoolError
from pipeline.spool.records import Tended
from pipeline.spool.store import Store
from pipeline.testing import MovableClock

MORE_THAN_THERE_IS = 1 << 60


def all_of(store: Store) -> list[int]:
    taken = store.take("cam", 1000)
    store.release(item.seq for item in taken)
    return [number_of(item.parcel) for item in taken]


def test_a_damaged_row_that_cannot_be_buried_yet_holds_no_other_back(opened: Opener, path: Path) -> None:
    store = opened()
    store.append([parcel(number) for number in range(10)])
    store._database.connection.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE items SET body = x'00' WHERE seq = 5")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SpoolError, match="locked"):
            store.take("cam", 10)
        other.execute("ROLLBACK")
    assert all_of(store) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert store.take_damaged() == 1


def test_what_expired_is_told_also_when_the_rest_of_the_round_fails(
    opened: Opener, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(max_age_s=10.0)
    store.append([parcel(number) for number in range(5)])
    clock.advance(60.0)
    with monkeypatch.context() as patch:

        def full(*, if_due: bool) -> None:
            raise SpoolError("no space left")

        patch.setattr(store._database, "sync", full)
        with pytest.raises(SpoolError):
            store.tend()
    assert store.counted == 0
    assert store.take_changes() == Tended(expired=5)
    assert store.tend() == Tended()


def test_what_another_process_put_back_is_told_before_it_is_given_out(opened: Opener, path: Path) -> None:
    store = opened()
    store.append([parcel(0), parcel(1)])
    store.bury([item.seq for item in store.take("cam", 1)], "no")
    with closing(sqlite3.connect(path)) as other:
        other.execute(
            "INSERT INTO items (nbytes, accepted_at, crc, kind, source, id, about, body, picture) "
            "SELECT nbytes, accepted_at, crc, kind, source, id, about, body, picture FROM letters"
        )
        other.execute("DELETE FROM letters")
        other.execute("UPDATE meta SET value = value + 1 WHERE key = 'replayed'")
        other.commit()
    taken = store.take("cam", 10)
    assert [number_of(item.parcel) for item in taken] == [1, 0]
    assert store.take_changes() == Tended(replayed=1)
    assert store.acknowledge([item.seq for item in taken]) == 2
    assert store.pending == {}


def test_a_disk_that_others_fill_costs_no_more_than_what_comes_takes(opened: Opener) -> None:
    store = opened()
    store.append([parcel(number) for number in range(100, 200)])
    store.close()
    store = opened(min_free_bytes=MORE_THAN_THERE_IS)
    assert store.append([parcel(number) for number in range(200, 210)]).dropped == 10
    assert all_of(store) == list(range(110, 210))


@pytest.mark.parametrize("keys", [{"max_bytes": 1 << 16}, {"min_free_bytes": MORE_THAN_THERE_IS}])
def test_a_spool_that_blocks_drops_nothing_even_where_it_holds_more_than_it_may(
    opened: Opener, keys: dict[str, int]
) -> None:
    store = opened()
    store.append([parcel(number, size=1000) for number in range(100)])
    store.close()
    store = opened(when_full="block", **keys)
    assert store.append([parcel(100)]) == (0, 0, 0, 0)
    assert store.counted == 100
