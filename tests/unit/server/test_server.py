import asyncio
import json
import logging
import select
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pipeline.contracts.errors import ConfigError
from pipeline.server.access import Access
from pipeline.server.app import Limits, Server, make_app
from pipeline.server.desk import Desk
from pipeline.server.routes import NAME, ROUTES, Route
from pipeline.server.views import Commands, Health, Views, json_response

SHORT = Limits(idle_s=0.2, deadline_s=0.2, linger_s=0.1)
INSIDE = "/srv/models/hidden.onnx"

WELL = Health(ok=True)


def metrics(accept: str) -> tuple[bytes, str]:
    return f"accept {accept}\n".encode(), "text/plain; version=0.0.4; charset=utf-8"


def server(
    *,
    status: Callable[[], Mapping[str, Any]] = lambda: {"config_hash": "abc", "sources": [{"name": "gate"}]},
    live: Health = WELL,
    ready: Health = WELL,
    limits: Limits | None = None,
    address: tuple[str, int] = ("127.0.0.1", 0),
) -> Server:
    return Server(address, metrics=metrics, status=status, live=lambda: live, ready=lambda: ready, limits=limits)


def run(test: Callable[[Server], Awaitable[None]], under_test: Server) -> None:
    """One started server on a loop in debug mode, closed whatever happens."""

    async def main() -> None:
        await under_test.start()
        try:
            await test(under_test)
        finally:
            await under_test.close()

    asyncio.run(main(), debug=True)


async def ask(url: str, method: str = "GET", **options: Any) -> tuple[int, Mapping[str, str], str]:
    async with aiohttp.ClientSession() as session, session.request(method, url, **options) as response:
        return response.status, response.headers, await response.text()


async def talk(under_test: Server, sent: bytes) -> bytes:
    """What comes back on one connection until the server closes it."""
    reader, writer = await asyncio.open_connection(*under_test.address)
    writer.write(sent)
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received


def reading_routes() -> list[Route]:
    return [route for route in ROUTES if route.method == "GET"]


def test_every_reading_route_of_the_table_answers_get_and_head() -> None:
    async def test(under_test: Server) -> None:
        for route in reading_routes():
            path = route.path.replace(NAME, "gate")
            status, headers, body = await ask(under_test.url + path)
            assert (status, bool(body)) == (200, True)
            assert headers["Server"] == "penstock"
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in headers
            status, headers, body = await ask(under_test.url + path, "HEAD")
            assert (status, body) == (200, "")

    run(test, server())


def served(app: web.Application) -> list[tuple[str, str]]:
    return [
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    ]


def desk() -> Desk:
    return Desk(Views(metrics, dict, lambda: WELL, lambda: WELL), Commands(), Access())


def test_nothing_is_served_that_is_not_in_the_table_with_its_scope() -> None:
    app = make_app(desk(), Access(), (), Limits())
    expected = [(route.method, route.path.replace(NAME, "{name}")) for route in ROUTES]
    assert served(app) == expected
    assert {(route.method, route.path.replace(NAME, "NAME")): route.scope for route in ROUTES} == {
        ("GET", "/"): "read",
        ("GET", "/metrics"): "metrics",
        ("GET", "/livez"): "open",
        ("GET", "/readyz"): "open",
        ("GET", "/api/v1/openapi.json"): "read",
        ("GET", "/api/v1/status"): "read",
        ("GET", "/api/v1/sources"): "read",
        ("GET", "/api/v1/sources/NAME"): "read",
        ("PUT", "/api/v1/sources/NAME"): "control",
        ("DELETE", "/api/v1/sources/NAME"): "control",
        ("POST", "/api/v1/sources/NAME/pause"): "control",
        ("POST", "/api/v1/sources/NAME/resume"): "control",
        ("POST", "/api/v1/sources/NAME/restart"): "control",
        ("POST", "/api/v1/reload"): "control",
    }
    app.router.add_static("/debug", "/")  # the comparison notices one that is not
    assert served(app) != expected


