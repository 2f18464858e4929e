"""Orders over HTTP: what reaches the pipeline, and what comes back."""

import asyncio
import json
import logging
from typing import Any

import pytest
from serving import HASH, Ask, FakeControl, make_server, serve

from pipeline.runtime.control import ReloadOutcome
from pipeline.server.app import Limits

NEW = "ba9876543210"
CHANGED = {"config_hash": NEW, "changes": ["source gate: changed (max_fps)"], "problems": []}
REFUSED = ReloadOutcome(False, HASH, problems=("x.toml:3: sources.gate.max_fpz: unknown key",), invalid=True)
TABLE = {"type": "fake", "max_fps": 5}


def test_sources_are_listed_and_shown_one_by_one_with_the_hash_as_etag() -> None:
    async def test(ask: Ask) -> None:
        everything = await ask("GET", "/api/v1/status")
        every = await ask("GET", "/api/v1/sources")
        one = await ask("GET", "/api/v1/sources/door")
        assert {answer.headers["ETag"] for answer in (everything, every, one)} == {f'"{HASH}"'}
        assert [source["name"] for source in every.body["sources"]] == ["gate", "door"]
        assert one.body == every.body["sources"][1] == everything.body["sources"][1]
        gone = await ask("GET", "/api/v1/sources/yard")
        assert (gone.status, gone.body) == (404, {"error": "there is no source 'yard'"})

    serve(make_server(FakeControl()), test)


@pytest.mark.parametrize("order", ["pause", "resume", "restart"])
def test_a_source_is_told_what_to_do(order: str, caplog: pytest.LogCaptureFixture) -> None:
    control = FakeControl()

    async def test(ask: Ask) -> None:
        done = await ask("POST", f"/api/v1/sources/gate/{order}")
        assert (done.status, done.body) == (200, {"source": "gate", "order": order})
        assert (await ask("POST", f"/api/v1/sources/yard/{order}")).status == 404
        assert (await ask("GET", f"/api/v1/sources/gate/{order}")).status == 405

    with caplog.at_level(logging.INFO):
        serve(make_server(control), test)
    assert control.orders == [(order, "gate"), (order, "yard")]
    assert [record.getMessage() for record in caplog.records if record.name == "penstock"] == [
        f"server: local: {order} source gate: done",
        f"server: local: {order} source yard: there is no such source",
    ]


def test_a_reload_tells_what_changed_or_why_nothing_did(caplog: pytest.LogCaptureFixture) -> None:
    control = FakeControl()

    async def test(ask: Ask) -> None:
        done = await ask("POST", "/api/v1/reload")
        assert (done.status, done.headers["ETag"], done.body) == (200, f'"{NEW}"', CHANGED)
        control.outcome = REFUSED
        failed = await ask("POST", "/api/v1/reload")
        assert failed.status == 409
        assert failed.headers["ETag"] == f'"{HASH}"'
        assert failed.body == {
            "error": "nothing was changed",
            "problems": list(REFUSED.problems),
            "config_hash": HASH,
        }

    with caplog.at_level(logging.INFO):
        serve(make_server(control), test)
    assert control.orders == [("reload", "ordered by local over HTTP")] * 2
    told = [record.getMessage() for record in caplog.records if record.name == "penstock"]
    assert told == [f"server: local: reload: now {NEW}", "server: local: reload: failed: nothing was changed"]


def test_a_source_is_added_changed_and_removed() -> None:
    control = FakeControl()

    async def test(ask: Ask) -> None:
        added = await ask("PUT", "/api/v1/sources/yard", json=TABLE)
        assert (added.status, added.body, added.headers["ETag"]) == (201, CHANGED, f'"{NEW}"')
        assert (await ask("PUT", "/api/v1/sources/yard", json=TABLE)).status == 200
        assert (await ask("DELETE", "/api/v1/sources/yard")).body == CHANGED
        assert (await ask("DELETE", "/api/v1/sources/attic")).status == 404

    serve(make_server(control, sources_by_api=True), test)
    assert control.orders == [("put", "yard", TABLE, None)] * 2 + [("delete", "yard", None)]


def test_what_is_wrong_with_a_table_is_told_line_by_line() -> None:
    control = FakeControl(outcome=REFUSED)

    async def test(ask: Ask) -> None:
        wrong = await ask("PUT", "/api/v1/sources/gate", json={"max_fpz": 3})
        assert (wrong.status, wrong.body["problems"]) == (422, list(REFUSED.problems))
        assert (await ask("DELETE", "/api/v1/sources/gate")).status == 409
        control.outcome = ReloadOutcome(False, HASH, problems=("sink s: cannot be opened",))
        failed = await ask("PUT", "/api/v1/sources/gate", json=TABLE)
        assert (failed.status, failed.body["problems"]) == (409, ["sink s: cannot be opened"])

    serve(make_server(control, sources_by_api=True), test)


