"""A backend elsewhere, whole, against a server that misbehaves: each fault has its name, and none is contagious."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from misbehaving_server import (
    BOMB,
    CUT,
    DRIP,
    GARBAGE,
    HANG,
    HTML,
    HUGE,
    JUNK,
    LOADING,
    NAN,
    RESET,
    WELL,
    Reply,
    json_body,
    redirect,
    status,
)
from observed import until
from toy_remote import ToyConfig, toy

from pipeline.backends._http_backend import HttpBackend
from pipeline.contracts.backend import Circuit, Measured, Servable
from pipeline.contracts.errors import BackendErrorCode, FatalError, TransientError, UnavailableError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Detections
from pipeline.testing import MovableClock, frame

QUICK: dict[str, Any] = {"retries": {"max_attempts": 3, "min_s": 0.001, "max_s": 0.002}, "timeout_s": 5.0}


def one(backend: HttpBackend, given: Frame | None = None) -> Detections:
    (found,) = backend.infer([given or frame(grey=200)])
    assert isinstance(found, Detections)
    return found


def fault(backend: HttpBackend, given: Frame | None = None) -> TransientError:
    """The error of one `infer`."""
    with pytest.raises(TransientError) as caught:
        backend.infer([given or frame()])
    assert "\n" not in str(caught.value)
    return caught.value


def requests(backend: HttpBackend) -> dict[str, int]:
    """What was counted, without the zeros."""
    return {code: count for code, count in backend.read().requests.items() if count}


def test_a_picture_goes_out_and_its_boxes_come_back(tmp_path: Path) -> None:
    with toy(tmp_path) as (backend, server, _):
        found = one(backend)
        (asked,) = server.asked
    assert isinstance(backend, Measured)
    assert isinstance(backend, Servable)
    assert found.label(0) == "bright"
    assert found.xyxy[0] == pytest.approx([0, 0, 64 * 200 / 255, 24], abs=0.5)
    assert asked.headers["content-type"] == "image/jpeg"
    assert asked.headers["user-agent"] == "penstock"
    assert found.timings.infer_s > 0
    assert found.timings.preprocess_s > 0
    assert (backend.model, backend.concurrency, backend.max_batch) == ("toy/1", 5, 1)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (status(400, "bad picture"), BackendErrorCode.REJECTED),
        (status(401), BackendErrorCode.AUTH),
        (status(402), BackendErrorCode.AUTH),
        (status(403), BackendErrorCode.AUTH),
        (status(404), BackendErrorCode.NOT_FOUND),
        (status(410), BackendErrorCode.NOT_FOUND),
        (status(413), BackendErrorCode.REJECTED),
        (status(422), BackendErrorCode.REJECTED),
        (status(500, "boom"), BackendErrorCode.SERVER_ERROR),
        (status(501), BackendErrorCode.SERVER_ERROR),
        (redirect("http://127.0.0.1:9/"), BackendErrorCode.REJECTED),
        (GARBAGE, BackendErrorCode.BAD_ANSWER),
        (JUNK, BackendErrorCode.BAD_ANSWER),
        (HTML, BackendErrorCode.BAD_ANSWER),
        (NAN, BackendErrorCode.BAD_ANSWER),
        (json_body([]), BackendErrorCode.BAD_ANSWER),
        (json_body({"no": "boxes"}), BackendErrorCode.BAD_ANSWER),
        (json_body([{"boxes": []}, {"boxes": []}]), BackendErrorCode.BAD_ANSWER),
        (json_body({"boxes": [[1000, 2, 1100, 3, 0.5, 0]]}), BackendErrorCode.BAD_ANSWER),
        (json_body({"boxes": [[9, 2, 3, 4, 0.5, 0]]}), BackendErrorCode.BAD_ANSWER),
        (json_body({"boxes": [[1, 2, 3, 4, 7.5, 0]]}), BackendErrorCode.BAD_ANSWER),
        (json_body({"boxes": [[1, 2, 3, 4, 0.5, -1]]}), BackendErrorCode.BAD_ANSWER),
        (HUGE, BackendErrorCode.TOO_LARGE),
        (replace(HUGE, headers={"Transfer-Encoding": "identity"}), BackendErrorCode.TOO_LARGE),
        (BOMB, BackendErrorCode.TOO_LARGE),
        (Reply(body=b"{}", headers={"Content-Encoding": "br"}), BackendErrorCode.BAD_ANSWER),
        (Reply(body=b"{}", headers={"Content-Encoding": "gzip"}), BackendErrorCode.BAD_ANSWER),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_with_an_answer_has_a_name_is_counted_once_and_not_tried_again(
    tmp_path: Path, reply: Reply, code: BackendErrorCode
) -> None:
    with toy(tmp_path, **QUICK) as (backend, server, _):
        server.then(reply)
        assert fault(backend).code is code
        assert requests(backend) == {code: 1}
        assert len(server.asked) == 1
        assert len(one(backend)) == 1, "the next frame is served"
        assert requests(backend) == {code: 1, "ok": 1}


def test_a_path_that_is_not_there_is_named_without_its_query(tmp_path: Path) -> None:
    with toy(tmp_path, **QUICK) as (backend, server, _):
        server.then(status(404))
        message = str(fault(backend))
        assert f"{server.asked[0].path} answered 404" in message
        assert "?" not in message


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (status(408), BackendErrorCode.TIMEOUT),
        (status(429), BackendErrorCode.RATE_LIMITED),
        (status(502), BackendErrorCode.SERVER_ERROR),
        (status(503), BackendErrorCode.SERVER_ERROR),
        (status(504), BackendErrorCode.SERVER_ERROR),
        (CUT, BackendErrorCode.CONNECTION),
        (Reply(cut_at=20), BackendErrorCode.CONNECTION),
        (RESET, BackendErrorCode.CONNECTION),
        (Reply(cut_at=150, reset=True, body=b" " * 1000), BackendErrorCode.CONNECTION),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_may_go_better_is_tried_again_with_the_same_picture(
    tmp_path: Path, reply: Reply, code: BackendErrorCode
) -> None:
    with toy(tmp_path, **QUICK) as (backend, server, _):
        server.then(reply, reply)
        one(backend)
        assert requests(backend) == {code: 2, "ok": 1}
        assert backend.read().retries == 2
        bodies = {asked.body for asked in server.asked}
        assert len(server.asked) == 3
        assert len(bodies) == 1
        assert backend.read().bytes_sent == 3 * len(bodies.pop())
        server.then(reply, reply, reply)
        assert fault(backend).code is code
        assert len(server.asked) == 6, "as many attempts as are allowed, no more"
        assert backend.read().circuit is Circuit.CLOSED


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with toy(tmp_path, **QUICK) as (backend, server, _):
        one(backend)
        server.down()
        error = fault(backend)
        assert error.code is BackendErrorCode.CONNECTION
        assert str(server.port) in str(error)
        server.up()
        one(backend)


def test_a_request_that_may_not_happen_twice_is_sent_again_only_if_it_cannot_have_begun(tmp_path: Path) -> None:
    with toy(tmp_path, idempotent=False, **QUICK) as (backend, server, _):
        for reply in (CUT, RESET, status(503), status(502)):
            before = len(server.asked)
            server.then(reply)
            fault(backend)
            assert len(server.asked) == before + 1, reply
        server.then(status(429), status(429))
        one(backend)
        server.down()
        before = backend.read().retries
        assert fault(backend).code is BackendErrorCode.CONNECTION
        assert backend.read().retries == before + 2


@pytest.mark.parametrize("reply", [HANG, DRIP, Reply(delay_s=3)], ids=["hang", "drip", "late"])
def test_the_deadline_is_kept(tmp_path: Path, reply: Reply) -> None:
    with toy(tmp_path, timeout_s=0.5) as (backend, server, _):
        server.then(reply)
        start = time.monotonic()
        assert fault(backend).code is BackendErrorCode.TIMEOUT
        assert 0.49 < time.monotonic() - start < 1.5
        assert requests(backend) == {"timeout": 1}
        one(backend)


def test_a_frame_is_not_worth_more_than_its_staleness(tmp_path: Path) -> None:
    with toy(tmp_path, timeout_s=5.0, retries={"min_s": 0.05, "max_s": 0.05}) as (backend, server, _):
        server.always(HANG)
        start = time.monotonic()
        given = replace(frame(), decoded_at=start, stale_at=start + 0.3)
        assert fault(backend, given).code is BackendErrorCode.TIMEOUT
        assert 0.29 < time.monotonic() - start < 1.5
        before = len(server.asked)
        stale = replace(frame(), decoded_at=start - 5, stale_at=start)
        assert fault(backend, stale).code is BackendErrorCode.STALE
        assert len(server.asked) == before, "not even sent"
        server.always(status(503))
        start = time.monotonic()
        given = replace(frame(), decoded_at=start, stale_at=start + 0.3)
        fault(backend, given)
        assert time.monotonic() < start + 1.5


def test_a_time_out_of_a_frame_that_had_waited_long_is_not_the_servers_fault(tmp_path: Path) -> None:
    with toy(tmp_path, timeout_s=5.0, circuit={"failures": 2}) as (backend, server, _):
        server.always(HANG)
        for _ in range(4):
            now = time.monotonic()
            assert fault(backend, replace(frame(), decoded_at=now - 9, stale_at=now + 0.05)).code == "timeout"
        assert backend.read().circuit is Circuit.CLOSED
        assert backend.read().window == 4
        for _ in range(2):
            now = time.monotonic()
            assert fault(backend, replace(frame(), decoded_at=now, stale_at=now + 0.05)).code == "timeout"
        assert backend.read().circuit is Circuit.OPEN


def test_retry_after_is_waited_for_where_there_is_time(tmp_path: Path) -> None:
    with toy(tmp_path, **QUICK) as (backend, server, _):
        server.then(status(429, Retry_After="1"))
        start = time.monotonic()
        one(backend)
        assert 0.99 < time.monotonic() - start < 2.0


def test_a_retry_after_beyond_the_deadline_is_heeded_by_the_frames_behind(tmp_path: Path) -> None:
    clock = MovableClock()
    with toy(tmp_path, clock=clock, **QUICK) as (backend, server, _):
        server.then(status(429, Retry_After="30"))
        error = fault(backend)
        assert (error.code, error.retry_after_s) == (BackendErrorCode.RATE_LIMITED, 30.0)
        error = fault(backend)
        assert isinstance(error, UnavailableError)
        assert error.code is BackendErrorCode.RATE_LIMITED
        assert len(server.asked) == 1
        clock.advance(30)
        one(backend)
        assert backend.read().circuit is Circuit.CLOSED


def test_a_model_that_is_loading_is_waited_for_and_is_no_failure(tmp_path: Path) -> None:
    quick: dict[str, Any] = {**QUICK, "circuit": {"failures": 1}}
    with toy(tmp_path, **quick) as (backend, server, ctx):
        server.then(*[LOADING] * 8)
        one(backend)
        assert requests(backend) == {"loading": 8, "ok": 1}, "more attempts than for a failure"
    with toy(tmp_path, **{**quick, "timeout_s": 0.2}) as (backend, server, ctx):
        server.always(LOADING)
        error = fault(backend)
        assert isinstance(error, UnavailableError)
        assert error.code is BackendErrorCode.LOADING
        asked = len(server.asked)
        assert fault(backend).code is BackendErrorCode.LOADING
        assert len(server.asked) == asked, "it is left in peace for a moment"
        assert backend.read().circuit is Circuit.CLOSED
        assert ctx.told == []


def test_a_broken_server_is_left_alone_and_one_frame_finds_out_that_it_is_back(tmp_path: Path) -> None:
    clock = MovableClock()
    with toy(tmp_path, clock=clock, timeout_s=5.0, circuit={"failures": 3, "open_s": 5}) as (backend, server, ctx):
        server.always(status(500, "out of memory"))
        for _ in range(3):
            assert fault(backend).code is BackendErrorCode.SERVER_ERROR
        assert backend.read().circuit is Circuit.OPEN
        error = fault(backend)
        assert isinstance(error, UnavailableError)
        assert (error.code, error.retry_after_s) == (BackendErrorCode.CIRCUIT_OPEN, 5.0)
        assert len(server.asked) == 3
        clock.advance(5)
        assert backend.read().circuit is Circuit.HALF_OPEN
        assert fault(backend).code is BackendErrorCode.CIRCUIT_OPEN, "a copy of it finds out"
        until("the probe failed", lambda: backend.read().circuit is Circuit.OPEN, 5)
        assert fault(backend).retry_after_s == 10.0, "twice as long"
        clock.advance(10)
        server.always(WELL)
        assert fault(backend).code is BackendErrorCode.CIRCUIT_OPEN
        until("the probe went well", lambda: backend.read().circuit is Circuit.CLOSED, 5)
        one(backend)
        assert [(state, well) for state, _, well in ctx.told] == [("circuit open", False), ("circuit closed", True)]
        assert "out of memory" in ctx.told[0][1]
        assert requests(backend) == {"server_error": 4, "circuit_open": 4, "ok": 2}


def test_trying_a_server_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    clock = MovableClock()
    with toy(tmp_path, clock=clock, timeout_s=0.4, circuit={"failures": 1, "open_s": 1}) as (backend, server, _):
        server.always(HANG)
        fault(backend)
        clock.advance(1)
        asked = len(server.asked)
        start = time.monotonic()
        codes = [fault(backend).code for _ in range(20)]
        assert time.monotonic() - start < 4, "20 time-outs would be 8 s"
        assert set(codes) == {BackendErrorCode.CIRCUIT_OPEN}
        until("it was tried", lambda: len(server.asked) == asked + 1, 5)
        until("the try timed out", lambda: requests(backend).get("timeout") == 2, 5)
        assert len(server.asked) == asked + 1, "one at a time"


def test_who_waits_for_a_turn_is_not_sent_once_the_circuit_has_opened(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"max_concurrent_requests": 2, "circuit": {"failures": 1}}
    with toy(tmp_path, **keys) as (backend, server, _):
        server.always(replace(status(500), delay_s=1.0))
        with ThreadPoolExecutor(6) as pool:
            codes = list(pool.map(lambda _: fault(backend).code, range(6)))
        assert sorted(str(code) for code in codes) == ["circuit_open"] * 4 + ["server_error"] * 2
        assert len(server.asked) == 2


def test_who_waits_behind_requests_that_hang_is_told_as_soon_as_they_are(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"timeout_s": 1.0, "max_concurrent_requests": 1, "circuit": {"failures": 100}}
    with toy(tmp_path, **keys) as (backend, server, _), ThreadPoolExecutor(4) as pool:
        server.always(HANG)
        start = time.monotonic()
        codes = list(pool.map(lambda _: fault(backend).code, range(4)))
        assert time.monotonic() - start < 2.5, "not one after the other"
        assert codes == [BackendErrorCode.TIMEOUT] * 4
        server.always(Reply(delay_s=0.3))
        answers = list(pool.map(lambda _: len(one(backend)), range(4)))
        assert answers == [1] * 4, "a server that is slow, but answers, is waited for"


def test_a_try_that_is_under_way_ends_with_the_backend(tmp_path: Path) -> None:
    clock = MovableClock()
    with toy(tmp_path, clock=clock, timeout_s=30, circuit={"failures": 1, "open_s": 1}) as (backend, server, _):
        server.then(status(500), HANG)
        fault(backend)
        clock.advance(1)
        fault(backend)
        until("it is tried", lambda: len(server.asked) == 2, 5)
        start = time.monotonic()
        backend.close()
        assert time.monotonic() - start < 4


def test_a_batch_has_one_answer_for_each_picture_in_order(tmp_path: Path) -> None:
    with toy(tmp_path, max_batch_size=4) as (backend, server, _):
        assert backend.max_batch == 4
        greys = (250, 40, 150, 90)
        found = backend.infer([frame(index, grey=grey) for index, grey in enumerate(greys)])
        assert len(server.asked) == 1
        assert [round(float(each.confidence[0]) * 255) for each in found if isinstance(each, Detections)] == list(greys)
        server.then(json_body([{"boxes": []}] * 3))
        with pytest.raises(TransientError, match="3 results for 4 pictures") as caught:
            backend.infer([frame()] * 4)
        assert caught.value.code is BackendErrorCode.BAD_ANSWER


def test_boxes_come_back_in_pixels_of_the_frame_whatever_was_sent(tmp_path: Path) -> None:
    with toy(tmp_path, max_size=320, format="png") as (backend, server, _):
        found = one(backend, frame(width=1280, height=720, grey=255))
        assert server.asked[0].headers["content-type"] == "image/png"
        server.then(json_body({"boxes": [[-0.4, 10, 320.4, 180, 0.25, 0], [16, 18, 32, 90, 0.75, 1]]}))
        clipped = one(backend, frame(width=1280, height=720))
    assert found.xyxy[0] == pytest.approx([0, 0, 1280, 360], abs=1)
    assert clipped.xyxy.tolist() == [[64, 72, 128, 360], [0, 40, 1280, 720]], "the most confident first"


def test_many_at_once_are_answered_each_with_its_own(tmp_path: Path) -> None:
    with toy(tmp_path, max_concurrent_requests=8) as (backend, server, _):
        server.always(Reply(delay_s=0.02))
        greys = [10 * (1 + index % 20) for index in range(60)]
        with ThreadPoolExecutor(backend.concurrency) as pool:
            found = list(pool.map(lambda grey: one(backend, frame(grey=grey)), greys))
        assert [round(float(each.confidence[0]) * 255) for each in found] == pytest.approx(greys, abs=1)
        assert server.most_under_way == 8
        assert server.connections <= 8, "connections are used again"


def test_closing_ends_what_is_under_way(tmp_path: Path) -> None:
    with toy(tmp_path, timeout_s=30.0) as (backend, server, _):
        server.always(HANG)
        caught: list[Exception] = []

        def ask() -> None:
            try:
                backend.infer([frame()])
            except TransientError as error:
                caught.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not server.asked:
            time.sleep(0.01)
        start = time.monotonic()
        backend.close()
        thread.join(5)
        assert time.monotonic() - start < 4
        assert [getattr(error, "code", None) for error in caught] == [BackendErrorCode.CONNECTION]
        with pytest.raises(FatalError, match="not open"):
            backend.infer([frame()])


def test_opening_asks_the_server_and_may_be_repeated_until_it_is_there(tmp_path: Path) -> None:
    with toy(tmp_path, opened=False, asks_first=True, **QUICK) as (backend, server, _):
        server.then(*[status(503)] * 3)
        with pytest.raises(TransientError) as caught:
            backend.open()
        assert caught.value.code is BackendErrorCode.SERVER_ERROR
        server.then(HTML)
        with pytest.raises(TransientError) as caught:
            backend.open()
        assert caught.value.code is BackendErrorCode.BAD_ANSWER
        server.down()
        with pytest.raises(TransientError) as caught:
            backend.open()
        assert caught.value.code is BackendErrorCode.CONNECTION
        server.up()
        backend.open()
        assert backend.info().labels == ("dark", "bright")
        one(backend)


def test_a_server_that_says_nothing_about_its_model_cannot_be_offered_to_others(tmp_path: Path) -> None:
    with toy(tmp_path) as (backend, _, _), pytest.raises(TransientError, match="does not say"):
        backend.info()


def test_secrets_are_sent_and_not_told(tmp_path: Path) -> None:
    secret = "s3cr3t-Tok3n"  # noqa: S105
    keys: dict[str, Any] = {"headers": {"X-Api-Key": secret}, "circuit": {"failures": 1}}
    config = ToyConfig.model_validate({"url": f"http://user:{secret}@127.0.0.1:9/path?api_key={secret}", **keys})
    assert secret not in repr(config) + str(config) + config.model_dump_json()
    with toy(tmp_path, **keys) as (plain, server, _):
        url = f"http://user:p%40ss{secret}@127.0.0.1:{server.port}/base?api_key={secret}"
        with toy(tmp_path, url=url, **keys) as (backend, _, ctx):
            one(backend)
            asked = server.asked[-1]
            assert asked.path == "/base/infer"
            assert asked.query == {"api_key": secret}
            assert asked.headers["x-api-key"] == secret
            assert asked.headers["authorization"].startswith("Basic ")
            server.then(status(500, f"no such key: http://x/?api_key={secret}"))
            error = fault(backend)
            server.down()
            later = fault(backend)
            assert secret not in f"{error!r} {error} {later} {ctx.told} {ctx.warnings} {backend.describe()}"
        del plain


def test_an_answers_own_words_are_cut_and_have_no_line_breaks(tmp_path: Path) -> None:
    with toy(tmp_path) as (backend, server, _):
        server.then(status(400, "what\n\x1b[31m is " + "x" * 5000))
        text = str(fault(backend))
    assert "what [31m is xxx" in text
    assert len(text) < 300
    assert text.isprintable()


def test_cookies_and_redirects_are_not_followed(tmp_path: Path) -> None:
    with toy(tmp_path) as (backend, server, _):
        server.then(Reply(headers={"Set-Cookie": "session=1"}), redirect(f"{server.url}/elsewhere"))
        one(backend)
        fault(backend)
        one(backend)
        assert server.paths() == ["/infer"] * 3
        assert not any("cookie" in asked.headers for asked in server.asked)


def test_the_answer_may_be_packed(tmp_path: Path) -> None:
    import gzip
    import zlib

    plain = b'{"boxes": [[1, 2, 3, 4, 0.5, 0]]}'
    with toy(tmp_path) as (backend, server, _):
        for packed, name in ((gzip.compress(plain), "gzip"), (zlib.compress(plain), "deflate")):
            server.then(Reply(body=packed, headers={"Content-Encoding": name}))
            assert one(backend).xyxy.tolist() == [[1, 2, 3, 4]]


def _codes(backend: HttpBackend, frames: Sequence[Frame]) -> list[str]:
    found = []
    for given in frames:
        try:
            backend.infer([given])
            found.append("ok")
        except TransientError as error:
            found.append(str(error.code))
    return found


def test_budgets_hold_across_restarts(tmp_path: Path) -> None:
    with toy(tmp_path, max_requests_per_day=3) as (backend, _, _):
        assert _codes(backend, [frame()] * 2) == ["ok"] * 2
    with toy(tmp_path, max_requests_per_day=3) as (backend, server, _):
        assert _codes(backend, [frame()] * 3) == ["ok", "budget", "budget"]
        assert len(server.asked) == 1
        assert backend.read().requests_today == 3
        assert backend.read().circuit is Circuit.CLOSED
        error = fault(backend)
        assert isinstance(error, UnavailableError)
        assert 0 < (error.retry_after_s or 0) <= 86_400


def test_a_byte_budget_counts_every_attempt(tmp_path: Path) -> None:
    with toy(tmp_path, max_bytes_per_day=10_000_000, **QUICK) as (backend, server, _):
        server.then(status(503), status(503))
        one(backend)
        reading = backend.read()
        assert reading.bytes_today == reading.bytes_sent == sum(len(asked.body) for asked in server.asked)
        assert reading.requests_today == 3
    with toy(tmp_path / "other", max_bytes_per_day=10) as (backend, server, _):
        assert fault(backend).code is BackendErrorCode.BUDGET
        assert server.asked == []


def test_the_empty_answer_is_an_answer(tmp_path: Path) -> None:
    with toy(tmp_path) as (backend, server, _):
        server.then(json_body({"boxes": []}))
        found = one(backend)
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)
    assert found.xyxy.dtype == np.float32
