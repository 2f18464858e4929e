"""The description that is served, against the rules of OpenAPI and against what the server really answers."""

from typing import Any

import pytest
from serving import Answer, Ask, FakeControl, make_server, serve

from pipeline.config.schema import source_schema
from pipeline.registry import Registry
from pipeline.runtime.control import ReloadOutcome
from pipeline.server.access import Access, Token
from pipeline.server.openapi import document, plain_path
from pipeline.server.routes import ROUTES

jsonschema = pytest.importorskip("jsonschema", reason="the package jsonschema is not installed")


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document(ROUTES, "1.0", source_schema(Registry.load()))


def test_it_is_valid_openapi_with_the_tables_of_the_installed_sources(described: dict[str, Any]) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    validator.validate(described, cls=validator.OpenAPIV31SpecValidator)
    assert "FileSourceConfig" in described["components"]["schemas"]


def test_it_describes_what_is_served_and_nothing_else(described: dict[str, Any]) -> None:
    found = {(method, path) for path, methods in described["paths"].items() for method in methods}
    assert found == {(route.method.lower(), plain_path(route)) for route in ROUTES}
    assert "/api/v1/sources/{name}" in described["paths"]


def test_every_route_but_health_says_which_scope_it_wants(described: dict[str, Any]) -> None:
    scopes = {
        path: operation["security"][0]["bearer"]
        for path, methods in described["paths"].items()
        for operation in methods.values()
        if "security" in operation
    }
    assert set(described["paths"]) - set(scopes) == {"/livez", "/readyz"}
    assert scopes["/metrics"] == ["metrics"]


def test_it_takes_a_table_that_the_loader_takes_and_no_other(described: dict[str, Any]) -> None:
    schema = {**described, "$ref": "#/components/schemas/SourceTable"}
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"type": "file", "path": "a.mp4", "max_fps": 5})
    assert not validator.is_valid({"type": "file", "path": "a.mp4", "max_fpz": 5})
    assert not validator.is_valid({"type": "nothing"})


def check(described: dict[str, Any], method: str, path: str, answer: Answer) -> None:
    """The answer's schema is in the description, and the answer keeps to it."""
    responses = described["paths"][path][method.lower()]["responses"]
    assert str(answer.status) in responses, (method, path, answer.status)
    content = responses[str(answer.status)]["content"]
    content_type = answer.headers["Content-Type"].partition(";")[0]
    assert content_type in content, (method, path, answer.status)
    if content_type == "application/json":
        schema = {**described, **content["application/json"]["schema"]}
        jsonschema.Draft202012Validator(schema).validate(answer.body)


OUTCOMES = [
    None,
    ReloadOutcome(False, "abc", problems=("a", "b"), invalid=True),
    ReloadOutcome(False, "abc", problems=("a",)),
    ReloadOutcome(False, "abc", conflict=True),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=["ok", "invalid", "failed", "conflict"])
@pytest.mark.parametrize("allowed", ["yes", "no sources", "no orders", "no token"])
def test_what_is_answered_is_what_is_described(
    described: dict[str, Any], outcome: ReloadOutcome | None, allowed: str
) -> None:
    control = FakeControl(outcome=outcome)
    options: dict[str, Any] = {"sources_by_api": allowed != "no sources", "takes_orders": allowed != "no orders"}
    if allowed == "no token":
        options["access"] = Access([Token.of("a", "0123456789abcdef", ["read"])])
    bodies: list[dict[str, Any]] = [
        *({"json": {"type": "fake"}}, {"json": [1]}, {"data": b"{"}),
        {"data": b"x" * 70_000, "headers": {"Content-Type": "application/json"}},
    ]
    seen = set()

    async def test(ask: Ask) -> None:
        for route in ROUTES:
            path = plain_path(route)
            for name in ("gate", "yard"):
                for body in bodies if route.takes_source else [{}]:
                    answer = await ask(route.method, path.replace("{name}", name), **body)
                    seen.add(answer.status)
                    assert answer.status not in (500, 502, 503, 504)
                    check(described, route.method, path, answer)

    serve(make_server(control, source_schema=lambda: source_schema(Registry.load()), **options), test)
    assert len(seen) > 1


def test_what_the_guard_answers_is_described_for_every_route(described: dict[str, Any]) -> None:
    async def test(ask: Ask) -> None:
        for route in ROUTES:
            path = plain_path(route)
            answer = await ask(route.method, path.replace("{name}", "gate"), headers={"Host": "evil.example"})
            assert answer.status == 421
            check(described, route.method, path, answer)

    serve(make_server(FakeControl()), test)


def test_the_served_one_is_the_one_that_is_checked_here(described: dict[str, Any]) -> None:
    async def test(ask: Ask) -> None:
        for _ in range(2):
            assert (await ask("GET", "/api/v1/openapi.json")).body == described
        index = (await ask("GET", "/")).body
        assert len(index["paths"]) == len(ROUTES)

    serve(make_server(FakeControl(), source_schema=lambda: source_schema(Registry.load())), test)
