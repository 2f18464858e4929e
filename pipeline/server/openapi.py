"""The OpenAPI 3.1 document, made from the table of routes: what is served is described, and nothing else."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pipeline.server.inference.mount import MountedRoute
from pipeline.server.routes import TEXT, Route
from pipeline.server.schemas import SCHEMAS, Schema

# As aiohttp writes them: a pattern may have braces of its own, one level deep.
_PARAMETER = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})*))?\}")
_ANY_PARAMETER = "[^{}/]+"

_GUARD = {
    400: "no valid HTTP",
    408: "it took too long to send the request or to read the answer",
    421: "this server does not go by the name in Host",
    500: "a bug, told in the log",
}
_DENIED = {401: "no token, or none that is good", 403: "the token has not the scope, or it is not allowed here"}
_KEYS = {
    "key_in_header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "key_in_query": {"type": "apiKey", "in": "query", "name": "api_key"},
}


def document(
    routes: Sequence[Route], version: str, source_schema: Mapping[str, Any], offered: Sequence[MountedRoute] = ()
) -> Schema:
    """The whole document.

    Args:
        routes: the table.
        version: of Penstock.
        source_schema: JSON Schema of a source's table, its definitions under `$defs`.
        offered: the routes of the dialects.
    """
    table: Schema = _moved(source_schema)
    definitions = table.pop("$defs", {})
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(plain_path(route), {})[route.method.lower()] = _operation(route)
    for each in offered:
        paths.setdefault(plain_path(each), {})[each.method.lower()] = inference_operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": version,
            "description": "Streaming video inference: metrics, health, status and orders.",
        },
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, "SourceTable": table, **definitions},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                **({} if not offered else _KEYS),
            },
        },
    }


def index(routes: Sequence[Route], version: str, offered: Sequence[MountedRoute] = ()) -> Schema:
    """What `/` shows: where each protocol for clients begins, and a line for each route of our own."""
    paths = [
        {"method": route.method, "path": plain_path(route), "scope": route.scope, "summary": route.summary}
        for route in routes
    ]
    counts = Counter(route.tag for route in offered)
    protocols = {route.tag: {"at": route.mounted.prefix or "/", "paths": counts[route.tag]} for route in offered}
    return {"version": version, "inference": protocols, "paths": paths}


def plain_path(route: Route | MountedRoute) -> str:
    """The path with `{name}` in place of what aiohttp wants."""
    return _PARAMETER.sub(r"{\1}", route.path)


def _operation(route: Route) -> Schema:
    statuses = {status: HTTPStatus(status).phrase for status in route.responses}
    guards = {**_GUARD, **(_DENIED if route.scope != "open" else {})}
    described = {**statuses, **guards}
    operation: Schema = {
        "operationId": route.answer.__name__,
        "summary": route.summary,
        "responses": {
            str(status): _response(description, route.responses.get(status, "Error"), status)
            for status, description in sorted(described.items())
        },
    }
    if route.scope != "open":
        # Scopes of a bearer scheme are roles, new in 3.1.
        operation["security"] = [{"bearer": [route.scope]}]
    parameters = _path_parameters(route.path)
    if route.if_match:
        description = "the config_hash that must be in force, in quotes; left out: any"
        parameters.append(
            {"name": "If-Match", "in": "header", "description": description, "schema": {"type": "string"}}
        )
    if parameters:
        operation["parameters"] = parameters
    if route.takes_source:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SourceTable"}}},
        }
    return operation


def inference_operation(route: MountedRoute) -> Schema:
    """A dialect's route: what it takes and gives stands in its own documents, and is told here by its kind only."""
    kinds = ("application/json", "application/octet-stream", "image/jpeg", "image/png", "text/plain")
    operation: Schema = {
        "operationId": "_".join(re.findall(r"\w+", f"{route.tag} {route.method.lower()} {plain_path(route)}")),
        "tags": [route.tag],
        "summary": route.summary,
        "responses": {
            "200": {"description": "OK", "content": {kind: {"schema": {}} for kind in kinds}},
            "default": {
                "description": "refused, in the form that clients of this protocol know",
                "content": {"application/json": {"schema": {"type": "object"}}, "text/plain": {"schema": {}}},
            },
        },
    }
    if route.scope != "open":
        operation["security"] = [{scheme: [route.scope]} for scheme in ("bearer", "key_in_header", "key_in_query")]
    parameters = _path_parameters(route.path)
    if parameters:
        operation["parameters"] = parameters
    if route.method == "POST":
        operation["requestBody"] = {
            "content": {
                "application/json": {"schema": {}},
                "multipart/form-data": {"schema": {"type": "object"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            }
        }
    return operation


def _path_parameters(path: str) -> list[Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^(?:{pattern or _ANY_PARAMETER})$"},
        }
        for name, pattern in _PARAMETER.findall(path)
    ]


def _response(description: str, schema: str, status: int) -> Schema:
    if schema == TEXT:
        return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}
    response: Schema = {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
    if status == HTTPStatus.UNAUTHORIZED:
        response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return response


def _moved(value: Any) -> Any:
    """A copy in which references point to where the definitions stand in the document."""
    if isinstance(value, Mapping):
        return {
            name: _component(inner) if name == "$ref" and isinstance(inner, str) else _mapping(name, inner)
            for name, inner in value.items()
        }
    return [_moved(inner) for inner in value] if isinstance(value, list) else value


def _mapping(name: str, value: Any) -> Any:
    """Also the mapping of a discriminator names definitions."""
    if name == "mapping" and isinstance(value, Mapping):
        return {tag: _component(where) if isinstance(where, str) else _moved(where) for tag, where in value.items()}
    return _moved(value)


def _component(reference: str) -> str:
    return reference.replace("#/$defs/", "#/components/schemas/", 1)
