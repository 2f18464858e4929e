import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.contracts.analysis import Scene
from pipeline.contracts.event import SourceEvent
from pipeline.contracts.result import Detections, Result
from pipeline.testing import frame, result
from sinks._mqtt_retained import MAX_ENTITIES, Retained, RetainedTopics
from sinks._topics import Names

STATE = "penstock/gate/state"
COUNTS = "penstock/gate/counts"
ALL = RetainedTopics("penstock/status", "penstock/{source}/state", "penstock/{source}/counts", "homeassistant")


def retained(topics: RetainedTopics = ALL) -> Retained:
    return Retained(topics, Names("alerts"), "penstock-box-alerts")


def event(kind: str, value: str) -> SourceEvent:
    return SourceEvent("e" * 32, "gate", "state" if kind == "state" else "content", value, None, "", 1.7e9)


def seen(*classes: int, names: tuple[str, ...] = ("person", "car"), scene: Scene | None = None) -> Result:
    count = len(classes)
    found = Detections(np.zeros((count, 4), np.float32), np.ones(count, np.float32), np.array(classes, np.int32), names)
    return replace(result(frame(source="gate"), found), scene=scene)


def words(of: Retained, *values: tuple[str, str]) -> list[str]:
    """What is published as the gate's state after each of these, a minute apart."""
    found = []
    for minute, (kind, value) in enumerate(values):
        of.see(event(kind, value))
        found.append(dict(of.due(60.0 * minute)).get(STATE, b"-").decode())
    return found


def test_the_state_of_a_source_is_one_word_connection_before_picture() -> None:
    told = words(
        retained(),
        ("state", "running"),
        ("content", "frozen"),
        ("state", "reconnecting"),
        ("content", "black"),
        ("state", "running"),
        ("content", "ok"),
        ("state", "running"),
    )
    assert told == ["running", "frozen", "reconnecting", "-", "black", "running", "-"]


def test_a_result_says_that_its_source_runs_unless_something_else_was_said() -> None:
    fresh = retained()
    fresh.see(seen(0))
    assert dict(fresh.due(0.0))[STATE] == b"running"
    down = retained()
    down.see(event("state", "reconnecting"))
    down.see(seen(0))  # was under way
    assert dict(down.due(0.0))[STATE] == b"reconnecting"


def test_without_being_told_of_sources_no_state_is_published() -> None:
    quiet = retained(replace(ALL, state=None, counts=None, discovery=None))
    quiet.see(event("state", "running"))
    quiet.see(seen(0))
    assert quiet.due(0.0) == []


def test_what_changes_with_every_frame_is_told_once_a_second_and_then_as_it_is() -> None:
    counting = retained(replace(ALL, state=None, discovery=None))
    told = []
    for step in range(25):
        counting.see(seen(*[0] * step))
        told += counting.due(step / 10)
    told += counting.due(10.0)
    counts = [json.loads(body)["classes"].get("person", 0) for _, body in told]
    assert counts == [0, 10, 20, 24]
    assert counting.due(11.0) == []


def test_a_state_is_told_at_once_however_soon_it_changes() -> None:
    quick = retained()
    quick.see(event("state", "running"))
    assert dict(quick.due(0.0))[STATE] == b"running"
    quick.see(event("content", "frozen"))
    assert dict(quick.due(0.001))[STATE] == b"frozen"


def test_a_new_connection_is_told_everything_again_discovery_first() -> None:
    home = retained()
    home.see(seen(0, 1))
    first = home.due(0.0)
    assert home.due(0.1) == []
    home.renew()
    assert home.due(0.2) == first
    topics = [topic for topic, _ in first]
    assert topics[-2:] == [STATE, COUNTS]
    assert all(topic.endswith("/config") for topic in topics[:-2])


def entities(home: Retained) -> Mapping[str, dict[str, object]]:
    return {
        topic.removeprefix("homeassistant/").removesuffix("/config"): json.loads(body)
        for topic, body in home.due(0.0)
        if topic.startswith("homeassistant/")
    }


def test_home_assistant_is_shown_connection_classes_and_zones() -> None:
    home = retained()
    home.see(seen(0, 0, scene=Scene(occupancy={"door": {"person": 1}, "yard": {}})))
    found = entities(home)
    node = "penstock-box-alerts"
    assert set(found) == {
        f"binary_sensor/{node}/gate_connection",
        f"binary_sensor/{node}/gate_problem",
        f"sensor/{node}/gate_class_person",
        f"binary_sensor/{node}/gate_zone_door",
        f"binary_sensor/{node}/gate_zone_yard",
        f"sensor/{node}/gate_zone_door_person",
    }
    for name, about in found.items():
        assert about["unique_id"] == f"{node}_{name.rpartition('/')[2]}"
        assert about["availability_topic"] == "penstock/status"
        assert about["state_topic"] in {STATE, COUNTS}
        assert about["device"] == {"identifiers": [f"{node}_gate"], "name": "gate", "manufacturer": "Penstock"}
    home.renew()
    counts = json.loads(dict(home.due(1.0))[COUNTS])
    assert counts == {
        "classes": {"person": 2},
        "zones": {"door": {"count": 1, "classes": {"person": 1}}, "yard": {"count": 0, "classes": {}}},
    }


def test_a_class_with_quotes_stays_inside_of_its_template() -> None:
    home = retained()
    home.see(seen(0, names=('a"]}} {{ x',)))
    (about,) = (about for entity, about in entities(home).items() if "_class_" in entity)
    template = about["value_template"]
    assert template == '{{ value_json[\'classes\']["a\\"]}} {{ x"] | default(0) }}'


def test_a_thousand_classes_do_not_fill_home_assistant() -> None:
    home = retained()
    names = tuple(f"class{number}" for number in range(1000))
    home.see(seen(*range(1000), names=names))
    assert len(entities(home)) == MAX_ENTITIES
    assert home.overflown
