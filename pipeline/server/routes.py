"""The table of everything that is served: path, who may ask, and what answers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

Scope = Literal["open", "metrics", "read"]
"""Who may ask: anybody (health only), who may scrape, who may read. While the server refuses to listen anywhere but on
the machine itself, and there are no tokens, this says what a route will need and holds nobody back."""


@dataclass(frozen=True, slots=True)
class Health:
    """An answer to "is it well?".

    Attributes:
        ok: whether it is.
        checks: what was looked at and how it was found, in a few words each, for people.
    """

    ok: bool
    checks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Views:
    """What the routes show. All are called on the server's loop for each request: none of them may block.

    Attributes:
        metrics: from the `Accept` header of a scrape to the body and its content type.
        status: what stands in /api/v1/status; JSON types only.
        live: False: the process hangs and should be restarted.
        ready: False: it is not (or no longer) working on frames.
    """

    metrics: Callable[[str], tuple[bytes, str]]
    status: Callable[[], Mapping[str, Any]]
    live: Callable[[], Health]
    ready: Callable[[], Health]


@dataclass(frozen=True, slots=True)
class Route:
    """One path, for GET and HEAD."""

    path: str
    scope: Scope
    answer: Callable[[Views, web.Request], web.Response]


def _metrics(views: Views, request: web.Request) -> web.Response:
    body, content_type = views.metrics(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


def _status(views: Views, _: web.Request) -> web.Response:
    return json_response(200, views.status())


def _live(views: Views, _: web.Request) -> web.Response:
    return _health(views.live())


def _ready(views: Views, _: web.Request) -> web.Response:
    return _health(views.ready())


def _health(health: Health) -> web.Response:
    body = {"status": "ok" if health.ok else "failing", "checks": dict(health.checks)}
    return json_response(200 if health.ok else 503, body)


def json_response(status: int, body: Mapping[str, Any]) -> web.Response:
    """An answer in JSON."""
    return web.Response(status=status, text=json.dumps(body) + "\n", content_type="application/json")


ROUTES: tuple[Route, ...] = (
    Route("/metrics", "metrics", _metrics),
    Route("/livez", "open", _live),
    Route("/readyz", "open", _ready),
    Route("/api/v1/status", "read", _status),
)
