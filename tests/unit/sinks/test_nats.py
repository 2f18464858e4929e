"""The sink `nats` against a real NATS server with JetStream."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from looped import LoopedContext
from nats_server import MISSING, NatsServer
from pydantic import ValidationError
from senders import packed, senders

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.result import Text
from pipeline.contracts.sender import RefusedError, UndeliveredError
from pipeline.testing import PluginContext, frame, result
from sinks.nats import NatsSender, NatsSinkConfig

pytest.importorskip("nats", reason="the package nats-py is not installed (extra `nats`)")

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

Make = Callable[..., NatsSender]


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[LoopedContext]:
    with LoopedContext("out", tmp_path / "data") as made:
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def make(server: NatsServer, ctx: LoopedContext) -> Iterator[Make]:
    """Opens senders to the server with these keys, a stream for everything there; closed at the end."""
    with senders(NatsSinkConfig, NatsSender, ctx, url=f"nats://127.0.0.1:{server.port}") as make:
        yield make


def test_results_are_stored_in_order_with_their_id(server: NatsServer, make: Make) -> None:
    sender = make(stream="video", create_stream=True)
    parcels = packed(sender, 300)
    sender.send(parcels[:200])
    sender.send(parcels[200:])
    found = server.messages("video")
    assert [one["frame_id"] for one in found] == list(range(300))
    assert all(one["id"] == one["_id"] and one["_subject"] == "penstock.gate.results" for one in found)


def test_what_is_sent_again_is_stored_once(server: NatsServer, make: Make) -> None:
    sender = make(stream="video", create_stream=True)
    parcels = packed(sender, 50)
    for _ in range(3):
        sender.send(parcels)
    assert [one["frame_id"] for one in server.messages("video")] == list(range(50))


def test_a_stream_that_is_there_stays_as_it_is_and_none_is_made_unasked(server: NatsServer, make: Make) -> None:
    plain = make()
    with pytest.raises(UndeliveredError, match="has no stream for this subject: make one"):
        plain.send(packed(plain, 1))
    server.make_stream("mine", "penstock.>", max_msgs=5)
    make(stream="mine", create_stream=True).send(packed(plain, 10))
    assert [one["frame_id"] for one in server.messages("mine")] == [5, 6, 7, 8, 9]


def test_kills_of_the_server_lose_nothing_and_keep_the_order(server: NatsServer, make: Make) -> None:
    server.make_stream("video", "penstock.>")
    server.kill()
    sender = make()
    parcels = packed(sender, 600)
    with pytest.raises(UndeliveredError, match=f"the server 127.0.0.1:{server.port} "):
        sender.send(parcels[:100])
    done = 0
    for _ in range(3):
        server.start()
        killer = threading.Timer(0.02, server.kill)
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
    assert [one["frame_id"] for one in server.messages("video")] == list(range(600))


def test_a_frozen_server_costs_its_time_out(server: NatsServer, make: Make) -> None:
    server.make_stream("video", "penstock.>")
    sender = make(timeout_s=0.5)
    sender.send(packed(sender, 1))
    server.signal(signal.SIGSTOP)
    began_at = time.monotonic()
    with pytest.raises(UndeliveredError, match="does not answer"):
        sender.send(packed(sender, 5, first=1))
    assert time.monotonic() - began_at < 4
    server.signal(signal.SIGCONT)
    sender.send(packed(sender, 5, first=1))
    assert [one["frame_id"] for one in server.messages("video")] == list(range(6))


def test_a_server_that_dies_with_answers_owed_is_noticed_at_once(server: NatsServer, make: Make) -> None:
    server.make_stream("video", "penstock.>")
    sender = make(timeout_s=30)
    sender.send(packed(sender, 1))
    server.signal(signal.SIGSTOP)
    killer = threading.Timer(0.3, server.kill)
    killer.start()
    began_at = time.monotonic()
    with pytest.raises(UndeliveredError, match="ended the connection"):
        sender.send(packed(sender, 5, first=1))
    assert time.monotonic() - began_at < 5
    killer.join()


def test_a_full_stream_takes_nothing_for_now(server: NatsServer, make: Make) -> None:
    from nats.js.api import DiscardPolicy

    server.make_stream("video", "penstock.>", max_msgs=5, discard=DiscardPolicy.NEW)
    sender = make()
    with pytest.raises(UndeliveredError, match="maximum messages exceeded") as caught:
        sender.send(packed(sender, 8))
    assert caught.value.delivered == 5


def test_a_stream_that_cannot_be_had_as_asked_is_no_reason_to_throw_results_away(
    server: NatsServer, make: Make
) -> None:
    server.make_stream("other", "penstock.gate.>")
    overlapping = make(stream="video", create_stream=True)
    with pytest.raises(UndeliveredError, match="overlap"):
        overlapping.send(packed(overlapping, 1))
    wrong = make(stream="video")
    with pytest.raises(UndeliveredError, match="expected stream does not match"):
        wrong.send(packed(wrong, 1))


def test_a_message_that_is_too_large_is_refused_for_good(server: NatsServer, make: Make) -> None:
    server.make_stream("video", "penstock.>", max_msg_size=5000)
    sender = make()
    small = packed(sender, 2)
    large = [
        sender.pack(replace(result(frame(5, source="gate")), prediction=Text("x" * size))) for size in (6000, 1 << 21)
    ]
    with pytest.raises(RefusedError, match="exceeds maximum allowed") as caught:
        sender.send([*small, large[0]])
    assert caught.value.delivered == 2
    with pytest.raises(RefusedError, match=r"more than the server .* takes"):
        sender.send([large[1]])
    sender.send(packed(sender, 3, first=2))


def test_a_subject_that_is_forbidden_is_refused_and_a_wrong_password_is_not(server: NatsServer, make: Make) -> None:
    box = 'user: box, password: "right-Horse", permissions: { publish: ["penstock.>", "$JS.API.>"], subscribe: ">" }'
    server.kill()
    server.configure(f"authorization {{ users: [{{ {box} }}] }}\n")
    server.start()
    url = f"nats://box:right-Horse@127.0.0.1:{server.port}"
    sender = make(url=url, stream="video", create_stream=True)
    sender.send(packed(sender, 3))
    other = make(url=url, subject="other.{source}", timeout_s=3)
    began_at = time.monotonic()
    with pytest.raises(RefusedError, match=r"(?i)permissions violation"):
        other.send(packed(other, 1))
    assert time.monotonic() - began_at < 2, "it was not waited for until the time-out"
    wrong = make(username="box", password="wrong-Horse")  # noqa: S106
    with pytest.raises(UndeliveredError, match="Authorization") as caught:
        wrong.send(packed(wrong, 1))
    assert "Horse" not in str(caught.value)


def test_sources_that_are_sent_at_once_share_a_connection(server: NatsServer, make: Make) -> None:
    server.make_stream("video", "penstock.>")
    sender = make()
    sources = ("a", "b", "c", "d")
    parcels = {
        name: [replace(one, id=f"{name}{one.id[1:]}") for one in packed(sender, 100, source=name)] for name in sources
    }
    threads = [threading.Thread(target=sender.send, args=(parcels[name],)) for name in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    found = server.messages("video")
    for name in sources:
        assert [one["frame_id"] for one in found if one["source"] == name] == list(range(100))


def test_over_tls_only_a_server_of_the_right_authority_is_believed(tmp_path: Path, ctx: LoopedContext) -> None:
    trustme = pytest.importorskip("trustme", reason="the package trustme is not installed")
    authority = trustme.CA()
    cert = authority.issue_cert("127.0.0.1")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    more = f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}\n'
    with NatsServer(tmp_path / "nats", more) as server:
        for keys, fine in (({}, False), ({"ca_file": str(tmp_path / "ca.pem")}, True), ({"verify_tls": False}, True)):
            asked = {"url": f"tls://127.0.0.1:{server.port}", "stream": "video", "create_stream": True, **keys}
            sender = NatsSinkConfig.model_validate(asked).build(ctx)
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
        ({"url": "http://x"}, 'must begin with "nats://"'),
        ({"subject": "a b"}, "a subject is words"),
        ({"subject": "a..b"}, "a subject is words"),
        ({"subject": "a.*"}, "a subject is words"),
        ({"subject": "{sauce}"}, "no placeholder {sauce}"),
        ({"url": "nats://a:b@x", "token": "c"}, "keep one of them"),
        ({"username": "c"}, "need each other"),
        ({"create_stream": True}, "create_stream needs stream"),
        ({"verify_tls": False}, "must begin with tls://"),
    ],
)
def test_a_mistake_in_the_keys_is_said_in_one_line(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        NatsSinkConfig.model_validate({"url": "nats://127.0.0.1", **keys})
    assert says in str(caught.value)


def test_without_the_library_the_extra_is_named_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    config = NatsSinkConfig.model_validate({"url": "nats://127.0.0.1"})
    monkeypatch.setitem(sys.modules, "nats", None)
    monkeypatch.setattr("sinks.nats.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install penstock\[nats\]") as caught:
        config.check()
    assert caught.value.key == "type"


def test_a_token_may_stand_in_the_url_and_nothing_secret_is_shown(ctx: PluginContext) -> None:
    from sinks._topics import Names

    config = NatsSinkConfig.model_validate({"url": "nats://s3cret-Token@127.0.0.1:9"})
    server = config.server(Names("out"))
    assert (server.token, server.username, server.url) == ("s3cret-Token", None, "nats://127.0.0.1:9")
    sender = config.build(ctx)
    sender.open()
    with pytest.raises(UndeliveredError) as caught:
        sender.send(packed(sender, 1))
    sender.close()
    assert "s3cret" not in f"{config!r} {config.model_dump_json()} {server!r} {caught.value}"
