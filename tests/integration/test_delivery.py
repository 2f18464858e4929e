"""What a sink that sends over a network owes: everything arrives, in order, or is told what became of it."""

import asyncio
import contextlib
import itertools
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_sender import FakeSenderConfig, OtherSide
from fakes import FakeBackendConfig, FakeSinkConfig, FakeSourceConfig, LiveFakeConfig
from harness import Run, run

from pipeline.config.loader import from_tree
from pipeline.config.settings import Settings
from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.sender import Parcel, RefusedError, UndeliveredError
from pipeline.registry import Registry
from pipeline.spool.errors import SpoolError
from pipeline.spool.store import Store


@pytest.fixture
def side() -> Iterator[OtherSide]:
    FakeSenderConfig.sides["there"] = OtherSide()
    yield FakeSenderConfig.sides["there"]
    FakeSenderConfig.sides.clear()


def tree(
    folder: Path, *, sources: dict[str, Any] | None = None, only: list[str] | None = None, **sink: Any
) -> dict[str, Any]:
    keys: dict[str, Any] = {"type": "far", "retry": {"min_s": 0.01, "max_s": 0.05}, **sink}
    keys |= {"sources": only} if only else {}
    return {
        "data_dir": str(folder),
        "sources": sources or {"cam": {"frames": 50}},
        "sinks": {"far": keys},
    }


def go(tree: dict[str, Any], during: Any = None) -> Run:
    return run(tree, during, plugins=[FakeSenderConfig])


def settings_of(tables: dict[str, Any], this: Run) -> Settings:
    """The same tables as `run` takes, as a configuration for a reload."""
    tables.setdefault("backends", {"model": {}})
    tables.setdefault("server", {"listen": "off"})
    for kind in ("sources", "backends", "sinks"):
        for table in tables[kind].values():
            table.setdefault("type", "fake")
    registry = Registry.of(FakeSourceConfig, LiveFakeConfig, FakeBackendConfig, FakeSinkConfig, FakeSenderConfig)
    return from_tree(tables, base_dir=Path.cwd(), registry=registry)


def outcomes(this: Run, sink: str = "far") -> dict[str, int]:
    """What became of the sink's results, without what did not happen."""
    (account,) = (account for account in this.report.sinks if account.name == sink)
    found = {name: count for name, count in account.outcomes.items() if count}
    return {"accepted": account.entered, "restored": account.restored, **found}


def test_everything_arrives_once_and_in_order(tmp_path: Path, side: OtherSide) -> None:
    this = go(tree(tmp_path, sources={"cam": {"frames": 50}, "yard": {"frames": 50}}))
    assert side.seqs("cam") == side.seqs("yard") == list(range(50))
    assert outcomes(this) == {"accepted": 100, "restored": 0, "delivered": 100}
    assert this.report.exit_code == 0
    assert max(side.most_at_once.values()) == 1


def test_what_could_not_be_sent_is_kept_and_sent_by_the_next_run(tmp_path: Path, side: OtherSide) -> None:
    side.away = True
    this = go(tree(tmp_path))
    assert outcomes(this) == {"accepted": 50, "restored": 0, "kept": 50}
    assert this.report.exit_code == 0
    side.away = False
    this = go(tree(tmp_path))
    assert outcomes(this) == {"accepted": 50, "restored": 50, "delivered": 100}
    assert side.seqs() == [*range(50), *range(50)]
    assert len(set(side.ids())) == 100


def until_stopped(side: OtherSide, count: int) -> Any:
    """Stop the run once so many have arrived."""

    async def during(this: Run) -> None:
        await this.until(lambda: len(side.got) >= count)
        this.supervisor.stop("all there")

    return during


ENDLESS = {"endless": True, "fps": 0.5, "live": True}
"""A camera that keeps the run going, and says next to nothing."""

QUICK = {"shutdown_timeout_s": 1.0}


