"""Tracks, zones and lines of a pipeline that runs: reloads, restarts, kills."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from daemon import Daemon
from fakes import FakeBackendConfig, FakeSinkConfig, FakeSourceConfig, LiveFakeConfig
from harness import Run, run
from observed import until
from walker import MIDDLE, STEPS, WalkerBackendConfig

from pipeline.config.loader import from_tree
from pipeline.config.settings import Settings
from pipeline.contracts.clock import SystemClock
from pipeline.contracts.errors import PenstockError
from pipeline.contracts.result import Detections
from pipeline.registry import Registry
from pipeline.runtime.status import Status

CAMERA: dict[str, Any] = {"type": "live", "live": True, "endless": True, "fps": 200.0}
TRACKED: dict[str, Any] = {**CAMERA, "tracking": {}, "lines": {"middle": MIDDLE}}
RIGHT_HALF = {"polygon": [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]]}
IN = ("class", "person"), ("direction", "in"), ("line", "middle"), ("source", "cam")


def tree(source: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    tables = {
        "sources": {"cam": {"type": "fake", **source}},
        "backends": {"model": {"type": "walker"}},
        "sinks": {"keep": {"type": "fake"}},
    }
    return {**tables, "server": {"listen": "off"}, "data_dir": str(data_dir)}


def settings_of(source: dict[str, Any], data_dir: Path) -> Settings:
    registry = Registry.of(FakeSourceConfig, LiveFakeConfig, FakeBackendConfig, FakeSinkConfig, WalkerBackendConfig)
    return from_tree(tree(source, data_dir), base_dir=Path.cwd(), registry=registry)


def tracker_ids(this: Run) -> list[int]:
    found = [result.prediction for result in this.sink().results if isinstance(result.prediction, Detections)]
    return [int(each.tracker_id[0]) for each in found if each.tracker_id is not None]


def test_a_file_that_was_read_to_its_end_is_counted_to_its_end(tmp_path: Path) -> None:
    frames = {"frames": 10 * STEPS + 1, "tracking": {}, "lines": {"middle": MIDDLE}}
    for number in (1, 2):  # and from 0 the next time
        this = run(tree(frames, tmp_path), plugins=[WalkerBackendConfig])
        scene = this.sink().results[-1].scene
        assert scene is not None
        assert scene.crossed == {"middle": {"in": {"person": 5}, "out": {"person": 5}}}
        assert tracker_ids(this) == [-1] + [number] * (10 * STEPS)
        samples = this.scrape()
        assert samples["penstock_line_crossings_total", IN] == 5
        assert samples["penstock_tracks", (("source", "cam"),)] == 1
        stage = ("backend", ""), ("sink", ""), ("source", "cam"), ("stage", "analytics")
        assert samples["penstock_stage_duration_seconds_count", stage] == 10 * STEPS + 1


def test_a_file_whose_run_was_stopped_midway_is_not_counted_twice(tmp_path: Path) -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: this.scrape().get(("penstock_line_crossings_total", IN), 0) >= 2)
        this.supervisor.stop("test")

    lines = {"tracking": {}, "lines": {"middle": MIDDLE}}
    run(tree({"endless": True, "fps": 500.0, **lines}, tmp_path), during, plugins=[WalkerBackendConfig])
    assert json.loads((tmp_path / "scenes" / "cam.json").read_text())["lines"]["middle"]["counts"]["in"]
    again = run(tree({"frames": 10 * STEPS + 1, **lines}, tmp_path), plugins=[WalkerBackendConfig])
    scene = again.sink().results[-1].scene
    assert scene is not None
    assert scene.crossed == {"middle": {"in": {"person": 5}, "out": {"person": 5}}}
    assert min(number for number in tracker_ids(again) if number > 0) > 1  # numbers are never given again


def test_what_a_file_has_counted_is_kept_while_a_reload_leaves_its_lines_out(tmp_path: Path) -> None:
    plain = {"endless": True, "fps": 500.0}
    counting = {**plain, "tracking": {}, "lines": {"middle": MIDDLE}}

    def counted(this: Run) -> float:
        return this.scrape().get(("penstock_line_crossings_total", IN), 0)

    async def during(this: Run) -> None:
        await this.until(lambda: counted(this) >= 2)
        await this.supervisor.apply(settings_of({"type": "fake", **plain}, tmp_path))
        kept = json.loads((tmp_path / "scenes" / "cam.json").read_text())["lines"]["middle"]["counts"]["in"]["person"]
        await this.supervisor.apply(settings_of({"type": "fake", **counting}, tmp_path))
        assert counted(this) >= kept >= 2
        this.supervisor.stop("test")

    run(tree(counting, tmp_path), during, plugins=[WalkerBackendConfig])


def test_a_source_without_these_keys_has_no_scene_and_no_file(tmp_path: Path) -> None:
    this = run(tree({"frames": 5}, tmp_path), plugins=[WalkerBackendConfig])
    assert [result.scene for result in this.sink().results] == [None] * 5
    assert not any(name.startswith("penstock_tracks") for name, _ in this.scrape())
    assert list(tmp_path.iterdir()) == []


def test_a_reload_of_zones_and_lines_leaves_the_camera_and_the_counts_alone(tmp_path: Path) -> None:
    async def during(this: Run) -> None:
        supervisor = this.supervisor
        await supervisor.started.wait()
        runner = supervisor.topology.sources["cam"]
        await this.until(lambda: this.scrape().get(("penstock_line_crossings_total", IN), 0) >= 2)
        plan = await supervisor.apply(settings_of({**TRACKED, "zones": {"right": RIGHT_HALF}}, tmp_path))
        assert plan == ["source cam: changed (zones)"]
        assert supervisor.topology.sources["cam"] is runner
        counted = this.scrape()["penstock_line_crossings_total", IN]
        assert counted >= 2
        await this.until(lambda: this.scrape()["penstock_line_crossings_total", IN] >= counted + 2)
        sink = this.sink()
        zone = ("class", "person"), ("source", "cam"), ("zone", "right")
        await this.until(lambda: this.scrape().get(("penstock_zone_occupancy", zone)) == 1)
        await supervisor.apply(settings_of({**CAMERA, "zones": {"right": RIGHT_HALF}}, tmp_path))
        seen = sink.results_seen
        await this.until(lambda: sink.results_seen > seen + 10)
        assert not any(name == "penstock_line_crossings_total" for name, _ in this.scrape())
        await supervisor.apply(settings_of(CAMERA, tmp_path))
        await this.until(lambda: sink.results[-1].scene is None)
        assert not any(name == "penstock_zone_occupancy" for name, _ in this.scrape())
        await supervisor.apply(settings_of(TRACKED, tmp_path))  # what was counted was kept
        assert supervisor.topology.sources["cam"] is runner
        assert this.scrape()["penstock_line_crossings_total", IN] >= counted + 2
        supervisor.stop("test")

    this = run(tree(TRACKED, tmp_path), during, plugins=[WalkerBackendConfig])
    seqs = this.seqs()
    assert seqs == sorted(seqs)
    assert 1 in tracker_ids(this)


def test_a_source_that_is_removed_takes_its_numbers_with_it(tmp_path: Path) -> None:
    async def during(this: Run) -> None:
        supervisor = this.supervisor
        await supervisor.started.wait()
        await this.until(lambda: this.scrape().get(("penstock_line_crossings_total", IN), 0) >= 1)
        both = tree(TRACKED, tmp_path)
        registry = Registry.of(FakeSourceConfig, LiveFakeConfig, FakeBackendConfig, FakeSinkConfig, WalkerBackendConfig)
        both["sources"] = {"other": CAMERA}
        await supervisor.apply(from_tree(both, base_dir=Path.cwd(), registry=registry))

        def is_gone() -> bool:
            return not any(("source", "cam") in labels for _, labels in this.scrape())

        await this.until(is_gone)
        assert json.loads((tmp_path / "scenes" / "cam.json").read_text())["lines"]["middle"]["counts"]["in"]
        supervisor.stop("test")

    run(tree(TRACKED, tmp_path), during, plugins=[WalkerBackendConfig])


def test_the_status_says_who_is_where(tmp_path: Path) -> None:
    async def during(this: Run) -> None:
        await this.supervisor.started.wait()
        await this.until(lambda: this.scrape().get(("penstock_line_crossings_total", IN), 0) >= 1)
        (source,) = Status(this.supervisor, "1", SystemClock()).whole()["sources"]
        scene = source["scene"]
        assert scene["tracks"] == 1
        assert scene["lines"]["middle"]["in"]["person"] >= 1
        assert scene["zones"].keys() == {"right"}
        assert scene["resumed_after_s"] is None
        this.supervisor.stop("test")

    run(tree({**TRACKED, "zones": {"right": RIGHT_HALF}}, tmp_path), during, plugins=[WalkerBackendConfig])


@pytest.mark.parametrize(
    ("keys", "key", "message"),
    [
        ({"lines": {"middle": MIDDLE}}, "lines", "crossings are of tracked objects only"),
        ({"zones": {"right": {**RIGHT_HALF, "min_dwell_s": 2}}}, "zones", "right: min_dwell_s needs tracking"),
        ({"tracking": {}, "max_fps": 1.0}, "tracking", "lost_after_s = 1 must be more than the 1 s"),
        ({"tracking": {}, "lines": {"middle": {"start": [0, 0], "end": [0, 0]}}}, "lines", "the same point"),
        ({"tracking": {}, "lines": {"middle": {**MIDDLE, "anchor": "any_corner"}}}, "lines.middle.anchor", ""),
        ({"zones": {"right": {"polygon": [[0, 0], [1, 1]]}}}, "zones.right.polygon", ""),
        ({"zones": {"right": {"polygon": [[0, 0], [1, 1], [1.5, 0]]}}}, "zones.right.polygon", ""),
    ],
)
def test_what_cannot_be_done_is_told_with_its_key(keys: dict[str, Any], key: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PenstockError) as caught:
        settings_of({**CAMERA, **keys}, tmp_path)
    assert f"sources.cam.{key}" in str(caught.value)
    assert message in str(caught.value)


CONFIG = """
    data_dir = "data"

    [sources.cam]
    type = "synthetic"
    fps = 50
    width = 160
    height = 120
    tracking = {}

    [sources.cam.lines.middle]
    start = [0.5, 0.0]
    end = [0.5, 1.0]

    [backends.model]
    type = "walker"

    [sinks.lines]
    type = "jsonl"
    path = "out/all.jsonl"
    mode = "append"
    notices = ["daemon"]
