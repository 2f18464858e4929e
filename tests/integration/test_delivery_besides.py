"""Durable delivery where things come together: an operator's hands, reloads, stops and limits, while results flow."""

import asyncio
import copy
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from fake_sender import FakeSender, FakeSenderConfig, OtherSide
from fakes import FakeBackendConfig, FakeSinkConfig, FakeSourceConfig, LiveFakeConfig
from harness import Run, run

from pipeline.config.loader import from_tree
from pipeline.config.settings import Settings
from pipeline.contracts.clock import SystemClock
from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError
from pipeline.contracts.sender import BufferConfig, Parcel, RefusedError
from pipeline.registry import Registry
from pipeline.runtime.status import Status
from pipeline.spool.operator import SpoolFile
from pipeline.spool.store import Store

IDLE = {"endless": True, "fps": 0.5, "live": True}
"""A camera that keeps the run going, and says next to nothing."""


class OtherConfig(FakeSenderConfig):
    """The same under another type: its spool is another file."""

    type: Literal["other"] = "other"  # type: ignore[assignment]


class HangingSender(FakeSender):
    def send(self, parcels: Sequence[Parcel]) -> None:
        self.ctx.call(asyncio.sleep(60.0), 61.0)


class HangingConfig(FakeSenderConfig):
    """The other side takes the connection and never answers."""

    type: Literal["hanging"] = "hanging"  # type: ignore[assignment]

    def build(self, ctx: Context) -> FakeSender:  # type: ignore[override]  # a sender
        return HangingSender(self, ctx)


PLUGINS = (FakeSenderConfig, OtherConfig, HangingConfig)


@pytest.fixture
def side() -> Iterator[OtherSide]:
    FakeSenderConfig.sides["there"] = OtherSide()
    yield FakeSenderConfig.sides["there"]
    FakeSenderConfig.sides.clear()


def tree(folder: Path, sources: dict[str, Any], *, shutdown_timeout_s: float = 2.0, **sink: Any) -> dict[str, Any]:
    keys = {"type": "far", "retry": {"min_s": 0.01, "max_s": 0.05}, "sources": ["cam"], **sink}
    return {
        "data_dir": str(folder),
        "shutdown_timeout_s": shutdown_timeout_s,
        "sources": {**sources, "idle": IDLE},
        "backends": {"model": {}},
        "server": {"listen": "off"},
        "sinks": {"far": keys},
    }


def settings_of(tables: dict[str, Any]) -> Settings:
    tables = copy.deepcopy(tables)
    for kind in ("sources", "backends", "sinks"):
        for table in tables[kind].values():
            table.setdefault("type", "fake")
    registry = Registry.of(FakeSourceConfig, LiveFakeConfig, FakeBackendConfig, FakeSinkConfig, *PLUGINS)
    return from_tree(tables, base_dir=Path.cwd(), registry=registry)


def outcomes(this: Run) -> dict[str, int]:
    (account,) = this.report.sinks
    found = {name: count for name, count in account.outcomes.items() if count}
    return {"entered": account.entered + account.restored, **found}


def filled(folder: Path, sources: list[str], count: int) -> None:
    """A spool of an earlier run in which so many of each source wait."""
    store = Store.open(folder / "spool" / "far.far.db", BufferConfig(), SystemClock())
    for number in range(count):
        body = str(number).encode()
        store.append([Parcel(f"old-{source}-{number}", source, "result", body) for source in sources])
    store.close()


def of_earlier(side: OtherSide) -> int:
    return sum(parcel.id.startswith("old-") for parcel in side.got)


async def faults_until(this: Run, task: "asyncio.Task[None]") -> list[str]:
    """What did not balance in the sink's page at any look, until the task is done."""
    found = []
    while not task.done():
        fault = this.supervisor.topology.ledger.sink("far").read().fault(drained=False)
        found += [] if fault is None else [fault]
        await asyncio.sleep(0.001)
    await task
    return found


