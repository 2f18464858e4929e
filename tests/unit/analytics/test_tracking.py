"""Which boxes are the same object."""

import time
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import Film, Found, box, ids, result, walk, wanted

from pipeline.analytics.scene import MAX_TRACKED, SceneAnalyser
from pipeline.analytics.tracking import MAX_FOLLOWED, Boxes, Tracker
from pipeline.contracts.analysis import TrackingConfig
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections

TRACKED = wanted({})


def test_somebody_who_walks_keeps_the_number_and_the_event() -> None:
    film = Film(TRACKED)
    scenes = film.show_all(walk("person", (100, 400), (900, 400), 60))
    tracks = [scene.tracks[0] for scene in scenes[1:]]
    assert {track.tracker_id for track in tracks if track} == {1}
    assert len({track.event_id for track in tracks if track}) == 1
    assert all(track is not None for track in tracks)
    last = tracks[-1]
    assert last is not None
    assert (last.frames, last.class_name) == (60, "person")
    assert last.age_s == pytest.approx(5.9)


def test_an_object_counts_once_it_was_seen_in_so_many_frames() -> None:
    film = Film(wanted({"min_frames": 3}))
    seen = [ids(film.show(("person", box(100, 400)))[0]) for _ in range(4)]
    assert seen == [[-1], [-1], [1], [1]]


def test_numbers_are_given_to_what_counts_only() -> None:
    film = Film(TRACKED)
    for n in range(10):  # noise: each time somewhere else
        film.show(("dog", box(50 + 90 * n, 100)), ("person", box(500, 400)))
    assert ids(film.show(("person", box(500, 400)))[0]) == [1]


def test_two_who_pass_each_other_keep_their_numbers() -> None:
    film = Film(TRACKED, fps=25)
    there = walk("person", (300, 400), (700, 400), 50)
    back = walk("person", (700, 410), (300, 410), 50)
    numbers = [ids(film.show(*one, *other)[0]) for one, other in zip(there, back, strict=True)]
    assert numbers[1:] == [[1, 2]] * 49


def test_who_is_hidden_for_a_moment_is_the_same_afterwards() -> None:
    film = Film(wanted({"lost_after_s": 1.0}))
    way = walk("person", (100, 400), (800, 400), 30)
    for n, found in enumerate(way):
        looked_at, scene = film.show(*(found if not 10 <= n < 17 else []))
        assert not scene.ended
        if n >= 17:
            assert ids(looked_at) == [1]


def test_who_is_gone_for_longer_than_lost_after_s_is_somebody_else() -> None:
    film = Film(wanted({"lost_after_s": 0.5}))
    first = [film.show(("person", box(100, 400)))[1] for _ in range(3)][-1].tracks[0]
    ends = [film.show()[1].ended for _ in range(7)]
    assert [len(ended) for ended in ends] == [0, 0, 0, 0, 0, 1, 0]
    assert ends[5] == (first,)
    film.show(("person", box(100, 400)))
    assert ids(film.show(("person", box(100, 400)))[0]) == [2]


def test_a_gap_ends_all_tracks_with_the_first_frame_after_it() -> None:
    film = Film(TRACKED)
    for _ in range(3):
        film.show(("person", box(100, 400)), ("car", box(600, 400, 200, 100)))
    looked_at, scene = film.show(("person", box(100, 400)), after_s=60)
    assert sorted(track.class_name for track in scene.ended) == ["car", "person"]
    assert ids(looked_at) == [-1]


def test_a_source_that_begins_anew_ends_all_tracks() -> None:
    film = Film(TRACKED)
    for _ in range(3):
        film.show(("person", box(100, 400)))
    film.seq, film.at_s = 0, 0.0
    _, scene = film.show(("person", box(100, 400)), decoded_at=1000.5)
    assert [track.tracker_id for track in scene.ended] == [1]


