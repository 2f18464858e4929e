"""What a sink's keys say of what it wants, carried out, counted and kept from doing harm."""

import pytest
from fakes import FakeSinkConfig
from tracked import Thing, said, seen

from pipeline.contracts.result import Text
from pipeline.contracts.sink import LimitConfig, WhereConfig
from pipeline.runtime.context import Surroundings
from pipeline.runtime.selecting import SinkSelecting
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics
from pipeline.testing import MovableClock


def _surroundings() -> Surroundings:
    clock = MovableClock()
    return Surroundings(Events(clock), Metrics("test"), clock, lambda: None)


def _of(surroundings: Surroundings, **keys: object) -> SinkSelecting:
    return SinkSelecting("keep", FakeSinkConfig.model_validate(keys), surroundings)


def test_a_sink_that_takes_everything_costs_nothing() -> None:
    surroundings = _surroundings()
    assert _of(surroundings).selector("cam") is None
    assert b"penstock_sink_held_back_total{" not in surroundings.metrics.exposition()[0]


def test_only_keys_that_choose_make_a_difference() -> None:
    surroundings = _surroundings()
    one = _of(surroundings, emit="events", where={"classes": ["car"]})
    assert one == _of(surroundings, emit="events", where={"classes": ["car"]}, delay_s=3.0, notices=["daemon"])
    assert hash(one) == hash(_of(surroundings, emit="events", where={"classes": ["car"]}))
    assert one != _of(surroundings, emit="events", where={"classes": ["dog"]})
    assert one != _of(surroundings, emit="changes", where={"classes": ["car"]})
    assert one != _of(surroundings, emit="events", where={"classes": ["car"]}, update_every_s=1.0)
    assert one != _of(surroundings, emit="events", where={"classes": ["car"]}, limit={"cooldown_s": 1})
    assert one != object()


def test_what_is_left_out_and_held_back_is_counted_by_sink_and_source_until_either_is_gone() -> None:
    surroundings = _surroundings()
    config = FakeSinkConfig(where=WhereConfig(classes=("car",)), limit=LimitConfig(cooldown_s=10))
    selector = SinkSelecting("keep", config, surroundings).selector("cam")
    assert selector is not None
    results = [seen(0, Thing("dog")), seen(1, Thing("car")), seen(2, Thing("car")), seen(3, Thing("car"))]
    assert [len(list(selector.pick(result) or ())) for result in results] == [0, 1, 0, 0]
    told = surroundings.metrics.exposition()[0].decode()
    assert 'penstock_sink_left_out_total{sink="keep",source="cam"} 1.0' in told
    assert 'penstock_sink_held_back_total{sink="keep",source="cam"} 2.0' in told
    surroundings.metrics.forget(source="cam")
    assert "penstock_sink_held_back_total{" not in surroundings.metrics.exposition()[0].decode()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["persn"], "where.classes: the model of source cam has no 'persn'; did you mean person?"),
        (
            ["bus", "car", "zebra"],
            "where.classes: the model of source cam has no 'bus', 'zebra'; it has person, car, dog",
        ),
    ],
)
def test_a_class_that_the_model_does_not_have_is_told_once(
    asked: list[str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    selector = _of(_surroundings(), where={"classes": asked}).selector("cam")
    assert selector is not None
    for at_s in range(3):
        selector.pick(seen(at_s, Thing("car")))
    assert [record.message for record in caplog.records] == [f"sink keep: {told}"]


def test_a_bug_is_told_a_few_times_and_raises_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    selector = _of(_surroundings(), emit="events").selector("cam")
    assert selector is not None
    monkeypatch.setattr("pipeline.analytics.events.EventSelection.pick", fail)
    monkeypatch.setattr("pipeline.analytics.events.EventSelection.end", fail)
    assert [selector.pick(seen(0)) for _ in range(100)] == [None] * 100
    assert selector.end() == ()
    assert sum("ZeroDivisionError: a bug" in record.message for record in caplog.records) == 5


def test_a_model_that_can_have_no_events_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    selector = _of(_surroundings(), emit="events").selector("cam")
    assert selector is not None
    for at_s in range(3):
        assert list(selector.pick(said(at_s, Text("a dog"))) or ()) == []
    message = "sink keep: source test has no events: its model finds no objects and no classes (Text)"
    assert [record.getMessage() for record in caplog.records] == [message]
    selector.pick(seen(4, Thing("car"), tracks=False))
    assert len(caplog.records) == 1
