"""The sink `redis` against a real redis-server."""

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from redis_server import MISSING, RedisServer
from senders import packed, senders

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.sender import RefusedError, UndeliveredError
from pipeline.testing import PluginContext
from sinks.redis import RedisSender, RedisSinkConfig

redis = pytest.importorskip("redis", reason="the package redis is not installed (extra `redis`)")

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

Make = Callable[..., RedisSender]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def make(server: RedisServer, ctx: PluginContext) -> Iterator[Make]:
    """Opens senders to the server with these keys; closed at the end."""
    with senders(RedisSinkConfig, RedisSender, ctx, url=f"redis://127.0.0.1:{server.port}") as make:
        yield make


def entries(server: RedisServer, stream: str = "penstock:gate", **keys: Any) -> list[dict[str, str]]:
    with redis.Redis(port=server.port, decode_responses=True, protocol=2, **keys) as client:
        return [fields for _, fields in client.xrange(stream)]


def admin(server: RedisServer, *command: str) -> Any:
    with redis.Redis(port=server.port, decode_responses=True, protocol=2) as client:
        return client.execute_command(*command)


def test_results_are_entries_in_order_with_their_id_beside_the_line(server: RedisServer, make: Make) -> None:
    sender = make()
    parcels = packed(sender, 300)
    sender.send(parcels[:200])
    sender.send(parcels[200:])
    found = entries(server)
    assert [json.loads(one["body"])["frame_id"] for one in found] == list(range(300))
    assert [one["id"] for one in found] == [parcel.id for parcel in parcels]
    assert {(one["kind"], one["source"]) for one in found} == {("result", "gate")}


def test_a_stream_does_not_grow_for_ever(server: RedisServer, make: Make) -> None:
    sender = make(max_length=500)
    for batch in range(10):
        sender.send(packed(sender, 200, first=200 * batch))
    found = entries(server)
    assert 500 <= len(found) < 700
    assert json.loads(found[-1]["body"])["frame_id"] == 1999