def test_another_size_of_the_pictures_ends_all_tracks() -> None:
    film = Film(TRACKED)
    for _ in range(3):
        film.show(("person", box(100, 400)))
    assert len(film.show(("person", box(100, 400)), size=Size(500, 500))[1].ended) == 1


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_clock_that_jumps_changes_no_number(jump_s: float) -> None:
    """A live source says that it jumped; the time that passed here stands in."""
    analyser = SceneAnalyser(TRACKED, count(1).__next__)
    numbers = []
    for n in range(20):
        late_s = jump_s if n >= 10 else 0.0
        frame = result(
            [("person", box(100 + 5 * n, 400))], seq=n, at_s=n / 10 + late_s, jump=n == 10, decoded_at=50 + n / 10
        )
        numbers += ids(analyser.look(frame))
    assert numbers == [-1] + [1] * 19


def test_without_time_stamps_the_clock_of_the_frames_counts() -> None:
    film = Film(TRACKED)
    for _ in range(3):
        film.show(("person", box(100, 400)), pts=False)
    assert len(film.show(("person", box(100, 400)), pts=False, after_s=5)[1].ended) == 1


def test_an_object_is_what_it_was_taken_for_most_often() -> None:
    film = Film(TRACKED)
    taken_for = ["car", "car", "truck", "car", "truck", "truck", "truck", "car"]
    names = []
    for name in taken_for:
        track = film.show((name, box(300, 400, 200, 120)))[1].tracks[0]
        names.append(track and track.class_name)
    assert names == [None, "car", "car", "car", "car", "car", "truck", "truck"]


def test_one_thing_under_two_names_is_one_track() -> None:
    film = Film(TRACKED)
    for _ in range(5):
        looked_at, _ = film.show(("car", box(300, 400, 200, 120)), ("truck", box(302, 401, 204, 122), 0.4))
    assert ids(looked_at) == [1, -1]


def test_a_rider_is_not_the_bicycle() -> None:
    film = Film(TRACKED)
    for n in range(20):
        looked_at, _ = film.show(("person", box(100 + 8 * n, 400, 50, 100)), ("dog", box(100 + 8 * n, 430, 70, 70)))
    assert ids(looked_at) == [1, 2]


def test_what_the_model_is_not_sure_of_goes_on_with_a_track_but_begins_none() -> None:
    film = Film(wanted({"min_confidence": 0.5, "min_frames": 1}))
    for _ in range(3):
        film.show(("person", box(100, 400)), ("dog", box(700, 400), 0.3))
    looked_at, _ = film.show(("person", box(101, 400), 0.2), ("dog", box(700, 400), 0.3))
    assert ids(looked_at) == [1, -1]


def test_sort_leaves_out_what_the_model_is_not_sure_of() -> None:
    film = Film(wanted({"type": "sort", "min_confidence": 0.5}))
    for _ in range(3):
        film.show(("person", box(100, 400)))
    assert ids(film.show(("person", box(101, 400), 0.2))[0]) == [-1]


def test_boxes_that_are_none_have_no_track_and_harm_nobody() -> None:
    film = Film(TRACKED)
    nan, inf = float("nan"), float("inf")
    broken: list[Found] = [
        ("dog", (nan, 1, 2, 3)),
        ("dog", (0, 0, inf, 5)),
        ("dog", (5, 5, 5, 9)),
        ("dog", (9, 9, 1, 1)),
        ("dog", (0, 0, 9, 9), nan),
    ]
    for _ in range(5):
        looked_at, scene = film.show(*broken, ("person", box(500, 400)))
    assert ids(looked_at) == [-1, -1, -1, -1, -1, 1]
    assert scene.tracks[:5] == (None,) * 5


def test_frames_without_objects_are_frames() -> None:
    film = Film(TRACKED)
    looked_at, scene = film.show()
    assert (ids(looked_at), scene.tracks, scene.ended) == ([], (), ())


