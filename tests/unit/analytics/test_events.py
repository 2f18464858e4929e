"""What the objects in front of a camera do, as events with a beginning and an end."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracked import NAMES, START, Thing, said, seen, told

from pipeline.analytics.events import EventSelection
from pipeline.analytics.lives import MAX_TOLD
from pipeline.contracts.analysis import Direction
from pipeline.contracts.event import ObjectEvent
from pipeline.contracts.frame import NoPicture
from pipeline.contracts.result import Classification, Embedding, Result, SemanticMask, Text
from pipeline.contracts.sink import LimitConfig, WhereConfig

NEVER: float | None = None


class _Sink:
    """Feeds a selection and keeps what comes out."""

    def __init__(
        self,
        where: WhereConfig | None = None,
        limit: LimitConfig | None = None,
        update_every_s: float | None = NEVER,
    ) -> None:
        self.held_back = 0
        self.events: list[ObjectEvent] = []
        self.selection = EventSelection(
            where or WhereConfig(), limit or LimitConfig(), update_every_s=update_every_s, held_back=self._hold_back
        )

    def _hold_back(self) -> None:
        self.held_back += 1

    def see(self, *results: Result) -> list[str]:
        """What these results make it tell."""
        events = [event for result in results for event in self.selection.pick(result)]
        self.events += events
        return told(events)

    def end(self) -> list[str]:
        events = self.selection.end()
        self.events += events
        return told(events)


# Tracked objects


def test_a_tracked_object_is_new_once_and_ends_once() -> None:
    sink, person = _Sink(), Thing("person", 1)
    assert sink.see(seen(0, person)) == ["object new person #1"]
    assert sink.see(seen(0.1, person), seen(0.2), seen(0.3, person)) == []
    assert sink.see(seen(1.3, ended=[person])) == ["object end person #1"]
    assert sink.see(seen(1.4)) == sink.end() == []


def test_an_object_has_the_id_of_its_track_and_each_message_one_of_its_own() -> None:
    sink, other, person = _Sink(), _Sink(), Thing("person", 7)
    for one in (sink, other):
        one.see(seen(0, person), seen(1, ended=[person]))
    assert {event.event_id for event in sink.events + other.events} == {f"{7:032x}"}
    assert len({event.id for event in sink.events + other.events}) == 4


def test_what_is_of_no_track_yet_is_nobody() -> None:
    assert _Sink().see(seen(0, Thing("person", None)), seen(0.1, Thing("person", None))) == []


def test_an_end_tells_of_the_last_frame_in_which_the_object_was_seen() -> None:
    sink = _Sink()
    sink.see(
        seen(0, Thing(track=1, confidence=0.9)),
        seen(2, Thing(track=1, confidence=0.4, box=(1, 2, 3, 4))),
        seen(3),
        seen(5, ended=[Thing(track=1)]),
    )
    new, end = sink.events
    assert (new.at, new.frame.pts_s, new.duration_s) == (START, 0, 0)
    assert (end.at, end.frame.pts_s, end.duration_s) == (START + 2, 2.0, 2.0)
    assert end.confidence == pytest.approx(0.4)
    assert end.xyxy == (1.0, 2.0, 3.0, 4.0)
    assert new.began_at == end.began_at == START


def test_pictures_go_along_but_none_is_kept_for_the_end() -> None:
    sink, person = _Sink(), Thing(track=1)
    result = seen(0, person)
    sink.see(result, seen(1, ended=[person]))
    new, end = sink.events
    assert new.frame is result.frame
    assert new.result is result
    assert isinstance(end.frame.picture, NoPicture)
    assert end.result is None


def test_the_best_frame_is_where_confidence_times_area_was_greatest() -> None:
    sink = _Sink()
    frames = [
        seen(0, Thing(track=1, confidence=0.9, box=(0, 0, 10, 10))),
        seen(1, Thing(track=1, confidence=0.5, box=(0, 0, 20, 20))),
        seen(2, Thing(track=1, confidence=0.4, box=(0, 0, 20, 20))),
        seen(3, Thing(track=1, confidence=0.9, box=(0, 0, 14, 14))),
        seen(4, ended=[Thing(track=1)]),
    ]
    sink.see(*frames)
    new, end = sink.events
    assert new.best.result_id == frames[0].id
    best = end.best
    assert (best.result_id, best.frame_id, best.pts_s, best.captured_at) == (frames[1].id, 10, 1, START + 1)
    assert (best.confidence, best.xyxy) == (0.5, (0, 0, 20, 20))


def test_it_is_told_now_and_then_that_an_event_goes_on() -> None:
    sink = _Sink(update_every_s=2)
    for tenth in range(50):
        sink.see(seen(tenth / 10, Thing(track=1)))
    assert [(event.phase, event.at - START) for event in sink.events] == [
        ("new", 0),
        ("update", pytest.approx(2)),
        ("update", pytest.approx(4)),
    ]


def test_a_clearly_better_picture_is_told_at_once_with_that_frame_and_no_more_than_twice_a_second() -> None:
    sink = _Sink(update_every_s=1_000)
    results = [
        seen(tenth / 10, Thing(track=1, box=(0, 0, 10 * 1.2 ** (tenth / 2), 10 * 1.2 ** (tenth / 2))))
        for tenth in range(21)
    ]
    sink.see(*results, seen(2.1, Thing(track=1, box=(0, 0, 10, 10))), seen(9, Thing(track=1, box=(0, 0, 10, 10))))
    updates = [event for event in sink.events if event.phase == "update"]
    assert [event.at - START for event in updates] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert all(event.result is not None and event.best.result_id == event.result.id for event in updates)


def test_whoever_wants_no_updates_gets_none_though_the_picture_becomes_better() -> None:
    sink = _Sink(update_every_s=None)
    sink.see(*(seen(at_s, Thing(track=1, box=(0, 0, 1 + 10 * at_s, 9))) for at_s in range(9)))
    assert [event.phase for event in sink.events] == ["new"]


def test_time_is_that_of_the_pictures_and_a_clock_that_is_set_breaks_nothing() -> None:
    sink = _Sink(update_every_s=2)
    for second, wall in enumerate([0, 1, -86_400, -86_399, 1e6, 1e6 + 1]):
        result = seen(second, Thing(track=1))
        sink.see(replace(result, frame=replace(result.frame, captured_at=START + wall)))
    assert [event.phase for event in sink.events] == ["new", "update", "update"]
    sink.end()
    assert all(event.duration_s >= 0 for event in sink.events)


def test_an_object_that_no_longer_fits_goes_on_until_its_track_ends() -> None:
    sink = _Sink(WhereConfig(min_confidence=0.5, classes=("car",)))
    sure, unsure = Thing("car", 1, confidence=0.6), Thing("car", 1, confidence=0.4)
    assert sink.see(seen(0, unsure), seen(1, sure)) == ["object new car #1"]
    assert sink.see(seen(2, unsure), seen(3, sure), seen(4, unsure)) == []
    assert sink.see(seen(5, ended=[unsure])) == ["object end car #1"]


def test_the_class_stays_the_one_with_which_the_event_began() -> None:
    sink = _Sink()
    sink.see(seen(0, Thing("car", 1)), seen(1, Thing("dog", 1)), seen(2, ended=[Thing("dog", 1)]))
    assert [event.class_name for event in sink.events] == ["car", "car"]


def test_of_what_is_not_asked_for_nothing_is_told() -> None:
    sink = _Sink(WhereConfig(classes=("dog",), min_age_s=2))
    cat, dog = Thing("car", 1, zones={"door": START}), Thing("dog", 2)
    assert sink.see(seen(0, cat, dog), seen(1.9, cat, dog, crossed=[(0, "kerb", "in")])) == []
    assert sink.see(seen(2, cat, dog)) == ["object new dog #2"]
    assert sink.events[0].began_at == START  # though it was told later
    assert sink.see(seen(3, ended=[cat, dog])) == ["object end dog #2"]


def test_a_box_that_is_no_number_neither_begins_an_event_nor_ends_one() -> None:
    sink, nan = _Sink(), float("nan")
    assert sink.see(seen(0, Thing(track=1, box=(nan, 0, 1, 1)))) == []
    sink.see(seen(1, Thing(track=1)), seen(2, Thing(track=1, confidence=nan)))
    assert sink.see(seen(3, ended=[Thing(track=1)])) == ["object end person #1"]
    assert sink.events[-1].frame.pts_s == 1


# Zones and lines


def test_each_stay_in_a_zone_is_an_event() -> None:
    sink = _Sink()

    def at(at_s: float, **zones: float) -> Result:
        return seen(at_s, Thing(track=1, zones={zone: START + since for zone, since in zones.items()}))

    assert sink.see(at(0)) == ["object new person #1"]
    assert sink.see(at(1, door=1)) == ["zone new person #1 door"]
    assert sink.see(at(2, door=1, yard=2)) == ["zone new person #1 yard"]
    assert sink.see(at(3, yard=2)) == ["zone end person #1 door"]
    assert sink.see(seen(4)) == []  # missed: it is still there
    assert sink.see(at(5, yard=5)) == ["zone end person #1 yard", "zone new person #1 yard"]  # out and in between
    assert sink.see(at(6, yard=5, door=6)) == ["zone new person #1 door"]
    ends = ["zone end person #1 door", "zone end person #1 yard", "object end person #1"]
    assert sink.see(seen(7, ended=[Thing(track=1)])) == ends
    stays = [event for event in sink.events if event.kind == "zone" and event.phase == "new"]
    assert [event.began_at - START for event in stays] == [1, 2, 5, 6]
    assert [event.zones for event in stays] == [("door",), ("door", "yard"), ("yard",), ("yard", "door")]
    assert len({event.event_id for event in stays}) == 4


def test_a_stay_has_the_same_id_in_every_sink() -> None:
    ids = set()
    for where in (None, WhereConfig(zones=("door",)), WhereConfig(kinds=("zone",), min_age_s=1)):
        sink = _Sink(where)
        sink.see(*(seen(at_s, Thing(track=1, zones={"door": START + 0.5})) for at_s in range(4)))
        ids |= {event.event_id for event in sink.events if event.kind == "zone"}
    assert len(ids) == 1
    assert {len(found) for found in ids} == {32}


def test_a_crossing_happens_once_in_one_direction_with_its_count() -> None:
    sink = _Sink()
    result = seen(3, Thing("car", 1), Thing("dog", 2), crossed=[(1, "kerb", "out")])
    assert sink.see(result) == ["object new car #1", "object new dog #2", "crossing once dog #2 kerb out"]
    crossing = sink.events[-1]
    assert (crossing.count, crossing.duration_s, crossing.best.result_id) == (1, 0, result.id)
    assert result.scene is not None
    assert crossing.event_id == result.scene.crossings[0].event_id
    assert sink.see(seen(4, Thing("car", 1), Thing("dog", 2))) == []


BOTH = {"door": START, "yard": START}
CROSSED: tuple[tuple[int, str, Direction], ...] = ((0, "kerb", "in"), (0, "gate", "in"))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (WhereConfig(), ["object", "zone door", "zone yard", "crossing kerb", "crossing gate"]),
        (WhereConfig(zones=("door",)), ["zone door"]),
        (WhereConfig(lines=("kerb",)), ["crossing kerb"]),
        (WhereConfig(zones=("yard",), lines=("gate",)), ["zone yard", "crossing gate"]),
        (WhereConfig(zones=("roof",), lines=("gate",)), ["crossing gate"]),
        (WhereConfig(kinds=("object",)), ["object"]),
        (WhereConfig(kinds=("object", "crossing"), zones=("door",)), ["object", "crossing kerb", "crossing gate"]),
        (WhereConfig(kinds=("zone",)), ["zone door", "zone yard"]),
        (WhereConfig(kinds=("object",), zones=("roof",)), []),
        (WhereConfig(kinds=("presence",)), []),
        (WhereConfig(zones=("roof",)), []),
    ],
)
def test_who_names_zones_lines_or_kinds_gets_what_is_about_them(where: WhereConfig, expected: list[str]) -> None:
    sink = _Sink(where)
    sink.see(seen(0, Thing(track=1, zones=BOTH), crossed=CROSSED))
    assert [" ".join(filter(None, (event.kind, event.zone, event.line))) for event in sink.events] == expected


# Where nothing tracks


def test_where_nothing_tracks_a_class_is_there_until_it_was_not_seen_for_a_second() -> None:
    sink = _Sink()

    def at(at_s: float, *names: str) -> Result:
        return seen(at_s, *(Thing(name) for name in names), tracks=False)

    assert sink.see(at(0, "car", "car", "dog")) == ["presence new car", "presence new dog"]
    assert [event.count for event in sink.events] == [2, 1]
    assert sink.see(at(0.5, "car"), at(0.9, "car")) == []
    assert sink.see(at(1.0, "car")) == ["presence end dog"]
    assert sink.see(at(1.5), at(1.9, "car"), at(2.8)) == []
    assert sink.see(at(2.9)) == ["presence end car"]
    assert sink.see(at(3.0, "car")) == ["presence new car"]
    assert len({event.event_id for event in sink.events}) == 3


def test_what_is_there_again_with_the_next_frame_was_there_all_the_time() -> None:
    sink = _Sink()
    assert sink.see(seen(0, Thing(), tracks=False), seen(60, Thing(), tracks=False)) == ["presence new person"]


def test_of_a_class_the_object_that_is_seen_best_is_told() -> None:
    sink = _Sink()
    small, large = Thing(confidence=0.9, box=(0, 0, 5, 5)), Thing(confidence=0.8, box=(0, 0, 20, 20), zones={"door": 1})
    sink.see(seen(0, small, large, tracks=False))
    assert (sink.events[0].xyxy, sink.events[0].zones, sink.events[0].tracker_id) == ((0, 0, 20, 20), ("door",), None)


def test_a_presence_has_the_same_id_in_every_sink_that_asks_for_the_same() -> None:
    one, other = _Sink(), _Sink()
    for sink in (one, other):
        sink.see(seen(0, Thing("car"), Thing("dog"), tracks=False))
    assert [event.event_id for event in one.events] == [event.event_id for event in other.events]


def test_classifiers_tell_of_the_class_that_is_there() -> None:
    sink = _Sink()

    def at(at_s: float, *scores: float) -> Result:
        return said(at_s, Classification(np.array(scores, np.float32), NAMES))

    assert sink.see(at(0, 0.9, 0.1, 0)) == ["presence new person"]
    assert sink.see(at(0.5, 0.4, 0.6, 0)) == ["presence new car"]
    assert sink.see(at(1.4, 0.4, 0.6, 0)) == ["presence end person"]
    assert sink.events[0].xyxy == (0, 0, 64, 48)


def test_what_has_no_objects_has_no_events() -> None:
    predictions = (Text("a"), Embedding(np.zeros(2, np.float32)), SemanticMask(np.zeros((2, 2), np.int32)))
    assert _Sink().see(*(said(0, prediction) for prediction in predictions)) == []


def test_when_tracking_is_turned_on_what_was_there_before_ends() -> None:
    sink = _Sink()
    sink.see(seen(0, Thing(), tracks=False))
    assert sink.see(seen(1, Thing(track=1))) == ["object new person #1", "presence end person"]
    assert sink.see(seen(2, Thing(), tracks=False)) == ["object end person #1", "presence new person"]


# Limits


def test_when_tracking_is_turned_off_what_was_tracked_ends_with_the_next_object() -> None:
    sink = _Sink()
    sink.see(seen(0, Thing("person", 1, zones={"door": START})))
    assert sink.see(seen(0.1)) == []
    events = sink.see(seen(0.2, Thing("person"), tracks=False))
    assert events == ["zone end person #1 door", "object end person #1", "presence new person"]


def test_what_a_limit_holds_back_is_silent_for_all_its_life_and_counted_once() -> None:
    sink = _Sink(limit=LimitConfig(cooldown_s=10), update_every_s=1)
    one, two, three = Thing(track=1), Thing(track=2), Thing(track=3)
    assert sink.see(seen(0, one), seen(1, ended=[one])) == ["object new person #1", "object end person #1"]
    assert sink.see(seen(2, two), seen(12, two), seen(13, two, Thing("car", 4))) == ["object new car #4"]
    assert sink.see(seen(14, three, ended=[two])) == ["object new person #3", "object update person #3"][:1]
    assert sink.held_back == 1


def test_kinds_zones_and_lines_do_not_hold_back_each_other() -> None:
    sink = _Sink(limit=LimitConfig(cooldown_s=10))
    assert len(sink.see(seen(0, Thing(track=1, zones=BOTH), crossed=CROSSED))) == 5
    assert sink.see(seen(1, Thing(track=1, zones=BOTH), crossed=CROSSED)) == []
    assert sink.held_back == 2


def test_more_events_than_can_be_followed_are_held_back() -> None:
    sink = _Sink()
    things = [Thing(track=number) for number in range(1, MAX_TOLD + 11)]
    assert len(sink.see(seen(0, *things))) == MAX_TOLD
    assert sink.held_back == 10
    assert sink.see(seen(1, *things)) == []
    assert sink.held_back == 10
    assert len(sink.see(seen(2, Thing(track=5000), ended=things))) == MAX_TOLD + 1


# Ends


def test_when_the_source_is_away_all_ends_and_what_comes_again_is_another_event() -> None:
    sink, person = _Sink(), Thing(track=1, zones={"door": START})
    sink.see(seen(0, person))
    assert sink.end() == ["zone end person #1 door", "object end person #1"]
    assert sink.end() == []
    assert sink.see(seen(1, person)) == ["object new person #1", "zone new person #1 door"]
    assert sorted(sink.end()) == ["object end person #1", "zone end person #1 door"]
    assert len({event.event_id for event in sink.events}) == 4


def test_a_track_that_nobody_ended_is_gone_after_two_minutes() -> None:
    sink = _Sink()
    sink.see(seen(0, Thing(track=1)), seen(119))
    assert sink.see(seen(120)) == ["object end person #1"]


def test_what_the_sink_did_not_take_has_no_end_for_it() -> None:
    sink = _Sink()
    sink.see(seen(0, Thing(track=1), Thing(track=2)))
    sink.selection.forget(f"{1:032x}")
    assert sink.see(seen(1, ended=[Thing(track=1)])) == []
    assert sink.end() == ["object end person #2"]


# Whatever happens

_THING = st.builds(
    Thing,
    st.sampled_from(NAMES),
    st.one_of(st.none(), st.integers(1, 4)),
    st.sampled_from([(0, 0, 9, 9), (5, 5, 40, 40), (0, 0, float("nan"), 1)]),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.dictionaries(st.sampled_from(["door", "yard"]), st.sampled_from([START, START + 3])),
)
_STEP = st.tuples(
    st.floats(0, 30),
    st.lists(_THING, max_size=4, unique_by=lambda thing: thing.track or id(thing)),
    st.booleans(),
    st.lists(st.integers(1, 4), max_size=2, unique=True),
    st.sampled_from(["look", "look", "look", "end", "forget"]),
)
_WHERE = st.builds(
    WhereConfig,
    classes=st.one_of(st.none(), st.just(("car", "dog"))),
    min_confidence=st.sampled_from([0, 0.5]),
    zones=st.one_of(st.none(), st.just(("door",))),
    min_age_s=st.sampled_from([0, 2]),
    kinds=st.one_of(st.none(), st.just(("object", "presence"))),
)


def _check_lives(events: Sequence[ObjectEvent], forgotten: set[str]) -> None:
    """Every event is new first, then updated, and ends once; its facts fit together."""
    lives: dict[str, list[ObjectEvent]] = defaultdict(list)
    for event in events:
        lives[event.event_id].append(event)
    for event_id, life in lives.items():
        phases = [event.phase for event in life]
        if phases == ["once"]:
            continue
        assert phases[0] == "new"
        assert phases.count("new") == 1
        assert set(phases[1:-1]) <= {"update"}
        assert (phases[-1] == "end") is (event_id not in forgotten)
        assert len({(event.kind, event.class_name, event.zone, event.began_at) for event in life}) == 1
    assert len({event.id for event in events}) == len(events)


@settings(max_examples=150)
@given(
    st.lists(_STEP, max_size=30),
    _WHERE,
    st.sampled_from([LimitConfig(), LimitConfig(cooldown_s=5), LimitConfig(per_minute=2)]),
    st.sampled_from([None, 0.1, 5.0]),
)
def test_every_event_that_is_new_ends_exactly_once(
    steps: list[tuple[float, list[Thing], bool, list[int], str]],
    where: WhereConfig,
    limit: LimitConfig,
    update_every_s: float | None,
) -> None:
    sink = _Sink(where, limit, update_every_s)
    forgotten: set[str] = set()
    at_s = 0.0
    for passed_s, things, tracks, ended, order in steps:
        at_s += passed_s
        there = {thing.track for thing in things}
        gone = [Thing(track=number) for number in ended if number not in there]
        sink.see(seen(at_s, *things, tracks=tracks, ended=gone))
        if order == "end":
            sink.end()
        elif order == "forget" and sink.events and sink.events[-1].phase == "new":
            forgotten.add(sink.events[-1].event_id)
            sink.selection.forget(sink.events[-1].event_id)
    sink.end()
    _check_lives(sink.events, forgotten)
    assert sink.selection._lives.told == sink.selection._lives.known == 0
    for event in sink.events:
        assert event.class_name in (where.classes or NAMES)
        assert event.zone in (where.zones or ("door", "yard", None)) or event.zone is None