def test_sources_are_not_changed_over_http_unless_the_operator_allows_it() -> None:
    control = FakeControl()

    async def test(ask: Ask) -> None:
        for answer in (
            await ask("PUT", "/api/v1/sources/gate", json=TABLE),
            await ask("DELETE", "/api/v1/sources/gate"),
        ):
            assert answer.status == 403
            assert "server.sources_by_api = true" in answer.body["error"]
        assert (await ask("POST", "/api/v1/sources/gate/pause")).status == 200

    serve(make_server(control), test)
    assert control.orders == [("pause", "gate")]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f'"{HASH}"', 200),
        (HASH, 200),
        ("*", 200),
        (f'"other", "{HASH}"', 200),
        ('"other"', 412),
        ("other", 412),
        (f'W/"{HASH}"', 412),
    ],
)
def test_of_two_editors_the_second_is_told(header: str, status: int) -> None:
    control = FakeControl()

    async def test(ask: Ask) -> None:
        for answer in (
            await ask("PUT", "/api/v1/sources/gate", json=TABLE, headers={"If-Match": header}),
            await ask("DELETE", "/api/v1/sources/gate", headers={"If-Match": header}),
        ):
            assert answer.status == status
            if status == 412:
                assert answer.headers["ETag"] == f'"{HASH}"'
                assert answer.body["config_hash"] == HASH

    serve(make_server(control, sources_by_api=True), test)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[1]", 400),
        (b'"x"', 400),
        (b'{"type": "x", "a": NaN}', 400),
        (b'{"a": "\xff"}', 400),
        (b"[" * 30_000 + b"]" * 30_000, 400),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
        (b'{"a": ' + b"9" * 10_000 + b"}", 400),
        (b'{"a": "' + b"x" * 70_000 + b'"}', 413),
        (b"[" * 100_000 + b"]" * 100_000, 413),
    ],
    ids=range(11),
)
def test_a_body_that_is_no_table_is_refused(body: bytes, status: int) -> None:
    control = FakeControl()

    async def test(ask: Ask) -> None:
        answer = await ask(
            "PUT", "/api/v1/sources/gate", data=body, headers={"Content-Type": "application/json; charset=utf-8"}
        )
        assert (answer.status, list(answer.body)) == (status, ["error"])

    serve(make_server(control, sources_by_api=True), test)
    assert control.orders == []


def test_json_nested_a_hundred_thousand_deep_is_a_bad_request() -> None:
    async def test(ask: Ask) -> None:
        body = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        headers = {"Content-Type": "application/json"}
        answer = await ask("PUT", "/api/v1/sources/gate", data=body, headers=headers)
        assert (answer.status, answer.body) == (400, {"error": "the JSON is nested too deep"})

    serve(make_server(FakeControl(), sources_by_api=True, limits=Limits(body_bytes=1_000_000)), test)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_only_json_is_taken(content_type: str) -> None:
    control = FakeControl()

    async def test(ask: Ask) -> None:
        headers = {"Content-Type": content_type}
        assert (await ask("PUT", "/api/v1/sources/gate", data=b'{"type": "x"}', headers=headers)).status == 415

    serve(make_server(control, sources_by_api=True), test)
    assert control.orders == []


def test_a_run_that_takes_no_orders_says_so_and_shows_the_rest() -> None:
    async def test(ask: Ask) -> None:
        for method, path in (
            ("POST", "/api/v1/reload"),
            ("POST", "/api/v1/sources/gate/pause"),
            ("DELETE", "/api/v1/sources/gate"),
        ):
            answer = await ask(method, path)
            assert (answer.status, answer.body) == (501, {"error": "this run takes no orders"})
        assert (await ask("GET", "/api/v1/sources/gate")).status == 200

    serve(make_server(FakeControl(), takes_orders=False), test)


def test_an_order_that_takes_long_is_carried_out_though_the_answer_does_not_wait() -> None:
    async def main() -> None:
        control = FakeControl(gate=asyncio.Event())
        under_test = make_server(control, limits=Limits(deadline_s=0.1, order_s=0.2))
        await under_test.start()
        try:
            reader, writer = await asyncio.open_connection(*under_test.address)
            writer.write(b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            received = await reader.read()
            assert received.startswith(b"HTTP/1.1 202 ")
            assert control.orders == []
            assert control.gate is not None
            control.gate.set()
            async with asyncio.timeout(5):
                await control.changed.wait()
            writer.close()
            await writer.wait_closed()
        finally:
            await under_test.close()

    asyncio.run(main(), debug=True)


def test_an_order_whose_client_goes_away_is_carried_out() -> None:
    async def main() -> None:
        control = FakeControl(gate=asyncio.Event())
        under_test = make_server(control)
        await under_test.start()
        try:
            _, writer = await asyncio.open_connection(*under_test.address)
            writer.write(b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            assert control.gate is not None
            control.gate.set()
            async with asyncio.timeout(5):
                await control.changed.wait()
        finally:
            await under_test.close()

    asyncio.run(main(), debug=True)


def test_a_bug_behind_an_order_is_a_short_error(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeControl):
        async def reload(self, why: str) -> ReloadOutcome:
            raise ZeroDivisionError("inside")

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/api/v1/reload")
        assert (answer.status, answer.body) == (500, {"error": "Internal Server Error"})

    with caplog.at_level(logging.WARNING):
        serve(make_server(Broken()), test)
    assert any("inside" in record.getMessage() for record in caplog.records)


def test_closing_does_not_wait_for_an_order_that_never_ends() -> None:
    async def main() -> None:
        under_test = make_server(FakeControl(gate=asyncio.Event()))
        await under_test.start()
        _, writer = await asyncio.open_connection(*under_test.address)
        writer.write(b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0)
        await asyncio.wait_for(under_test.close(), 5)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    asyncio.run(main(), debug=True)


def any_json() -> Any:
    from hypothesis import strategies as st

    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    return st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


def test_no_json_at_all_makes_the_server_fail() -> None:
    from hypothesis import given, settings

    bodies: list[Any] = []

    @settings(max_examples=80, database=None, deadline=None)
    @given(any_json())
    def collect(value: Any) -> None:
        bodies.append(value)

    collect()

    async def test(ask: Ask) -> None:
        for body in bodies:
            headers = {"Content-Type": "application/json"}
            answer = await ask("PUT", "/api/v1/sources/gate", data=json.dumps(body).encode(), headers=headers)
            assert answer.status == (200 if isinstance(body, dict) else 400)

    serve(make_server(FakeControl(), sources_by_api=True), test)