def test_a_scrape_gets_what_its_accept_header_asks_for() -> None:
    async def test(under_test: Server) -> None:
        _, headers, body = await ask(under_test.url + "/metrics", headers={"Accept": "application/openmetrics-text"})
        assert body == "accept application/openmetrics-text\n"
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"

    run(test, server())


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
@pytest.mark.parametrize("ok", [True, False])
def test_health_is_a_status_code_and_says_what_was_looked_at(path: str, ok: bool) -> None:
    health = Health(ok=ok, checks={"sources": "1 of 2 running"})

    async def test(under_test: Server) -> None:
        status, headers, body = await ask(under_test.url + path)
        assert status == (200 if ok else 503)
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        expected = {"status": "ok" if ok else "failing", "checks": {"sources": "1 of 2 running"}}
        assert json.loads(body) == expected

    run(test, server(live=health) if path == "/livez" else server(ready=health))


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nothing", 404, "Not Found"),
        ("GET", "/api/v1/sources/Gate", 404, "Not Found"),
        ("GET", "/api/v1/sources/a%0ab", 404, "Not Found"),
        ("GET", "/metrics/", 404, "Not Found"),
        ("GET", "/%2e%2e/etc/passwd", 404, "Not Found"),
        ("POST", "/metrics", 405, "Method Not Allowed"),
        ("PUT", "/api/v1/status", 405, "Method Not Allowed"),
        ("OPTIONS", "/livez", 405, "Method Not Allowed"),
        ("PATCH", "/livez", 405, "Method Not Allowed"),
    ],
)
def test_what_is_not_there_is_a_short_json_error(method: str, path: str, status: int, error: str) -> None:
    async def test(under_test: Server) -> None:
        found, headers, body = await ask(under_test.url + path, method)
        assert (found, json.loads(body)) == (status, {"error": error})
        assert headers["Server"] == "penstock"
        assert (headers.get("Allow") == "GET,HEAD") == (status == 405)

    run(test, server())


def test_a_bug_behind_a_route_is_logged_once_and_tells_the_client_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def status() -> Mapping[str, Any]:
        raise RuntimeError(INSIDE)

    async def test(under_test: Server) -> None:
        for _ in range(3):
            found, _, body = await ask(under_test.url + "/api/v1/status")
            assert (found, json.loads(body)) == (500, {"error": "Internal Server Error"})

    with caplog.at_level(logging.WARNING):
        run(test, server(status=status))
    assert [INSIDE in record.getMessage() for record in caplog.records if record.name == "penstock"] == [True]


def test_what_a_client_makes_up_does_not_multiply_what_is_remembered(caplog: pytest.LogCaptureFixture) -> None:
    def status() -> Mapping[str, Any]:
        raise RuntimeError(INSIDE)

    async def test(under_test: Server) -> None:
        for number in range(5):
            found, _, _ = await ask(f"{under_test.url}/api/v1/sources/made_up_{number}")
            assert found == 500

    with caplog.at_level(logging.WARNING):
        run(test, server(status=status))
    assert len([record for record in caplog.records if INSIDE in record.getMessage()]) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(500)) + b"\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["tls", "version", "length", "headers", "header", "path"],
)
def test_what_is_no_http_is_a_short_json_error_and_nothing_in_the_log(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(under_test: Server) -> None:
        received = await talk(under_test, sent)
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert b"Server: penstock\r\n" in head
        assert json.loads(body) == {"error": "Bad Request"}

    with caplog.at_level(logging.WARNING):
        run(test, server())
    assert not [record for record in caplog.records if record.name != "asyncio"]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9464", "127.0.0.1:80", "[::1]:9464", "x.localhost", "10.0.0.7"]
)
def test_it_answers_to_the_names_of_this_machine(host: str) -> None:
    async def test(under_test: Server) -> None:
        assert (await ask(under_test.url + "/livez", headers={"Host": host}))[0] == 200

    run(test, server())


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(host: str) -> None:
    async def test(under_test: Server) -> None:
        status, _, body = await ask(under_test.url + "/api/v1/status", headers={"Host": host})
        assert (status, json.loads(body)) == (
            421,
            {"error": "this server does not go by that name; server.hosts can add it"},
        )

    run(test, server())


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: lo"], ids=["connect only", "half a header"])
def test_a_client_that_sends_no_whole_header_is_closed(sent: bytes) -> None:
    async def test(under_test: Server) -> None:
        await talk(under_test, sent)

    run(test, server(limits=SHORT))


def test_a_header_that_drips_is_cut_off_and_others_are_served_meanwhile() -> None:
    async def test(under_test: Server) -> None:
        reader, writer = await asyncio.open_connection(*under_test.address)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        closed = asyncio.ensure_future(reader.read())
        while not closed.done():
            writer.write(b"X: y\r\n")
            await asyncio.wait([closed], timeout=0.05)
            if not closed.done():
                assert (await ask(under_test.url + "/livez"))[0] == 200
        writer.close()
        await asyncio.gather(closed, writer.wait_closed(), return_exceptions=True)

    run(test, server(limits=SHORT))


