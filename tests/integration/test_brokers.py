"""The real process with a sink for each broker: what one source gives arrives at all of them, once and in order."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import mosquitto
import nats_server
import pytest
import redis_server
from daemon import IDLE, Daemon
from kafka_mock import KafkaMock
from makers import clip
from mqtt_listener import Listener
from observed import until

FRAMES = 60
PIPELINE = f"""{IDLE}
    [sources.gate]
    type = "file"
    path = "clip.mp4"
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_every_broker_gets_every_result_once_and_in_order(tmp_path: Path, stack: ExitStack) -> None:
    missing = [reason for reason in (mosquitto.MISSING, redis_server.MISSING, nats_server.MISSING) if reason]
    if missing:
        pytest.skip("; ".join(missing))
    confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    redis = pytest.importorskip("redis", reason="the package redis is not installed")
    assert confluent_kafka
    broker = stack.enter_context(mosquitto.Mosquitto(tmp_path / "mosquitto"))
    listener = stack.enter_context(Listener(broker.port))
    store = stack.enter_context(redis_server.RedisServer(tmp_path / "redis"))
    streams = stack.enter_context(nats_server.NatsServer(tmp_path / "nats"))
    cluster = stack.enter_context(KafkaMock())
    cluster.topic("penstock.results")
    text = PIPELINE + "".join(
        f'\n    [sinks.{name}]\n    type = "{name}"\n    sources = ["gate"]\n    {keys}\n'
        for name, keys in {
            "mqtt": f'url = "mqtt://127.0.0.1:{broker.port}"',
            "redis": f'url = "redis://127.0.0.1:{store.port}"',
            "nats": f'url = "nats://127.0.0.1:{streams.port}"\n    stream = "video"\n    create_stream = true',
            "kafka": f'servers = ["{cluster.server}"]',
        }.items()
    )
    clip(tmp_path / "clip.mp4", [40 + number for number in range(FRAMES)], width=64, height=64)
    with Daemon(tmp_path, text) as daemon:
        daemon.ready()
        for name in ("mqtt", "redis", "nats", "kafka"):
            until(f"{name} has all", lambda name=name: delivered(daemon, name) == FRAMES, 20)  # type: ignore[misc]
        daemon.stop()
    expected = list(range(FRAMES))
    heard = listener.wait_for("penstock/gate/results", FRAMES)
    assert [json.loads(one.body)["frame_id"] for one in heard] == expected
    listener.wait(lambda: listener.of("penstock/status")[-1].body == b"offline")
    with redis.Redis(port=store.port, protocol=2) as client:
        entries = client.xrange("penstock:gate")
    assert [json.loads(entry[b"body"])["frame_id"] for _, entry in entries] == expected
    assert [one["frame_id"] for one in streams.messages("video")] == expected
    assert [json.loads(value)["frame_id"] for _, _, value in cluster.records("penstock.results", FRAMES)] == expected


def delivered(daemon: Daemon, sink: str) -> int:
    return int(daemon.scrape().of("penstock_sink_results_total", sink=sink, outcome="delivered"))
