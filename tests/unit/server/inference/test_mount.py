"""What is the same for all dialects: who is let in, which route is taken, how refusals look, what is counted."""

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from asking import Asked, FakeAsking, Observed, detector, inference, model, picture_file, serve_dialects
from serving import Ask, FakeControl, make_server
from toy_dialect import toy

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Wishes
from pipeline.runtime.asking import AskError
from pipeline.server.access import Access, Token
from pipeline.server.app import Limits
from pipeline.server.inference.service import Dialect, InferenceLimits, InferenceRoute, Service
from pipeline.server.routes import ROUTES
from pipeline.telemetry.metrics import Metrics

SECRET = "infer-0123456789abcdef"  # noqa: S105
OTHER = "reads-0123456789abcdef"
FILE = picture_file()


def second(service: Service) -> Dialect:
    """Another dialect, which writes its refusals in its own way."""
    of_toy = toy(service)
    (health,) = (route for route in of_toy.routes if route.path == "/toy/health")
    routes = [replace(health, path=path, scope="infer") for path in ("/v2/health", "/v2/models/{name}/ready")]
    return Dialect("kserve", routes, lambda request, error: of_toy.refuse(request, replace_message(error)))


def replace_message(error: Any) -> Any:
    error.message = f"second: {error.message}"
    return error


def access(*, expired: bool = False) -> Access:
    tokens = [Token.of("client", SECRET, ["infer"]), Token.of("reader", OTHER, ["read", "control", "metrics"])]
    return Access([] if expired else tokens, exposed=True)


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/toy/health", 200, {"ok": True}),
        ("GET", "//toy///health", 200, {"ok": True}),
        ("GET", "/toy//health?api_key=//a", 200, {"ok": True}),
        ("GET", "/toy/models/abc/def", 200, {"ok": True}),
        ("GET", "/v2//models//a/ready", 200, {"ok": True}),
        ("POST", "/det/1", 200, {"legacy": "det", "version": "1"}),
        ("GET", "//det/1", 200, {"legacy": "det", "version": "1"}),
        ("GET", "/dét/a%2Fb", 200, {"legacy": "dét", "version": "a/b"}),
        ("GET", "/apix/v1", 200, {"legacy": "apix", "version": "v1"}),
        # The server's own names are nobody else's.
        ("GET", "/api/v1", 404, {"error": "Not Found"}),
        ("POST", "/api/v1", 404, {"error": "Not Found"}),
        ("GET", "/metrics/x", 404, {"error": "Not Found"}),
        ("POST", "/livez/x", 404, {"error": "Not Found"}),
        ("POST", "/metrics", 405, {"error": "Method Not Allowed"}),
        ("PUT", "/api/v1/status", 405, {"error": "Method Not Allowed"}),
        ("GET", "/nothing", 404, {"error": "Not Found"}),
        ("GET", "/", 200, None),
        # What is not there is told in the form of whose path it is.
        ("GET", "/v2/nothing", 404, {"toy": "second: Not Found", "kind": None}),
        ("POST", "/v2/health", 405, {"toy": "second: Method Not Allowed", "kind": None}),
        ("PUT", "/toy/health", 405, {"toy": "Method Not Allowed", "kind": None}),
        ("DELETE", "/toy/a/b/c", 404, {"toy": "Not Found", "kind": None}),
        ("GET", "/toy/models/ABC", 404, {"toy": "Not Found", "kind": None}),
    ],
)
def test_every_path_goes_to_whom_it_belongs(method: str, path: str, status: int, body: Any) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask(method, path)
        assert answer.status == status
        assert body is None or answer.body == body
        assert (status == 405) == ("Allow" in answer.headers)

    serve_dialects(FakeAsking(detector()), {"": [toy, second]}, test)


