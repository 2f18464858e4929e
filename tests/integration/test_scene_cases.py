"""Tracks, zones and lines on real clips, against what was counted by hand; each folder's README says how."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from harness import Run, run
from replay import ReplayBackendConfig

from pipeline.contracts.analysis import Scene
from sources.file import FileSourceConfig

CASES = Path(__file__).resolve().parents[1] / "cases"


def play(case: str, shared_data: Path, tmp_path: Path, **sink: Any) -> Run:
    """Run the case's pipeline in this process: the real clip, the stored boxes."""
    tree = tomllib.loads((CASES / case / "pipeline.toml").read_text())
    (source,) = tree["sources"].values()
    source["path"] = str(shared_data / "videos" / source["path"])
    tree["backends"]["stored"]["path"] = str(CASES / case / "detections.jsonl")
    tree["sinks"]["keep"] |= sink
    tree["data_dir"] = str(tmp_path)
    return run(tree, plugins=[FileSourceConfig, ReplayBackendConfig])


def scenes(this: Run) -> dict[int, Scene]:
    """The scenes by the numbers of their frames."""
    return {result.frame.seq: result.scene for result in this.sink().results if result.scene is not None}


def crossings(of: dict[int, Scene]) -> list[tuple[int, str]]:
    """The frames and directions of all crossings."""
    return [(frame, crossing.direction) for frame, scene in of.items() for crossing in scene.crossings]


def test_people_who_cross_a_line_and_walk_on_a_path(shared_data: Path, tmp_path: Path) -> None:
    this = play("people_on_a_path", shared_data, tmp_path)
    of = scenes(this)
    assert len(of) == 400
    by_hand = {"in": 8, "out": 6}
    ways = [
        (31, "out"), (106, "out"), (161, "in"), (182, "in"), (222, "in"), (254, "in"), (280, "in"), (290, "in"),
        (313, "out"), (334, "out"), (351, "out"), (351, "out"), (364, "in"),
    ]  # fmt: skip
    assert crossings(of) == ways
    assert of[399].crossed == {"middle": {"in": {"person": 7}, "out": {"person": 6}}}
    assert (by_hand["in"] - 1, by_hand["out"]) == (7, 6)  # who passes behind another one is missed

    inside_by_hand = [0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 1, 0, 1]
    assert [of[frame].occupancy["path"].get("person", 0) for frame in range(20, 400, 20)] == inside_by_hand
    samples = this.scrape()
    dwell = ("class", "person"), ("source", "yard"), ("zone", "path")
    assert samples["penstock_zone_dwell_seconds_count", dwell] == 7  # the eighth is still there
    assert samples["penstock_zone_occupancy", dwell] == 1
    for direction, count in (("in", 7), ("out", 6)):
        line = ("class", "person"), ("direction", direction), ("line", "middle"), ("source", "yard")
        assert samples["penstock_line_crossings_total", line] == count


def test_cars_that_come_over_a_line(shared_data: Path, tmp_path: Path) -> None:
    of = scenes(play("cars_over_a_line", shared_data, tmp_path))
    assert len(of) == 180
    ways = crossings(of)
    by_hand = 10
    assert [way for _, way in ways] == ["in"] * by_hand
    assert [frame for frame, _ in ways] == [58, 84, 126, 136, 196, 212, 244, 260, 320, 330]
    counts = list(of.values())[-1].crossed["near"]
    assert sum(counts["in"].values()) == by_hand
    assert counts["out"] == {}


@pytest.mark.parametrize("case", ["people_on_a_path", "cars_over_a_line"])
def test_each_track_has_one_event_and_ends_once(case: str, shared_data: Path, tmp_path: Path) -> None:
    events: dict[int, str] = {}
    ended: list[int] = []
    for scene in scenes(play(case, shared_data, tmp_path)).values():
        ended += [track.tracker_id for track in scene.ended]
        for track in filter(None, scene.tracks):
            assert events.setdefault(track.tracker_id, track.event_id) == track.event_id
            assert track.tracker_id not in ended
    assert len(events) > 10
    assert len(ended) == len(set(ended))
    assert sorted(events) == list(range(1, len(events) + 1))
    assert len(set(events.values())) == len(events)