def test_attempts_that_fail_lose_and_double_nothing(tmp_path: Path, side: OtherSide) -> None:
    def answer(parcels: list[Parcel]) -> None:
        if side.tries % 3 == 0:
            raise TransientError("500")
        if side.tries % 7 == 0:
            raise UndeliveredError("cut off", delivered=len(parcels) // 2)

    side.answer = answer
    sources = {"cam": {"frames": 50}, "yard": {"frames": 50}, "idle": ENDLESS}
    keys: dict[str, Any] = {"max_items": 8, "only": ["cam", "yard"]}
    this = go(tree(tmp_path, sources=sources, **keys), until_stopped(side, 100))
    assert side.seqs("cam") == side.seqs("yard") == list(range(50))
    assert side.most_at_once["cam"] == 1
    assert outcomes(this) == {"accepted": 100, "restored": 0, "delivered": 100}


def test_a_refused_result_is_found_among_others_and_becomes_a_dead_letter(tmp_path: Path, side: OtherSide) -> None:
    def answer(parcels: list[Parcel]) -> None:
        if any(parcel.body == b"17" for parcel in parcels):
            raise RefusedError("HTTP 400", answer="no seventeen, please")

    side.answer = answer
    this = go(tree(tmp_path, max_items=10))
    assert side.seqs() == [seq for seq in range(50) if seq != 17]
    assert outcomes(this) == {"accepted": 50, "restored": 0, "delivered": 49, "dead_lettered": 1}
    assert this.report.exit_code == 0
    (letter,) = letters(tmp_path)
    assert letter == (b"17", "no seventeen, please")


def letters(folder: Path) -> list[tuple[bytes, str]]:
    with contextlib.closing(sqlite3.connect(folder / "spool" / "far.far.db")) as connection:
        return connection.execute("SELECT body, answer FROM letters ORDER BY number").fetchall()


def test_what_was_tried_too_often_becomes_a_dead_letter(tmp_path: Path, side: OtherSide) -> None:
    def answer(parcels: list[Parcel]) -> None:
        if parcels[0].body in (b"3", b"4"):
            raise TransientError("HTTP 500")

    side.answer = answer
    sources = {"cam": {"frames": 10}, "idle": ENDLESS}
    keys: dict[str, Any] = {"only": ["cam"], "retry": {"min_s": 0.01, "max_s": 0.02, "max_attempts": 3}}
    this = go(tree(tmp_path, sources=sources, **keys), until_stopped(side, 8))
    assert side.seqs() == [0, 1, 2, 5, 6, 7, 8, 9]
    assert outcomes(this) == {"accepted": 10, "restored": 0, "delivered": 8, "dead_lettered": 2}
    assert side.tries == 8 + 2 * 3
    assert letters(tmp_path)[0][1] == "given up after 3 attempts: HTTP 500"


def test_a_spool_that_cannot_be_written_for_a_while_costs_nothing(
    tmp_path: Path, side: OtherSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()
    append, acknowledge = Store.append, Store.acknowledge

    def refusing(self: Store, parcels: Any, **keys: Any) -> Any:
        if 1 <= next(calls) <= 4:
            raise SpoolError("the disk does not take it")
        return append(self, parcels, **keys)

    def forgetful(self: Store, seqs: Any) -> Any:
        if next(calls) % 5 == 2:
            raise SpoolError("the disk does not take that either")
        return acknowledge(self, seqs)

    monkeypatch.setattr(Store, "append", refusing)
    monkeypatch.setattr(Store, "acknowledge", forgetful)
    this = go(tree(tmp_path, sources={"cam": {"frames": 30, "fps": 100}}))
    assert side.seqs() == list(range(30))
    assert outcomes(this) == {"accepted": 30, "restored": 0, "delivered": 30}


def test_a_bug_in_the_sender_costs_only_the_result_that_brings_it_about(tmp_path: Path, side: OtherSide) -> None:
    def answer(parcels: list[Parcel]) -> None:
        if any(parcel.body == b"5" for parcel in parcels):
            raise ZeroDivisionError("sending has a bug")

    side.answer = answer
    this = go(tree(tmp_path, max_items=4))
    assert side.seqs() == [seq for seq in range(50) if seq != 5]
    assert outcomes(this) == {"accepted": 50, "restored": 0, "delivered": 49, "dead_lettered": 1}


def test_a_result_that_cannot_be_packed_fails_alone(tmp_path: Path, side: OtherSide) -> None:
    this = go(tree(tmp_path, pack_bug_every=20))
    assert side.seqs() == [seq for seq in range(50) if seq not in (19, 39)]
    assert outcomes(this) == {"accepted": 50, "restored": 0, "delivered": 48, "failed": 2}


def test_a_sender_that_fails_for_good_stops_and_its_spool_goes_on_to_accept(tmp_path: Path, side: OtherSide) -> None:
    def answer(parcels: list[Parcel]) -> None:
        if parcels[0].body == b"5":
            raise FatalError("HTTP 410: nobody is here any more")

    side.answer = answer
    sources = {"cam": {"endless": True, "fps": 200}}
    both = tree(tmp_path, sources=sources)
    both["sinks"]["keep"] = {}

    async def during(this: Run) -> None:
        await this.until(lambda: this.supervisor.topology.sinks["far"].error is not None)
        accepted = outcome(this, "accepted")
        await this.until(lambda: outcome(this, "accepted") > accepted + 20)
        samples = this.scrape()
        assert samples["penstock_sink_state", (("sink", "far"), ("state", "failed"))] == 1
        before = len(this.sink("keep").results)
        await this.until(lambda: len(this.sink("keep").results) > before + 5)
        this.supervisor.stop("enough")

    this = go(both, during)
    assert side.seqs() == [0, 1, 2, 3, 4]
    found = outcomes(this)
    assert found["delivered"] == 5
    assert found["kept"] == found["accepted"] - 5
    assert "far" in this.report.failed
    assert outcomes(this, "keep")["delivered"] == outcomes(this, "keep")["accepted"]
    side.answer = lambda _: None
    again = go(tree(tmp_path, sources={"cam": {"frames": 1}}))
    assert outcomes(again)["restored"] == found["kept"]
    assert side.seqs() == [*range(5 + found["kept"]), 0]


def test_the_other_sides_wish_to_be_left_alone_is_kept(tmp_path: Path, side: OtherSide) -> None:
    at: list[float] = []

    def answer(_: list[Parcel]) -> None:
        at.append(time.monotonic())
        if len(at) == 1:
            raise TransientError("429", retry_after_s=1.0)

    side.answer = answer
    sources = {"cam": {"frames": 3}, "yard": {"frames": 3}, "idle": ENDLESS}
    keys: dict[str, Any] = {"concurrency": 1, "only": ["cam", "yard"]}
    go(tree(tmp_path, sources=sources, **keys), until_stopped(side, 6))
    assert 1.0 <= at[1] - at[0] < 1.3


def test_live_results_do_not_wait_for_the_backlog_which_goes_at_its_rate(tmp_path: Path, side: OtherSide) -> None:
    side.away = True
    go(tree(tmp_path, sources={"cam": {"frames": 300}}))
    backlog = set(waiting(tmp_path))
    side.away = False
    began_at = time.monotonic()
    sources = {"cam": {"endless": True, "fps": 100}}
    this = go(tree(tmp_path, sources=sources, order="live_first", drain_rate=20.0) | QUICK, until_stopped(side, 150))
    took_s = time.monotonic() - began_at
    old = [int(parcel.body) for parcel in side.got if parcel.id in backlog]
    new = [int(parcel.body) for parcel in side.got if parcel.id not in backlog]
    assert new == list(range(len(new)))
    assert old == list(range(len(old)))
    assert 0 < len(old) <= 20 * (took_s + 1)
    assert len(new) > len(old)
    assert outcomes(this)["kept"] >= 300 - len(old)


def waiting(folder: Path) -> list[str]:
    """Ids of what is in the spool, in their order."""
    with contextlib.closing(sqlite3.connect(folder / "spool" / "far.far.db")) as connection:
        return [name for (name,) in connection.execute("SELECT id FROM items ORDER BY seq")]


def test_newest_first_sends_the_backlog_backwards(tmp_path: Path, side: OtherSide) -> None:
    side.away = True
    go(tree(tmp_path, sources={"cam": {"frames": 30}}))
    backlog = waiting(tmp_path)
    side.away = False
    go(tree(tmp_path, sources={"cam": {"frames": 1}}, order="newest_first", concurrency=1))
    assert [name for name in side.ids() if name in backlog] == backlog[::-1]


def test_results_are_sent_in_batches_that_are_waited_for(tmp_path: Path, side: OtherSide) -> None:
    sources = {"cam": {"frames": 24, "fps": 100}}
    go(tree(tmp_path, sources=sources, max_items=8, max_wait_s=5.0))
    assert [len(batch) for batch in side.batches] == [8, 8, 8]


def test_a_batch_is_not_waited_for_longer_than_it_may(tmp_path: Path, side: OtherSide) -> None:
    sources = {"cam": {"frames": 2}, "idle": ENDLESS}
    keys: dict[str, Any] = {"max_items": 8, "max_wait_s": 0.3, "only": ["cam"]}
    began_at = time.monotonic()
    go(tree(tmp_path, sources=sources, **keys), until_stopped(side, 2))
    assert 0.3 <= time.monotonic() - began_at < 3
    assert len(side.batches) <= 2


def test_memory_keeps_trying_for_a_while_and_counts_what_is_lost(tmp_path: Path, side: OtherSide) -> None:
    side.away = True
    keys = tree(tmp_path, buffer={"type": "memory"})
    keys["shutdown_timeout_s"] = 1.0
    this = go(keys)
    assert outcomes(this) == {"accepted": 50, "restored": 0, "failed": 50}
    assert this.report.exit_code == 1
    assert side.tries > 3
    assert not (tmp_path / "spool").exists()


def test_memory_delivers_as_disk_does(tmp_path: Path, side: OtherSide) -> None:
    side.answer = lambda _: (_ for _ in ()).throw(TransientError("500")) if side.tries % 4 == 1 else None
    this = go(tree(tmp_path, buffer={"type": "memory"}))
    assert side.seqs() == list(range(50))
    assert outcomes(this) == {"accepted": 50, "restored": 0, "delivered": 50}


def test_a_stop_sends_what_it_can_in_half_of_its_time_and_keeps_the_rest(tmp_path: Path, side: OtherSide) -> None:
    keys = tree(tmp_path, sources={"cam": {"endless": True, "fps": 400}}, send_s=0.05, concurrency=1)
    keys["shutdown_timeout_s"] = 2.0
    began: list[float] = []

    async def during(this: Run) -> None:
        await this.until(lambda: len(side.got) >= 10)
        began.append(time.monotonic())
        this.supervisor.stop("now")

    this = go(keys, during)
    assert time.monotonic() - began[0] < 2.0
    found = outcomes(this)
    assert found["kept"] > 20
    assert found["delivered"] > 20
    assert this.report.exit_code == 0
    assert side.seqs() == list(range(found["delivered"]))


def test_what_is_dropped_for_want_of_room_is_the_oldest_and_counted(tmp_path: Path, side: OtherSide) -> None:
    side.away = True
    keys: dict[str, Any] = {"buffer": {"max_bytes": 1 << 16}, "padding": 1000}
    this = go(tree(tmp_path, sources={"cam": {"frames": 200}}, **keys))
    found = outcomes(this)
    assert found["accepted"] == 200
    assert found["kept"] + found["dropped_spool_full"] == 200
    assert 50 < found["kept"] < 62
    side.away = False
    go(tree(tmp_path, sources={"cam": {"frames": 1}}))
    first, *others = side.seqs()[:-1]  # the first was perhaps being sent while the others came
    assert others == list(range(200 - len(others), 200))
    assert first <= others[0] - 1


def test_a_spool_that_blocks_makes_its_sources_wait_and_loses_nothing(tmp_path: Path, side: OtherSide) -> None:
    side.away = True
    keys: dict[str, Any] = {"buffer": {"max_bytes": 1 << 16, "when_full": "block"}, "padding": 1000}

    async def during(this: Run) -> None:
        await this.until(lambda: this.supervisor.topology.sinks["far"].sink.waiting)  # type: ignore[attr-defined]
        assert not this.supervisor.topology.sinks["far"].watch().has_work
        await asyncio.sleep(0.3)
        decoded = this.scrape()["penstock_frames_decoded_total", (("source", "cam"),)]
        assert decoded < 1000
        side.away = False

    sources = {"cam": {"frames": 1000}}
    this = go(tree(tmp_path, sources=sources, **keys) | {"shutdown_timeout_s": 20.0}, during)
    assert side.seqs() == list(range(1000))
    assert outcomes(this) == {"accepted": 1000, "restored": 0, "delivered": 1000}


def test_what_waits_too_long_is_dropped_and_counted(tmp_path: Path, side: OtherSide) -> None:
    side.away = True
    sources = {"cam": {"frames": 20}, "idle": ENDLESS}

    async def during(this: Run) -> None:
        await this.until(lambda: outcome(this, "dropped_expired") == 20)
        this.supervisor.stop("gone")

    this = go(tree(tmp_path, sources=sources, buffer={"max_age_s": 0.5}) | {}, during)
    assert outcomes(this)["dropped_expired"] >= 20


def outcome(this: Run, name: str) -> float:
    return this.scrape()["penstock_sink_results_total", (("outcome", name), ("sink", "far"))]


def test_a_reload_hands_the_spool_over(tmp_path: Path, side: OtherSide) -> None:
    side.away = True
    before = tree(tmp_path, sources={"cam": {"endless": True, "fps": 100}})
    after = tree(tmp_path, sources={"cam": {"endless": True, "fps": 100}}, max_items=7)

    async def during(this: Run) -> None:
        await this.until(lambda: outcome(this, "accepted") > 20)
        await this.supervisor.apply(settings_of(after, this))
        side.away = False
        await this.until(lambda: len(side.got) > 50)
        assert outcome(this, "restored") == outcome(this, "kept") == 0
        this.supervisor.stop("enough")

    this = go(before, during)
    found = outcomes(this)
    assert side.seqs() == list(range(len(side.got)))
    assert max(len(batch) for batch in side.batches) > 1
    assert found == {"accepted": found["accepted"], "restored": 0, "delivered": found["accepted"]}


def test_a_sink_that_is_taken_out_leaves_its_spool_and_finds_it_again(tmp_path: Path, side: OtherSide) -> None:
    side.away = True
    before = tree(tmp_path, sources={"cam": {"endless": True, "fps": 100}})
    before["sinks"]["keep"] = {}
    after = tree(tmp_path, sources={"cam": {"endless": True, "fps": 100}})
    after["sinks"] = {"keep": {}}

    async def during(this: Run) -> None:
        await this.until(lambda: outcome(this, "accepted") > 20)
        await this.supervisor.apply(settings_of(after, this))
        await this.until(lambda: not this.supervisor.topology.leaving)
        assert waiting(tmp_path)
        side.away = False
        await this.supervisor.apply(settings_of(before, this))
        await this.until(lambda: len(side.got) > 50)
        this.supervisor.stop("enough")

    this = go(before, during)
    removed = next(account for account in this.report.sinks if account.name == "removed")
    assert removed.outcomes["kept"] == removed.entered > 20
    assert outcomes(this)["restored"] == removed.outcomes["kept"]
    assert side.seqs()[:20] == list(range(20))


def test_notices_are_sent_and_are_not_in_the_ledger(tmp_path: Path, side: OtherSide) -> None:
    sources = {"cam": {"type": "live", "frames": 5, "fps": 20, "live": True}}
    this = run(
        tree(tmp_path, sources=sources, notices=["sources"]), plugins=[FakeSenderConfig], during=until_stopped(side, 6)
    )
    kinds = [parcel.kind for parcel in side.got]
    assert kinds.count("result") == outcomes(this)["delivered"]
    assert "notice" in kinds
