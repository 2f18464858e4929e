"""The sink `mqtt` against a real Mosquitto."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mosquitto import MISSING, Mosquitto
from mqtt_listener import Listener
from pydantic import ValidationError
from senders import packed, senders

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.event import SourceEvent
from pipeline.contracts.result import Text
from pipeline.contracts.sender import Parcel, RefusedError, UndeliveredError
from pipeline.testing import PluginContext, frame, result
from sinks._mqtt_broker import Message
from sinks._mqtt_link import HungUpError, LinkDownError
from sinks.mqtt import MAX_HANG_UPS, MqttSender, MqttSinkConfig

trustme = pytest.importorskip("trustme", reason="the package trustme is not installed")

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

RESULTS = "penstock/gate/results"
STATUS = "penstock/status"

Make = Callable[..., MqttSender]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def make(broker: Mosquitto, ctx: PluginContext) -> Iterator[Make]:
    """Opens senders to the broker with these keys; closed at the end."""
    with senders(MqttSinkConfig, MqttSender, ctx, url=f"mqtt://127.0.0.1:{broker.port}") as make:
        yield make


def frame_ids(listener: Listener, count: int) -> list[int]:
    return [json.loads(heard.body)["frame_id"] for heard in listener.wait_for(RESULTS, count)]


def numbers(listener: Listener) -> int:
    """How many different results have arrived."""
    return len({heard.body for heard in listener.of(RESULTS)})


def sent_at_last(sender: MqttSender, parcels: list[Parcel], limit_s: float = 15.0) -> int:
    """Send until it arrives, as the spool does; how many attempts failed."""
    ends_at = time.monotonic() + limit_s
    for attempt in range(1000):
        try:
            sender.send(parcels)
        except UndeliveredError as error:
            parcels = parcels[error.delivered :]
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.1)
        else:
            return attempt
    raise AssertionError("a thousand attempts")


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_results_arrive_in_order_once_with_every_quality_and_version(
    broker: Mosquitto, make: Make, qos: int, version: str
) -> None:
    with Listener(broker.port) as listener:
        sender = make(qos=qos, version=version)
        for batch in range(4):
            sender.send(packed(sender, 50, first=50 * batch))
        assert frame_ids(listener, 200) == list(range(200))
        assert listener.of(STATUS)[0].body == b"online"


def test_mqtt_5_carries_the_id_the_media_type_and_how_long_it_is_worth_something(broker: Mosquitto, make: Make) -> None:
    with Listener(broker.port) as listener:
        sender = make(expire_after_s=60)
        (parcel,) = packed(sender, 1)
        sender.send([parcel])
        (heard,) = listener.wait_for(RESULTS)
    assert heard.user == {"id": parcel.id, "source": "gate"}
    assert heard.expires_s == 60
    assert json.loads(heard.body)["id"] == parcel.id


def test_the_topic_is_fixed_when_the_result_is_packed(broker: Mosquitto, make: Make) -> None:
    with Listener(broker.port) as listener:
        before = packed(make(topic="old/{source}", client_id="old"), 1)
        make(topic="new/{source}").send(before)
        listener.wait_for("old/gate")


def test_a_broker_that_is_away_is_no_reason_not_to_start(broker: Mosquitto, make: Make) -> None:
    broker.kill()
    sender = make()
    parcels = packed(sender, 3)
    with pytest.raises(UndeliveredError, match=f"the broker 127.0.0.1:{broker.port} connection refused"):
        sender.send(parcels)
    broker.start()
    with Listener(broker.port) as listener:
        sent_at_last(sender, parcels)
        assert frame_ids(listener, 3) == [0, 1, 2]


def test_a_broker_killed_in_the_middle_loses_nothing_and_keeps_the_order(broker: Mosquitto, make: Make) -> None:
    with Listener(broker.port) as listener:
        broker.save()
        sender = make()
        done = 0
        for round_ in range(3):
            killer = threading.Timer(0.02 * round_, broker.kill)
            killer.start()
            while done < 1000:
                try:
                    sender.send(packed(sender, min(50, 1000 - done), first=done))
                except UndeliveredError as error:
                    done += error.delivered
                    break
                done += 50
                # What a broker confirmed and could not pass on before it was killed is not the sender's.
                listener.wait(lambda so_far=done: numbers(listener) >= so_far)  # type: ignore[misc]
            killer.join()
            sessions = listener.sessions
            broker.start()
            listener.wait(lambda before=sessions: listener.sessions > before, 15)  # type: ignore[misc]
        parcels = packed(sender, 1000 - done, first=done)
        for start in range(0, len(parcels), 50):
            sent_at_last(sender, parcels[start : start + 50])
        listener.wait(lambda: numbers(listener) == 1000)
        seen = frame_ids(listener, 1000)
    first = list(dict.fromkeys(seen))
    assert first == list(range(1000))
    assert len(seen) - len(first) <= 3 * 50


def test_a_broker_that_freezes_costs_its_time_out_and_no_result(broker: Mosquitto, make: Make) -> None:
    with Listener(broker.port) as listener:
        sender = make(timeout_s=0.5)
        sender.send(packed(sender, 1))
        broker.signal(signal.SIGSTOP)
        parcels = packed(sender, 5, first=1)
        began_at = time.monotonic()
        with pytest.raises(UndeliveredError, match="did not confirm") as caught:
            sender.send(parcels)
        assert time.monotonic() - began_at < 1.5
        with pytest.raises(UndeliveredError, match="does not answer"):
            sender.send(parcels)
        assert time.monotonic() - began_at < 3
        assert caught.value.delivered == 0
        broker.signal(signal.SIGCONT)
        sent_at_last(sender, parcels)
        listener.wait(lambda: len({heard.body for heard in listener.of(RESULTS)}) == 6)
        assert list(dict.fromkeys(frame_ids(listener, 6))) == list(range(6))


def test_a_frozen_broker_does_not_keep_the_sink_from_closing(broker: Mosquitto, make: Make) -> None:
    sender = make(timeout_s=0.3)
    sender.send(packed(sender, 1))
    broker.signal(signal.SIGSTOP)
    with pytest.raises(UndeliveredError):
        sender.send(packed(sender, 40))
    began_at = time.monotonic()
    sender.close()
    assert time.monotonic() - began_at < 3
    assert not [thread for thread in threading.enumerate() if "paho" in thread.name]


def test_a_wrong_password_is_told_without_it_and_tried_again(broker: Mosquitto, make: Make) -> None:
    file = broker.passwords([("box", "right-Horse")])
    broker.kill()
    broker.configure(f"password_file {file}", anonymous=False)
    broker.start()
    sender = make(username="box", password="wrong-Horse")  # noqa: S106
    for _ in range(2):
        with pytest.raises(UndeliveredError, match=r"refuses the connection: Not authorized") as caught:
            sender.send(packed(sender, 1))
        assert "Horse" not in str(caught.value)
    url = f"mqtt://box:right-Horse@127.0.0.1:{broker.port}"
    make(url=url).send(packed(sender, 1))


def test_a_topic_that_the_broker_forbids_is_refused_for_good(broker: Mosquitto, make: Make, tmp_path: Path) -> None:
    access = tmp_path / "acl"
    access.write_text("topic readwrite penstock/#\n")
    access.chmod(0o600)
    broker.kill()
    broker.configure(f"acl_file {access}")
    broker.start()
    good, bad = make(), make(topic="other/{source}", client_id="other")
    parcels = [*packed(good, 2), *packed(bad, 1), *packed(good, 1)]
    while True:  # this broker also hangs up, and what it said is lost when more was on its way
        try:
            good.send(parcels)
        except UndeliveredError as error:
            parcels = parcels[error.delivered :]
        except RefusedError as error:
            refused, answer = parcels[error.delivered], error.answer
            break
    assert (refused.about, answer) == ("other/gate", "Not authorized")
    sent_at_last(good, packed(good, 60))


def test_a_message_over_the_brokers_limit_is_refused_and_the_others_go_on(broker: Mosquitto, make: Make) -> None:
    broker.kill()
    broker.configure("max_packet_size 3000")
    broker.start()
    sender = make()
    large = sender.pack(replace(result(frame(source="gate")), prediction=Text("x" * 4000)))
    with pytest.raises(RefusedError, match=r"a message of .* takes 3000"):
        sender.send([large])
    sender.send(packed(sender, 3))


def test_a_message_at_which_the_broker_hangs_up_each_time_is_refused_at_last(broker: Mosquitto, make: Make) -> None:
    broker.kill()
    broker.configure("message_size_limit 3000")  # it does not announce it
    broker.start()
    with Listener(broker.port) as listener:
        sender = make()
        large = sender.pack(replace(result(frame(1, source="gate")), prediction=Text("x" * 4000)))
        waiting = [*packed(sender, 1), large, *packed(sender, 2, first=2)]
        refused, attempts = None, 0
        while refused is None:
            attempts += 1
            try:
                sender.send(waiting)
            except UndeliveredError as error:
                waiting = waiting[error.delivered :]
            except RefusedError as error:
                refused = waiting.pop(error.delivered)
        assert refused == large
        assert MAX_HANG_UPS <= attempts <= MAX_HANG_UPS + 5
        sent_at_last(sender, waiting)
        listener.wait(lambda: len({heard.body for heard in listener.of(RESULTS)}) == 3)
        assert list(dict.fromkeys(frame_ids(listener, 3))) == [0, 2, 3]


@pytest.mark.parametrize("alone", [True, False])
def test_only_a_message_that_was_alone_is_suspected(broker: Mosquitto, make: Make, alone: bool) -> None:
    broker.kill()
    broker.configure("message_size_limit 3000")
    broker.start()
    link = make()._connection()
    link.wait_up(5)
    broker.signal(signal.SIGSTOP)
    number = link.publish(Message(RESULTS, b"x" * 4000, 1, retain=False))
    if not alone:
        link.publish(Message("penstock/yard/results", b"y", 1, retain=False))
    broker.signal(signal.SIGCONT)
    with pytest.raises(LinkDownError) as caught:
        link.answer(number, time.monotonic() + 5)
    assert isinstance(caught.value, HungUpError) == alone


def test_a_broker_that_is_away_or_silent_again_and_again_refuses_nothing(broker: Mosquitto, make: Make) -> None:
    sender = make(timeout_s=0.2)
    waiting = packed(sender, 1)
    broker.kill()
    for _ in range(MAX_HANG_UPS + 2):
        with pytest.raises(UndeliveredError):
            sender.send(waiting)
    broker.start()
    sent_at_last(sender, waiting)
    for _ in range(MAX_HANG_UPS + 2):
        sender._careful.add("gate")
        broker.signal(signal.SIGSTOP)
        with pytest.raises(UndeliveredError):
            sender.send(waiting)
        broker.signal(signal.SIGCONT)
        sent_at_last(sender, waiting)


def test_a_broker_whose_queues_are_full_for_others_still_confirms(broker: Mosquitto, make: Make) -> None:
    broker.kill()
    broker.configure("max_queued_messages 10")
    broker.start()
    with Listener(broker.port, qos=1):
        pass  # it has a session, and is away
    sender = make()
    for batch in range(4):
        sender.send(packed(sender, 50, first=50 * batch))
    with Listener(broker.port, qos=1) as listener:
        listener.wait_for(RESULTS)
        assert len(listener.of(RESULTS)) < 200, "what it drops after it confirmed is the broker's"


def test_a_broker_that_takes_few_at_once_is_given_few_at_once(broker: Mosquitto, make: Make) -> None:
    broker.kill()
    broker.configure("max_inflight_messages 3")
    broker.start()
    with Listener(broker.port) as listener:
        sender = make(max_in_flight=50)
        for batch in range(4):
            sender.send(packed(sender, 50, first=50 * batch))
        assert frame_ids(listener, 200) == list(range(200))
        assert sender._link is not None
        assert (sender._link.receive_maximum, sender._link.max_in_flight) == (3, 3)


def test_several_sources_are_sent_at_once_over_one_connection(broker: Mosquitto, make: Make) -> None:
    with Listener(broker.port) as listener:
        sender = make()
        sources = ("a", "b", "c", "d")
        parcels = {name: [sender.pack(result(frame(seq, source=name))) for seq in range(50)] for name in sources}
        threads = [threading.Thread(target=sender.send, args=(parcels[name],)) for name in sources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for name in sources:
            heard = listener.wait_for(f"penstock/{name}/results", 50)
            assert [json.loads(one.body)["frame_id"] for one in heard] == list(range(50))
        assert broker.log().count("New client connected") == 2


def test_who_comes_later_finds_the_state_of_each_source_and_that_we_are_there(broker: Mosquitto, make: Make) -> None:
    sender = make()
    event = SourceEvent("e" * 32, "gate", "content", "frozen", None, "", 1.7e9)
    sender.send([*packed(sender, 1), sender.pack(event)])
    with Listener(broker.port) as listener:
        (status,) = listener.wait_for(STATUS)
        (state,) = listener.wait_for("penstock/gate/state")
        assert (status.body, status.retained) == (b"online", True)
        assert (state.body, state.retained) == (b"frozen", True)
        sender.close()
        listener.wait(lambda: listener.of(STATUS)[-1].body == b"offline")


def test_a_broker_that_forgot_everything_is_told_again_without_a_result(broker: Mosquitto, make: Make) -> None:
    sender = make()
    sender.send(packed(sender, 1))
    broker.kill()
    (broker.folder / "mosquitto.db").unlink(missing_ok=True)
    broker.start()
    link = sender._link
    assert link is not None
    ends_at = time.monotonic() + 5
    while not link.down and time.monotonic() < ends_at:
        time.sleep(0.01)
    sender._began_at -= 60  # it is long ago
    sender.tick()
    with Listener(broker.port) as listener:
        listener.wait(lambda: bool(listener.of(STATUS)) and listener.of(STATUS)[-1].body == b"online")
        assert listener.wait_for("penstock/gate/state")[-1].body == b"running"


def test_a_process_that_is_killed_is_offline_by_its_last_will(broker: Mosquitto, make: Make) -> None:
    sender = make()
    sender.send(packed(sender, 1))
    with Listener(broker.port, STATUS) as listener:
        listener.wait_for(STATUS)
        assert sender._link is not None
        sock: Any = sender._link._client.socket()
        os.close(os.dup(sock.fileno()))
        sock.shutdown(2)  # the kernel does the same for a process that is killed
        listener.wait(lambda: listener.of(STATUS)[-1].body == b"offline")


def test_home_assistant_is_told_at_the_start_and_when_it_was_restarted(broker: Mosquitto, make: Make) -> None:
    with Listener(broker.port) as listener:
        sender = make(home_assistant=True)
        sender.send(packed(sender, 1))
        connection = f"homeassistant/binary_sensor/{sender._retained._node}/gate_connection/config"
        listener.wait_for(connection)
        before = len(listener.of(connection))
        listener._client.publish("homeassistant/status", b"online", 1)
        assert len(listener.wait_for(connection, before + 1)) == before + 1
        counts = json.loads(listener.wait_for("penstock/gate/counts")[-1].body)
        assert counts == {"classes": {"thing": 1}, "zones": {}}


# TLS


@pytest.fixture
def authority() -> Any:
    return trustme.CA()


@pytest.fixture
def secure(broker: Mosquitto, authority: Any, tmp_path: Path) -> Mosquitto:
    """The same broker with TLS, for a name that is not 127.0.0.1's when asked for "wrong"."""
    server = authority.issue_cert("127.0.0.1", "localhost")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    for index, blob in enumerate(server.cert_chain_pems):
        blob.write_to_path(tmp_path / "chain.pem", append=index > 0)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    broker.kill()
    broker.configure(f"certfile {tmp_path}/chain.pem", f"keyfile {tmp_path}/key.pem", f"cafile {tmp_path}/ca.pem")
    return broker


