import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.wire.document import as_text, integer, items, loads, mapping, number, quoted, text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1,]",
        b"NaN",
        b'{"a": Infinity}',
        b"\xff\xfe\x00",
        b"<html>",
        b"[" * 100_000,
        b"1" * 5000,
        b'"\\u12"',
    ],
    ids=lambda data: data[:8].decode("latin-1"),
)
def test_what_is_no_json_is_a_value_error_of_one_line(data: bytes) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  (the text is looked at below)
        loads(data)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        loads(data)


def test_numbers_are_finite_numbers_and_no_booleans() -> None:
    assert number(3, "it") == 3.0
    wrong: list[object] = [True, "3", None, [], float("nan"), float("inf"), 10**400]
    for bad in wrong:
        with pytest.raises(ValueError, match="it is no"):
            number(bad, "it")


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert integer(3.0, "it", 0, 5) == 3
    for bad in (3.5, -1, 6, 1e300):
        with pytest.raises(ValueError, match="it is no"):
            integer(bad, "it", 0, 5)


def test_the_kind_that_is_there_is_named() -> None:
    with pytest.raises(ValueError, match="it is no object but a list"):
        mapping([], "it")
    with pytest.raises(ValueError, match="it is no list but null"):
        items(None, "it", 5)
    with pytest.raises(ValueError, match="it has 6 items, more than 5"):
        items([0] * 6, "it", 5)
    with pytest.raises(ValueError, match="it is no text but true or false"):
        text(True, "it")


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(ValueError, match="valid Unicode"):
        text("a\ud800", "it")


def test_a_strangers_text_is_quoted_short_and_printable() -> None:
    assert quoted("a\n\x1b[31mé") == "'a\\n\\x1b[31m\\xe9'"
    assert len(quoted("x" * 10_000)) < 120
    assert quoted(5) == "'int'"


def test_what_is_nested_too_deep_cannot_be_written_down_either() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="too deep"):
        as_text(deep)
