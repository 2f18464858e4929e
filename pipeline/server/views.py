"""What the server shows and whom it hands orders to; made by the app, read by the routes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from pipeline.runtime.control import Control
from pipeline.telemetry.events import Events


@dataclass(frozen=True, slots=True)
class Health:
    """An answer to "is it well?".

    Attributes:
        ok: whether it is.
        checks: what was looked at and how it was found, in a few words each, for people.
        sources: for each source its name, state, code and the age of its last frame; they need not all be well.
    """

    ok: bool
    checks: Mapping[str, str] = field(default_factory=dict)
    sources: Sequence[Mapping[str, Any]] | None = None


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
class Commands:
    """Who takes orders, and which.

    Attributes:
        control: the running pipeline; None: this run takes no orders.
        events: where each order is told; None: nowhere.
        sources_by_api: sources may be put and deleted.
        source_schema: makes the JSON Schema of a source's table, with `$defs`, for the OpenAPI document.
    """

    control: Control | None = None
    events: Events | None = None
    sources_by_api: bool = False
    source_schema: Callable[[], Mapping[str, Any]] | None = None


def json_response(status: int, body: Mapping[str, Any], *, config_hash: str | None = None) -> web.Response:
    """An answer in JSON; with the hash of the configuration as its `ETag`, which `If-Match` takes."""
    headers = {} if config_hash is None else {"ETag": f'"{config_hash}"'}
    return web.Response(status=status, text=json.dumps(body) + "\n", content_type="application/json", headers=headers)
