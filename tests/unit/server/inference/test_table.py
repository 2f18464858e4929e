"""The routes of all dialects: each with its scope, described, and none that is not in the table."""

import asyncio
import re
from typing import Any

import pytest
from asking import FakeAsking, detector, inference, model
from serving import Ask, FakeControl, make_server, serve

from pipeline.server.access import Access, Token
from pipeline.server.app import Limits, Server, make_app
from pipeline.server.inference.dialects import ALL, make_dialect
from pipeline.server.inference.mount import MountedRoute
from pipeline.server.openapi import document, inference_operation, plain_path
from pipeline.server.routes import ROUTES
from tests.unit.server.test_server import desk

PREFIXES = {"roboflow": "", "huggingface": "/hf", "supervisely": "/sly", "kserve": ""}
SCOPES = {
    "open": {("GET", "/healthz"), ("GET", "/readiness"), ("GET", "/v2/health/live"), ("GET", "/v2/health/ready")},
    "read": {
        ("GET", "/inference_pipelines/list"),
        ("GET", "/inference_pipelines/{pipeline_id}/status"),
        ("GET", "/inference_pipelines/{pipeline_id}/consume"),
    },
    "control": {
        ("POST", "/model/remove"),
        ("POST", "/model/clear"),
        ("POST", "/v2/repository/models/{model}/unload"),
        ("POST", "/inference_pipelines/initialise"),
        ("POST", "/inference_pipelines/{pipeline_id}/pause"),
        ("POST", "/inference_pipelines/{pipeline_id}/resume"),
        ("POST", "/inference_pipelines/{pipeline_id}/terminate"),
    },
}
"""Who may ask for what: all that is not here is for who may use the models, "infer"."""


def everything() -> Any:
    models = [detector("local", "coco/9"), model("clip", "embedding")]
    dialects: dict[str, list[Any]] = {}
    for name in ALL:
        dialects.setdefault(PREFIXES[name], []).append(lambda service, name=name: make_dialect(name, service))
    return inference(FakeAsking(*models), dialects)


OWN = [route.path for route in ROUTES]


def table() -> list[MountedRoute]:
    async def main() -> list[MountedRoute]:
        offered = everything()
        routes: list[MountedRoute] = offered.routes(OWN)
        await offered.close()
        return routes

    return asyncio.run(main())


TABLE = table()


def test_all_dialects_can_be_mounted_together_as_they_are_by_default() -> None:
    assert {route.tag for route in TABLE} == set(ALL)


def test_every_route_has_the_scope_that_is_written_here() -> None:
    for scope in ("open", "metrics", "read", "control"):
        found = {(route.method, plain_path(route)) for route in TABLE if route.scope == scope}
        assert found == SCOPES.get(scope, set()), scope


def test_nothing_is_served_that_is_not_in_the_table() -> None:
    async def main() -> None:
        offered = everything()
        app = make_app(desk(), Access(), (), Limits(), inference=offered)
        served = [
            (route.method, re.sub(r"^/+", "/", route.resource.canonical))
            for route in app.router.routes()
            if route.resource is not None
        ]
        own: list[tuple[str, str]] = [(route.method, plain_path(route)) for route in ROUTES]
        own += [("HEAD", path) for method, path in own if method == "GET"]
        described = [(route.method, plain_path(route)) for route in offered.routes(OWN)]
        assert sorted(served) == sorted(own + described)
        await offered.close()

    asyncio.run(main())


