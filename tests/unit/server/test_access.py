"""Who may ask for what: every route with every kind of token, and with none."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from serving import Ask, FakeControl, make_server, serve

from pipeline.server.access import Access, Token
from pipeline.server.routes import NAME, ROUTES, Route
from pipeline.testing import MovableClock

NOW = datetime(2026, 7, 1, tzinfo=UTC)
SECRETS = {scope: f"{scope}-0123456789abcdef" for scope in ("metrics", "read", "control")}


def clock() -> MovableClock:
    return MovableClock(wall=NOW.timestamp())


def access(*extra: Token) -> Access:
    own = [Token.of(f"for_{scope}", secret, [scope]) for scope, secret in SECRETS.items()]
    return Access([*own, *extra], clock())


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def request_of(route: Route) -> tuple[str, str, dict[str, Any]]:
    return route.method, route.path.replace(NAME, "gate"), {"json": {"type": "fake"}} if route.takes_source else {}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_wants_a_token_of_its_scope(route: Route) -> None:
    method, path, options = request_of(route)
    control = FakeControl()
    expired = Token.of("old", "expired-0123456789abcdef", list(SECRETS), NOW)

    async def test(ask: Ask) -> None:
        async def status(headers: Mapping[str, str]) -> int:
            answer = await ask(method, path, headers=headers, **options)
            if answer.status == 401:
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            return answer.status

        nobody = [
            *({}, bearer("unknown-0123456789abcdef"), bearer(""), bearer("expired-0123456789abcdef")),
            *({"Authorization": f"Basic {SECRETS['read']}"}, {"Authorization": SECRETS["control"]}),
        ]
        for headers in nobody:
            assert await status(headers) == (200 if route.scope == "open" else 401)
        assert control.orders == []
        for scope, secret in SECRETS.items():
            assert await status(bearer(secret)) == (200 if route.scope in ("open", scope) else 403)

    serve(make_server(control, sources_by_api=True, access=access(expired)), test)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_without_tokens_everybody_on_this_machine_may(route: Route) -> None:
    method, path, options = request_of(route)

    async def test(ask: Ask) -> None:
        assert (await ask(method, path, **options)).status == 200

    serve(make_server(FakeControl(), sources_by_api=True), test)


def test_a_token_is_good_until_it_expires() -> None:
    token = Token.of("soon", "soon-0123456789abcdef", ["read"], NOW + timedelta(seconds=60))
    time = clock()
    under_test = make_server(FakeControl(), access=Access([token], time))

    async def test(ask: Ask) -> None:
        headers = bearer("soon-0123456789abcdef")
        assert (await ask("GET", "/api/v1/status", headers=headers)).status == 200
        time.advance(60)
        late = await ask("GET", "/api/v1/status", headers=headers)
        assert (late.status, late.body) == (401, {"error": "this token has expired"})

    serve(under_test, test)


def test_the_wrong_scope_is_named_and_a_token_may_have_several() -> None:
    both = Token.of("both", "both-0123456789abcdef", ["metrics", "read"])

    async def test(ask: Ask) -> None:
        headers = bearer("both-0123456789abcdef")
        assert (await ask("GET", "/metrics", headers=headers)).status == 200
        assert (await ask("GET", "/api/v1/status", headers=headers)).status == 200
        answer = await ask("POST", "/api/v1/reload", headers=headers)
        assert (answer.status, answer.body) == (403, {"error": "this token has not the scope 'control'"})

    serve(make_server(FakeControl(), access=access(both)), test)


def test_health_tells_strangers_no_more_than_how_it_is() -> None:
    async def test(ask: Ask) -> None:
        for path in ("/livez", "/readyz"):
            for headers in ({}, bearer(SECRETS["metrics"]), bearer("unknown-0123456789abcdef")):
                assert (await ask("GET", path, headers=headers)).body == {"status": "ok"}
            assert "checks" in (await ask("GET", path, headers=bearer(SECRETS["read"]))).body
        (listed,) = (await ask("GET", "/readyz", headers=bearer(SECRETS["read"]))).body["sources"]
        assert listed == {
            "name": "gate",
            "state": "reconnecting",
            "code": "TIMEOUT",
            "last_frame_age_s": 2.5,
            "required": False,
        }

    serve(make_server(FakeControl(), access=access()), test)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://box.localhost:9464", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://box.localhost:9464"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
    ],
)
def test_a_web_page_of_another_site_gives_no_orders(headers: dict[str, str], status: int) -> None:
    control = FakeControl()

    async def test(ask: Ask) -> None:
        own = {"Host": "box.localhost:9464", **headers}
        assert (await ask("POST", "/api/v1/sources/gate/pause", headers=own)).status == status
        assert (await ask("PUT", "/api/v1/sources/gate", json={}, headers=own)).status == status
        assert (await ask("GET", "/api/v1/status", headers=own)).status == 200

    serve(make_server(control, sources_by_api=True), test)
    assert bool(control.orders) == (status == 200)


def test_the_log_names_who_gave_an_order_and_who_was_denied(caplog: pytest.LogCaptureFixture) -> None:
    async def test(ask: Ask) -> None:
        await ask("POST", "/api/v1/sources/gate/pause", headers=bearer(SECRETS["control"]))
        await ask("POST", "/api/v1/sources/gate/pause", headers=bearer(SECRETS["read"]))
        for _ in range(3):
            await ask("POST", "/api/v1/reload")

    with caplog.at_level(logging.INFO):
        serve(make_server(FakeControl(), access=access()), test)
    told = [record.getMessage() for record in caplog.records if record.name == "penstock"]
    assert told == [
        "server: for_control: pause source gate: done",
        "server: for_read: POST /api/v1/sources/gate/pause: denied: this token has not the scope 'control'",
    ]
    assert not any(secret in caplog.text for secret in SECRETS.values())


def test_a_token_shows_nothing_of_its_secret() -> None:
    assert SECRETS["read"] not in repr(Token.of("a", SECRETS["read"], ["read"]))


def test_tokens_can_be_replaced_while_it_runs() -> None:
    under_test = access()

    async def test(ask: Ask) -> None:
        assert (await ask("GET", "/api/v1/status", headers=bearer(SECRETS["read"]))).status == 200
        under_test.replace([Token.of("new", "renewed-0123456789abcdef", ["read"])])
        assert (await ask("GET", "/api/v1/status", headers=bearer(SECRETS["read"]))).status == 401
        assert (await ask("GET", "/api/v1/status", headers=bearer("renewed-0123456789abcdef"))).status == 200

    serve(make_server(FakeControl(), access=under_test), test)


def test_a_server_that_others_can_reach_is_closed_when_its_last_token_goes() -> None:
    under_test = Access([Token.of("only", SECRETS["read"], ["read"])], clock(), exposed=True)

    async def test(ask: Ask) -> None:
        under_test.replace([])
        for headers in ({}, bearer(SECRETS["read"])):
            assert (await ask("GET", "/api/v1/status", headers=headers)).status == 401
        assert (await ask("GET", "/livez")).body == {"status": "ok"}

    serve(make_server(FakeControl(), access=under_test), test)
