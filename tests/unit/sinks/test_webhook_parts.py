"""What a webhook is made of: signatures, templates, bodies, and the keys that say so."""

import base64
import email.parser
import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from pipeline.contracts.analysis import Scene
from pipeline.contracts.event import Best, DaemonEvent, ObjectEvent, SourceEvent
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.contracts.secret import Redactor, secrets_in
from pipeline.contracts.sender import Parcel
from pipeline.testing import detections, frame, result
from pipeline.wire.results import event_dict, to_dict
from sinks._webhook_body import batch_id, message, portions
from sinks._webhook_signature import Signer
from sinks._webhook_template import KEYS, encoded, filled
from sinks.webhook import WebhookSinkConfig

SIGNING = st.binary(min_size=24, max_size=64)
CHAT_KEY = "kYd8aYd93hd7Zs01qQ"


def whsec(key: bytes) -> SecretStr:
    return SecretStr("whsec_" + base64.b64encode(key).decode())


def config(**keys: Any) -> WebhookSinkConfig:
    return WebhookSinkConfig.model_validate({"url": "http://there/hook", **keys})


def parcel(number: int = 0, body: bytes = b'{"a":1}', picture: bytes = b"") -> Parcel:
    return Parcel(f"{number:032x}", "gate", "result", body, picture)


# Signatures


@given(key=SIGNING, other=SIGNING, body=st.binary(), message_id=st.from_regex(r"[0-9a-f]{32}", fullmatch=True))
def test_the_public_library_takes_our_signature_and_nothing_that_was_changed(
    key: bytes, other: bytes, body: bytes, message_id: str
) -> None:
    now = datetime.now(UTC).timestamp()
    text = body.hex().encode()  # the public library wants UTF-8
    headers = Signer([whsec(key)]).headers(message_id, now, b'"%s"' % text)
    receiver = Webhook(whsec(key).get_secret_value())
    assert receiver.verify(b'"%s"' % text, headers) == text.decode()
    spoilt: list[tuple[bytes, dict[str, str]]] = [
        (b'"%s0"' % text, headers),
        (b'"%s"' % text, headers | {"webhook-id": message_id[1:] + "x"}),
        (b'"%s"' % text, headers | {"webhook-timestamp": str(int(now) - 1)}),
        (b'"%s"' % text, Signer([whsec(key)]).headers(message_id, now - 3600, b'"%s"' % text)),
    ]
    if other != key:
        spoilt.append((b'"%s"' % text, Signer([whsec(other)]).headers(message_id, now, b'"%s"' % text)))
    for content, changed in spoilt:
        with pytest.raises(WebhookVerificationError):
            receiver.verify(content, changed)


def test_the_signature_is_that_of_the_specification() -> None:
    secret = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = Signer([secret]).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_while_a_secret_is_exchanged_receivers_with_either_of_the_two_take_it() -> None:
    old, new = whsec(b"o" * 32), whsec(b"n" * 32)
    headers = Signer([new, old]).headers("m", datetime.now(UTC).timestamp(), b"{}")
    for secret in (old, new):
        Webhook(secret.get_secret_value()).verify(b"{}", headers)


def test_without_a_secret_there_is_an_identifier_and_no_signature() -> None:
    assert Signer([]).headers("m", 5.9, b"") == {"webhook-id": "m", "webhook-timestamp": "5"}


@pytest.mark.parametrize("secret", ["", "plain", "whsec_", "whsec_###", "whsec_c2hvcnQ=", "whsec_" + "A" * 200])
def test_a_secret_that_the_standard_does_not_have_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(secret=secret)
    assert not secret or f"{secret}'" not in str(caught.value)
    assert "input_value" not in str(caught.value)


def test_one_secret_or_two() -> None:
    secrets = [whsec(bytes([number]) * 32).get_secret_value() for number in range(3)]
    assert len(config(secret=secrets[0]).secret) == 1
    assert len(config(secret=secrets[:2]).secret) == 2
    for wrong in ([], secrets):
        with pytest.raises(ValidationError, match="one secret, or two"):
            config(secret=wrong)


# Templates

LINE = {
    "id": "i",
    "source": "gate",
    "image": {"width": 640},
    "confidence": 0.5,
    "pts_s": None,
    "predictions": [{"class": "p\u00e9rson", "x": 1.5}],
}