def test_over_tls_only_a_broker_of_the_right_authority_is_believed(
    secure: Mosquitto, make: Make, tmp_path: Path, ctx: PluginContext
) -> None:
    secure.start()
    url = f"mqtts://127.0.0.1:{secure.port}"
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for number, keys in enumerate(({}, {"ca_file": str(tmp_path / "other.pem")})):
        stranger = make(url=url, client_id=f"stranger{number}", **keys)
        with pytest.raises(UndeliveredError, match=r"TLS: .*certificate"):
            stranger.send(packed(stranger, 1))
    assert ctx.warnings == []
    make(url=url, client_id="a", ca_file=str(tmp_path / "ca.pem")).send(packed(stranger, 1))
    make(url=url, client_id="b", verify_tls=False).send(packed(stranger, 1))
    assert ctx.warnings == [f"verify_tls = false: whoever answers for 127.0.0.1:{secure.port} is believed"]


def test_a_broker_that_wants_a_certificate_gets_ours(
    secure: Mosquitto, make: Make, authority: Any, tmp_path: Path
) -> None:
    text = (secure.folder / "mosquitto.conf").read_text()
    (secure.folder / "mosquitto.conf").write_text(text + "require_certificate true\n")
    secure.start()
    ours = authority.issue_cert("box@example.org")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ours.pem")
    keys = {"url": f"mqtts://127.0.0.1:{secure.port}", "ca_file": str(tmp_path / "ca.pem")}
    bare = make(**keys, client_id="bare")
    with pytest.raises(UndeliveredError):
        bare.send(packed(bare, 1))
    sender = make(**keys, client_cert=str(tmp_path / "ours.pem"))
    sender.send(packed(sender, 1))


