import copy
import json
import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr, ValidationError

from pipeline.contracts.component import FrozenModel
from pipeline.contracts.secret import Redactor, SecretUrl, redact, secrets_in


class Camera(FrozenModel):
    url: SecretUrl
    password: SecretStr | None = None
    headers: dict[str, str] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:pass@host/x", "rtsp://user:***@host/x"),
        ("rtsp://user:p@ss'w\"x@host:554/x", "rtsp://user:***@host:554/x"),
        ("rtsp://user:pa/ss@host/x", "rtsp://user:***@host/x"),
        ("rtsp://user:p#s?s@host/x", "rtsp://user:***@host/x"),
        ("http://onlytoken@host/", "http://***@host/"),
        ("[Errno 1] no: 'rtsp://a:b@c/' and rtsp://d:e@f/", "[Errno 1] no: 'rtsp://a:***@c/' and rtsp://d:***@f/"),
        ("rtsp://h/?user=me&password=x&channel=1", "rtsp://h/?user=me&password=***&channel=1"),
        ("rtsp://h/user=admin_password=tl_pbo6_channel=1.sdp", "rtsp://h/user=admin_password=***"),
        ("http://h/x?accessToken=a&X-Amz-Signature=b&key=c&sig=d", None),
        ("GET /?url=rtsp%3A%2F%2Fu%3Asecret%40h%2F HTTP/1.1", "GET /?url=rtsp%3A%2F%2Fu%3A***%40h%2F HTTP/1.1"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer ***"),
        ("rtsp://host:554/a@2x?fps=5", "rtsp://host:554/a@2x?fps=5"),
        ("nothing of the sort: a@b.c, key = value", "nothing of the sort: a@b.c, key = value"),
    ],
)
def test_credentials_in_urls_are_masked_and_all_else_is_left(text: str, shown: str | None) -> None:
    expected = shown or "http://h/x?accessToken=***&X-Amz-Signature=***&key=***&sig=***"
    assert redact(text) == expected
    assert redact(expected) == expected


PASSWORDS = st.text(st.characters(codec="utf-8"), min_size=8, max_size=20).map(lambda text: f"Kq{text}Zj")


@given(PASSWORDS, st.sampled_from(["rtsp", "https", "srt"]))
def test_a_password_of_any_characters_is_never_shown(password: str, scheme: str) -> None:
    url = SecretUrl(f"{scheme}://host:554/live").with_credentials("me@site", SecretStr(password))
    assert url.password is not None
    assert (url.username, url.password.get_secret_value(), url.host) == ("me@site", password, "host")
    camera = Camera(url=url, password=SecretStr(password))
    for shown in (str(url), repr(url), f"{camera}", repr(camera), camera.model_dump_json(), repr(camera.model_dump())):
        assert password not in shown
        assert quote(password, safe="") not in shown
    redactor = Redactor()
    redactor.learn(secrets_in(camera))
    for form in (password, quote(password, safe=""), quote(password), json.dumps(password), repr(password)):
        assert redactor(f"<{form}>").strip("<>\"'") == "***", form


def test_a_secret_url_is_a_value() -> None:
    url = SecretUrl("rtsp://u:one@h/x")
    assert url == SecretUrl("rtsp://u:one@h/x")
    assert url != SecretUrl("rtsp://u:two@h/x"), "a new password is a change"
    assert len({url, SecretUrl("rtsp://u:one@h/x")}) == 1
    assert copy.deepcopy(url) == url == pickle.loads(pickle.dumps(url))  # noqa: S301
    with pytest.raises(AttributeError):
        url._value = "rtsp://other/"
    assert url.reveal() == "rtsp://u:one@h/x"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rtsp://u:hunter 22@h/x", "%20"),
        ("rtsp://u:hunter\n22@h/x", "control characters"),
        ("rtsp://u:hunter/22@h/x", "port number"),
        ("hunter22", "scheme://host/path"),
        (5, "string"),
    ],
)
def test_what_is_no_url_is_refused_without_being_quoted(url: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        Camera.model_validate({"url": url})
    assert "hunter" not in str(caught.value)


def test_secrets_are_found_wherever_a_config_has_them() -> None:
    camera = Camera(
        url=SecretUrl("rtsp://u:fr%2Fst@h/x?token=second"),
        password=SecretStr("third"),
        headers={"api_key": "fourth", "agent": "penstock", "forward": "http://u:fifth@h/"},
    )
    found = set(secrets_in([camera]))
    assert {"fr%2Fst", "fr/st", "second", "third", "fourth", "fifth"} <= found
    assert "penstock" not in found


def test_a_short_secret_does_not_blot_out_every_message() -> None:
    redactor = Redactor()
    redactor.learn(["1", "", "abc"])
    assert redactor("source 1: abc") == "source 1: abc"
    assert redactor("rtsp://u:1@h/") == "rtsp://u:***@h/"