def test_what_is_described_is_valid_openapi() -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    described = document(ROUTES, "1.0", {"type": "object"}, TABLE)
    validator.validate(described, cls=validator.OpenAPIV31SpecValidator)
    operations = {
        (method.upper(), path): operation
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    for route in TABLE:
        operation = operations[route.method, plain_path(route)]
        assert operation["tags"] == [route.tag]
        assert ("security" in operation) == (route.scope != "open")
    identifiers = [operation["operationId"] for operation in operations.values()]
    assert len(identifiers) == len(set(identifiers))


def test_the_pattern_of_a_parameter_is_about_all_of_it() -> None:
    parameters = [one for route in TABLE for one in inference_operation(route).get("parameters", [])]
    patterns = [one["schema"]["pattern"] for one in parameters]
    assert all(pattern.startswith("^(?:") and pattern.endswith(")$") for pattern in patterns)
    of_words = [pattern for pattern in patterns if re.fullmatch(r"[^\w!]+[\w|-]+\W+", pattern)]
    assert of_words
    for pattern in of_words:
        for word in re.findall(r"[\w-]+", pattern):
            assert re.search(pattern, word)
            assert not re.search(pattern, f"{word}/other")
            assert not re.search(pattern, f"other/{word}")


SECRETS = {scope: f"{scope}-0123456789abcdef" for scope in ("read", "metrics", "control", "infer")}
TOKENS = [Token.of(scope, secret, [scope]) for scope, secret in SECRETS.items()]


def _server(**options: Any) -> Server:
    return make_server(FakeControl(), inference=everything(), **options)


def sample(route: MountedRoute) -> str:
    """A path that the route takes."""
    path = plain_path(route)
    for parameter in inference_operation(route).get("parameters", []):
        pattern = parameter["schema"]["pattern"].removeprefix("^(?:").removesuffix(")$")
        found = next(word for word in ("x", *pattern.split("|")) if re.fullmatch(pattern, word))
        path = path.replace(f"{{{parameter['name']}}}", found)
    return path


def test_every_route_wants_a_token_of_its_own_scope() -> None:
    async def test(ask: Ask) -> None:
        for route in TABLE:
            path = sample(route)
            strangers = [
                (await ask(route.method, path)).status,
                (await ask(route.method, f"{path}?api_key=unknown")).status,
                (await ask(route.method, path, headers={"Authorization": "Bearer unknown"})).status,
                (await ask(route.method, path, json={"api_key": "unknown"})).status,
            ]
            by_scope = {
                scope: (await ask(route.method, path, headers={"Authorization": f"Bearer {secret}"})).status
                for scope, secret in SECRETS.items()
            }
            let_in = {scope for scope, status in by_scope.items() if status not in (401, 403)}
            if route.scope == "open":
                assert not {401, 403} & {*strangers, *by_scope.values()}, path
            else:
                assert (set(strangers), let_in) == ({401}, {route.scope}), (route.method, path, by_scope)

    serve(lambda: _server(access=Access(TOKENS)), test)


def test_no_route_lets_other_sites_or_other_names_in() -> None:
    async def test(ask: Ask) -> None:
        for route in TABLE:
            path = sample(route)
            assert (await ask(route.method, path, headers={"Host": "evil.example"})).status == 421, path
            if route.scope == "infer":
                assert (await ask(route.method, path, headers={"Origin": "http://evil.example"})).status == 403, path

    serve(_server, test)


JUNK: list[dict[str, Any]] = [
    {},
    {"data": b"\xff\xd8\xff"},
    {"json": None},
    {"json": []},
    {"json": {"inputs": None, "image": None, "state": None, "api_key": None}},
    {"json": {"inputs": "QQ==", "image": {"type": "base64", "value": "QQ=="}, "model_id": "coco/9"}},
    {"json": {"image": [[[]]], "model_id": ["coco/9"], "inputs": [{}], "state": [], "specification": 1}},
    {"data": b"[" * 50_000},
    {"data": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    {"data": b"x", "headers": {"Inference-Header-Content-Length": "-1"}},
]


def test_junk_is_refused_in_json_and_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    async def test(ask: Ask) -> None:
        for route in TABLE:
            for options in JUNK:
                answer = await ask(route.method, sample(route), **options)
                assert answer.status != 500, (route.method, route.path, options)
                if answer.status >= 400:
                    assert isinstance(answer.body, dict), (route.method, route.path, answer.text)
                    assert answer.headers["Content-Type"] == "application/json"

    serve(_server, test)
    assert not [record for record in caplog.records if record.name == "penstock"]
