"""Who is inside of a zone."""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import EPOCH, Film, Found, box, walk, wanted

LEFT_HALF = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]


def film(tracking: dict[str, object] | None = None, **zone: object) -> Film:
    return Film(wanted({} if tracking is None else tracking, {"door": {"polygon": LEFT_HALF, **zone}}))


def untracked(**zone: object) -> Film:
    return Film(wanted(None, {"door": {"polygon": LEFT_HALF, **zone}}))


def test_who_is_inside_is_counted_by_class() -> None:
    camera = film()
    for _ in range(2):
        _, scene = camera.show(
            ("person", box(100, 400)), ("person", box(300, 400)), ("car", box(200, 200)), ("person", box(800, 400))
        )
    assert scene.occupancy == {"door": {"person": 2, "car": 1}}
    assert scene.inside == (("door",), ("door",), ("door",), ())


def test_a_zone_counts_without_tracking() -> None:
    _, scene = untracked().show(("person", box(100, 400)), ("person", box(800, 400)), ("car", box(60, 400)))
    assert scene.occupancy == {"door": {"person": 1, "car": 1}}
    assert scene.inside == (("door",), (), ("door",))
    assert scene.tracks == ()
    assert untracked().show()[1].occupancy == {"door": {}}


def test_boxes_that_are_none_are_in_no_zone() -> None:
    nan = float("nan")
    _, scene = untracked().show(("person", (nan, 0, 5, 5)), ("person", box(100, 400)))
    assert scene.occupancy == {"door": {"person": 1}}
    assert scene.inside == ((), ("door",))


def test_what_does_not_count_as_an_object_is_not_inside() -> None:
    camera = film({"min_frames": 3})
    counts = [camera.show(("person", box(100, 400)))[1].occupancy["door"] for _ in range(4)]
    assert counts == [{}, {}, {"person": 1}, {"person": 1}]


def test_a_stay_began_with_the_frame_in_which_somebody_was_first_seen_inside() -> None:
    camera = film()
    way = walk("person", (700, 400), (300, 400), 41)  # 10 pixels a frame: inside from frame 21 on
    stays = [track.zones.get("door") if (track := scene.tracks[0]) else None for scene in camera.show_all(way)]
    assert stays[:21] == [None] * 21
    assert stays[21:] == [pytest.approx(EPOCH + 2.1)] * 20


def test_who_has_not_stayed_for_long_enough_does_not_count() -> None:
    camera = film(min_dwell_s=1.0)
    counts = [camera.show(("person", box(100, 400)))[1].occupancy["door"].get("person", 0) for _ in range(14)]
    assert counts == [0] * 10 + [1] * 4
    track = camera.show(("person", box(100, 400)))[1].tracks[0]
    assert track is not None
    assert track.zones == {"door": EPOCH}


def test_who_passes_through_quickly_never_counts() -> None:
    camera = film(min_dwell_s=3.0)
    scenes = camera.show_all(walk("person", (900, 400), (350, 400), 20))
    assert not any(scene.occupancy["door"] for scene in scenes)


def test_who_stands_at_the_edge_goes_in_once() -> None:
    rng, camera = random.Random(3), film()
    scenes = camera.show_all([("person", box(500 + rng.gauss(0, 1.5), 400))] for _ in range(300))
    counts = [scene.occupancy["door"].get("person", 0) for scene in scenes]
    assert sum(one != other for one, other in pairwise(counts)) == 1
    assert not camera.analyser.stays_over()


def test_who_is_not_found_for_a_moment_is_still_inside() -> None:
    camera = film({"lost_after_s": 0.5})
    for _ in range(3):
        camera.show(("person", box(100, 400)))
    counts = [camera.show()[1].occupancy["door"].get("person", 0) for _ in range(7)]
    assert counts == [1, 1, 1, 1, 1, 0, 0]


def test_how_long_somebody_stayed_is_told_when_they_leave_or_are_gone() -> None:
    camera = film()
    camera.show_all(walk("person", (300, 400), (300, 400), 21))
    camera.show_all(walk("person", (300, 400), (700, 400), 41))
    (over,) = camera.analyser.stays_over()
    assert (over.zone, over.class_name) == ("door", "person")
    assert over.lasted_s == pytest.approx(4.2)
    camera.show_all([[("car", box(100, 300))]] * 11)
    camera.show(after_s=30)
    (over,) = camera.analyser.stays_over()
    assert over.class_name == "car"
    assert over.lasted_s == pytest.approx(1.0)


def test_only_the_classes_asked_for_are_inside() -> None:
    for camera in (film(classes=["car"]), untracked(classes=["car"])):
        for _ in range(2):
            _, scene = camera.show(("person", box(100, 400)), ("car", box(300, 400)))
        assert scene.occupancy == {"door": {"car": 1}}
        assert scene.inside == ((), ("door",))


@pytest.mark.parametrize(
    ("anchor", "inside"), [("bottom_center", 0), ("center", 0), ("top_center", 1), ("any_corner", 1)]
)
def test_the_anchor_is_the_point_that_must_be_inside(anchor: str, inside: int) -> None:
    upper = [[0.0, 0.0], [1.0, 0.0], [1.0, 0.5], [0.0, 0.5]]
    _, scene = untracked(polygon=upper, anchor=anchor).show(("person", box(500, 320, 40, 80)))
    assert sum(scene.occupancy["door"].values()) == inside


def test_a_polygon_may_be_hollow() -> None:
    """The shape of a U: between its arms is outside."""
    arms = [[0.1, 0.1], [0.3, 0.1], [0.3, 0.7], [0.7, 0.7], [0.7, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]
    _, scene = untracked(polygon=arms).show(
        ("person", box(200, 300)), ("person", box(500, 300)), ("person", box(800, 300)), ("person", box(500, 400))
    )
    assert scene.inside == (("door",), (), ("door",), ("door",))


def test_zones_may_overlap() -> None:
    tables: dict[str, dict[str, Any]] = {
        "door": {"polygon": LEFT_HALF},
        "all": {"polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]},
    }
    _, scene = Film(wanted(None, tables)).show(("person", box(100, 400)), ("person", box(800, 400)))
    assert scene.occupancy == {"door": {"person": 1}, "all": {"person": 2}}
    assert scene.inside == (("door", "all"), ("all",))


def test_the_class_in_which_an_object_counts_follows_what_it_is_taken_for() -> None:
    camera = film()
    for name in ("car", "car", "truck", "truck", "truck"):
        _, scene = camera.show((name, box(200, 400, 200, 120)))
    assert scene.occupancy == {"door": {"truck": 1}}


FRAMES: st.SearchStrategy[list[list[Found]]] = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["person", "car"]), st.builds(box, st.floats(0, 1000), st.floats(80, 500), st.just(60.0))
        ),
        max_size=5,
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(FRAMES, st.booleans())
def test_whatever_comes_nobody_is_inside_who_is_not_tracked(frames: list[list[Found]], tracked: bool) -> None:
    camera = film() if tracked else untracked()
    for found in frames:
        _, scene = camera.show(*found)
        counts = scene.occupancy["door"]
        assert all(count > 0 for count in counts.values())
        assert sum(counts.values()) <= (camera.analyser.reading.tracks if tracked else len(found))  # type: ignore[operator]
        seen = sum("door" in zones for zones in scene.inside)
        assert seen <= sum(counts.values())
        assert tracked or seen == sum(counts.values())
    assert camera.show(after_s=100)[1].occupancy == {"door": {}}
