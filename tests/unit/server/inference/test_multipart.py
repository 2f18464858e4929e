"""multipart/form-data as programs send it, and as they should not."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.server.inference.multipart import MAX_PARTS, Part, boundary_of, parse_multipart
from pipeline.server.inference.refusal import RefusedError

JPEG = b"\xff\xd8\xff\x00\r\n--not it\r\n\x00"


def part(head: bytes, data: bytes) -> bytes:
    return b"--B\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


def test_files_and_fields_come_out_as_they_were_sent() -> None:
    body = (
        part(b'Content-Disposition: form-data; name="files"; filename="a.jpg"\r\nContent-Type: image/JPEG; q=1', JPEG)
        + part(b"content-disposition: form-data; filename=b.png; name=files", b"")
        + part(b'Content-Disposition: form-data; name="state"', b'{"a": 1}')
        + b"--B--\r\nwhat stands behind is ignored"
    )
    assert parse_multipart(b"what stands before, too\r\n" + body, b"B") == parse_multipart(body, b"B")
    assert parse_multipart(body, b"B") == [
        Part("files", "a.jpg", "image/jpeg", JPEG),
        Part("files", "b.png", "", b""),
        Part("state", None, "", b'{"a": 1}'),
    ]


def test_names_are_never_unquoted() -> None:
    head = b'Content-Disposition: form-data; name="..%2f\\"x"; filename="..%2Fetc/passwd"'
    (only,) = parse_multipart(part(head, b"x") + b"--B--", b"B")
    assert (only.name, only.filename) == ('..%2f\\"x', "..%2Fetc/passwd")


def test_no_parts_are_none() -> None:
    assert parse_multipart(b"--B--", b"B") == []


def test_a_part_without_a_head_has_no_name() -> None:
    assert parse_multipart(b"--B\r\n\r\nx\r\n--B--", b"B") == [Part("", None, "", b"x")]


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"--",
            b"--C--",
            b"--B",
            b"--Bx\r\n\r\nx\r\n--B--",
            b"--B\r\nx",
            b"--B\r\n\r\nx",
            b"--B\r\n\r\nx\r\n--B",
        ),
        b"--B\r\nX: " + b"y" * 9_000 + b"\r\n\r\nx\r\n--B--",
    ],
)
def test_what_is_cut_off_or_malformed_is_400(body: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_multipart(body, b"B")
    assert caught.value.status == 400


def test_too_many_parts_are_413_and_soon() -> None:
    began_at = time.monotonic()
    with pytest.raises(RefusedError) as caught:
        parse_multipart(part(b"", b"") * (MAX_PARTS + 500_000), b"B")
    assert caught.value.status == 413
    assert time.monotonic() - began_at < 1


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; charset=utf-8; boundary="a b:c"', b"a b:c"),
        ("Multipart/Form-Data; BOUNDARY=----WebKit7x", b"----WebKit7x"),
    ],
)
def test_the_boundary_is_found(header: str, boundary: bytes) -> None:
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    "header", ["", "multipart/form-data", "multipart/form-data; boundary=", "application/json; boundary=x", "x" * 9_000]
)
def test_what_has_no_boundary_is_400(header: str) -> None:
    with pytest.raises(RefusedError) as caught:
        boundary_of(header)
    assert caught.value.status == 400


@given(st.lists(st.tuples(st.text("abc", min_size=1), st.binary())), st.sampled_from([b"B", b"-", b"--x--"]))
def test_any_data_comes_out_as_it_went_in(fields: list[tuple[str, bytes]], boundary: bytes) -> None:
    fields = [(name, data) for name, data in fields if b"--" + boundary not in b"\r\n" + data + b"\r\n"]
    body = b"".join(
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary, name.encode(), data)
        for name, data in fields
    )
    found = parse_multipart(body + b"--" + boundary + b"--\r\n", boundary)
    assert [(each.name, each.data) for each in found] == fields


@given(st.binary(max_size=300), st.sampled_from([b"B", b"-"]))
def test_any_bytes_are_parts_or_a_refusal(body: bytes, boundary: bytes) -> None:
    for junk in (body, b"--B\r\n" + body, b"--B\r\n\r\n" + body + b"\r\n--B--"):
        with contextlib.suppress(RefusedError):
            parse_multipart(junk, boundary)
