"""Which results a sink gets: those with what it asks for, those that say something new, and not too many."""

from dataclasses import replace

import numpy as np
import pytest
from tracked import NAMES, Thing, said, seen

from pipeline.analytics.selection import Choice, selection_of
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, Result, SemanticMask, Text
from pipeline.contracts.sink import Emit, LimitConfig, WhereConfig

WHOLE = (0.0, 0.0, 64.0, 48.0)


class _Counts:
    def __init__(self) -> None:
        self.held_back = self.left_out = 0

    def hold_back(self) -> None:
        self.held_back += 1

    def leave_out(self) -> None:
        self.left_out += 1


def _picked(choice: Choice, *results: Result) -> tuple[list[Result], _Counts]:
    counts = _Counts()
    selection = selection_of(choice, held_back=counts.hold_back, left_out=counts.leave_out)
    picked = [item for result in results for item in selection.pick(result)]
    assert all(isinstance(item, Result) for item in picked)
    return picked, counts  # type: ignore[return-value]


def _names(result: Result) -> list[str]:
    found = result.prediction
    assert isinstance(found, Detections)
    return [found.label(row) for row in range(len(found))]


def _kept(where: WhereConfig, *things: Thing, tracks: bool = True) -> list[str]:
    """Names of the things that are left of one frame."""
    picked, _ = _picked(Choice(where=where), seen(10, *things, tracks=tracks))
    return _names(picked[0]) if picked else []


def test_only_who_asks_for_nothing_takes_everything() -> None:
    assert Choice().takes_all
    assert Choice(where=WhereConfig()).takes_all
    assert not Choice(where=WhereConfig(classes=("car",))).takes_all
    assert not Choice(limit=LimitConfig(per_minute=1)).takes_all
    assert not Choice(emit="changes").takes_all


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        (WhereConfig(), ["person", "car", "dog"]),
        (WhereConfig(classes=("car", "bus")), ["car"]),
        (WhereConfig(classes=()), []),
        (WhereConfig(min_confidence=0.5), ["person", "dog"]),
        (WhereConfig(min_confidence=0.9), ["person"]),
        (WhereConfig(min_area_ratio=0.3), ["dog"]),
        (WhereConfig(max_area_ratio=0.3), ["person", "car"]),
        (WhereConfig(zones=("door",)), ["person", "car"]),
        (WhereConfig(zones=("door", "yard")), ["person", "car", "dog"]),
        (WhereConfig(zones=("roof",)), []),
        (WhereConfig(min_age_s=5), ["person"]),
        (WhereConfig(classes=("person", "car"), zones=("yard",), min_confidence=0.2), ["car"]),
    ],
)
def test_objects_are_left_out_by_each_key_of_where(where: WhereConfig, kept: list[str]) -> None:
    things = (
        Thing("person", 1, confidence=0.9, zones={"door": 1.0}),
        Thing("car", 2, confidence=0.3, zones={"door": 1.0, "yard": 2.0}, began_s=8),
        Thing("dog", None, confidence=0.6, box=(-100, 0, 40, 48), zones={"yard": 2.0}),
    )
    assert _kept(where, *things) == kept


def test_what_is_exactly_as_asked_is_taken() -> None:
    where = WhereConfig(min_area_ratio=0.25, max_area_ratio=0.25, min_age_s=2, min_confidence=0.5)
    assert _kept(where, Thing("car", 1, (0, 0, 32, 24), 0.5, began_s=8)) == ["car"]


def test_a_box_that_reaches_out_of_the_picture_is_no_larger_than_it() -> None:
    assert _kept(WhereConfig(max_area_ratio=1.0, min_area_ratio=0.99), Thing(box=(-50, -50, 500, 500))) == ["person"]


def test_what_is_no_number_is_never_taken_once_something_is_asked() -> None:
    nan = float("nan")
    where = WhereConfig(min_confidence=0.1)
    assert _kept(where, Thing(box=(nan, 0, 1, 1)), Thing("car", confidence=nan), Thing("dog")) == ["dog"]