@pytest.mark.parametrize(
    ("template", "body"),
    [
        ("{source}", "gate"),
        ("{image.width}", 640),
        ("{confidence}", 0.5),
        ("{predictions.0.class} at {source}: {confidence}", "p\u00e9rson at gate: 0.5"),
        ("{predictions.1.class}", None),
        ("a {predictions.1.class} b {pts_s}", "a  b "),
        ("{image}", {"width": 640}),
        ("all: {image}", 'all: {"width":640}'),
        ("{{source}} {{{source}}}", "{source} {gate}"),
        ("{source.deeper}", None),
        ("{predictions.99999999999999999999}", None),
        ({"a": ["{id}", 1, True, None, {"b": "{source}"}]}, {"a": ["i", 1, True, None, {"b": "gate"}]}),
    ],
)
def test_what_a_template_becomes(template: object, body: object) -> None:
    assert filled(template, LINE) == body
    config(template={"x": template})


@pytest.mark.parametrize(
    "template",
    [
        {"a": "{"},
        {"a": "{}"},
        {"a": "{source!r}"},
        {"a": "{__class__}"},
        {"a": "{prediction.0.class}"},
        {"a": "{source.__class__()}"},
        {"a": "{source:>9}"},
        {"a": float("nan")},
        {"a": datetime(2026, 1, 1, tzinfo=UTC)},
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}},
    ],
)
def test_a_template_that_cannot_be_meant_is_refused(template: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="template"):
        config(template=template)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(document=st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON))
def test_whatever_is_put_in_nothing_of_it_is_a_placeholder_again(document: dict[str, Any]) -> None:
    template = {"whole": "{a}", "text": "<{b}>", "deep": ["{c.a}"]}
    body = json.loads(encoded(filled(template, document)))
    assert body["whole"] == document.get("a")
    found = document.get("b")
    if isinstance(found, str):
        assert body["text"] == f"<{found}>"


def test_every_key_that_a_line_can_have_is_known() -> None:
    seen = frame(0)
    scene = Scene(ended=(), crossings=(), occupancy={"door": {}}, crossed={"entry": {}})
    best = Best("r" * 32, 7, 0.28, 1e9, 0.9, (1, 2, 3, 4))
    lines: list[dict[str, Any]] = [
        event_dict(SourceEvent("a" * 32, "gate", "state", "running", None, "", 1e9)),
        event_dict(DaemonEvent("a" * 32, "penstock", "reload", "ok", "", 1e9)),
        event_dict(
            ObjectEvent(
                *("e" * 32, "f" * 32, "new", "zone", "gate", "person", 3, 1e9, 1e9, seen, 0.9, (1, 2, 3, 4), best),
                *("door", "entry", "in", 2, ("door",)),
            )
        ),
    ]
    predictions: tuple[Prediction, ...] = (
        detections((1, 2, 3, 4)),
        Detections(np.full((1, 4), np.nan, np.float32), np.array([np.nan], np.float32), np.array([0], np.int32)),
        replace(detections((1, 2, 3, 4)), masks=np.ones((1, 48, 64), np.bool_)),
        Classification(np.array([0.2, 0.8], np.float32), ("a", "b")),
        Classification(np.array([0.2, 0.8], np.float32), ("a", "b"), multi_label=True),
        SemanticMask(np.zeros((48, 64), np.int32), ("a",)),
        Embedding(np.array([0.5], np.float32)),
        Text("a"),
    )
    for prediction in predictions:
        one = replace(result(replace(seen, path="a.mp4", corrupt=True)), prediction=prediction, scene=scene)
        lines.append(to_dict(one))
    assert set().union(*lines) <= KEYS


# Bodies


def test_one_is_an_object_and_a_batch_is_an_array_even_of_one() -> None:
    one, two = parcel(1, b'{"n":1}'), parcel(2, b'{"n":2}')
    assert message([one], form="inline", batched=False).body == b'{"n":1}'
    assert message([one], form="inline", batched=True).body == b'[{"n":1}]'
    both = message([one, two], form="inline", batched=True)
    assert both.body == b'[{"n":1},{"n":2}]'
    assert both.id == batch_id([one.id, two.id]) != batch_id([two.id, one.id])
    assert batch_id([one.id]) == one.id


