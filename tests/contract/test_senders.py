"""What every sink promises that sends over a network, checked on every one that is registered."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from every_kind import PREDICTIONS, SINKS
from looped import LoopedContext
from pydantic import ValidationError

from pipeline.contracts.errors import ConfigError, TransientError
from pipeline.contracts.event import Best, DaemonEvent, Event, ObjectEvent, SourceEvent
from pipeline.contracts.frame import NoPicture, Size
from pipeline.contracts.result import Detections, Result
from pipeline.contracts.sender import Parcel, Sender, SenderConfig
from pipeline.testing import detections, frame, result

POINTS = [point for point in SINKS if issubclass(point.load(), SenderConfig)]
NOBODY = {"webhook": "http", "mqtt": "mqtt", "redis": "redis", "nats": "nats"}
"""Schemes of URLs at which nobody listens: port 9 of this machine."""

pytestmark = [
    pytest.mark.parametrize("point", POINTS, ids=[point.name for point in POINTS]),
    pytest.mark.filterwarnings("error"),
]


def config_of(point: EntryPoint) -> SenderConfig:
    """The sink's config with nothing but what it needs, and short waits."""
    kind: type[SenderConfig] = point.load()
    keys: dict[str, object] = {"type": point.name}
    for name, field in kind.model_fields.items():
        if name == "timeout_s":
            keys[name] = 2.0
        elif field.is_required() and name == "url":
            keys[name] = f"{NOBODY.get(point.name, 'http')}://127.0.0.1:9/"
        elif field.is_required() and name in {"brokers", "servers", "bootstrap_servers"}:
            keys[name] = ["127.0.0.1:9"]
    try:
        return kind.model_validate(keys)
    except ValidationError as error:
        pytest.skip(f"needs keys that nobody here knows: {error.errors(include_input=False)[0]['loc']}")


@pytest.fixture
def config(point: EntryPoint) -> SenderConfig:
    return config_of(point)


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[LoopedContext]:
    with LoopedContext("far", tmp_path / "data") as made:
        yield made


@pytest.fixture
def sender(config: SenderConfig, ctx: LoopedContext) -> Iterator[Sender]:
    try:
        config.check()
    except ConfigError as error:
        pytest.skip(f"not installed: {error}")
    made = config.build(ctx)
    made.open()
    yield made
    made.close()


def handed(sender: Sender, one: Result) -> Result:
    """As the runner hands it over: without pixels where it does not want any."""
    return one if sender.wants_pictures else replace(one, frame=replace(one.frame, picture=NoPicture(Size(64, 48))))


def events() -> list[Event]:
    best = Best("b" * 32, 3, 0.12, 1e9, 0.9, (8.0, 8.0, 24.0, 24.0))
    seen = replace(frame(3, source="gate"), picture=NoPicture(Size(64, 48)))
    about = (1e9, 1e9 + 2, seen, 0.9, (8.0, 8.0, 24.0, 24.0), best)
    return [
        SourceEvent("1" * 32, "gate", "state", "reconnecting", "TIMEOUT", "evil \x1b[2J\n title", 1e9),
        DaemonEvent("2" * 32, "sink lines", "sink", "degraded", "disk\x00full", float("nan")),
        ObjectEvent("3" * 32, "4" * 32, "new", "object", "gate", "per\nson/+#", 7, *about),
        ObjectEvent("5" * 32, "4" * 32, "end", "zone", "gate", "person", 7, *about, zone="door", zones=("door",)),
        ObjectEvent("6" * 32, "7" * 32, "once", "crossing", "gate", "car", None, *about, line="in", direction="in"),
    ]


def test_the_config_is_a_frozen_model_that_names_its_type(point: EntryPoint, config: SenderConfig) -> None:
    assert config.type == point.name == type(config).model_fields["type"].default
    assert (type(config).__doc__ or "").strip()
    assert all(field.description for name, field in type(config).model_fields.items() if name != "type")
    with pytest.raises(ValidationError):
        config.sources = ("gate",)  # type: ignore[misc]  # the model is frozen
    with pytest.raises(ValidationError):
        type(config).model_validate({**config.model_dump(), "no_such_key": 1})


def test_naming_and_checking_it_imports_nothing_heavy(point: EntryPoint) -> None:
    module = point.value.partition(":")[0]
    heavy = "{'av', 'PIL', 'onnxruntime', 'cv2', 'aiohttp', 'scipy', 'paho', 'redis', 'nats', 'confluent_kafka'}"
    code = f"import sys, {module}; print(*{heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert run.stdout.split() == []


def test_checking_and_building_change_nothing(tmp_path: Path, config: SenderConfig, ctx: LoopedContext) -> None:
    config.check()
    made = config.build(ctx)
    assert isinstance(made.wants_pictures, bool)
    assert made.concurrency >= 1
    assert made.max_items >= 1
    assert made.max_wait_s >= 0
    assert not hasattr(made, "write"), "a sender is no sink: the spool is"
    assert list(tmp_path.iterdir()) == []


def test_it_opens_while_the_other_side_is_away_and_closes_without_having_sent(sender: Sender) -> None:
    assert sender.pack(handed(sender, result(frame(0)))).body


@pytest.mark.parametrize("number", range(len(PREDICTIONS)))
def test_every_kind_of_prediction_is_packed(sender: Sender, number: int) -> None:
    one = handed(sender, replace(result(frame(number, source="gate")), prediction=PREDICTIONS[number]))
    check(sender.pack(one), one.id, "gate", "result")


def test_events_are_packed_where_they_can_be_asked_for(config: SenderConfig, sender: Sender) -> None:
    if not type(config).takes_events:
        pytest.skip("takes no events")
    for event in events():
        kind = "event" if isinstance(event, ObjectEvent) else "notice"
        check(sender.pack(event), event.id, getattr(event, "source", ""), kind)


def check(parcel: Parcel, name: str, source: str, kind: str) -> None:
    assert (parcel.id, parcel.source, parcel.kind) == (name, source, kind)
    assert isinstance(parcel.body, bytes)
    assert parcel.body
    assert len(parcel.about) < 4096


def test_packing_changes_nothing_in_the_result(sender: Sender) -> None:
    seen = frame(0)
    one = result(seen, detections((8, 8, 24, 24)))
    before = seen.picture.rgb().copy()
    assert isinstance(one.prediction, Detections)
    boxes = one.prediction.xyxy.copy()
    sender.pack(handed(sender, one))
    np.testing.assert_array_equal(seen.picture.rgb(), before)
    np.testing.assert_array_equal(one.prediction.xyxy, boxes)


def test_sending_to_nobody_is_tried_again_and_leaves_the_parcels_as_they_are(sender: Sender) -> None:
    parcels = [sender.pack(handed(sender, result(frame(seq, source="gate")))) for seq in range(sender.max_items)][:3]
    before = [hashlib.sha256(parcel.body).hexdigest() for parcel in parcels]
    began_at = time.monotonic()
    for _ in range(2):
        with pytest.raises(TransientError) as caught:
            sender.send(parcels)
        assert getattr(caught.value, "delivered", 0) == 0
        assert "\n" not in str(caught.value)
    assert time.monotonic() - began_at < 15
    assert [hashlib.sha256(parcel.body).hexdigest() for parcel in parcels] == before
