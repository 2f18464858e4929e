"""HTTP with strangers: how much of an answer is read, what it wishes, what is fit for a log; forms; credentials."""

import email.message
import email.parser
import gzip
import zlib
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.secret import SecretUrl
from pipeline.wire.http import AnswerBody, Part, TooLargeError, authorization, bare, multipart, retry_after, shorten

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_user_and_password_of_the_url_become_a_header() -> None:
    assert authorization(SecretUrl("http://h")) is None
    assert authorization(SecretUrl("http://me:a%40b@h")) == "Basic bWU6YUBi"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", "http://h/"),
        ("https://u:p@h:8443/a/b?c=d", "https://h:8443/a/b?c=d"),
        ("http://h/ü/%2F?q=ö%20x", "http://h/%C3%BC/%2F?q=%C3%B6%20x"),
        ("http://u@[::1]:9", "http://[::1]:9/"),
    ],
)
def test_what_is_asked_is_the_url_without_its_credentials(url: str, expected: str) -> None:
    assert bare(SecretUrl(url)) == expected


@given(
    st.lists(
        st.builds(
            Part,
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
            st.binary(max_size=80),
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
            st.none() | st.just("image/jpeg"),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_form_is_read_as_what_it_was_whatever_the_names(parts: list[Part]) -> None:
    body, kind = multipart(parts)
    boundary = kind.partition("boundary=")[2].encode()
    pieces = body.split(b"--" + boundary)
    assert pieces[0] == b""
    assert pieces[-1] == b"--\r\n"
    assert len(pieces) == len(parts) + 2
    for piece, part in zip(pieces[1:-1], parts, strict=True):
        head, _, data = piece.partition(b"\r\n\r\n")
        assert data == part.data + b"\r\n"
        lines = head.decode().split("\r\n")[1:]
        assert len(lines) == 1 + (part.media_type is not None)
        assert lines[0].count('"') == 2 + 2 * (part.filename is not None)


def test_a_form_is_what_other_programs_expect() -> None:
    body, kind = multipart([Part("file", b"\xff\xd8", "a.jpg", "image/jpeg"), Part("x", b"1")])
    message = email.parser.BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    parts = [part for part in message.walk() if not part.is_multipart()]
    assert [part.get_param("name", header="content-disposition") for part in parts] == ["file", "x"]
    assert parts[0].get_filename() == "a.jpg"
    assert parts[0].get_content_type() == "image/jpeg"
    assert isinstance(parts[0], email.message.Message)
    assert parts[0].get_payload(decode=True) == b"\xff\xd8"


def fed(data: bytes, headers: dict[str, str], limit: int = 1000, piece: int = 7) -> bytes:
    body = AnswerBody(headers, limit)
    for at in range(0, len(data), piece):
        body.feed(data[at : at + piece])
    return body.finish()


@given(st.binary(max_size=900), st.integers(1, 100))
def test_an_answer_is_unpacked(data: bytes, piece: int) -> None:
    assert fed(data, {}, piece=piece) == data
    assert fed(gzip.compress(data), {"Content-Encoding": "GZIP"}, piece=piece) == data
    assert fed(zlib.compress(data), {"Content-Encoding": "deflate"}, piece=piece) == data


def test_nothing_over_the_limit_is_kept_however_it_is_packed() -> None:
    with pytest.raises(TooLargeError):
        AnswerBody({"Content-Length": "1001"}, 1000)
    with pytest.raises(TooLargeError):
        AnswerBody({"Content-Length": "9" * 500}, 1000)
    with pytest.raises(TooLargeError):
        fed(b"x" * 1001, {})
    bomb = gzip.compress(b"\0" * (64 << 20), 9)
    body = AnswerBody({"Content-Encoding": "gzip"}, 1000)
    with pytest.raises(TooLargeError):
        body.feed(bomb)
    assert len(body._content) <= 1000
    assert fed(gzip.compress(b"x" * 1000), {"Content-Encoding": "gzip"}) == b"x" * 1000


@pytest.mark.parametrize(
    ("data", "encoding"), [(b"junk", "gzip"), (gzip.compress(b"x" * 99)[:-9], "gzip"), (b"", "gzip")]
)
def test_what_cannot_be_unpacked_is_an_error(data: bytes, encoding: str) -> None:
    with pytest.raises(ValueError, match="packed"):
        fed(data, {"Content-Encoding": encoding})
    with pytest.raises(ValueError, match="not asked for"):
        AnswerBody({"Content-Encoding": "zstd"}, 1000)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        (" 1.5 ", 1.5),
        ("999999999", 86_400),
        (format_datetime(NOW.replace(minute=2), usegmt=True), 120),
        (format_datetime(NOW.replace(year=2025), usegmt=True), 0),
        ("Sat, 21 Nov 2026 12:00:30 -0000", 30),
        ("Saturday, 21-Nov-26 12:00:30 GMT", 30),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("Sat, 99 Nov 2026 12:00:30 GMT", None),
        ("1" * 400, None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW.timestamp()) == seconds


@given(st.text(max_size=80))
def test_retry_after_may_be_anything(value: str) -> None:
    found = retry_after(value, NOW.timestamp())
    assert found is None or 0 <= found <= 86_400


def test_a_strangers_text_fits_into_a_line_of_the_log() -> None:
    text = shorten("a\r\nb\x1b[0m\t see http://u:secret@h/?api_key=123456 " + "z" * 1000)
    assert "secret" not in text
    assert "123456" not in text
    assert text.startswith("a b [0m see http://")
    assert len(text) == 200
