"""One source's analyser in the running pipeline: what it keeps, what it tells, and what it does about bugs."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from moving import Found, ids, result, walk, wanted

from pipeline.analytics.scene import Wanted
from pipeline.contracts.result import Result, Text
from pipeline.runtime.analysing import Analysing
from pipeline.runtime.checkpoint import SceneFile
from pipeline.runtime.context import Surroundings
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics
from pipeline.testing import MovableClock

FLAT = {"start": [0.0, 0.5], "end": [1.0, 0.5]}
ENTRY = wanted({}, lines={"entry": FLAT})
DOWN = walk("person", (500, 150), (500, 400), 30)


class Camera:
    """One run of a source: frames, and a clock that goes with them."""

    def __init__(self, folder: Path, asked: Wanted = ENTRY, clock: MovableClock | None = None) -> None:
        self.clock = clock or MovableClock()
        self.told: list[tuple[str, str, str, str]] = []
        events = Events(self.clock)
        events.listen(lambda *told: self.told.append(told))
        self.analysing = Analysing(
            "cam", asked, folder, Surroundings(events, Metrics("test"), self.clock, lambda: None)
        )
        self.seq = 0

    def show(self, found: list[Found]) -> Result:
        shown = self.analysing.look(result(found, seq=self.seq, at_s=self.seq / 10))
        self.seq += 1
        self.clock.advance(0.1)
        return shown

    def go_down(self) -> Result:
        return [self.show(found) for found in DOWN][-1]

    @property
    def counted(self) -> dict[str, Any]:
        lines = self.analysing.read(shown=True).lines
        return {direction: counts.get("person", 0) for direction, counts in lines["entry"].items()}


def test_counts_go_on_after_a_restart_and_the_gap_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Camera(tmp_path)
    first.go_down()
    first.analysing.save(at_once=True)
    assert first.told == []
    first.clock.advance(125.0 - 0.1)
    second = Camera(tmp_path, clock=first.clock)
    assert second.counted == {"in": 1, "out": 0}
    with caplog.at_level(logging.INFO, "penstock"):
        scene = second.go_down().scene
    assert scene is not None
    assert scene.crossed == {"entry": {"in": {"person": 2}, "out": {}}}
    said = "the counts of 1 line go on after 125 s without frames"
    assert [record.getMessage() for record in caplog.records] == [f"source cam: {said}"]
    assert second.told == [("source cam", "counts", "resumed", said)]
    assert second.analysing.resumed_after_s == pytest.approx(125.0)


def test_a_clock_that_was_set_back_makes_no_negative_gap(tmp_path: Path) -> None:
    first = Camera(tmp_path)
    first.go_down()
    first.analysing.save(at_once=True)
    second = Camera(tmp_path, clock=MovableClock(wall=1.0))
    second.go_down()
    assert second.analysing.resumed_after_s == 0.0


def test_a_source_that_came_to_its_end_counts_from_0_the_next_time(tmp_path: Path) -> None:
    first = Camera(tmp_path)
    first.go_down()
    first.analysing.save(at_once=True, complete=True)
    second = Camera(tmp_path)
    assert ids(second.go_down()) == [2]
    assert second.counted == {"in": 1, "out": 0}
    assert second.told == []


def test_numbers_are_not_given_again_after_a_kill(tmp_path: Path) -> None:
    given_out = []
    for _ in range(3):
        camera = Camera(tmp_path)
        given_out += ids(camera.go_down())  # and no time to save anything
    assert given_out == [1, 1001, 2001]


def test_numbers_go_on_without_a_gap_after_a_stop(tmp_path: Path) -> None:
    given_out = []
    for _ in range(3):
        camera = Camera(tmp_path)
        given_out += ids(camera.go_down())
        camera.analysing.save(at_once=True)
    assert given_out == [1, 2, 3]


def test_a_line_in_another_place_counts_from_0_and_it_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Camera(tmp_path)
    first.go_down()
    first.analysing.save(at_once=True)
    second = Camera(tmp_path, wanted({}, lines={"entry": {**FLAT, "end": [1.0, 0.55]}}))
    assert second.counted == {"in": 0, "out": 0}
    assert "line entry is in another place: it counts from 0" in caplog.text


def test_a_line_that_is_moved_by_a_reload_is_told_of_and_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    camera = Camera(tmp_path, wanted({}, lines={"entry": FLAT, "second": FLAT}))
    camera.go_down()
    camera.analysing.change(wanted({}, lines={"entry": {**FLAT, "end": [1.0, 0.6]}, "second": FLAT}))
    assert camera.counted == {"in": 0, "out": 0}
    assert camera.analysing.read(shown=True).lines["second"]["in"] == {"person": 1}
    assert caplog.text.count("in another place") == 1


def test_a_file_that_is_not_ours_is_told_of_and_the_counts_begin_at_0(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cam.json").write_text("{}")
    camera = Camera(tmp_path)
    assert camera.counted == {"in": 0, "out": 0}
    assert "set aside as cam.corrupt-" in caplog.text
    camera.go_down()
    camera.analysing.save(at_once=True)
    assert Camera(tmp_path).counted == {"in": 1, "out": 0}


def test_a_folder_that_cannot_be_written_costs_no_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "scenes").write_text("in the way")
    camera = Camera(tmp_path / "scenes")
    for _ in range(3):
        assert camera.go_down().scene is not None
        camera.analysing.save(at_once=True)
        camera.clock.advance(5)
    assert caplog.text.count("what its lines counted cannot be kept") == 1


def test_it_is_kept_every_ten_seconds_where_something_was_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []
    monkeypatch.setattr(SceneFile, "write", lambda _, state: writes.append(state))
    camera = Camera(tmp_path)
    camera.analysing.save()
    for _ in range(100):  # 10 passes of 3 s
        camera.show(DOWN[camera.seq % 30])
        camera.analysing.save()
    assert len(writes) == 1 + 1
    for _ in range(1300):
        camera.show([])
        camera.analysing.save()
    assert len(writes) == 2 + 2  # once a minute, when the last frame was
    assert [state.lines["entry"].counts["in"] for state in writes] == [{}] + [{"person": 3}] * 3


def test_what_is_older_is_never_written_over_what_is_newer(tmp_path: Path) -> None:
    camera = Camera(tmp_path)
    older = camera.analysing._state(10)
    newer = camera.analysing._state(2000)
    camera.analysing._write(*newer)
    camera.analysing._write(*older)
    assert SceneFile(tmp_path, "cam").read().next_tracker_id == 2000


def test_without_tracking_nothing_is_kept(tmp_path: Path) -> None:
    camera = Camera(tmp_path / "scenes", wanted(None, {"lawn": {"polygon": [[0, 0], [1, 0], [1, 1]]}}))
    camera.go_down()
    camera.analysing.save(at_once=True)
    assert not (tmp_path / "scenes").exists()


def test_a_bug_in_the_analysis_costs_no_result_and_the_counts_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    camera = Camera(tmp_path)
    last = camera.go_down()
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.analytics.tracking.Tracker.look", lambda *_: 1 / 0)
        as_it_was = camera.show(DOWN[-1])
        assert as_it_was.scene is None
        assert as_it_was.prediction.tracker_id is None  # type: ignore[union-attr]
    assert "ZeroDivisionError" in caplog.text
    scene = camera.show(DOWN[-1]).scene
    assert scene is not None
    assert last.scene is not None
    assert scene.ended == tuple(filter(None, last.scene.tracks))
    assert camera.go_down().scene.crossed["entry"]["in"] == {"person": 2}  # type: ignore[union-attr]


def test_after_too_many_bugs_it_is_off_until_it_is_configured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    camera = Camera(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.analytics.tracking.Tracker.look", lambda *_: 1 / 0)
        results = [camera.show(DOWN[0]) for _ in range(50)]
    assert len(results) == 50
    assert caplog.text.count("Traceback") == 6
    assert caplog.text.count("off until they are configured anew") == 1
    assert camera.show(DOWN[0]).scene is None
    camera.analysing.change(ENTRY)
    assert camera.go_down().scene is not None


def test_a_model_without_boxes_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    camera = Camera(tmp_path)
    for seq in range(3):
        spoken = replace(result([], seq=seq, at_s=seq / 10), prediction=Text("a street"))
        assert camera.analysing.look(spoken) is spoken
    assert caplog.text.count("need boxes, and the model gives none") == 1


@pytest.mark.parametrize(
    ("gaps_s", "times"), [((2.0,), 1), ((1.04, 0.96), 1), ((0.1,) * 20 + (2.0,), 0)], ids=["all", "half", "seldom"]
)
def test_frames_that_come_too_seldom_for_tracking_are_told_of_once(
    gaps_s: tuple[float, ...], times: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    camera, at_s = Camera(tmp_path), 0.0
    for seq in range(420):
        camera.analysing.look(result(DOWN[0], seq=seq, at_s=at_s))
        at_s += gaps_s[seq % len(gaps_s)]
    assert caplog.text.count("frames come further apart than lost_after_s") == times


def test_frames_in_which_nobody_is_may_come_seldom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    camera = Camera(tmp_path)
    for seq in range(50):
        camera.analysing.look(result([], seq=seq, at_s=10.0 * seq))
    assert "further apart" not in caplog.text


def test_classes_that_were_seen_have_a_0_before_the_first_one_crosses(tmp_path: Path) -> None:
    camera = Camera(tmp_path, wanted({}, {"lawn": {"polygon": [[0, 0.9], [1, 0.9], [1, 1]]}}, {"entry": FLAT}))
    for _ in range(3):
        camera.show(DOWN[0])
    reading = camera.analysing.read(shown=True)
    assert reading.lines == {"entry": {"in": {"person": 0}, "out": {"person": 0}}}
    assert reading.zones == {"lawn": {"person": 0}}
    assert reading.tracks == 1
    away = camera.analysing.read(shown=False)
    assert (away.zones, away.tracks) == ({}, None)
    assert away.lines == reading.lines