def test_a_plain_broker_where_tls_is_expected_is_an_error_and_no_plain_text(broker: Mosquitto, make: Make) -> None:
    sender = make(url=f"mqtts://box:pass-Word@127.0.0.1:{broker.port}", timeout_s=2)
    with pytest.raises(UndeliveredError):
        sender.send(packed(sender, 1))
    sender.close()
    assert "Word" not in broker.log()


# Keys


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"url": "http://x"}, 'must begin with "mqtt://"'),
        ({"topic": "a/#"}, "holds no +"),
        ({"topic": "a/{sauce}"}, "no placeholder {sauce}"),
        ({"topic": "$SYS/x"}, "does not begin with $"),
        ({"state_topic": "a/state"}, "must hold {source}"),
        ({"status_topic": "a/{source}"}, "no placeholder {source}"),
        ({"qos": 3}, "qos"),
        ({"version": "3.1.1", "expire_after_s": 9}, 'needs version = "5"'),
        ({"url": "mqtt://a:b@x", "username": "c"}, "keep one of them"),
        ({"password": "c"}, "password needs username"),
        ({"verify_tls": False}, "must begin with mqtts://"),
    ],
)
def test_a_mistake_in_the_keys_is_said_in_one_line(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MqttSinkConfig.model_validate({"url": "mqtt://127.0.0.1", **keys})
    assert says in str(caught.value)


def test_a_certificate_that_is_not_there_shows_before_the_start(tmp_path: Path) -> None:
    config = MqttSinkConfig.model_validate({"url": "mqtts://127.0.0.1", "ca_file": str(tmp_path / "none.pem")})
    with pytest.raises(ConfigError) as caught:
        config.check()
    assert caught.value.key == "ca_file"


def test_nothing_secret_is_shown(ctx: PluginContext) -> None:
    config = MqttSinkConfig.model_validate({"url": "mqtt://box:pass-Word@127.0.0.1:9"})
    sender = config.build(ctx)
    sender.open()
    shown = f"{config!r} {config.model_dump_json()} {sender._broker!r}"
    with pytest.raises(UndeliveredError) as caught:
        sender.send(packed(sender, 1))
    sender.close()
    assert "pass-Word" not in f"{shown} {caught.value}"