def test_an_idle_connection_is_closed_after_its_answer() -> None:
    async def test(under_test: Server) -> None:
        received = await talk(under_test, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")

    run(test, server(limits=SHORT))


def test_a_body_that_nobody_asked_for_does_not_hold_the_connection() -> None:
    async def test(under_test: Server) -> None:
        head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
        assert (await talk(under_test, head + b"x")).startswith(b"HTTP/1.1 200 OK\r\n")

    run(test, server(limits=SHORT))


def app_that_reads_bodies(limits: Limits) -> web.Application:
    """The real application with a route that waits for a body, as later ones will."""
    app = make_app(desk(), Access(), (), limits, routes=())

    async def read(request: web.Request) -> web.Response:
        return json_response(200, {"bytes": len(await request.read())})

    app.router.add_post("/read", read)
    return app


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(b"x", b"HTTP/1.1 408 Request Timeout"), (b"x" * 1000, b"HTTP/1.1 413 Request Entity Too Large")],
)
def test_a_body_has_a_deadline_and_a_limit(sent: bytes, expected: bytes) -> None:
    async def main() -> None:
        runner = web.AppRunner(app_that_reads_bodies(Limits(deadline_s=0.2, body_bytes=100)), lingering_time=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + sent)
        assert (await reader.readline()).rstrip() == expected
        writer.close()
        await writer.wait_closed()
        await runner.cleanup()

    asyncio.run(main())


def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    async def test(under_test: Server) -> None:
        with socket.create_connection(under_test.address) as client:
            client.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reset = select.poll()
            reset.register(client, 0)  # tells of errors only
            assert await asyncio.to_thread(reset.poll, 20_000)

    run(test, server(limits=SHORT, status=lambda: {"config_hash": "", "long": "x" * 50_000_000}))


async def is_served(under_test: Server) -> bool:
    try:
        return (await ask(under_test.url + "/livez"))[0] == 200
    except aiohttp.ClientConnectionError:
        return False


def test_connections_over_the_limit_are_refused_and_there_is_room_again_later() -> None:
    async def test(under_test: Server) -> None:
        kept = [await asyncio.open_connection(*under_test.address) for _ in range(2)]
        for _, writer in kept:  # each has its answer, so each is counted
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for reader, _ in kept:
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        assert not await is_served(under_test)
        for _, writer in kept:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(10):
            while not await is_served(under_test):  # until the server has noticed that they are gone
                pass

    run(test, server(limits=Limits(connections=2)))


def test_a_port_in_use_is_one_clear_line() -> None:
    async def main() -> None:
        first = server()
        await first.start()
        second = server(address=first.address)
        with pytest.raises(ConfigError) as caught:
            await second.start()
        assert caught.value.key == "server.listen"
        port = first.address[1]
        expected = (
            f"cannot listen on 127.0.0.1 port {port}: another program listens there; stop it, or choose another port"
        )
        assert str(caught.value) == expected
        await second.close()
        await first.close()

    asyncio.run(main(), debug=True)


def test_an_address_that_this_machine_has_not_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"^cannot listen on 192\.0\.2\.1 port 0: this machine has no such address"):
        asyncio.run(server(address=("192.0.2.1", 0)).start())


def test_it_closes_at_once_under_idle_and_waiting_clients_and_the_port_is_free() -> None:
    async def main() -> None:
        under_test = server()
        await under_test.start()
        reader, writer = await asyncio.open_connection(*under_test.address)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readline()
        silent_reader, silent = await asyncio.open_connection(*under_test.address)
        await asyncio.wait_for(under_test.close(), 5)
        for stream, client in ((reader, writer), (silent_reader, silent)):
            await stream.read()
            client.close()
            await client.wait_closed()
        again = server(address=under_test.address)
        await again.start()
        assert (await ask(again.url + "/livez"))[0] == 200
        await again.close()
        await again.close()  # a second time does nothing

    asyncio.run(main(), debug=True)


def test_the_address_of_version_six_stands_in_brackets() -> None:
    assert server(address=("::1", 80)).url == "http://[::1]:80"


def test_a_route_cannot_be_added_without_a_scope() -> None:
    with pytest.raises(TypeError, match="scope"):
        Route("GET", "/x", answer=Desk.live, summary="x")  # type: ignore[call-arg]


def test_names_that_the_operator_gave_are_answered_to() -> None:
    async def test(under_test: Server) -> None:
        for host, status in (("box.lan:9464", 200), ("BOX.LAN", 200), ("other.lan", 421)):
            assert (await ask(under_test.url + "/livez", headers={"Host": host}))[0] == status

    named = Server(
        ("127.0.0.1", 0), metrics=metrics, status=dict, live=lambda: WELL, ready=lambda: WELL, hosts=("Box.lan",)
    )
    run(test, named)
