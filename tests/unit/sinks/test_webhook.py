"""The webhook's sender against a receiver that does everything wrong, over real sockets."""

import base64
import email.parser
import gzip
import io
import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from looped import LoopedContext
from misbehaving_server import BOMB, GARBAGE, HANG, HTML, HUGE, RESET, Reply, redirect, status
from PIL import Image
from webhook_receiver import WebhookReceiver

from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.event import Best, DaemonEvent, ObjectEvent, SourceEvent
from pipeline.contracts.frame import NoPicture
from pipeline.contracts.sender import Parcel, RefusedError, UndeliveredError
from pipeline.models.picture import from_rgb
from pipeline.testing import MovableClock, detections, frame, result
from sinks._drawing import Drawing
from sinks._webhook_sender import WebhookSender
from sinks.webhook import WebhookSinkConfig

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
CHAT_KEY = "kYd8aYd93hd7Zs01qQ"


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[LoopedContext]:
    with LoopedContext("hook", tmp_path / "data") as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as made:
        yield made


class Opened:
    """A sender that is closed at the end of the test."""

    def __init__(self, url: str, ctx: LoopedContext, **keys: Any) -> None:
        self.config = WebhookSinkConfig.model_validate({"url": url, **keys})
        self.sender: WebhookSender = self.config.build(ctx)

    def __enter__(self) -> WebhookSender:
        self.sender.open()
        return self.sender

    def __exit__(self, *_: object) -> None:
        self.sender.close()


def parcel(number: int = 0, body: bytes = b'{"id":"x","source":"gate"}', picture: bytes = b"") -> Parcel:
    return Parcel(f"{number:032x}", "gate", "result", body, picture)


def failure(sender: WebhookSender, *parcels: Parcel) -> PenstockError:
    with pytest.raises(PenstockError) as caught:
        sender.send(parcels or (parcel(),))
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return caught.value


def object_event() -> ObjectEvent:
    seen = frame(7, source="gate")
    best = Best("r" * 32, 7, 0.28, 1e9, 0.9, (1, 2, 30, 40))
    return ObjectEvent(
        "e" * 32, "f" * 32, "new", "object", "gate", "person", 3, 1e9, 1e9, seen, 0.9, (1, 2, 30, 40), best
    )


# What is sent


def test_a_result_arrives_as_its_json_line_signed_with_its_id(ctx: LoopedContext) -> None:
    with WebhookReceiver(secret=SECRET) as receiver, Opened(f"{receiver.url}/a/b?c=d", ctx, secret=SECRET) as sender:
        one = result(frame(5, source="gate"))
        made = sender.pack(one)
        assert (made.id, made.source, made.kind, made.picture) == (one.id, "gate", "result", b"")
        sender.send([made])
        (asked,) = receiver.asked
        assert (asked.method, asked.path, asked.query) == ("POST", "/a/b", {"c": "d"})
        assert asked.headers["content-type"] == "application/json"
        assert asked.headers["webhook-id"] == one.id
        assert asked.json()["frame_id"] == 5
        assert receiver.wrong == []
        assert list(receiver.taken()) == [one.id]


def test_every_attempt_carries_the_same_id_and_body_and_its_own_time(ctx: LoopedContext) -> None:
    clock = MovableClock()
    ctx.clock = clock
    with WebhookReceiver() as receiver, Opened(receiver.url, ctx, secret=SECRET) as sender:
        receiver.then(status(503))
        failure(sender)
        clock.advance(60)
        sender.send([parcel()])
        first, second = receiver.asked
        assert first.body == second.body
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 60
        assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