def test_the_backlogs_rate_is_kept_by_several_threads_together(tmp_path: Path, side: OtherSide) -> None:
    filled(tmp_path, ["a", "b", "c", "d"], 100)
    began_at = time.monotonic()

    async def during(this: Run) -> None:
        await this.until(lambda: of_earlier(side) >= 100)
        this.supervisor.stop("enough")

    keys: dict[str, Any] = {"drain_rate": 50.0, "max_items": 50, "concurrency": 4}
    run(tree(tmp_path, {"cam": {"frames": 1}}, **keys), during, PLUGINS)
    assert max(len(batch) for batch in side.batches) <= 50
    assert of_earlier(side) <= 50 * (time.monotonic() - began_at + 1.0)


def test_a_refused_result_does_not_put_the_live_ones_behind_the_backlog(tmp_path: Path, side: OtherSide) -> None:
    filled(tmp_path, ["cam"], 2000)

    def answer(parcels: list[Parcel]) -> None:
        if any(parcel.body == b"30" and not parcel.id.startswith("old-") for parcel in parcels):
            raise RefusedError("HTTP 400")

    async def during(this: Run) -> None:
        await this.until(lambda: len(side.got) - of_earlier(side) >= 199)
        this.supervisor.stop("enough")

    side.answer = answer
    keys: dict[str, Any] = {"order": "live_first", "drain_rate": 5.0, "max_items": 10, "send_s": 0.03, "concurrency": 1}
    cam = {"frames": 200, "fps": 100.0, "live": True}
    this = run(tree(tmp_path, {"cam": cam}, shutdown_timeout_s=0.2, **keys), during, PLUGINS)
    assert outcomes(this)["dead_lettered"] == 1
    assert of_earlier(side) < 60


def test_dead_letters_that_went_for_others_are_counted_and_told(
    tmp_path: Path, side: OtherSide, caplog: pytest.LogCaptureFixture
) -> None:
    at_first: list[float] = []
    status: list[dict[str, Any]] = []
    name, label = "penstock_sink_dead_letters_dropped_total", (("sink", "far"),)

    def answer(parcels: list[Parcel]) -> None:
        raise RefusedError("HTTP 400")

    async def during(this: Run) -> None:
        await this.until(lambda: (name, label) in this.scrape())
        at_first.append(this.scrape()[name, label])
        side.away = False
        await this.until(lambda: this.scrape()["penstock_sink_dead_letters", label] + this.scrape()[name, label] >= 50)
        (spool,) = (sink["spool"] for sink in Status(this.supervisor, "1.0", SystemClock(), str).whole()["sinks"])
        status.append(spool)
        this.supervisor.stop("enough")

    side.away, side.answer = True, answer
    this = run(tree(tmp_path, {"cam": {"frames": 50}}, padding=1000, buffer={"max_bytes": 1 << 16}), during, PLUGINS)
    samples = this.scrape()
    dropped = samples[name, label]
    assert at_first == [0]
    assert dropped > 0
    assert samples["penstock_sink_dead_letters", label] + dropped == 50 == outcomes(this)["dead_lettered"]
    assert status[0]["dead_letters_dropped"] == dropped
    told = [one for one in caplog.messages if "dead letters dropped" in one]
    assert told == [
        "sink far: spool: 1 of the oldest dead letters dropped to make room, 1 in all",
        f"sink far: dead letters dropped: {dropped - 1:.0f} more times since it was last told",
    ]


def test_an_operators_hands_do_not_unbalance_the_ledger_for_a_moment(tmp_path: Path, side: OtherSide) -> None:
    forgiven: set[str] = set()

    def answer(parcels: list[Parcel]) -> None:
        if any(int(parcel.body) % 5 == 0 and parcel.id not in forgiven for parcel in parcels):
            raise RefusedError("HTTP 400")

    def operate() -> None:
        until = time.monotonic() + 1.0
        turns = 0
        while time.monotonic() < until:
            turns += 1
            with SpoolFile(tmp_path / "spool" / "far.far.db") as file:
                forgiven.update(letter.parcel.id for letter in file.letters())
                file.replay()
                if turns % 50 == 0:
                    file.purge_waiting()

    async def during(this: Run) -> None:
        await this.until(lambda: len(side.got) > 5)
        assert await faults_until(this, asyncio.create_task(asyncio.to_thread(operate))) == []
        this.supervisor.stop("enough")

    side.answer = answer
    cam = {"endless": True, "fps": 300.0, "live": True}
    this = run(tree(tmp_path, {"cam": cam}, max_items=10), during, PLUGINS)
    assert this.report.sinks[0].restored > 0