def test_a_dialect_under_a_prefix_owns_all_below_it_and_nothing_else() -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("GET", "/hf//toy/health")).body == {"ok": True}
        assert (await ask("POST", "/hf/det/1")).body == {"legacy": "det", "version": "1"}
        for path in ("/hf", "/hf/nothing", "/hf/a/b/c"):
            assert "toy" in (await ask("GET", path)).body
        for path in ("/toy/health", "/det/1", "/hfx"):
            assert (await ask("GET", path)).body == {"error": "Not Found"}

    serve_dialects(FakeAsking(detector()), {"/hf": toy}, test)


def test_the_index_says_where_each_protocol_begins_and_lists_the_servers_own_paths_only() -> None:
    async def test(ask: Ask) -> None:
        index = (await ask("GET", "/")).body
        assert index["inference"]["roboflow"]["at"] == "/hf"
        assert index["inference"]["roboflow"]["paths"] > 3
        assert not [path for path in index["paths"] if path["path"].startswith("/hf")]

    serve_dialects(FakeAsking(detector()), {"/hf": toy}, test)


def test_two_dialects_on_the_same_path_are_a_clear_mistake_in_the_configuration() -> None:
    def third(service: Service) -> Dialect:
        return replace(toy(service), name="supervisely")

    offered = inference(FakeAsking(), {"": [toy, third]})
    with pytest.raises(ConfigError, match="roboflow and supervisely both have POST /toy/body") as caught:
        asyncio.run(make_server(FakeControl(), inference=offered).start())
    assert caught.value.key == "server.inference.supervisely"
    asyncio.run(offered.close())


def test_a_dialect_cannot_take_what_is_the_servers_own() -> None:
    def thief(service: Service) -> Dialect:
        own = toy(service)
        return replace(own, routes=[replace(own.routes[0], method="GET", path="/metrics")])

    offered = inference(FakeAsking(), {"": thief})
    with pytest.raises(ConfigError, match="/metrics, which is the server's own"):
        offered.routes([route.path for route in ROUTES])


def bearer(secret: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {secret}"}}


@pytest.mark.parametrize(
    ("options", "query", "status"),
    [
        (bearer(SECRET), "", 200),
        ({"headers": {"x-api-key": SECRET}}, "", 200),
        ({}, f"?api_key={SECRET}", 200),
        ({"data": json.dumps({"key": SECRET})}, "", 200),
        ({"data": json.dumps({"key": SECRET}), **bearer("another-server's-key")}, "?api_key=None", 200),
        (bearer(SECRET), "?api_key=wrong", 200),
        ({}, "", 401),
        ({}, "?api_key=", 401),
        ({}, "?api_key=None", 401),
        (bearer("unknown-0123456789abcdef"), "", 401),
        ({"headers": {"Authorization": f"Basic {SECRET}"}}, "", 401),
        ({"headers": {"x-api-key": "unknown"}}, "", 401),
        ({"data": json.dumps({"key": "unknown"})}, "", 401),
        ({"data": json.dumps({"key": "half \ud800"})}, "", 401),
        (bearer(OTHER), "", 403),
        ({}, f"?api_key={OTHER}", 403),
        ({"data": json.dumps({"key": OTHER})}, "", 403),
    ],
)
def test_a_token_is_looked_for_where_clients_put_it(options: dict[str, Any], query: str, status: int) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", f"/det/1{query}", **options)
        assert answer.status == status
        assert (status == 200) == ("legacy" in answer.body)
        assert (status != 200) == ("toy" in answer.body)
        assert (status == 401) == ("WWW-Authenticate" in answer.headers)

    serve_dialects(FakeAsking(detector()), {"": toy}, test, access=access())


def test_a_key_in_the_query_opens_nothing_but_the_models() -> None:
    async def test(ask: Ask) -> None:
        for path in ("/api/v1/status", "/metrics", "/"):
            assert (await ask("GET", f"{path}?api_key={OTHER}")).status == 401
            assert (await ask("GET", path, headers={"x-api-key": OTHER})).status == 401
        assert (await ask("GET", "/toy/health")).status == 200  # open

    serve_dialects(FakeAsking(detector()), {"": toy}, test, access=access())


def test_nobody_is_let_in_where_others_can_ask_and_there_are_no_tokens() -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("POST", "/det/1", **bearer(SECRET))).status == 401

    serve_dialects(FakeAsking(detector()), {"": toy}, test, access=access(expired=True))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
        ({"Host": "evil.example"}, 421),
    ],
)
def test_web_pages_of_other_sites_cannot_use_the_models(method: str, headers: dict[str, str], status: int) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask(method, "/det/1", headers=headers)
        assert answer.status == status
        assert (await ask(method, "/toy/body", headers=headers)).status == status
        if status != 200:
            assert "toy" in (await ask(method, "/toy/body", headers=headers)).body

    serve_dialects(FakeAsking(detector()), {"": toy}, test)


