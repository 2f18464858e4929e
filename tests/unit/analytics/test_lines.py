"""Who crosses a line."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import Film, Found, box, walk, wanted

from pipeline.contracts.analysis import Scene

UPRIGHT = {"start": [0.5, 0.0], "end": [0.5, 1.0]}  # from top to bottom: on its right is the picture's left
FLAT = {"start": [0.0, 0.5], "end": [1.0, 0.5]}  # from left to right: on its right is the picture's bottom


def film(**line: object) -> Film:
    return Film(wanted({}, lines={"entry": line}))


def directions(scenes: list[Scene]) -> list[str]:
    return [crossing.direction for scene in scenes for crossing in scene.crossings]


@pytest.mark.parametrize(
    ("line", "start", "end", "direction"),
    [
        (FLAT, (500, 150), (500, 400), "in"),
        (FLAT, (500, 400), (500, 150), "out"),
        (UPRIGHT, (800, 300), (200, 300), "in"),
        (UPRIGHT, (200, 300), (800, 300), "out"),
        ({"start": [1.0, 0.5], "end": [0.0, 0.5]}, (500, 150), (500, 400), "out"),
    ],
)
def test_who_goes_from_the_left_of_the_line_to_its_right_goes_in(
    line: dict[str, object], start: tuple[float, float], end: tuple[float, float], direction: str
) -> None:
    scenes = film(**line).show_all(walk("person", start, end, 40))
    assert directions(scenes) == [direction]
    other = "out" if direction == "in" else "in"
    assert scenes[-1].crossed == {"entry": {direction: {"person": 1}, other: {}}}


def test_a_crossing_says_who_where_and_how_many_by_now() -> None:
    camera = film(**FLAT)
    for n in range(2):
        camera.show_all(walk("person", (300 + 300 * n, 150), (300 + 300 * n, 350), 20))
        camera.show(after_s=5)
    crossing = None
    for step in walk("car", (800, 150), (800, 400), 30):
        _, scene = camera.show(("person", box(100, 100)), *step)
        crossing = next(iter(scene.crossings), crossing)
    assert crossing is not None
    assert (crossing.line, crossing.direction, crossing.count, crossing.row) == ("entry", "in", 1, 1)
    assert crossing.track.class_name == "car"
    assert len(crossing.event_id) == 32
    assert crossing.event_id != crossing.track.event_id
    assert scene.crossed == {"entry": {"in": {"person": 2, "car": 1}, "out": {}}}


def test_a_box_that_jumps_over_the_line_in_one_frame_alone_is_no_crossing() -> None:
    """The lower edge of one who is half hidden goes up and down by a third of the height."""
    camera = film(**FLAT)
    feet = [230.0] * 10 + [262.0] + [231.0] * 10
    assert directions(camera.show_all([("person", box(500, y))] for y in feet)) == []


def test_who_is_fast_need_not_be_seen_twice_on_the_other_side() -> None:
    camera = film(**FLAT)
    assert directions(camera.show_all([("person", box(500, y))] for y in (160.0, 195.0, 230.0, 295.0))) == ["in"]


def test_who_stands_on_the_line_does_not_cross_it() -> None:
    rng, camera = random.Random(1), film(**FLAT)
    jitter = [[("person", box(500 + rng.gauss(0, 2), 250 + rng.gauss(0, 2.5)))] for _ in range(500)]
    assert directions(camera.show_all(jitter)) == []


def test_who_waits_on_the_line_and_goes_on_crosses_it_once() -> None:
    rng, camera = random.Random(2), film(**FLAT)
    camera.show_all(walk("person", (500, 150), (500, 250), 20))
    camera.show_all([("person", box(500, 250 + rng.gauss(0, 2.5)))] for _ in range(100))
    assert directions(camera.show_all(walk("person", (500, 250), (500, 400), 20))) == ["in"]


def test_who_waits_on_the_line_and_turns_back_has_not_crossed_it() -> None:
    camera = film(**FLAT)
    there = walk("person", (500, 150), (500, 255), 20)
    assert directions(camera.show_all([*there, *reversed(there)])) == []


def test_who_goes_there_and_back_crosses_twice() -> None:
    camera = film(**FLAT)
    there = walk("person", (500, 150), (500, 400), 30)
    scenes = camera.show_all([*there, *reversed(there)])
    assert directions(scenes) == ["in", "out"]
    assert scenes[-1].crossed["entry"] == {"in": {"person": 1}, "out": {"person": 1}}


def test_who_goes_past_the_end_of_the_line_does_not_cross_it() -> None:
    camera = film(start=[0.4, 0.5], end=[0.6, 0.5])
    assert directions(camera.show_all(walk("person", (300, 150), (300, 400), 30))) == []


def test_who_goes_around_the_end_and_back_through_the_line_crosses_it_once() -> None:
    camera = film(start=[0.0, 0.5], end=[0.5, 0.5])
    corners = [(300, 400), (700, 400), (700, 150), (300, 150)]
    around = [step for here, there in pairwise(corners) for step in walk("person", here, there, 30)]
    back = walk("person", (300, 150), (300, 400), 30)
    assert directions(camera.show_all([*around, *back])) == ["in"]


def test_who_appears_on_the_line_has_come_from_nowhere() -> None:
    assert directions(film(**FLAT).show_all(walk("person", (500, 250), (500, 450), 30))) == []


def test_who_crosses_before_being_counted_as_somebody_is_counted_then() -> None:
    camera = Film(wanted({"min_frames": 5}, lines={"entry": FLAT}))
    scenes = camera.show_all(walk("person", (500, 235), (500, 285), 6))
    assert [len(scene.crossings) for scene in scenes] == [0, 0, 0, 0, 1, 0]


def test_noise_that_jumps_over_the_line_is_no_crossing() -> None:
    camera = Film(wanted({"min_frames": 4}, lines={"entry": FLAT}))
    scenes = camera.show_all([[("dog", box(500, y))] for y in (235, 262, 270)] + [[]] * 20)
    assert directions(scenes) == []
    assert scenes[-1].crossed == {"entry": {"in": {}, "out": {}}}


def test_who_is_hidden_while_crossing_is_counted_when_seen_again() -> None:
    camera = film(**FLAT)
    way: list[list[Found]] = walk("person", (500, 150), (500, 350), 30)
    way[12:18] = [[]] * 6
    assert directions(camera.show_all(way)) == ["in"]


def test_only_the_classes_asked_for_are_counted() -> None:
    camera = film(**FLAT, classes=["car"])
    people, cars = walk("person", (200, 150), (200, 400), 30), walk("car", (700, 150), (700, 400), 30)
    scenes = camera.show_all([*one, *other] for one, other in zip(people, cars, strict=True))
    assert scenes[-1].crossed == {"entry": {"in": {"car": 1}, "out": {}}}


@pytest.mark.parametrize(("anchor", "crosses"), [("bottom_center", 1), ("center", 0), ("top_center", 0)])
def test_the_anchor_is_the_point_that_must_cross(anchor: str, crosses: int) -> None:
    camera = film(**FLAT, anchor=anchor)
    assert len(directions(camera.show_all(walk("person", (500, 200), (500, 275), 20)))) == crosses


def test_the_sides_of_a_line_do_not_depend_on_the_shape_of_the_picture() -> None:
    """A line from corner to corner of a wide picture: both its ends are where the corners are."""
    camera = film(start=[0.0, 0.0], end=[1.0, 1.0])
    assert directions(camera.show_all(walk("person", (800, 250), (200, 250), 60))) == ["in"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(20, 241) | st.floats(243, 257) | st.floats(259, 480), min_size=2, max_size=12))
def test_crossings_in_less_those_out_are_the_change_of_sides(stops: list[float]) -> None:
    camera = film(**FLAT)
    scenes = camera.show_all(walk("person", (500, stops[0]), (500, stops[0]), 3))
    for here, there in pairwise(stops):
        scenes += camera.show_all(walk("person", (500, here), (500, there), 25))
        scenes += camera.show_all([[("person", box(500, there))]] * 2)
    beyond = [1 if y > 250 else -1 for y in stops if abs(y - 250) > 8.0]  # a tenth of 80 pixels
    net = sum({"in": 1, "out": -1}[direction] for direction in directions(scenes))
    assert net == ((beyond[-1] - beyond[0]) // 2 if beyond else 0)
    ways = directions(scenes)
    assert all(one != other for one, other in pairwise(ways))