def test_a_tracked_object_is_of_the_class_for_which_it_was_taken_most_often() -> None:
    result = seen(0, Thing("car", 1), Thing("car", None))
    assert isinstance(result.prediction, Detections)
    now_a_dog = replace(result, prediction=replace(result.prediction, class_id=np.array([2, 2], np.int32)))
    for name, rows in (("car", ["dog"]), ("dog", ["dog"])):
        picked, _ = _picked(Choice(where=WhereConfig(classes=(name,))), now_a_dog)
        assert _names(picked[0]) == rows
        scene = picked[0].scene
        assert scene is not None
        assert (scene.tracks[0] is not None) is (name == "car")


def test_a_class_that_the_model_has_no_name_for_is_told_by_its_number() -> None:
    result = seen(0, Thing("car"), tracks=False)
    assert isinstance(result.prediction, Detections)
    bare = replace(result, prediction=replace(result.prediction, names=()))
    picked, _ = _picked(Choice(where=WhereConfig(classes=("class_1",))), bare)
    assert _names(picked[0]) == ["class_1"]


def test_another_model_may_number_its_classes_otherwise() -> None:
    first = seen(0, Thing("car"), tracks=False)
    assert isinstance(first.prediction, Detections)
    other = replace(first, prediction=replace(first.prediction, names=("dog", "person", "car")))
    picked, _ = _picked(Choice(where=WhereConfig(classes=("car",))), first, other, first)
    assert len(picked) == 2


@pytest.mark.parametrize("emit", ["frames", "events", "changes"])
def test_classes_that_a_model_does_not_have_are_told_once_for_each_model(emit: Emit) -> None:
    told: list[tuple[object, object]] = []
    selection = selection_of(
        Choice(emit, WhereConfig(classes=("persn", "car", "class_7"))),
        held_back=lambda: None,
        left_out=lambda: None,
        unknown=lambda asked, known: told.append((asked, known)),
    )
    first = seen(0, Thing("car"), tracks=False)
    assert isinstance(first.prediction, Detections)
    copied = replace(first, prediction=replace(first.prediction, names=(*NAMES,)))
    bare = replace(first, prediction=replace(first.prediction, names=()))
    for result in (seen(0), first, copied, said(1, Classification(np.zeros(3, np.float32), NAMES)), bare, first, bare):
        list(selection.pick(result))
    assert told == [(["class_7", "persn"], NAMES), (["car", "persn"], ())]


def test_where_nothing_tracks_nothing_has_an_age() -> None:
    assert _kept(WhereConfig(min_age_s=1), Thing(), tracks=False) == []
    picked, _ = _picked(Choice(where=WhereConfig(min_age_s=1, zones=("door",))), said(0, seen(0, Thing()).prediction))
    assert picked == []


def test_the_scene_keeps_to_the_objects_that_are_left() -> None:
    result = seen(
        0,
        Thing("car", 1),
        Thing("person", 2, zones={"door": 1.0}),
        Thing("dog", 3),
        crossed=[(0, "kerb", "in"), (1, "kerb", "out")],
        occupancy={"door": {"person": 1}},
    )
    picked, _ = _picked(Choice(where=WhereConfig(classes=("dog", "person"))), result)
    scene = picked[0].scene
    assert scene is not None
    assert [track and track.tracker_id for track in scene.tracks] == [2, 3]
    assert scene.inside == (("door",), ())
    assert [(crossing.row, crossing.direction) for crossing in scene.crossings] == [(0, "out")]
    assert scene.occupancy == {"door": {"person": 1}}  # of the source, not of the sink
    assert picked[0].unfiltered is result.prediction
    assert picked[0].id == result.id


def test_frames_without_any_such_object_are_left_out_and_counted() -> None:
    picked, counts = _picked(Choice(where=WhereConfig(classes=("dog",))), seen(0, Thing("car")), seen(1), seen(2))
    assert (picked, counts.left_out, counts.held_back) == ([], 3, 0)