def test_a_key_never_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def test(ask: Ask) -> None:
        for path in ("/toy/bug", "/det/1", "/nothing", "/toy/fetch", "/v2/x"):
            for method in ("GET", "POST", "PUT"):
                await ask(method, f"{path}?api_key={SECRET}&url=http://x/{SECRET}", headers={"x-api-key": SECRET})

    with caplog.at_level(logging.DEBUG):
        serve_dialects(FakeAsking(detector()), {"": toy}, test)
    assert any("inside of /toy/bug" in record.getMessage() for record in caplog.records)
    assert SECRET not in caplog.text


def test_an_answer_of_a_model_comes_back_and_is_counted() -> None:
    asking, observed = FakeAsking(detector("local", "coco/9")), Observed()

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/toy/infer?model=coco/9&count=3", data=FILE)
        assert answer.body == {"answers": 3, "backend": "local"}
        assert answer.headers["Content-Type"] == "application/json"
        assert (await ask("POST", "/toy/infer?model=none", data=FILE)).status == 404
        assert (await ask("GET", "/nothing")).status == 404

    serve_dialects(asking, {"": toy}, test, observe=observed)
    (asked,) = asking.asked
    assert (asked.model_id, len(asked.pictures), asked.wishes) == ("coco/9", 3, Wishes(confidence=0.5))
    assert isinstance(asked, Asked)
    assert observed.requests == [("roboflow", 200), ("roboflow", 404)]


def test_requests_are_in_the_metrics_from_the_start_with_a_bounded_set_of_labels() -> None:
    metrics = Metrics("1.0")
    metrics.offer("roboflow")
    assert 'penstock_requests_total{code="200",dialect="roboflow"} 0.0' in metrics.exposition()[0].decode()

    async def test(ask: Ask) -> None:
        for number in range(5):
            await ask("POST", f"/set{number}/{number}?api_key={number}", headers={"User-Agent": str(number)})
            await ask("POST", f"/toy/infer?model={number}", data=FILE)

    serve_dialects(FakeAsking(), {"": toy}, test, observe=metrics.answered)
    text = metrics.exposition()[0].decode()
    lines = {line for line in text.splitlines() if line.startswith("penstock_requests_total")}
    assert lines == {
        'penstock_requests_total{code="200",dialect="roboflow"} 5.0',
        'penstock_requests_total{code="404",dialect="roboflow"} 5.0',
    }
    assert 'penstock_request_duration_seconds_count{dialect="roboflow"} 10.0' in text


def test_an_answer_without_a_body_has_a_type_nevertheless() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("GET", "/toy/long?bytes=0")
        assert (answer.status, answer.text, answer.headers["Content-Type"]) == (200, "", "text/plain")
        assert "text/plain" not in (await ask("GET", "/toy/long?bytes=1")).headers["Content-Type"]

    serve_dialects(FakeAsking(), {"": toy}, test)


