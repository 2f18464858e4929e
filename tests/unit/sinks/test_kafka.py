"""The sink `kafka` against librdkafka's mock cluster: the protocol and its errors, not a real Kafka."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka_mock import PRODUCE, KafkaMock
from pydantic import ValidationError
from senders import packed, senders

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.result import Text
from pipeline.contracts.sender import Parcel, RefusedError, UndeliveredError
from pipeline.testing import PluginContext, frame, result
from sinks.kafka import KafkaSender, KafkaSinkConfig

confluent_kafka = pytest.importorskip(
    "confluent_kafka", reason="the package confluent-kafka is not installed (extra `kafka`)"
)

RESULTS = "penstock.results"
Make = Callable[..., KafkaSender]


@pytest.fixture
def cluster() -> Iterator[KafkaMock]:
    with KafkaMock() as cluster:
        cluster.topic(RESULTS, 3)
        yield cluster


@pytest.fixture
def make(cluster: KafkaMock, ctx: PluginContext) -> Iterator[Make]:
    """Opens senders to the cluster with these keys; closed at the end."""
    with senders(KafkaSinkConfig, KafkaSender, ctx, servers=[cluster.server]) as make:
        yield make


def sent_at_last(sender: KafkaSender, parcels: list[Parcel], limit_s: float = 15.0) -> None:
    """Send until it arrives, as the spool does."""
    ends_at = time.monotonic() + limit_s
    while True:
        try:
            return sender.send(parcels)
        except (UndeliveredError, RefusedError):
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.1)


def frame_ids(cluster: KafkaMock, count: int, source: str = "gate") -> list[int]:
    found = [json.loads(value) for _, _, value in cluster.records(RESULTS, count)]
    return [one["frame_id"] for one in found if one["source"] == source]


def test_records_have_the_source_as_key_and_the_id_as_header(cluster: KafkaMock, make: Make) -> None:
    sender = make()
    parcels = packed(sender, 600)
    sender.send(parcels[:500])
    sender.send(parcels[500:])
    found = cluster.records(RESULTS, 600)
    assert [json.loads(value)["frame_id"] for _, _, value in found] == list(range(600))
    assert {key for key, _, _ in found} == {"gate"}
    assert [headers for _, headers, _ in found] == [{"id": one.id, "kind": "result"} for one in parcels]


def test_sources_that_are_sent_at_once_keep_their_order(cluster: KafkaMock, make: Make) -> None:
    sender = make()
    sources = ("a", "b", "c", "d")
    parcels = {name: packed(sender, 200, source=name) for name in sources}
    threads = [threading.Thread(target=sender.send, args=(parcels[name],)) for name in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    found = [json.loads(value) for _, _, value in cluster.records(RESULTS, 800)]
    for name in sources:
        assert [one["frame_id"] for one in found if one["source"] == name] == list(range(200))


@pytest.mark.parametrize(
    "error", ["NOT_LEADER_FOR_PARTITION", "REQUEST_TIMED_OUT", "NOT_ENOUGH_REPLICAS", "_TRANSPORT"]
)
def test_errors_that_pass_are_tried_again_by_the_library_without_duplicates(
    cluster: KafkaMock, make: Make, error: str
) -> None:
    sender = make()
    sender.send(packed(sender, 10))
    for number in (10, 11, 12):  # one by one: unlike a real broker, the mock takes a request that overtook another
        cluster.fail(PRODUCE, [getattr(confluent_kafka.KafkaError, error)] * 2)
        sender.send(packed(sender, 1, first=number))
    sender.send(packed(sender, 7, first=13))
    assert frame_ids(cluster, 20) == list(range(20))


def test_brokers_that_are_away_are_no_reason_not_to_start(cluster: KafkaMock, make: Make, ctx: PluginContext) -> None:
    cluster.down()
    sender = make(timeout_s=1)
    parcels = packed(sender, 5)
    began_at = time.monotonic()
    with pytest.raises(UndeliveredError, match="the brokers do not take it: _MSG_TIMED_OUT") as caught:
        sender.send(parcels)
    assert time.monotonic() - began_at < 4
    assert caught.value.delivered == 0
    cluster.up()
    sent_at_last(sender, parcels)
    assert frame_ids(cluster, 5) == list(range(5))


@pytest.mark.parametrize("error", ["TOPIC_AUTHORIZATION_FAILED", "INVALID_RECORD"])
def test_what_a_broker_refuses_is_refused_for_good(cluster: KafkaMock, make: Make, error: str) -> None:
    sender = make(timeout_s=3)
    sender.send(packed(sender, 1))
    cluster.fail(PRODUCE, [getattr(confluent_kafka.KafkaError, error)])
    with pytest.raises(RefusedError, match=f"refuse it: {error}"):
        sender.send(packed(sender, 1, first=1))
    sent_at_last(sender, packed(sender, 1, first=2))
    assert frame_ids(cluster, 2) == [0, 2]


def test_a_message_that_is_too_large_is_refused_and_those_before_it_arrive(cluster: KafkaMock, make: Make) -> None:
    sender = make()
    large = sender.pack(replace(result(frame(5, source="gate")), prediction=Text("x" * 1_100_000)))
    with pytest.raises(RefusedError, match="MSG_SIZE_TOO_LARGE") as caught:
        sender.send([*packed(sender, 2), large])
    assert caught.value.delivered == 2
    assert frame_ids(cluster, 2) == [0, 1]


def test_closing_does_not_wait_for_brokers_that_are_away(cluster: KafkaMock, make: Make) -> None:
    cluster.down()
    sender = make(timeout_s=1)
    with pytest.raises(UndeliveredError):
        sender.send(packed(sender, 5))
    began_at = time.monotonic()
    sender.close()
    assert time.monotonic() - began_at < 3
    with pytest.raises(UndeliveredError, match="closed"):
        sender.send(packed(sender, 1))


def test_the_library_writes_nothing_to_standard_error(
    cluster: KafkaMock, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.down()
    sender = make(timeout_s=1, username="box", password="pass-Word")  # noqa: S106
    with pytest.raises(UndeliveredError) as caught:
        sender.send(packed(sender, 1))
    sender.close()
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert "pass-Word" not in f"{caught.value} {sender._config!r}"


def test_tls_options_reach_the_library(tmp_path: Path, ctx: PluginContext) -> None:
    keys = {"servers": ["127.0.0.1:9"], "tls": True, "verify_tls": False, "username": "a", "password": "b"}
    sender = KafkaSinkConfig.model_validate(keys).build(ctx)
    sender.open()
    sender.close()
    assert ctx.warnings == ["verify_tls = false: whoever answers for 127.0.0.1:9 is believed"]
    options = sender._config.options("name")
    assert options["security.protocol"] == "SASL_SSL"
    assert options["enable.ssl.certificate.verification"] is False
    strict = KafkaSinkConfig.model_validate({"servers": ["127.0.0.1:9"], "tls": True}).options("name")
    assert strict["enable.ssl.certificate.verification"] is True
    assert strict["ssl.endpoint.identification.algorithm"] == "https"
    assert (strict["enable.idempotence"], strict["security.protocol"]) == (True, "SSL")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"servers": []}, "at least 1 item"),
        ({"servers": ["http://x"]}, "pattern"),
        ({"servers": ["a,b"]}, "pattern"),
        ({"topic": "a b"}, "letters, digits"),
        ({"topic": "{sauce}"}, "no placeholder {sauce}"),
        ({"username": "c"}, "need each other"),
        ({"verify_tls": False}, "need tls = true"),
    ],
)
def test_a_mistake_in_the_keys_is_said_in_one_line(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        KafkaSinkConfig.model_validate({"servers": ["127.0.0.1:9092"], **keys})
    assert says in str(caught.value)


def test_without_the_library_the_extra_is_named_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    config = KafkaSinkConfig.model_validate({"servers": ["127.0.0.1"]})
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.setattr("sinks.kafka.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install penstock\[kafka\]") as caught:
        config.check()
    assert caught.value.key == "type"