def test_a_result_of_which_all_is_wanted_is_not_copied() -> None:
    result = seen(0, Thing("car"))
    picked, _ = _picked(Choice(where=WhereConfig(classes=("car",))), result)
    assert picked[0] is result


def _scores(*values: float, multi_label: bool = False) -> Classification:
    return Classification(np.array(values, np.float32), NAMES, multi_label=multi_label)


@pytest.mark.parametrize(
    ("prediction", "where", "taken"),
    [
        (_scores(0.2, 0.7, 0.1), WhereConfig(classes=("car",)), True),
        (_scores(0.2, 0.7, 0.1), WhereConfig(classes=("person",)), False),
        (_scores(0.2, 0.7, 0.1), WhereConfig(min_confidence=0.8), False),
        (_scores(0.6, 0.7, 0.1, multi_label=True), WhereConfig(classes=("person",)), True),
        (_scores(0.6, 0.7, 0.1, multi_label=True), WhereConfig(classes=("dog",)), False),
        (_scores(float("nan")), WhereConfig(classes=("person",)), False),
        (_scores(), WhereConfig(classes=("person",)), False),
        (Text("a car"), WhereConfig(classes=("person",)), True),
        (Embedding(np.zeros(3, np.float32)), WhereConfig(classes=("person",)), True),
        (SemanticMask(np.zeros((2, 2), np.int32)), WhereConfig(classes=("person",)), True),
    ],
)
def test_what_is_not_about_objects_is_judged_by_its_class_if_it_has_one(
    prediction: Prediction, where: WhereConfig, taken: bool
) -> None:
    assert bool(_picked(Choice(where=where), said(0, prediction))[0]) is taken


def test_a_limit_lets_a_frame_pass_as_long_as_one_of_its_classes_may() -> None:
    choice = Choice(limit=LimitConfig(cooldown_s=10))
    results = [
        seen(0, Thing("car")),
        seen(1, Thing("car")),
        seen(2, Thing("car"), Thing("dog")),
        seen(3, Thing("dog")),
        seen(4),
        seen(5),
        seen(10, Thing("car"), Thing("dog")),
    ]
    picked, counts = _picked(choice, *results)
    assert [result.frame.pts_s for result in picked] == [0, 2, 4, 10]
    assert counts.held_back == 3


# Changes


def _changes(
    *results: Result, where: WhereConfig | None = None, limit: LimitConfig | None = None
) -> list[float | None]:
    picked, counts = _picked(Choice("changes", where, limit or LimitConfig()), *results)
    assert len(picked) + counts.left_out + counts.held_back == len(results)
    return [result.frame.pts_s for result in picked]


def test_where_nothing_tracks_the_numbers_of_each_class_count() -> None:
    def at(at_s: float, *names: str) -> Result:
        return seen(at_s, *(Thing(name) for name in names), tracks=False)

    results = [
        at(0),
        at(1),
        at(2, "car"),
        at(3, "car"),
        at(4, "car", "car"),
        at(5, "dog", "car"),
        at(6, "car", "dog"),
        at(7),
    ]
    assert _changes(*results) == [0, 2, 4, 5, 7]


def test_tracked_objects_are_there_until_their_track_ends() -> None:
    one, two = Thing("car", 1), Thing("car", 2)
    results = [
        seen(0, one),
        seen(1),  # missed: the track goes on
        seen(2, one),
        seen(3, two),  # another one, though as many are seen
        seen(4, two, ended=[one]),
        seen(5, two),
        seen(6, two, Thing("car", None)),  # of no track yet
        seen(7, ended=[two]),
        seen(8),
    ]
    assert _changes(*results) == [0, 3, 4, 7]


def test_a_track_that_is_seen_never_again_and_never_ended_is_gone_in_the_end() -> None:
    results = [seen(0, Thing("car", 1)), seen(100), seen(121), seen(122)]
    assert _changes(*results) == [0, 121]