def test_sources_that_are_sent_at_once_have_connections_of_their_own(server: RedisServer, make: Make) -> None:
    sender = make(concurrency=3)
    sources = ("a", "b", "c")
    parcels = {name: packed(sender, 200, source=name) for name in sources}
    threads = [threading.Thread(target=sender.send, args=(parcels[name],)) for name in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for name in sources:
        found = entries(server, f"penstock:{name}")
        assert [json.loads(one["body"])["frame_id"] for one in found] == list(range(200))


def test_a_server_that_is_away_is_no_reason_not_to_start_and_kills_lose_nothing(
    server: RedisServer, make: Make
) -> None:
    server.kill()
    sender = make()
    parcels = packed(sender, 600)
    with pytest.raises(UndeliveredError, match=f"the server 127.0.0.1:{server.port} connection refused"):
        sender.send(parcels[:200])
    done = 0
    for _ in range(3):
        server.start()
        sender.send(parcels[done : done + 100])
        done += 100
        killer = threading.Timer(0.005, server.kill)
        killer.start()
        with contextlib.suppress(UndeliveredError):
            while done < 600:
                sender.send(parcels[done : done + 10])
                done += 10
        killer.join()
    server.start()
    while done < 600:
        sender.send(parcels[done : done + 200])
        done += 200
    numbers = [json.loads(one["body"])["frame_id"] for one in entries(server)]
    assert list(dict.fromkeys(numbers)) == list(range(600))
    assert len(numbers) <= 600 + 3 * 10


def test_a_frozen_server_costs_its_time_out(server: RedisServer, make: Make) -> None:
    sender = make(timeout_s=0.5)
    sender.send(packed(sender, 1))
    server.signal(signal.SIGSTOP)
    began_at = time.monotonic()
    with pytest.raises(UndeliveredError, match="does not answer"):
        sender.send(packed(sender, 5, first=1))
    assert time.monotonic() - began_at < 2
    server.signal(signal.SIGCONT)
    sender.send(packed(sender, 5, first=1))


def test_a_full_server_takes_nothing_for_now_and_none_overtakes(server: RedisServer, make: Make) -> None:
    sender = make()
    sender.send(packed(sender, 100))
    admin(server, "CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(UndeliveredError, match="maxmemory") as caught:
        sender.send(packed(sender, 100, first=100))
    assert caught.value.delivered == 0
    assert len(entries(server)) == 100
    admin(server, "CONFIG", "SET", "maxmemory", "0")
    sender.send(packed(sender, 100, first=100))
    assert [json.loads(one["body"])["frame_id"] for one in entries(server)] == list(range(200))


def test_a_name_that_is_no_stream_is_refused_for_good(server: RedisServer, make: Make) -> None:
    admin(server, "SET", "penstock:gate", "text")
    sender = make()
    with pytest.raises(RefusedError, match="WRONGTYPE") as caught:
        sender.send(packed(sender, 1))
    assert caught.value.delivered == 0


def test_a_stream_that_is_forbidden_is_refused_and_a_wrong_password_is_not(server: RedisServer, make: Make) -> None:
    admin(server, "ACL", "SETUSER", "box", "on", ">right-Horse", "~penstock:*", "+@all")
    url = f"redis://box:right-Horse@127.0.0.1:{server.port}"
    sender = make(url=url)
    sender.send(packed(sender, 1))
    other = make(url=url, stream="other:{source}")
    with pytest.raises(RefusedError, match=r"No permissions|NOPERM|no permissions"):
        other.send([*packed(other, 1), *packed(sender, 1, first=1)])
    assert len(entries(server)) == 1, "what is behind it must not overtake it: it is sent again alone"
    wrong = make(username="box", password="wrong-Horse")  # noqa: S106
    with pytest.raises(UndeliveredError, match="refuses the connection") as caught:
        wrong.send(packed(wrong, 1))
    assert "Horse" not in str(caught.value)


def test_over_tls_only_a_server_of_the_right_authority_is_believed(tmp_path: Path, ctx: PluginContext) -> None:
    trustme = pytest.importorskip("trustme", reason="the package trustme is not installed")
    authority = trustme.CA()
    cert = authority.issue_cert("127.0.0.1")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = RedisServer(tmp_path / "redis")
    files = ("--tls-cert-file", f"{tmp_path}/cert.pem", "--tls-key-file", f"{tmp_path}/key.pem")
    clients = ("--tls-ca-cert-file", f"{tmp_path}/ca.pem", "--tls-auth-clients", "no")
    server.options = ("--port", "0", "--tls-port", str(server.port), *files, *clients)
    with server:
        for keys, fine in (({}, False), ({"ca_file": str(tmp_path / "ca.pem")}, True), ({"verify_tls": False}, True)):
            config = RedisSinkConfig.model_validate({"url": f"rediss://127.0.0.1:{server.port}", **keys})
            config.check()
            sender = config.build(ctx)
            sender.open()
            if fine:
                sender.send(packed(sender, 2))
            else:
                with pytest.raises(UndeliveredError, match=r"TLS: .*certificate"):
                    sender.send(packed(sender, 2))
            sender.close()
    assert ctx.warnings == [f"verify_tls = false: whoever answers for 127.0.0.1:{server.port} is believed"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"url": "http://x"}, 'must begin with "redis://"'),
        ({"url": "redis://x/abc"}, "only the number of a database"),
        ({"url": "redis://x/0?ssl=no"}, "takes no options"),
        ({"stream": "{sauce}"}, "no placeholder {sauce}"),
        ({"url": "redis://:b@x", "password": "c"}, "keep one of them"),
        ({"username": "c"}, "username needs password"),
        ({"verify_tls": False}, "must begin with rediss://"),
    ],
)
def test_a_mistake_in_the_keys_is_said_in_one_line(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RedisSinkConfig.model_validate({"url": "redis://127.0.0.1", **keys})
    assert says in str(caught.value)


def test_without_the_library_the_extra_is_named_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RedisSinkConfig.model_validate({"url": "redis://127.0.0.1"})
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setattr("sinks.redis.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install penstock\[redis\]") as caught:
        config.check()
    assert caught.value.key == "type"
