"""What an analyser carries from one configuration to the next, and what it tells."""

from itertools import count

import pytest
from fakes import FakeSourceConfig
from moving import Film, box, ids, walk, wanted

from pipeline.analytics.geometry import distance_to_edge, inside
from pipeline.analytics.scene import SceneAnalyser, Wanted

FLAT = {"start": [0.0, 0.5], "end": [1.0, 0.5]}
LOWER = {"polygon": [[0.0, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]]}
DOWN = walk("person", (500, 150), (500, 400), 30)


def test_a_scene_says_where_zones_and_lines_are() -> None:
    _, scene = Film(wanted({}, {"lawn": LOWER}, {"entry": FLAT})).show()
    assert scene.zone_shapes == {"lawn": ((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0))}
    assert scene.line_shapes == {"entry": ((0.0, 0.5), (1.0, 0.5))}
    assert scene.occupancy == {"lawn": {}}
    assert scene.crossed == {"entry": {"in": {}, "out": {}}}


def test_counts_go_on_from_those_of_before() -> None:
    before = {"entry": {"in": {"person": 41}, "out": {}}}
    film = Film(wanted({}, lines={"entry": FLAT}))
    film.analyser = SceneAnalyser(wanted({}, lines={"entry": FLAT}), count(1).__next__, before)  # type: ignore[arg-type]
    assert film.analyser.reading.crossed == before
    assert film.show_all(DOWN)[-1].crossed == {"entry": {"in": {"person": 42}, "out": {}}}


def test_what_did_not_change_goes_on() -> None:
    film = Film(wanted({}, {"lawn": LOWER}, {"entry": FLAT}))
    track = film.show_all(DOWN)[-1].tracks[0]
    film.analyser.change(wanted({}, {"lawn": LOWER, "other": LOWER}, {"entry": FLAT, "second": FLAT}))
    _, scene = film.show(*DOWN[-1])
    after = scene.tracks[0]
    assert track is not None
    assert after is not None
    assert (after.event_id, after.zones["lawn"]) == (track.event_id, track.zones["lawn"])
    assert scene.crossed["entry"] == {"in": {"person": 1}, "out": {}}
    assert scene.crossed["second"] == {"in": {}, "out": {}}
    assert scene.ended == ()


def test_a_line_in_another_place_counts_from_0_and_one_for_other_classes_goes_on() -> None:
    film = Film(wanted({}, lines={"entry": FLAT, "second": FLAT}))
    film.show_all(DOWN)
    moved, narrowed = {**FLAT, "end": [1.0, 0.6]}, {**FLAT, "classes": ["car"]}
    film.analyser.change(wanted({}, lines={"entry": moved, "second": narrowed}))
    _, scene = film.show()
    assert scene.crossed == {"entry": {"in": {}, "out": {}}, "second": {"in": {"person": 1}, "out": {}}}


def test_another_tracking_ends_the_tracks_and_its_numbers_go_on() -> None:
    film = Film(wanted({}, {"lawn": LOWER}))
    film.show_all([[("person", box(500, 400))]] * 3)
    film.analyser.change(wanted({"lost_after_s": 2.0}, {"lawn": LOWER}))
    scenes = film.show_all([[("person", box(500, 400))]] * 3)
    assert [track.tracker_id for track in scenes[0].ended] == [1]
    assert [track and track.tracker_id for track in scenes[-1].tracks] == [2]
    assert scenes[-1].occupancy == {"lawn": {"person": 1}}


def test_who_was_forgotten_is_in_no_zone_and_ends_with_the_next_frame() -> None:
    film = Film(wanted({}, {"lawn": LOWER}, {"entry": FLAT}))
    film.show_all(DOWN)
    film.analyser.forget()
    assert film.analyser.reading.tracks == 0
    assert film.analyser.reading.occupancy == {"lawn": {}}
    _, scene = film.show(*DOWN[-1])
    assert len(scene.ended) == 1
    assert scene.crossed == {"entry": {"in": {"person": 1}, "out": {}}}


def test_the_edge_of_a_polygon_and_the_distance_to_it() -> None:
    import numpy as np

    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float64)
    points = np.array([[5, 5], [0, 5], [10, 5], [5, 0], [5, 10], [15, 5], [13, 14]], np.float64)
    assert inside(points, square).tolist() == [True, True, False, True, False, False, False]
    assert distance_to_edge(points, square).tolist() == [5, 0, 0, 0, 0, 5, 5]
    flat = np.array([[0, 0], [10, 0], [5, 0]], np.float64)  # no area: nobody is inside, and nothing breaks
    assert not inside(points, flat).any()


def test_who_stands_where_a_motion_gate_lets_no_frame_pass_is_not_gone() -> None:
    config = FakeSourceConfig.model_validate(
        {"tracking": {}, "motion": {"keepalive_s": 10.0}, "zones": {"all": {"polygon": [[0, 0], [1, 0], [1, 1]]}}}
    )
    film = Film(Wanted.of(config))
    parked = ("car", box(700, 100))
    film.show(parked)
    began, _ = film.show(parked)
    for _ in range(20):
        looked_at, scene = film.show(parked, after_s=10.04)
        assert ids(looked_at) == ids(began)
        assert scene.occupancy == {"all": {"car": 1}}
        assert not scene.ended
    assert film.analyser.sparse == 0
    track = scene.tracks[0]
    assert track is not None
    assert track.age_s == pytest.approx(200.9)
    gone_s, scene = 0.0, film.show(after_s=0.1)[1]
    while not scene.ended:  # and who is gone is gone as soon as ever
        scene = film.show(after_s=0.1)[1]
        gone_s += 0.1
    assert gone_s == pytest.approx(1.0, abs=0.11)
    film.show(parked)
    _, scene = film.show(parked)
    _, after_an_outage = film.show(parked, after_s=60.0)
    assert [track.event_id for track in after_an_outage.ended] == [each.event_id for each in scene.tracks if each]