def test_when_tracking_is_turned_off_numbers_count_again_at_once() -> None:
    def untracked(at_s: float, count: int) -> Result:
        return seen(at_s, *[Thing("car")] * count, tracks=False)

    results = [seen(0, Thing("car", 1)), untracked(1, 1), untracked(2, 1), untracked(3, 2), untracked(4, 0)]
    assert _changes(*results) == [0, 1, 3, 4]


def test_a_score_that_wavers_is_no_change_and_to_leave_the_zone_is_one() -> None:
    where = WhereConfig(min_confidence=0.5, zones=("door",))
    sure = Thing("car", 1, confidence=0.6, zones={"door": 1.0})
    unsure, outside = replace(sure, confidence=0.4), replace(sure, zones={})
    results = [seen(0, unsure), seen(1, sure), seen(2, unsure), seen(3, sure), seen(4, outside), seen(5, unsure)]
    assert _changes(*results, where=where) == [0, 1, 4]


def test_the_numbers_in_zones_count_for_what_is_asked_for() -> None:
    def at(at_s: float, **zones: dict[str, int]) -> Result:
        return seen(at_s, occupancy=zones)

    results = [
        at(0, door={}),
        at(1, door={"car": 1}),
        at(2, door={"car": 1, "dog": 0}),
        at(3, door={"dog": 1}, yard={"car": 5}),
    ]
    assert _changes(*results) == [0, 1, 3]
    assert _changes(*results, where=WhereConfig(zones=("yard",))) == [0, 3]
    assert _changes(*results, where=WhereConfig(classes=("dog",))) == [0, 3]


def test_what_is_not_asked_for_changes_nothing_and_is_not_shown() -> None:
    results = [
        seen(0, Thing("dog"), Thing("car"), tracks=False),
        seen(1, Thing("dog"), tracks=False),
        seen(2, tracks=False),
    ]
    picked, _ = _picked(Choice("changes", WhereConfig(classes=("dog",))), *results)
    assert [_names(result) for result in picked] == [["dog"], []]


def test_the_top_class_a_text_and_the_classes_of_a_map_are_what_others_say() -> None:
    assert _changes(*(said(n, _scores(*scores)) for n, scores in enumerate([(1, 0), (0.9, 0.1), (0, 1)]))) == [0, 2]
    assert _changes(*(said(n, Text(text)) for n, text in enumerate(["a", "a", "b"]))) == [0, 2]
    maps = [[[0, 1]], [[1, 0]], [[1, 1]], [[-1, 1]]]
    masks = [SemanticMask(np.array(one, np.int32), ("sky", "road")) for one in maps]
    assert _changes(*(said(n, mask) for n, mask in enumerate(masks))) == [0, 2, 3]
    vector = Embedding(np.zeros(2, np.float32))
    assert _changes(*(said(n, vector) for n in range(3))) == [0, 1, 2]


def test_a_change_that_a_limit_holds_back_is_told_as_soon_as_it_may() -> None:
    results = [seen(at_s, *[Thing("car")] * (at_s % 3 != 1), tracks=False) for at_s in range(6)]
    assert _changes(*results, limit=LimitConfig(cooldown_s=3)) == [0, 4]  # 1: gone, held back; 3: as told; 4: gone


def test_after_the_source_was_away_the_next_result_is_told_whatever_it_says() -> None:
    counts = _Counts()
    selection = selection_of(Choice("changes"), held_back=counts.hold_back, left_out=counts.leave_out)
    assert [len(list(selection.pick(seen(at_s, Thing("car", 1))))) for at_s in (0, 1)] == [1, 0]
    assert selection.end() == ()
    assert len(list(selection.pick(seen(2, Thing("car", 1))))) == 1


def test_frames_have_no_end() -> None:
    counts = _Counts()
    selection = selection_of(Choice(), held_back=counts.hold_back, left_out=counts.leave_out)
    assert selection.end() == ()
