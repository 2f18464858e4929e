"""A running pipeline is given another configuration: all of it is put in force, or nothing changes."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBackendConfig, FakeSinkConfig, FakeSourceConfig
from harness import Run, run

from pipeline.config.loader import from_tree
from pipeline.config.settings import Settings
from pipeline.contracts.sink import Releasing
from pipeline.registry import Registry
from pipeline.runtime.reload import ReloadError
from pipeline.telemetry.readings import SourceState
from pipeline.testing import PluginContext, frame, result

CAMERAS: dict[str, dict[str, Any]] = {
    f"cam{number}": {"live": True, "endless": True, "fps": 200.0} for number in range(8)
}


def _settings(**tables: dict[str, dict[str, Any]]) -> Settings:
    tree: dict[str, Any] = {"sources": CAMERAS, "backends": {"model": {}}, "sinks": {"keep": {}}} | tables
    for kind in ("sources", "backends", "sinks"):
        tree[kind] = {name: {"type": "fake", **table} for name, table in tree[kind].items()}
    tree["server"] = {"listen": "off"}
    tree["reload_timeout_s"] = 5.0
    registry = Registry.of(FakeSourceConfig, FakeBackendConfig, FakeSinkConfig)
    return from_tree(tree, base_dir=Path.cwd(), registry=registry)


def _reloaded(
    *steps: Settings,
    before: dict[str, Any] | None = None,
    after_each: Callable[[Run, int], Awaitable[None]] | None = None,
) -> tuple[Run, list[list[str] | ReloadError]]:
    """Run eight cameras, apply the configurations one after another under load, stop; what each attempt gave."""
    outcomes: list[list[str] | ReloadError] = []

    async def during(this: Run) -> None:
        await this.supervisor.started.wait()
        cameras = this.supervisor.topology.sources
        await this.until(lambda: all(camera.state is not SourceState.STARTING for camera in cameras.values()))
        for settings in steps:
            await this.until(lambda: this.sink().results_seen > 0)
            seen = this.sink().results_seen
            try:
                async with asyncio.timeout(8.0):  # less than what is given up after
                    outcomes.append(await this.supervisor.apply(settings))
            except ReloadError as error:
                outcomes.append(error)
            await this.until(lambda: this.sink().results_seen > seen + 50)  # noqa: B023
            this.check_ledger(this.scrape())
            if after_each is not None:
                await after_each(this, len(outcomes))
        this.supervisor.stop("test")

    tables: dict[str, Any] = {"sources": CAMERAS, "reload_timeout_s": 5.0} | (before or {})
    return run(
        {kind: {**table} if isinstance(table, dict) else table for kind, table in tables.items()}, during
    ), outcomes


def _other_cameras_lost_nothing(this: Run, *edited: str) -> None:
    """Each frame that a camera gave has a result, or an outcome that the ledger names; none came twice."""
    for account in this.report.sources:
        if account.name not in (*edited, "removed"):
            seqs = this.seqs(source=account.name)
            assert seqs == sorted(set(seqs))
            missing = seqs[-1] + 1 - len(seqs)
            assert missing <= account.entered - account.outcomes["inferred"]
            assert account.outcomes["dropped_shutdown"] <= 3
            assert account.outcomes["failed_backend"] == 0
    assert all(account.outcomes["failed"] == 0 for account in this.report.sinks)
    inferred = sum(account.outcomes["inferred"] for account in this.report.sources)
    assert inferred == len(this.sink().results) or len(this.supervisor.topology.sinks) > 1


def test_one_camera_is_edited_and_the_other_seven_lose_nothing() -> None:
    edited = {**CAMERAS, "cam3": {**CAMERAS["cam3"], "stride": 2}}
    this, outcomes = _reloaded(_settings(sources=edited))
    assert outcomes == [["source cam3: changed (stride)"]]
    _other_cameras_lost_nothing(this, "cam3")
    assert [account.fault(drained=True) for account in this.report.sources] == [None] * 8


def test_of_eight_cameras_at_thirty_a_second_seven_lose_no_frame_and_no_result() -> None:
    """With queues that are long enough not to drop anything by themselves: not even what the ledger could name."""
    cameras = {name: {**table, "fps": 30.0, "queue": {"max_frames": 60}} for name, table in CAMERAS.items()}
    slow = {"concurrency": 1, "infer_s": 0.002}
    edits = [{**cameras, "cam3": {**cameras["cam3"], "stride": stride}} for stride in (2, 3)]
    this, outcomes = _reloaded(
        _settings(sources=edits[0], backends={"model": slow}),
        _settings(sources=edits[1], backends={"model": {**slow, "max_batch": 2}}),
        _settings(sources=edits[1], backends={"model": {**slow, "max_batch": 2}}, sinks={"keep": {}, "more": {}}),
        before={"sources": cameras, "backends": {"model": slow}},
    )
    assert not [outcome for outcome in outcomes if isinstance(outcome, ReloadError)]
    for account in this.report.sources:
        if account.name != "cam3":
            assert account.outcomes["inferred"] == account.entered
            assert this.seqs(source=account.name) == list(range(account.entered))


def test_a_camera_is_added_and_another_removed() -> None:
    others = {name: table for name, table in CAMERAS.items() if name != "cam0"}
    this, outcomes = _reloaded(_settings(sources={**others, "gate": CAMERAS["cam0"]}))
    assert outcomes == [["source gate: added", "source cam0: removed"]]
    _other_cameras_lost_nothing(this, "cam0", "gate")
    assert this.seqs(source="gate")[0] == 0
    assert {account.name for account in this.report.sources} == {*others, "gate", "removed"}
    assert ("penstock_frames_decoded_total", (("source", "cam0"),)) not in this.scrape()


def test_a_backend_is_exchanged_and_no_result_overtakes_another() -> None:
    settings = _settings(backends={"model": {"concurrency": 1, "delay_s": 0.001}})
    this, outcomes = _reloaded(settings)
    assert outcomes == [["backend model: changed (concurrency, delay_s)"]]
    assert this.sink().results[-1].config_hash == settings.config_hash
    assert this.scrape()["penstock_config_info", (("hash", settings.config_hash),)] == 1
    _other_cameras_lost_nothing(this)


def test_a_backend_that_does_not_open_leaves_the_old_one_at_work() -> None:
    this, outcomes = _reloaded(_settings(backends={"model": {"open_failure": "transient", "open_failures": 9}}))
    assert isinstance(outcomes[0], ReloadError)
    assert "backend model: opening failed for now" in outcomes[0].problems[0]
    assert this.supervisor.settings.backends["model"] == FakeBackendConfig()
    _other_cameras_lost_nothing(this)


def test_a_sink_that_does_not_open_leaves_everything_as_it_was() -> None:
    this, outcomes = _reloaded(
        _settings(
            sinks={"keep": {}, "more": {"open_failure": "config"}},
            sources={**CAMERAS, "cam1": {**CAMERAS["cam1"], "stride": 5}},
        )
    )
    assert isinstance(outcomes[0], ReloadError)
    assert "more" in outcomes[0].problems[0]
    assert set(this.supervisor.topology.sinks) == {"keep"}
    _other_cameras_lost_nothing(this)


def test_a_camera_that_would_be_lost_by_an_edit_is_kept() -> None:
    this, outcomes = _reloaded(
        _settings(sources={**CAMERAS, "cam2": {**CAMERAS["cam2"], "failure": "transient", "stride": 2}})
    )
    assert isinstance(outcomes[0], ReloadError)
    assert outcomes[0].problems == ["source cam2: the source failed for now"]
    _other_cameras_lost_nothing(this, "cam2")
    assert this.supervisor.settings.sources["cam2"].stride == 1


def test_a_camera_that_is_down_anyway_takes_any_edit() -> None:
    down = {**CAMERAS, "cam2": {**CAMERAS["cam2"], "failure": "transient"}}
    edited = {**down, "cam2": {**down["cam2"], "stride": 3}}
    this, outcomes = _reloaded(_settings(sources=edited), before={"sources": down})
    assert outcomes == [["source cam2: changed (stride)"]]
    _other_cameras_lost_nothing(this, "cam2")


def test_sinks_come_and_go_and_get_what_is_theirs() -> None:
    this, outcomes = _reloaded(
        _settings(sinks={"keep": {}, "one": {"sources": ("cam0",)}}),
        _settings(sinks={"keep": {}, "one": {"sources": ("cam1",)}}),
        _settings(),
        before={"sinks": {"keep": {}}},
    )
    assert outcomes == [["sink one: added"], ["sink one: changed (sources)"], ["sink one: removed"]]
    _other_cameras_lost_nothing(this)


def test_a_sink_on_the_same_file_is_exchanged_one_after_the_other() -> None:
    this, outcomes = _reloaded(
        _settings(sinks={"keep": {}, "file": {"path": "/x", "fail_every": 10_000_000}}),
        _settings(sinks={"keep": {}, "file": {"path": "/x", "open_failure": "fatal"}}),
        before={"sinks": {"keep": {}, "file": {"path": "/x"}}},
    )
    assert outcomes[0] == ["sink file: changed (fail_every)"]
    assert isinstance(outcomes[1], ReloadError)
    assert this.sink("file").closed == 1
    assert this.supervisor.settings.sinks["file"].fail_every == 10_000_000  # type: ignore[attr-defined]
    _other_cameras_lost_nothing(this)


def test_a_hundred_reloads_leak_nothing() -> None:
    steps = [
        _settings(
            sources={
                **CAMERAS,
                f"extra{number % 3}": CAMERAS["cam0"],
                "cam5": {**CAMERAS["cam5"], "stride": 1 + number % 2},
            },
            backends={"model": {"concurrency": 1 + number % 4 // 3}},
            sinks={"keep": {}, "other": {"delay_s": number % 5 / 1e4}},
        )
        for number in range(100)
    ]
    held: list[tuple[int, int]] = []

    async def look(this: Run, reloads: int) -> None:
        if reloads % 20 == 0:  # each time there are as many sources, sinks and workers
            await this.until(lambda: this.supervisor.topology.leaving == [])
            threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
            held.append((len(threads), len(os.listdir("/proc/self/fd"))))  # noqa: PTH208

    this, outcomes = _reloaded(*steps, after_each=look)
    assert len(held) == 5
    assert held == [held[0]] * 5
    assert not [outcome for outcome in outcomes if isinstance(outcome, ReloadError)]
    assert this.supervisor.topology.leaving == []
    assert len(this.supervisor.topology.routes) == 9
    queue = this.supervisor.topology.backends["model"].queue
    assert len(queue._lanes) == 0
    _other_cameras_lost_nothing(this, "cam5", "extra0", "extra1", "extra2")


def test_a_stop_during_a_reload_gives_the_reload_up() -> None:
    async def during(this: Run) -> None:
        await this.supervisor.started.wait()
        stuck = _settings(backends={"model": {"open_delay_s": 3.0}})
        applying = asyncio.create_task(this.supervisor.apply(stuck))
        await asyncio.sleep(0.2)
        this.supervisor.stop("test")
        with pytest.raises(ReloadError):
            await applying

    this = run({"sources": {name: {**table} for name, table in CAMERAS.items()}, "shutdown_timeout_s": 8.0}, during)
    assert this.report.late == []


def test_a_sink_hears_of_a_removed_camera_after_its_last_result() -> None:
    async def heard(this: Run, _: int) -> None:
        await this.until(lambda: bool(this.sink().released))

    others = {name: table for name, table in CAMERAS.items() if name != "cam0"}
    this, _ = _reloaded(_settings(sources=others), after_each=heard)
    assert this.sink().released == [("cam0", len(this.seqs(source="cam0")))]


@pytest.mark.parametrize(("kind", "name"), [("jsonl", "lines.jsonl"), ("video", "boxes.mp4")])
def test_a_file_of_a_removed_camera_is_finished_at_once(kind: str, name: str, tmp_path: Path) -> None:
    template = str(tmp_path / f"{{source}}-{name}")
    sink = (
        Registry.load()
        .config_class("sink", kind)
        .model_validate({"type": kind, "path": template})
        .build(PluginContext())
    )
    sink.open()
    for source in ("cam", "gate"):
        sink.write([result(frame(seq, source=source)) for seq in range(3)])
    assert isinstance(sink, Releasing)
    sink.release("cam")
    assert (tmp_path / f"cam-{name}").exists()
    assert not (tmp_path / f"gate-{name}").exists()
    sink.release("cam")
    sink.close()
    assert (tmp_path / f"gate-{name}").exists()


@pytest.mark.parametrize(("kind", "name"), [("jsonl", "lines.jsonl"), ("video", "boxes.mp4")])
def test_a_sink_that_goes_on_with_the_same_file_keeps_what_stands_there(kind: str, name: str, tmp_path: Path) -> None:
    config = Registry.load().config_class("sink", kind).model_validate({"type": kind, "path": str(tmp_path / name)})
    context = PluginContext()
    for context.continues in (False, True):
        sink = config.build(context)
        sink.open()
        sink.write([result(frame(seq)) for seq in range(3)])
        sink.close()
    if kind == "jsonl":
        assert len((tmp_path / name).read_text().splitlines()) == 6
    else:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes-0002.mp4", "boxes.mp4"]