FAULTS = [
    ("unknown", None, 404, None),
    ("loading", 2.4, 503, "2"),
    ("loading", 0.1, 503, "1"),
    ("unloaded", None, 503, "1"),
    ("busy", None, 503, "1"),
    ("late", None, 504, None),
    ("failed", None, 500, None),
    ("unsupported", None, 501, None),
    ("stopping", None, 503, "1"),
]


@pytest.mark.parametrize(("fault", "retry_after_s", "status", "header"), FAULTS)
def test_what_ails_the_models_is_told_by_a_status(
    fault: Any, retry_after_s: float | None, status: int, header: str | None
) -> None:
    asking = FakeAsking(detector())
    asking.fault = AskError(fault, "it is so", retry_after_s)

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/toy/infer", data=FILE)
        assert (answer.status, answer.body) == (status, {"toy": "it is so", "kind": fault})
        assert answer.headers.get("Retry-After") == header

    serve_dialects(asking, {"": toy}, test)


def test_texts_go_to_a_model_that_takes_them() -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("GET", "/toy/texts?model=clip")).body == [[0, 1, 0, 1], [0, 1, 0, 2]]
        assert (await ask("GET", "/toy/texts?model=local")).status == 501
        assert (await ask("GET", "/toy/texts?model=none")).status == 404

    serve_dialects(FakeAsking(detector(), model("clip", "embedding")), {"": toy}, test)


def test_more_pictures_than_may_wait_are_turned_away_with_a_second_to_wait() -> None:
    asking, gate = FakeAsking(detector()), asyncio.Event()
    asking.gate = gate
    limits = InferenceLimits(max_waiting=3, max_pictures=4, timeout_s=20)

    async def test(ask: Ask) -> None:
        first = asyncio.ensure_future(ask("POST", "/toy/infer?count=2", data=FILE))
        while asking.now < 2:
            await ask("GET", "/livez")
        answer = await ask("POST", "/toy/infer?count=2", data=FILE)
        assert (answer.status, answer.headers["Retry-After"], answer.body["kind"]) == (503, "1", "busy")
        third = asyncio.ensure_future(ask("POST", "/toy/infer", data=FILE))
        while asking.now < 3:
            await ask("GET", "/livez")
        gate.set()
        assert [(await done).status for done in (first, third)] == [200, 200]
        assert (await ask("POST", "/toy/infer?count=3", data=FILE)).status == 200
        for count in (4, 5):  # would never fit, or is more than one request may have
            assert (await ask("POST", f"/toy/infer?count={count}", data=FILE)).status == 413

    serve_dialects(asking, {"": toy}, test, limits=limits)
    assert asking.most == 3


def test_a_model_that_takes_too_long_is_504_and_the_place_is_free_again() -> None:
    asking = FakeAsking(detector())
    asking.gate = asyncio.Event()
    limits = InferenceLimits(max_waiting=1, timeout_s=0.2)

    async def test(ask: Ask) -> None:
        for _ in range(2):
            assert (await ask("POST", "/toy/infer", data=FILE)).status == 504

    serve_dialects(asking, {"": toy}, test, limits=limits)


def test_work_that_does_not_end_is_cut_off_in_the_form_of_the_dialect() -> None:
    def stuck(service: Service) -> Dialect:
        async def wait(_: Any) -> Any:
            await asyncio.sleep(60)

        return replace(toy(service), routes=[InferenceRoute("POST", "/toy/wait", wait, "Never ends")])

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/toy/wait")
        assert (answer.status, answer.body["kind"]) == (504, "late")

    limits = InferenceLimits(timeout_s=0.1, body_s=0.1)
    serve_dialects(FakeAsking(), {"": stuck}, test, limits=limits, server_limits=Limits(deadline_s=0.05))


def test_work_may_take_longer_than_the_servers_own_requests() -> None:
    asking = FakeAsking(detector())
    asking.latency_s = 0.5

    async def test(ask: Ask) -> None:
        assert (await ask("POST", "/toy/infer", data=FILE)).status == 200

    serve_dialects(asking, {"": toy}, test, server_limits=Limits(deadline_s=0.2))