@given(picture=st.binary(min_size=1))
def test_a_picture_is_the_last_key_or_a_part_of_its_own(picture: bytes) -> None:
    for body in (b"{}", b'{"a":1}'):
        inline = json.loads(message([parcel(0, body, picture)], form="inline", batched=False).body)
        assert base64.b64decode(inline.pop("snapshot")) == picture
        assert inline == json.loads(body)
        made = message([parcel(0, body, picture)], form="multipart", batched=False)
        form = email.parser.BytesParser().parsebytes(
            b"Content-Type: " + made.media_type.encode() + b"\r\n\r\n" + made.body
        )
        parts = [part for part in form.walk() if not part.is_multipart()]
        names = [part.get_param("name", header="content-disposition") for part in parts]
        assert names == ["event", "snapshot"]
        assert made.body.count(picture) >= 1
        assert b"\r\n" + body + b"\r\n" in made.body


def test_every_attempt_has_the_same_body() -> None:
    for form in ("inline", "multipart"):
        first, second = (message([parcel(0, picture=b"p" * 99)], form=form, batched=False) for _ in range(2))
        assert first == second
        assert first.packed() == second.packed()
        assert gzip.decompress(first.packed()) == first.body


@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=30), limit=st.integers(1, 500))
def test_portions_hold_everything_in_order_and_no_more_than_they_may(sizes: list[int], limit: int) -> None:
    parcels = [parcel(number, b"x" * size) for number, size in enumerate(sizes)]
    found = list(portions(parcels, limit))
    assert [one for portion in found for one in portion] == parcels
    assert all(found)
    assert all(len(portion) == 1 or sum(len(one.body) for one in portion) <= limit for portion in found)


# Keys


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"url": "ftp://there"}, "http://"),
        ({"url": "http://there/#x"}, "fragment"),
        ({"method": "GET"}, "POST"),
        ({"headers": {"X": "a\r\nB: c"}}, "line break"),
        ({"headers": {"X Y": "a"}}, "letters"),
        ({"headers": {"Webhook-Id": "a"}}, "set by the program"),
        ({"headers": {"Content-Type": "a"}}, "set by the program"),
        ({"fields": []}, "at least 1"),
        ({"fields": ["id", "predicions"]}, "did you mean predictions"),
        ({"fields": ["qqq"]}, "has the key 'qqq'; a line"),
        ({"template": {"a": "{sourc}"}}, "did you mean source"),
        ({"fields": ["id"], "template": {}}, "one of them"),
        ({"batch": {}, "snapshot": {"format": "multipart"}}, "inline"),
        ({"template": {"snapshot": 1}, "snapshot": {}}, "snapshot"),
        ({"fields": ["snapshot"], "snapshot": {}}, "has the key"),
        ({"snapshot": {"quality": 100}}, "95"),
        ({"client_key": "/k.pem"}, "client_cert"),
        ({"timeout_s": 0}, "greater"),
        ({"concurrency": 0}, "greater"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**keys)


def test_no_secret_is_shown_wherever_it_stands() -> None:
    key = whsec(b"k" * 32).get_secret_value()
    made = config(
        url=f"https://user:pass-word@there/services/T024/{CHAT_KEY}?api_key=k-e-y",
        headers={"X-Key": "h-e-a-d"},
        secret=key,
    )
    hidden = {"pass-word", CHAT_KEY, "k-e-y", "h-e-a-d", key}
    assert hidden <= set(secrets_in(made))
    for text in (str(made), repr(made), str(made.url), repr(made.url), made.model_dump_json(), made.server):
        assert not any(secret in text for secret in hidden), text
    assert str(made.url) == "https://user:***@there/services/T024/***?api_key=***"
    redactor = Redactor()
    redactor.learn(secrets_in(made))
    assert CHAT_KEY not in redactor(f"no route to /services/T024/{CHAT_KEY}")


def test_a_path_that_people_have_thought_of_is_shown() -> None:
    assert str(config(url="http://there/api/v1/detections-of-the-gate").url) == (
        "http://there/api/v1/detections-of-the-gate"
    )