def test_a_sink_of_another_type_under_the_same_name_leaves_the_ledger_balanced(tmp_path: Path, side: OtherSide) -> None:
    first = tree(tmp_path, {"cam": {"endless": True, "fps": 200.0, "live": True}}, send_s=0.02)
    second = copy.deepcopy(first)
    second["sinks"]["far"]["type"] = "other"

    async def during(this: Run) -> None:
        async def reload() -> None:
            for tables in (second, first, second):
                enough = len(side.got) + 20
                await this.until(partial(lambda count: len(side.got) > count, enough))
                await this.supervisor.apply(settings_of(tables))

        assert await faults_until(this, asyncio.create_task(reload())) == []
        this.supervisor.stop("enough")

    this = run(first, during, PLUGINS)
    assert outcomes(this)["kept"] > 0
    assert len(set(side.ids())) == len(side.ids())


@pytest.mark.parametrize("dead", [False, True])
def test_a_stop_while_the_sources_wait_for_room_keeps_everything(tmp_path: Path, side: OtherSide, dead: bool) -> None:
    def gone(_: list[Parcel]) -> None:
        raise FatalError("410")

    side.away, side.answer = not dead, gone
    began_at = []

    async def during(this: Run) -> None:
        await this.until(lambda: this.supervisor.topology.ledger.sink("far").read().entered > 1000)
        await asyncio.sleep(0.3)  # until all stands still
        began_at.append(time.monotonic())
        this.supervisor.stop("enough")

    buffer = {"when_full": "block", "max_bytes": "64KiB"}
    this = run(tree(tmp_path, {"cam": {"frames": 100_000}}, buffer=buffer), during, PLUGINS)
    found = outcomes(this)
    assert found == {"entered": found["entered"], "kept": found["entered"]}
    assert not this.report.abandoned
    assert this.report.exit_code == int(dead)
    assert time.monotonic() - began_at[0] < 2.5


@pytest.mark.parametrize("shutdown_timeout_s", [0.5, 3.0])
def test_a_receiver_that_hangs_costs_a_stop_neither_results_nor_its_good_end(
    tmp_path: Path, side: OtherSide, shutdown_timeout_s: float
) -> None:
    began_at = []

    async def during(this: Run) -> None:
        await this.until(lambda: this.supervisor.topology.ledger.sink("far").read().entered > 20)
        began_at.append(time.monotonic())
        this.supervisor.stop("enough")

    cam = {"endless": True, "fps": 100.0, "live": True}
    tables = tree(tmp_path, {"cam": cam}, type="hanging", shutdown_timeout_s=shutdown_timeout_s)
    this = run(tables, during, PLUGINS)
    found = outcomes(this)
    assert found == {"entered": found["entered"], "kept": found["entered"]}
    assert this.report.exit_code == 0
    assert time.monotonic() - began_at[0] < shutdown_timeout_s + 0.5


def test_a_pause_without_end_is_one_of_a_day(tmp_path: Path, side: OtherSide) -> None:
    side.away, side.retry_after_s = True, float("inf")

    async def during(this: Run) -> None:
        await this.until(lambda: side.tries > 0)
        await asyncio.sleep(0.2)
        this.supervisor.stop("enough")

    this = run(tree(tmp_path, {"cam": {"frames": 5}}), during, PLUGINS)
    assert outcomes(this) == {"entered": 5, "kept": 5}
    assert this.report.failed == []
    assert side.tries == 1


def test_a_smaller_spool_that_blocks_drops_nothing_of_what_it_has(tmp_path: Path, side: OtherSide) -> None:
    filled(tmp_path, ["cam"], 2000)
    side.away = True

    async def during(this: Run) -> None:
        await this.until(lambda: this.supervisor.topology.ledger.sink("far").read().entered >= 100)
        await asyncio.sleep(0.2)
        this.supervisor.stop("enough")

    buffer = {"when_full": "block", "max_bytes": "64KiB"}
    this = run(tree(tmp_path, {"cam": {"frames": 100}}, buffer=buffer), during, PLUGINS)
    assert outcomes(this) == {"entered": 2100, "kept": 2100}
