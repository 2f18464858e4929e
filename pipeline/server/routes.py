"""The table of everything that is served: method, path, who may ask, what answers, and how it is described."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.server.access import Scope
from pipeline.server.desk import Answer, Desk

Method = Literal["GET", "POST", "PUT", "DELETE"]

NAME = "{name:[a-z][a-z0-9_]{0,62}}"
"""A source's name in a path, as aiohttp matches it; what is no name is no route."""

TEXT = "text"
"""In place of a schema: an answer that is no JSON."""


@dataclass(frozen=True, slots=True)
class Route:
    """One path and method; GET answers HEAD too.

    Attributes:
        method: of HTTP.
        path: as aiohttp takes it.
        scope: who may ask.
        answer: the desk's method that answers.
        summary: what it does, in a line.
        responses: the schema (a name in `schemas.py`) of each status of its own; the guard's come on top.
        takes_source: the body is a source's table.
        if_match: `If-Match` guards against two editors.
    """

    method: Method
    path: str
    scope: Scope
    answer: Answer
    summary: str
    responses: Mapping[int, str] = field(default_factory=dict)
    takes_source: bool = False
    if_match: bool = False


_RELOAD = {200: "Reloaded", 202: "UnderWay", 409: "NotReloaded", 501: "Error"}
_TOLD = {200: "Told", 404: "Error", 501: "Error"}

ROUTES: tuple[Route, ...] = (
    Route("GET", "/", "read", Desk.index, "What is served here", {200: "Index"}),
    Route("GET", "/metrics", "metrics", Desk.metrics, "Metrics for Prometheus", {200: TEXT}),
    Route("GET", "/livez", "open", Desk.live, "Is the process worth keeping?", {200: "Health", 503: "Health"}),
    Route("GET", "/readyz", "open", Desk.ready, "Can it do its work?", {200: "Health", 503: "Health"}),
    Route("GET", "/api/v1/openapi.json", "read", Desk.openapi, "This description", {200: "Document"}),
    Route("GET", "/api/v1/status", "read", Desk.status, "Sources, backends and sinks", {200: "Status"}),
    Route("GET", "/api/v1/sources", "read", Desk.sources, "All sources", {200: "Sources"}),
    Route("GET", f"/api/v1/sources/{NAME}", "read", Desk.source, "One source", {200: "Source", 404: "Error"}),
    Route(
        "PUT",
        f"/api/v1/sources/{NAME}",
        "control",
        Desk.put_source,
        "Add or change a source; it is kept in the overlay file",
        {
            200: "Reloaded",
            201: "Reloaded",
            202: "UnderWay",
            409: "NotReloaded",
            412: "Conflict",
            422: "NotReloaded",
            400: "Error",
            413: "Error",
            415: "Error",
            501: "Error",
        },
        takes_source=True,
        if_match=True,
    ),
    Route(
        "DELETE",
        f"/api/v1/sources/{NAME}",
        "control",
        Desk.delete_source,
        "Remove a source; the overlay file remembers that",
        {**_RELOAD, 404: "Error", 412: "Conflict"},
        if_match=True,
    ),
    Route("POST", f"/api/v1/sources/{NAME}/pause", "control", Desk.pause, "Stop reading a source", _TOLD),
    Route("POST", f"/api/v1/sources/{NAME}/resume", "control", Desk.resume, "Read a paused source again", _TOLD),
    Route("POST", f"/api/v1/sources/{NAME}/restart", "control", Desk.restart, "Connect a source anew, now", _TOLD),
    Route("POST", "/api/v1/reload", "control", Desk.reload, "Read the configuration again, as SIGHUP does", _RELOAD),
)
