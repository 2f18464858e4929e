"""What an error status means: codes, the server's own words, its wishes; whatever it sends."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backends._http_config import RetryConfig
from pipeline.backends._http_retry import judge, wait_s
from pipeline.contracts.errors import BackendErrorCode, UnavailableError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@given(st.integers(300, 599), st.binary(max_size=300), st.text(max_size=40))
def test_an_error_may_say_anything(status: int, body: bytes, kind: str) -> None:
    failure = judge("there:80", status, {"Content-Type": kind}, body, NOW.timestamp())
    assert failure.error.code is failure.code
    assert "\n" not in str(failure.error)
    assert len(str(failure.error)) < 260


# More than is read as JSON: its beginning is told as it is.
_FLOOD = ('{"message": "hidden", "l": [' + "0," * 200)[:197] + "..."


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"message": "bad picture", "detail": "other"}', "there:80 answered 400: bad picture"),
        (400, b'{"detail": [{"loc": ["body"]}]}', 'there:80 answered 400: [{"loc": ["body"]}]'),
        (400, b'{"error": {"message": "inner"}}', "there:80 answered 400: inner"),
        (500, b"plain words", "there:80 answered 500: plain words"),
        (502, b"<html><h1>Bad Gateway</h1>", "there:80 answered 502: with an HTML page"),
        (500, b"\x00\x01\x02\x03", "there:80 answered 500"),
        (500, b"[" * 100_000, "there:80 answered 500"),
        (500, b'{"message": NaN, "detail": "x"}', 'there:80 answered 500: {"message": NaN, "detail": "x"}'),
        (500, b'{"message": "hidden", "l": [' + b"0," * 2_000_000 + b"0]}", "there:80 answered 500: " + _FLOOD),
        (307, b"", "there:80 answered 307, a redirection, which is not followed"),
    ],
)
def test_the_servers_own_words_are_told(status: int, body: bytes, said: str) -> None:
    found = str(judge("there:80", status, {}, body, 0.0).error)
    assert found == said or (body[:1] == b"[" and found.startswith(said))


@pytest.mark.parametrize(
    ("status", "body", "is_loading"),
    [
        (503, b'{"error": "Model X is currently loading", "estimated_time": 20.0}', True),
        (503, b'{"estimated_time": 3}', True),
        (503, b"model is still LOADING", True),
        (503, b'{"message": "overloading"}', False),
        (503, b"upstream unreachable", False),
        (503, b"", False),
        (500, b'{"error": "loading failed"}', False),
    ],
)
def test_loading_is_told_from_broken(status: int, body: bytes, is_loading: bool) -> None:
    failure = judge("there:80", status, {}, body, 0.0)
    assert (failure.code is BackendErrorCode.LOADING) == is_loading
    assert isinstance(failure.error, UnavailableError) == is_loading
    assert failure.overloaded == (status == 503 and not is_loading)


def test_waits_are_random_grow_and_end_at_the_cap() -> None:
    retries = RetryConfig(min_s=0.1, max_s=2.0)
    rng = random.Random(1)
    for attempt, ceiling_s in ((1, 0.2), (2, 0.4), (3, 0.8), (10, 2.0), (1000, 2.0)):
        found = [wait_s(retries, attempt, None, rng) for _ in range(300)]
        assert 0 <= min(found) < 0.1 * ceiling_s
        assert 0.9 * ceiling_s < max(found) <= ceiling_s
    assert wait_s(retries, 1, 7.0, rng) == 7.0
