"""Whole pipelines whose sinks ask for events, changes, some of the objects, or what becomes of the daemon."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from fakes import STUCK, FakeBackendConfig, FakeSinkConfig, FakeSourceConfig, LiveFakeConfig
from harness import Run, run

from pipeline.config.loader import from_tree
from pipeline.config.settings import Settings
from pipeline.contracts.event import DaemonEvent, Event, ObjectEvent, SourceEvent
from pipeline.contracts.frame import NoPicture
from pipeline.registry import Registry
from pipeline.telemetry.readings import SourceState

EVENTS: dict[str, Any] = {"emit": "events", "update_every_s": float("inf")}
CAMERA: dict[str, Any] = {"type": "live", "live": True, "endless": True, "fps": 200.0, "liveness": {"enabled": False}}
TRACKED: dict[str, Any] = {"tracking": {"min_frames": 1}}


def _settings(tmp_path: Path, **tables: dict[str, dict[str, Any]]) -> Settings:
    tree: dict[str, Any] = {"sources": {"cam": CAMERA}, "backends": {"model": {}}, "sinks": {"keep": EVENTS}} | tables
    for kind in ("sources", "backends", "sinks"):
        tree[kind] = {name: {"type": "fake", **table} for name, table in tree[kind].items()}
    tree |= {"server": {"listen": "off"}, "reload_timeout_s": 5.0, "data_dir": str(tmp_path)}
    registry = Registry.of(FakeSourceConfig, LiveFakeConfig, FakeBackendConfig, FakeSinkConfig)
    return from_tree(tree, base_dir=Path.cwd(), registry=registry)


def _told(this: Run, sink: str = "keep") -> list[str]:
    return [_line(event) for event in this.sink(sink).events]


def _line(event: object) -> str:
    match event:
        case ObjectEvent():
            return f"{event.source} {event.kind} {event.phase}"
        case SourceEvent():
            return f"{event.source} is {event.value}"
        case DaemonEvent():
            return f"{event.component}: {event.kind} {event.value}"
    raise AssertionError(event)


def _check_lives(this: Run, sink: str = "keep") -> int:
    """Every event that began has ended; how many there were."""
    lives: dict[str, list[str]] = defaultdict(list)
    for event in this.sink(sink).events:
        if isinstance(event, ObjectEvent) and event.phase != "once":
            lives[event.event_id].append(event.phase)
    assert all(
        (life[0], life[-1], life.count("new"), life.count("end")) == ("new", "end", 1, 1) for life in lives.values()
    )
    return len(lives)


def _accepted(this: Run, sink: str = "keep") -> tuple[int, int]:
    account = next(account for account in this.report.sinks if account.name == sink)
    return account.entered, account.outcomes["delivered"]


def test_what_goes_on_when_the_files_end_has_ended() -> None:
    this = run({"sinks": {"keep": dict(EVENTS), "all": {}}})
    assert _told(this) == ["cam presence new", "cam presence end"]
    assert (_accepted(this), this.sink().results) == ((2, 2), [])
    assert this.seqs("all") == list(range(10))
    end = this.sink().events[-1]
    assert isinstance(end, ObjectEvent)
    assert end.frame.seq == 9
    assert end.duration_s == pytest.approx(9 / 25)


def test_tracked_objects_are_events_of_their_own(tmp_path: Path) -> None:
    zone = {"zones": {"corner": {"polygon": [[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]]}}}
    this = run({"sources": {"cam": TRACKED | zone}, "sinks": {"keep": dict(EVENTS)}, "data_dir": str(tmp_path)})
    assert _told(this) == ["cam object new", "cam zone new", "cam zone end", "cam object end"]
    assert _accepted(this) == (4, 4)


def test_a_sink_that_draws_gets_the_picture_with_the_event() -> None:
    this = run({"sinks": {"keep": EVENTS | {"wants_pictures": True}, "bare": dict(EVENTS)}})
    new, end = this.sink().events
    assert isinstance(new, ObjectEvent)
    assert isinstance(end, ObjectEvent)
    assert new.frame.picture.rgb().shape == (16, 16, 3)
    assert isinstance(end.frame.picture, NoPicture)
    bare = this.sink("bare").events[0]
    assert isinstance(bare, ObjectEvent)
    assert isinstance(bare.frame.picture, NoPicture)
    assert bare.event_id == new.event_id  # the same event, in two messages


def test_each_sink_chooses_for_itself_and_what_was_left_out_is_counted() -> None:
    sinks: dict[str, Any] = {
        "changes": {"emit": "changes"},
        "others": {"where": {"classes": ["nothing"]}},
        "seldom": {"limit": {"cooldown_s": 0.2}},
        "keep": {},
    }
    this = run({"sources": {"cam": {"frames": 11}}, "sinks": sinks})
    assert [this.seqs(name) for name in ("changes", "others", "seldom")] == [[0], [], [0, 5, 10]]
    assert [_accepted(this, name) for name in sinks] == [(1, 1), (0, 0), (3, 3), (11, 11)]
    samples = this.scrape()
    assert samples["penstock_sink_left_out_total", (("sink", "changes"), ("source", "cam"))] == 10
    assert samples["penstock_sink_left_out_total", (("sink", "others"), ("source", "cam"))] == 11
    assert samples["penstock_sink_held_back_total", (("sink", "seldom"), ("source", "cam"))] == 8


def test_a_camera_that_goes_away_ends_its_events_while_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.source_runner.AWAY_S", 0.2)
    camera = CAMERA | {"failure": "transient", "fail_at": 20, "fail_times": 1, "reconnect": {"min_s": 3.0}}
    while_away: list[str] = []

    async def during(this: Run) -> None:
        await this.until(lambda: this.supervisor.topology.sources["cam"].state is SourceState.RECONNECTING)
        await this.until(lambda: "cam presence end" in _told(this))
        while_away.append(str(this.supervisor.topology.sources["cam"].state))
        await this.until(lambda: _told(this).count("cam presence new") == 2)
        this.supervisor.stop("the test is over")

    this = run({"sources": {"cam": camera}, "sinks": {"keep": EVENTS | {"notices": ["sources"]}}}, during)
    assert while_away == [str(SourceState.RECONNECTING)]
    assert _told(this) == [
        "cam is running",
        "cam presence new",
        "cam is reconnecting",
        "cam presence end",
        "cam is running",
        "cam presence new",
        "cam presence end",
    ]
    assert _check_lives(this) == 2
    assert _accepted(this) == (4, 4)


def test_a_short_gap_ends_nothing() -> None:
    camera = CAMERA | {
        "failure": "transient",
        "fail_at": 20,
        "fail_times": 1,
        "reconnect": {"min_s": 1.2, "max_s": 1.2},
    }

    async def during(this: Run) -> None:
        await this.until(lambda: this.supervisor.topology.routes["cam"].page.read().entered > 40)
        this.supervisor.stop("the test is over")

    this = run({"sources": {"cam": camera}, "sinks": {"keep": dict(EVENTS)}}, during)
    assert _told(this) == ["cam presence new", "cam presence end"]


def test_a_camera_that_failed_for_good_ends_its_events_while_others_go_on() -> None:
    sources = {"gone": {**CAMERA, "failure": "fatal", "fail_at": 10}, "cam": CAMERA}

    async def during(this: Run) -> None:
        await this.until(lambda: "gone presence end" in _told(this))
        assert "cam presence end" not in _told(this)
        this.supervisor.stop("the test is over")

    this = run({"sources": sources, "sinks": {"keep": dict(EVENTS)}}, during)
    assert _check_lives(this) == 2


def test_a_sink_that_is_slow_misses_no_end() -> None:
    """Its queue is full and waits: the ends come behind what waits."""
    keep = EVENTS | {"delay_s": 0.0, "queue": {"max_frames": 1}}
    this = run({"sources": {f"cam{n}": {"frames": 30} for n in range(4)}, "sinks": {"keep": keep}})
    assert _check_lives(this) == 4
    assert _accepted(this) == (8, 8)


def test_a_sink_that_fails_for_good_gets_no_more_and_all_that_it_would_have_is_counted() -> None:
    sinks = {"keep": EVENTS | {"fail_every": 1, "failure": "fatal"}, "all": {"fail_every": 3, "failure": "fatal"}}
    this = run({"sinks": sinks})
    assert "cam presence new" in _told(this)  # events do not count for `fail_every`
    assert this.report.exit_code == 1


# At a reload


def _reloaded(tmp_path: Path, before: dict[str, dict[str, Any]], *after: dict[str, dict[str, Any]]) -> Run:
    """Run with the tables `before`, then with each of `after`; the events of sinks that were replaced are kept."""
    kept: list[Event] = []

    async def during(this: Run) -> None:
        await this.until(lambda: bool(this.sink().events))
        for tables in after:
            old = this.sink()
            await this.supervisor.apply(_settings(tmp_path, **tables))
            count = this.supervisor.topology.routes["cam"].page.read().entered
            await this.until(lambda: this.supervisor.topology.routes["cam"].page.read().entered > count + 20)  # noqa: B023
            if this.sink() is not old:
                kept.extend(old.events)
        this.supervisor.stop("the test is over")

    tree = {"sources": {"cam": dict(CAMERA)}, "sinks": {"keep": dict(EVENTS)}, "data_dir": str(tmp_path), **before}
    this = run(tree, during)
    this.sink().events[:0] = kept
    return this


def test_events_go_on_through_a_reload_that_does_not_change_what_is_asked_for(tmp_path: Path) -> None:
    rebuilt = {"keep": EVENTS | {"delay_s": 0.001}}
    this = _reloaded(tmp_path, {}, {"sinks": rebuilt}, {"sinks": rebuilt, "backends": {"model": {"infer_s": 0.001}}})
    assert _told(this) == ["cam presence new", "cam presence end"]
    assert _check_lives(this) == 1


def test_events_end_in_the_old_sink_when_something_else_is_asked_for(tmp_path: Path) -> None:
    this = _reloaded(tmp_path, {}, {"sinks": {"keep": EVENTS | {"where": {"min_confidence": 0.5}}}})
    assert _told(this) == ["cam presence new", "cam presence end"] * 2
    assert _check_lives(this) == 2


def test_events_of_a_source_that_is_removed_end_before_the_sink_lets_it_go(tmp_path: Path) -> None:
    both = {"cam": CAMERA, "other": CAMERA}

    async def during(this: Run) -> None:
        await this.until(lambda: "other presence new" in _told(this))
        await this.supervisor.apply(_settings(tmp_path))
        await this.until(lambda: bool(this.sink().released))
        assert "other presence end" in _told(this)
        assert "cam presence end" not in _told(this)
        this.supervisor.stop("the test is over")

    sources = {name: dict(table) for name, table in both.items()}
    this = run({"sources": sources, "sinks": {"keep": dict(EVENTS)}, "data_dir": str(tmp_path)}, during)
    assert [name for name, _ in this.sink().released] == ["other"]
    assert _check_lives(this) == 2


# What becomes of the daemon


def test_a_sink_hears_of_start_fallback_and_stop_and_of_each_once_through_a_reload(tmp_path: Path) -> None:
    backends: dict[str, Any] = {
        "model": {"fallback": "spare", "fail_every": 2, "fail_batches": 6, "failure": "transient", "concurrency": 1},
        "spare": {},
    }
    sources = {"cam": {**CAMERA, "backend": "model"}}
    settings = {"sources": sources, "backends": backends, "sinks": {"keep": {"notices": ["daemon"]}, "more": {}}}

    async def during(this: Run) -> None:
        await this.until(lambda: _told(this).count("backend model: fallback left") == 3)
        await this.supervisor.apply(_settings(tmp_path, **settings))
        this.supervisor.stop("the test is over")

    first = {kind: {name: dict(table) for name, table in tables.items()} for kind, tables in settings.items()}
    del first["sinks"]["more"]
    this = run({**first, "data_dir": str(tmp_path)}, during)
    told = _told(this)
    assert told[0] == "penstock: start ok"
    assert told[-1] == "penstock: stop draining"
    assert [line.rpartition(" ")[2] for line in told if line.startswith("backend")] == ["taken", "left"] * 3
    last = this.sink().events[-1]
    assert isinstance(last, DaemonEvent)
    assert last.detail == "the test is over"
    assert len(this.sink().results) == _accepted(this)[0]  # notices are no results


def test_a_sink_hears_of_another_that_fails_and_not_of_itself() -> None:
    notices = {"notices": ["daemon"]}
    sinks = {"bad": notices | {"fail_every": 2, "failure": "fatal"}, "keep": dict(notices)}

    async def during(this: Run) -> None:
        await this.until(lambda: "sink bad: sink failed" in _told(this))
        this.supervisor.stop("the test is over")

    this = run({"sources": {"cam": CAMERA}, "sinks": sinks}, during)
    assert _told(this) == ["penstock: start ok", "sink bad: sink failed", "penstock: stop draining"]
    assert _told(this, "bad") == ["penstock: start ok"]


def test_who_asks_for_no_notices_gets_none() -> None:
    assert _told(run({})) == []


def test_a_sink_that_is_stuck_holds_up_nobody_who_tells_it(tmp_path: Path) -> None:
    sinks = {"stuck": {"notices": ["daemon"], "stuck_at": 0}, "keep": {"notices": ["daemon"]}}

    async def during(this: Run) -> None:
        page = this.supervisor.topology.ledger.sinks["stuck"]
        await this.until(lambda: page.read().entered > 30)
        tell = this.supervisor._notices.tell
        for number in range(500):
            tell(f"source s{number}", "counts", "resumed", "")
            if number % 50 == 49:
                await this.until(lambda: len(this.sink().events) == number + 2)  # noqa: B023
        STUCK.set()
        this.supervisor.stop("the test is over")

    STUCK.clear()
    try:
        this = run({"sources": {"cam": CAMERA}, "sinks": sinks, "data_dir": str(tmp_path)}, during)
    finally:
        STUCK.set()
    assert 100 <= len(this.sink("stuck").events) <= 102