def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    async def test(ask: Ask) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /toy/long?bytes=30000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await writer.drain()
        started = await reader.readline()
        assert started == b"HTTP/1.1 200 OK\r\n"
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        while observed.requests != [("roboflow", 200)]:
            await ask("GET", "/livez")
        await asyncio.sleep(0.6)
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(30_000_000)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    address: tuple[str, int] = ("", 0)
    observed = Observed()
    limits = InferenceLimits(answer_s=0.2, body_bytes_per_s=1e9)

    async def main() -> None:
        nonlocal address
        offered = inference(FakeAsking(), {"": toy}, limits, observe=observed)
        server = make_server(FakeControl(), inference=offered)
        await server.start()
        address = server.address
        import aiohttp

        async with aiohttp.ClientSession() as session:

            async def ask(method: str, path: str, **options: Any) -> Any:
                async with session.request(method, server.url + path, **options) as response:
                    return response.status

            await test(ask)
        await server.close()

    asyncio.run(main())


def test_a_bug_is_500_in_the_form_of_the_dialect_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    observed = Observed()

    async def test(ask: Ask) -> None:
        for _ in range(3):
            answer = await ask("POST", "/toy/bug")
            assert (answer.status, answer.body["toy"]) == (500, "Internal Server Error")
            assert "inside" not in answer.text

    with caplog.at_level(logging.ERROR):
        serve_dialects(FakeAsking(), {"": toy}, test, observe=observed)
    assert len([record for record in caplog.records if record.name == "penstock"]) == 1
    assert observed.requests == [("roboflow", 500)] * 3


def test_a_dialect_that_cannot_write_its_refusal_is_a_bug_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    def clumsy(service: Service) -> Dialect:
        def refuse(_: Any, __: Any) -> Any:
            raise LookupError("clumsy")

        return replace(toy(service), refuse=refuse)

    async def test(ask: Ask) -> None:
        for method, path in (("POST", "/toy/json"), ("POST", "/toy/bug"), ("PUT", "/toy/body"), ("GET", "/toy/a/b/c")):
            answer = await ask(method, path)
            assert (answer.status, "error" in answer.body) == (405 if method == "PUT" else answer.status, True)
            assert answer.status in (404, 405, 500)

    with caplog.at_level(logging.ERROR):
        serve_dialects(FakeAsking(), {"": clumsy}, test)
    assert any("clumsy" in record.getMessage() for record in caplog.records)


def test_dialects_are_closed_with_the_server_before_the_threads_that_decode() -> None:
    closed = []

    def closing(service: Service) -> Dialect:
        async def close() -> None:
            await service.pictures.decode(FILE)
            closed.append(service)

        return replace(toy(service), close=close)

    async def test(ask: Ask) -> None:
        assert (await ask("GET", "/toy/health")).status == 200

    serve_dialects(FakeAsking(), {"": closing}, test)
    assert len(closed) == 1


def test_without_models_to_offer_nothing_of_them_is_there() -> None:
    async def test(ask: Ask) -> None:
        for path in ("/toy/health", "/det/1"):
            assert (await ask("GET", path)).body == {"error": "Not Found"}

    serve_dialects(FakeAsking(), {}, test)


def test_the_long_bodies_of_clients_do_not_let_long_ones_in_elsewhere() -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("POST", "/toy/body", data=bytes(200_000))).body["bytes"] == 200_000
        headers = {"Content-Type": "application/json"}
        answer = await ask("PUT", "/api/v1/sources/gate", data=b" " * 200_000, headers=headers)
        assert answer.status == 413
        packed = {**headers, "Content-Encoding": "gzip"}
        assert (await ask("PUT", "/api/v1/sources/gate", data=b"x", headers=packed)).status == 415

    serve_dialects(FakeAsking(), {"": toy}, test, sources_by_api=True)