"""


def crossed(daemon: Daemon) -> int:
    return int(daemon.scrape().of("penstock_line_crossings_total", source="cam"))


def test_counts_resume_after_a_stop_and_after_a_kill_and_no_number_comes_twice(tmp_path: Path) -> None:
    ids: list[set[int]] = []
    read = 0

    def note(daemon: Daemon) -> None:
        nonlocal read
        lines = [line for line in daemon.lines("out/all.jsonl") if "predictions" in line]
        ids.append({p["tracker_id"] for line in lines[read:] for p in line["predictions"]} - {-1})
        read = len(lines)
        assert ids[-1]

    with Daemon(tmp_path, CONFIG) as first:
        until("somebody crossed", lambda: first.ready() is not None and crossed(first) >= 4, 20)
        at_least = crossed(first)
        first.stop()
        note(first)
    kept = json.loads((tmp_path / "data" / "scenes" / "cam.json").read_text())
    counts = kept["lines"]["middle"]["counts"]
    stopped_at = counts["in"]["person"] + counts["out"]["person"]
    assert stopped_at >= at_least
    with Daemon(tmp_path, CONFIG) as second:
        until("somebody crossed", lambda: second.ready() is not None and crossed(second) >= stopped_at + 4, 20)
        until("it is told", lambda: "go on after" in second.log(), 5)
        second.signal(signal.SIGKILL)
        second.process.wait(10)  # type: ignore[union-attr]
        note(second)
    with Daemon(tmp_path, CONFIG) as third:
        until("somebody crossed", lambda: third.ready() is not None and crossed(third) >= stopped_at + 1, 20)
        third.stop()
        note(third)
    assert len(set().union(*ids)) == sum(map(len, ids)), ids
    assert min(ids[2]) > 1000  # those that the killed one might have given out are left out
    told = [line for line in third.lines("out/all.jsonl") if line.get("event") == "counts"]
    assert [line["value"] for line in told] == ["resumed"] * 2
