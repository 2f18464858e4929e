"""Where requests go, what is in them, and how much of an answer is read."""

import email.message
import email.parser
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backends._http import Part, Request
from pipeline.backends._http_body import AnswerBody, TooLargeError, authorization, body_of, target
from pipeline.contracts.secret import SecretUrl


@pytest.mark.parametrize(
    ("base", "path", "query", "expected"),
    [
        ("http://h", "", (), "http://h/"),
        ("http://h:9001/", "/infer", (), "http://h:9001/infer"),
        ("https://h/base/", "infer", (("a", "1"),), "https://h/base/infer?a=1"),
        ("https://h/base", "", (), "https://h/base"),
        ("http://h/?key=k", "/x", (("b", None), ("c", "ö &=/")), "http://h/x?key=k&c=%C3%B6%20%26%3D%2F"),
        ("http://u:p@h/x", "/y", (), "http://h/x/y"),
        ("http://h", "/a b/ü?/#", (), "http://h/a%20b/%C3%BC%3F/%23"),
        ("http://h", "/a%2Fb", (), "http://h/a%2Fb"),
        ("http://u:p@H:80/x", "http://h:80/else", (("q", "1"),), "http://H:80/else?q=1"),
        ("http://[::1]:9/x", "/y", (), "http://[::1]:9/x/y"),
    ],
)
def test_the_url_is_put_together(
    base: str, path: str, query: tuple[tuple[str, str | None], ...], expected: str
) -> None:
    assert target(SecretUrl(base), Request("POST", path, query)) == expected


@pytest.mark.parametrize("path", ["http://other/x", "https://h/x", "http://h:81/x", "http://h@other/x", "ftp://h/x"])
def test_an_answer_cannot_send_us_to_another_server(path: str) -> None:
    with pytest.raises(ValueError, match="another server"):
        target(SecretUrl("http://h"), Request("GET", path))


def test_user_and_password_of_the_url_become_a_header() -> None:
    assert authorization(SecretUrl("http://h")) is None
    assert authorization(SecretUrl("http://me:a%40b@h")) == "Basic bWU6YUBi"


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
    body, kind = body_of(Request("POST", "", body=parts))
    assert body is not None
    boundary = (kind or "").partition("boundary=")[2].encode()
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
    body, kind = body_of(Request("POST", "", body=[Part("file", b"\xff\xd8", "a.jpg", "image/jpeg"), Part("x", b"1")]))
    assert body is not None
    message = email.parser.BytesParser().parsebytes(b"Content-Type: " + (kind or "").encode() + b"\r\n\r\n" + body)
    parts = [part for part in message.walk() if not part.is_multipart()]
    assert [part.get_param("name", header="content-disposition") for part in parts] == ["file", "x"]
    assert parts[0].get_filename() == "a.jpg"
    assert parts[0].get_content_type() == "image/jpeg"
    assert isinstance(parts[0], email.message.Message)
    assert parts[0].get_payload(decode=True) == b"\xff\xd8"


def test_json_is_strict() -> None:
    assert body_of(Request("POST", "", json={"a": [1, "ö"]})) == (b'{"a":[1,"\\u00f6"]}', "application/json")
    assert body_of(Request("GET", "")) == (None, None)
    with pytest.raises(ValueError, match="JSON"):
        body_of(Request("POST", "", json={"a": float("nan")}))


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