def test_a_thousand_objects_are_tracked() -> None:
    film = Film(TRACKED)
    grid: list[Found] = [("car", box(30 * (n % 33), 20 + 16 * (n // 33), 24, 12)) for n in range(1000)]
    began_s = time.perf_counter()
    for _ in range(3):
        looked_at, _ = film.show(*grid)
    assert sorted(ids(looked_at)) == list(range(1, 1001))
    assert time.perf_counter() - began_s < 10  # a bound for a busy machine: it takes a tenth


def test_of_more_objects_than_can_be_compared_the_surest_are_tracked() -> None:
    film = Film(wanted({}, {"all": {"polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}}))
    crowd = [("person", box(12 + 24 * (n % 40), 10 + 10 * (n // 40), 4, 8), 0.9 - n / 1e4) for n in range(1_500)]
    film.show(*crowd)
    numbers = ids(film.show(*crowd)[0])
    assert numbers == [*range(1, MAX_TRACKED + 1), *[-1] * (1_500 - MAX_TRACKED)]
    assert film.analyser.reading.occupancy == {"all": {"person": MAX_TRACKED}}


def test_a_model_that_sees_other_things_in_every_frame_does_not_fill_the_memory() -> None:
    tracker = Tracker(TrackingConfig(lost_after_s=60.0), count(1).__next__)
    for number in range(8):
        left = np.arange(500.0) * 20 + 5_000.0 * (number % 2)
        top = np.full(500, 100.0 * number)
        xyxy = np.stack([left, top, left + 5, top + 5], axis=1)
        tracker.look(number / 10, 0.0, Boxes(xyxy, np.full(500, 0.9), np.zeros(500, np.int64), ["person"] * 500))
    assert len(tracker.followed) == MAX_FOLLOWED


def test_what_is_no_detection_passes_as_it_is() -> None:
    analyser = SceneAnalyser(TRACKED, count(1).__next__)
    frame = result([], seq=0, at_s=0.0)
    other = replace(frame, prediction=Classification(np.array([1.0], np.float32), ("cat",)))
    assert analyser.look(other) is other


def test_nothing_of_the_result_that_came_in_is_changed() -> None:
    analyser = SceneAnalyser(TRACKED, count(1).__next__)
    before = result([("person", box(100, 400))], seq=0, at_s=0.0)
    after = analyser.look(before)
    assert before.scene is None
    assert isinstance(before.prediction, Detections)
    assert before.prediction.tracker_id is None
    assert (after.id, after.frame) == (before.id, before.frame)


BOXES = st.tuples(
    st.sampled_from(["person", "car"]),
    st.tuples(*[st.floats(-50, 1050, width=32) | st.just(float("nan"))] * 4),
    st.floats(0, 1, width=32),
)

FRAMES = st.lists(st.tuples(st.lists(BOXES, max_size=6), st.floats(0, 3)), max_size=15)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(BOXES, max_size=6), st.floats(0, 3)), max_size=15),
    st.sampled_from(["sort", "bytetrack"]),
)
def test_whatever_comes_numbers_are_unique_in_a_frame_and_every_track_ends_once(
    frames: list[tuple[list[Found], float]], kind: str
) -> None:
    film = Film(wanted({"type": kind}))
    open_ids: set[int] = set()
    ended_ids: set[int] = set()
    for found, after_s in frames:
        looked_at, scene = film.show(*found, after_s=after_s)
        ended = {track.tracker_id for track in scene.ended}
        assert len(ended) == len(scene.ended)
        assert ended <= open_ids
        assert not ended & ended_ids
        open_ids -= ended
        ended_ids |= ended
        numbers = [number for number in ids(looked_at) if number > 0]
        assert len(numbers) == len(set(numbers))
        assert not set(numbers) & ended_ids
        open_ids |= set(numbers)
    assert {track.tracker_id for track in film.show(after_s=100)[1].ended} == open_ids