def test_method_headers_and_credentials_are_the_operators(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    url = receiver.url.replace("http://", "http://us%40er:pa%2Fss@")
    with Opened(url, ctx, method="PUT", headers={"X-Key": "1", "User-Agent": "mine"}) as sender:
        sender.send([parcel()])
    (asked,) = receiver.asked
    assert asked.method == "PUT"
    assert asked.headers["x-key"] == "1"
    assert asked.headers["user-agent"] == "mine"
    assert base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")) == b"us@er:pa/ss"


def test_gzip_compresses_and_the_signature_is_of_what_was_compressed(ctx: LoopedContext) -> None:
    with WebhookReceiver(secret=SECRET) as receiver, Opened(receiver.url, ctx, secret=SECRET, gzip=True) as sender:
        made = sender.pack(result(frame(1)))
        sender.send([made])
        (asked,) = receiver.asked
        assert asked.headers["content-encoding"] == "gzip"
        assert len(asked.body) < len(made.body)
        assert gzip.decompress(asked.body) == made.body
        assert receiver.wrong == []


def test_fields_and_template_are_what_is_packed(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    with Opened(receiver.url, ctx, fields=["frame_id", "path", "source"]) as sender:
        assert sender.pack(result(frame(3))).body == b'{"frame_id":3,"source":"test"}'
    template = {"text": "{predictions.0.class} at {source}", "site": "north"}
    with Opened(receiver.url, ctx, template=template) as sender:
        assert json.loads(sender.pack(result(frame(3))).body) == {"text": "thing at test", "site": "north"}


def test_events_and_notices_are_sent_as_results_are(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    with Opened(receiver.url, ctx) as sender:
        happened = sender.pack(object_event())
        assert (happened.id, happened.kind, happened.source) == ("e" * 32, "event", "gate")
        away = sender.pack(SourceEvent("a" * 32, "gate", "state", "reconnecting", "TIMEOUT", "gone", 1e9))
        assert (away.id, away.kind, away.source) == ("a" * 32, "notice", "gate")
        full = sender.pack(DaemonEvent("b" * 32, "sink hook", "spool", "full", "why", 1e9))
        assert (full.id, full.kind, full.source) == ("b" * 32, "notice", "")
        for one in (happened, away, full):
            sender.send([one])
    assert [asked.json()["event"] for asked in receiver.asked] == ["object", "state", "spool"]


def test_a_batch_is_one_array_and_says_how_much_of_it_arrived(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    with Opened(receiver.url, ctx, batch={"max_items": 50, "max_wait_s": 2, "max_bytes": 1024}) as sender:
        assert (sender.max_items, sender.max_wait_s) == (50, 2.0)
        body = b'{"pad":"%s"}' % (b"x" * 300)
        parcels = [parcel(number, body) for number in range(10)]
        sender.send(parcels)
        assert [len(json.loads(asked.body)) for asked in receiver.asked] == [3, 3, 3, 1]
        receiver.then(Reply(200), status(503))
        error = failure(sender, *parcels)
        assert isinstance(error, UndeliveredError)
        assert error.delivered == 3
        receiver.then(Reply(200), Reply(200), status(413))
        refused = failure(sender, *parcels)
        assert isinstance(refused, RefusedError)
        assert refused.delivered == 6


def test_connections_are_used_again_and_no_more_than_asked_for(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    receiver.always(Reply(200, delay_s=0.02))
    with Opened(receiver.url, ctx, concurrency=3) as sender, ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(sender.send, [parcel(number)]) for number in range(30)]:
            done.result()
    assert len(receiver.asked) == 30
    assert receiver.connections <= 3
    assert receiver.most_under_way == 3


# Pictures


def test_a_snapshot_is_a_jpeg_of_the_frame_shrunk_with_its_boxes(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    one = result(frame(0, width=640, height=360), detections((100, 50, 300, 250)))
    with Opened(receiver.url, ctx, snapshot={"max_size": 320, "quality": 90}) as sender:
        assert sender.wants_pictures
        sender.send([sender.pack(one)])
    with Opened(receiver.url, ctx, snapshot={"max_size": 320, "boxes": False}) as sender:
        sender.send([sender.pack(one)])
    with_box, without = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(asked.json()["snapshot"])))).astype(int)
        for asked in receiver.asked
    )
    assert with_box.shape == without.shape == (180, 320, 3)
    differs = np.abs(with_box - without).max(axis=2) > 60
    assert differs[25:125, 50].mean() > 0.9, "the left edge"
    assert not differs[60:115, 70:130].any(), "the inside"
    assert not differs[140:].any(), "below"


def test_what_is_to_be_hidden_is_hidden_or_there_is_no_picture(
    receiver: WebhookReceiver, ctx: LoopedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    seen = replace(frame(0, width=128, height=96), picture=from_rgb(noise))
    one = result(seen, detections((32, 24, 96, 72)))
    hide = {"format": "inline", "boxes": False, "quality": 95, "draw": [{"type": "pixelate"}]}
    with Opened(receiver.url, ctx, snapshot=hide) as sender:
        picture = np.asarray(Image.open(io.BytesIO(sender.pack(one).picture)).convert("L")).astype(int)
        assert picture[30:66, 38:90].std() < 0.5 * picture[:20].std()
        monkeypatch.setattr(Drawing, "jpeg", unable)
        made = sender.pack(one)
        assert made.picture == b""
        assert json.loads(made.body)["id"] == one.id


def unable(*_: object, **__: object) -> bytes:
    raise TransientError("cannot be hidden now")


def test_a_snapshot_as_a_form_has_two_parts(ctx: LoopedContext) -> None:
    with WebhookReceiver(secret=SECRET) as receiver:
        with Opened(receiver.url, ctx, secret=SECRET, snapshot={"format": "multipart"}) as sender:
            sender.send([sender.pack(object_event())])
        (asked,) = receiver.asked
        head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
        form = email.parser.BytesParser().parsebytes(head + asked.body)
        event, picture = (part for part in form.walk() if not part.is_multipart())
        assert json.loads(event.get_payload())["event"] == "object"  # type: ignore[arg-type]
        assert event.get_content_type() == "application/json"
        assert (picture.get_content_type(), picture.get_filename()) == ("image/jpeg", f"{'e' * 32}.jpg")
        Image.open(io.BytesIO(picture.get_payload(decode=True))).load()  # type: ignore[arg-type]


def test_where_there_is_no_picture_none_is_sent(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    one = result(frame(0))
    bare = replace(one, frame=replace(one.frame, picture=NoPicture(one.frame.picture.size)))
    with Opened(receiver.url, ctx, snapshot={}) as sender:
        sender.send([sender.pack(bare)])
        sender.send([sender.pack(SourceEvent("a" * 32, "gate", "state", "running", None, "", 1e9))])
    assert all("snapshot" not in asked.json() for asked in receiver.asked)


def test_a_large_body_goes_out_whole(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    with Opened(receiver.url, ctx, snapshot={}) as sender:
        sender.send([parcel(picture=bytes(range(256)) * 12_000)])
    assert len(base64.b64decode(receiver.asked[0].json()["snapshot"])) == 256 * 12_000


# What the receiver answers


@pytest.mark.parametrize("code", [200, 201, 202, 299])
def test_any_2xx_is_an_arrival_whatever_comes_with_it(receiver: WebhookReceiver, ctx: LoopedContext, code: int) -> None:
    with Opened(receiver.url, ctx, timeout_s=5) as sender:
        for reply in (
            Reply(code, body=b""),
            replace(HUGE, status=code),
            replace(BOMB, status=code),
            replace(HTML, status=code),
            Reply(code, {"Content-Encoding": "gzip"}, b"this is no gzip"),
            Reply(code, {"Content-Encoding": "br"}, b"nobody asked for that"),
            Reply(code, body=b"x" * 1000, cut_at=400),
        ):
            receiver.then(reply)
            sender.send([parcel()])


def test_a_2xx_whose_body_drips_is_not_waited_for(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    receiver.then(Reply(200, body=b"x" * 100_000, bytes_per_s=1000))
    began = time.monotonic()
    with Opened(receiver.url, ctx, timeout_s=1) as sender:
        sender.send([parcel()])
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 409, 413, 415, 422, 451, 499])
def test_what_is_refused_for_good_says_what_was_answered(
    receiver: WebhookReceiver, ctx: LoopedContext, code: int
) -> None:
    receiver.always(status(code, "no such\r\n camera \x1b[2J http://u:pass-word@there/"))
    with Opened(receiver.url, ctx) as sender:
        error = failure(sender)
    assert isinstance(error, RefusedError)
    assert error.answer.startswith(f"{code}: no such camera")
    assert "pass-word" not in error.answer + str(error)
    assert "\x1b" not in error.answer


@pytest.mark.parametrize("code", [408, 425, 429, 500, 501, 502, 503, 504, 599])
def test_what_may_go_better_later_is_kept_with_the_receivers_wish(
    receiver: WebhookReceiver, ctx: LoopedContext, code: int
) -> None:
    clock = MovableClock(wall=datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp())
    ctx.clock = clock
    date = format_datetime(datetime(2026, 11, 21, 12, tzinfo=UTC) + timedelta(seconds=90), usegmt=True)
    with Opened(receiver.url, ctx) as sender:
        for header, wish_s in (("7", 7.0), (date, 90.0), ("99999999999", 86_400.0), ("soon", None), ("-5", None)):
            receiver.then(status(code, Retry_After=header))
            error = failure(sender)
            assert isinstance(error, UndeliveredError)
            assert error.retry_after_s == wish_s, header
        receiver.then(status(code))
        assert getattr(failure(sender), "retry_after_s", 0) is None


def test_410_is_the_end(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    receiver.always(status(410))
    with Opened(receiver.url, ctx) as sender:
        error = failure(sender)
    assert isinstance(error, FatalError)
    assert "410" in str(error)


def test_a_redirection_is_not_followed_and_costs_nothing(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    with WebhookReceiver() as elsewhere:
        with Opened(f"{receiver.url}/{CHAT_KEY}", ctx) as sender:
            for code in (301, 302, 303, 307, 308):
                receiver.then(replace(redirect(f"{elsewhere.url}/take-it?token=s-e-c-r-e-t"), status=code))
                error = failure(sender)
                assert isinstance(error, UndeliveredError)
                assert "not followed" in str(error)
                assert "s-e-c-r-e-t" not in str(error)
        assert elsewhere.asked == []


@pytest.mark.parametrize(
    "reply",
    [HANG, RESET, GARBAGE, Reply(cut_at=20), Reply(raw=b""), Reply(101, body=b"")],
    ids=["hang", "reset", "garbage", "cut", "nothing", "101"],
)
def test_no_answer_or_none_of_http_means_later(receiver: WebhookReceiver, ctx: LoopedContext, reply: Reply) -> None:
    with Opened(f"{receiver.url}/{CHAT_KEY}", ctx, timeout_s=0.5) as sender:
        receiver.then(reply)
        error = failure(sender)
        assert isinstance(error, UndeliveredError)
        assert CHAT_KEY not in str(error)
        sender.send([parcel()])


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\n" + b"X-%d: y\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 5_000_000,
        b"HTTP/1.1 200 OK\r\nX: a\nB: c\r\nX\x00Y: z\r\n\r\n",
        b"HTTP/1.1 99999 Far\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    ],
    ids=["100s", "103s", "many", "long", "split", "status", "version", "negative", "two"],
)
def test_a_hostile_head_costs_an_attempt_and_nothing_else(
    receiver: WebhookReceiver, ctx: LoopedContext, raw: bytes
) -> None:
    with Opened(receiver.url, ctx, timeout_s=3) as sender:
        receiver.then(Reply(raw=raw))
        assert isinstance(failure(sender), UndeliveredError)
        sender.send([parcel()])


def test_a_receiver_that_is_away_is_told_by_host_and_port_alone(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    receiver.down()
    url = receiver.url.replace("http://", "http://user:pass-word@")
    with Opened(f"{url}/hooks/{CHAT_KEY}?key=s-e-c-r-e-t", ctx) as sender:
        error = failure(sender)
        assert isinstance(error, UndeliveredError)
        assert str(error) == f"no connection to 127.0.0.1:{receiver.port}: Connection refused"
        receiver.up()
        sender.send([parcel()])


# TLS


def test_a_certificate_is_believed_from_whom_the_operator_says(ctx: LoopedContext, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    good, wrong_host = authority.issue_cert("127.0.0.1"), authority.issue_cert("elsewhere.example")
    expired = authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    for certificate, keys, fault in (
        (good, {"ca_file": tmp_path / "ca.pem"}, None),
        (good, {}, "unable to get local issuer certificate"),
        (wrong_host, {"ca_file": tmp_path / "ca.pem"}, "certificate is not valid for '127.0.0.1'"),
        (expired, {"ca_file": tmp_path / "ca.pem"}, "certificate has expired"),
        (stranger.issue_cert("127.0.0.1"), {"ca_file": tmp_path / "ca.pem"}, "unable to get local issuer"),
        (expired, {"verify_tls": False}, None),
    ):
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(tls)
        with WebhookReceiver(tls=tls) as receiver, Opened(receiver.url, ctx, **keys) as sender:
            if fault is None:
                sender.send([parcel()])
            else:
                error = failure(sender)
                assert isinstance(error, UndeliveredError)
                assert fault in str(error)
                assert receiver.asked == []
            assert ctx.warnings == (
                [f"verify_tls = false: whoever answers for 127.0.0.1:{receiver.port} is believed"]
                if "verify_tls" in keys
                else []
            )


def test_a_receiver_may_ask_who_we_are(ctx: LoopedContext, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("penstock.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED
    with WebhookReceiver(tls=tls) as receiver:
        with Opened(receiver.url, ctx, ca_file=tmp_path / "ca.pem") as sender:
            assert isinstance(failure(sender), UndeliveredError)
        with Opened(receiver.url, ctx, ca_file=tmp_path / "ca.pem", client_cert=tmp_path / "me.pem") as sender:
            sender.send([parcel()])


@pytest.mark.parametrize("key", ["ca_file", "client_cert"])
def test_a_certificate_that_cannot_be_read_is_found_before_the_start(tmp_path: Path, key: str) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    made = WebhookSinkConfig.model_validate({"url": "https://there", key: tmp_path / "junk.pem"})
    with pytest.raises(ConfigError) as caught:
        made.check()
    assert caught.value.key == key


# How it ends


def test_closing_ends_a_request_that_hangs(receiver: WebhookReceiver, ctx: LoopedContext) -> None:
    receiver.then(HANG)
    with ThreadPoolExecutor(1) as pool:
        with Opened(receiver.url, ctx, timeout_s=30) as sender:
            waiting = pool.submit(sender.send, [parcel()])
            while not receiver.asked:
                time.sleep(0.01)
        with pytest.raises(UndeliveredError):
            waiting.result(5)


def test_closing_without_a_request_and_twice_is_fine(ctx: LoopedContext) -> None:
    with Opened("http://127.0.0.1:9", ctx) as sender:
        sender.close()
