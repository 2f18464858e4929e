"""Events on real clips, against what was counted by hand: see the README of each folder that is named."""

from pathlib import Path

import pytest
from clip_cases import play_clip
from harness import Run

from pipeline.contracts.event import ObjectEvent

NEVER = float("inf")
STAYS_BY_HAND = [0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 1, 0, 1]
"""How many people are on the path in frames 20, 40, ... 380 of `people_on_a_path`."""


@pytest.fixture
def clips(shared_data: Path) -> Path:
    return shared_data / "videos"


def _events(this: Run) -> list[ObjectEvent]:
    events = [event for event in this.sink().events if isinstance(event, ObjectEvent)]
    (account,) = this.report.sinks
    assert account.entered == account.outcomes["delivered"] == len(events)
    assert this.sink().results == []
    return events


def _of(events: list[ObjectEvent], kind: str, phase: str) -> list[ObjectEvent]:
    return [event for event in events if (event.kind, event.phase) == (kind, phase)]


def test_people_who_stay_on_a_path_cross_a_line_and_are_there(clips: Path, tmp_path: Path) -> None:
    events = _events(play_clip("people_on_a_path", clips, tmp_path, emit="events", update_every_s=NEVER))

    # Stays in the zone: 8 by hand, and at each moment as many as were counted in the picture.
    begun, ended = _of(events, "zone", "new"), {event.event_id: event for event in _of(events, "zone", "end")}
    assert len(begun) == len(ended) == 8
    stays = [(event.frame.seq, ended[event.event_id].frame.seq) for event in begun]
    there = [sum(first <= frame <= last for first, last in stays) for frame in range(20, 400, 20)]
    assert there == STAYS_BY_HAND

    # Crossings: 8 in and 6 out by hand; one who passes behind another is missed.
    crossings = _of(events, "crossing", "once")
    ways = [(event.frame.seq, event.direction, event.count) for event in crossings]
    assert [frame for frame, way, _ in ways if way == "in"] == [161, 182, 222, 254, 280, 290, 364]
    assert [frame for frame, way, _ in ways if way == "out"] == [31, 106, 313, 334, 351, 351]
    assert [count for _, way, count in ways if way == "in"] == list(range(1, 8))
    assert [count for _, way, count in ways if way == "out"] == list(range(1, 7))

    # People: by frame 165 there were 9, by hand (who walks on the lawn far behind has no boxes). Events tell of 13
    # objects: some who were hidden behind another for long come out with a new number.
    objects = _of(events, "object", "new")
    assert len([event for event in objects if event.frame.seq <= 165]) == 9 + 4
    assert len(objects) == len(_of(events, "object", "end")) == 15
    assert len(events) == 2 * 8 + 13 + 2 * 15

    # A crossing and a stay belong to an object that is told of: it began before, and ends after.
    lives = {event.tracker_id: [event.frame.seq, 0] for event in objects}
    for event in _of(events, "object", "end"):
        lives[event.tracker_id][1] = event.frame.seq
    for event in crossings + begun + list(ended.values()):
        first, last = lives[event.tracker_id]
        assert first <= event.frame.seq <= last


@pytest.mark.parametrize(
    ("keys", "told", "held_back"),
    [
        ({"where": {"zones": ["path"]}}, {"zone": 16}, 0),
        ({"where": {"lines": ["middle"]}}, {"crossing": 13}, 0),
        ({"where": {"zones": ["path"], "lines": ["middle"]}}, {"zone": 16, "crossing": 13}, 0),
        ({"where": {"classes": ["car"]}}, {}, 0),
        # Stays begin at 6.4, 16.4, 18.8, 22.5, 26.8, 28.5, 30.8 and 36.9 s.
        ({"where": {"zones": ["path"]}, "limit": {"cooldown_s": 5}}, {"zone": 10}, 3),
        ({"where": {"zones": ["path"]}, "limit": {"per_minute": 2}}, {"zone": 4}, 6),
    ],
)
def test_a_sink_is_told_what_it_asks_for(
    keys: dict[str, object], told: dict[str, int], held_back: int, clips: Path, tmp_path: Path
) -> None:
    this = play_clip("people_on_a_path", clips, tmp_path, emit="events", update_every_s=NEVER, **keys)
    kinds = [event.kind for event in _events(this)]
    assert {kind: kinds.count(kind) for kind in kinds} == told
    assert this.scrape()["penstock_sink_held_back_total", (("sink", "keep"), ("source", "yard"))] == held_back


def test_cars_that_come_over_a_line_are_ten_crossings(clips: Path, tmp_path: Path) -> None:
    keys = {"emit": "events", "where": {"lines": ["near"]}}
    events = _events(play_clip("cars_over_a_line", clips, tmp_path, **keys))
    assert [event.frame.seq for event in events] == [58, 84, 126, 136, 196, 212, 244, 260, 320, 330]  # 10 by hand, too
    assert {(event.phase, event.direction) for event in events} == {("once", "in")}


def test_updates_and_changes_are_far_fewer_than_frames(clips: Path, tmp_path: Path) -> None:
    events = _events(play_clip("people_on_a_path", clips, tmp_path / "1", emit="events", where={"kinds": ["object"]}))
    ends = {event.event_id: event.duration_s for event in _of(events, "object", "end")}
    updates = _of(events, "object", "update")
    by_time = sum(duration_s / 5.0 for duration_s in ends.values())
    assert by_time * 0.8 < len(updates) < by_time + 5 * len(ends)  # every 5 s, and where a picture became much better
    assert all(event.result is not None for event in updates)
    this = play_clip("people_on_a_path", clips, tmp_path / "2", emit="changes")
    assert 30 < len(this.sink().results) < 100  # of 400; each track and each stay begins and ends
