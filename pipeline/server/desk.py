"""What answers a request: the reading routes, and the orders that change something."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web

from pipeline.runtime.control import Control, ReloadOutcome
from pipeline.server.access import Access
from pipeline.server.views import Commands, Health, Views, json_response

T = TypeVar("T")

ANSWER_S = 5.0
DEADLINE = web.RequestKey("deadline", asyncio.Timeout)
"""Where the guard leaves the `asyncio.Timeout` of a request."""

_ETAG = re.compile(r'(W/)?"([^"]*)"')


class WrongError(Exception):
    """The request is wrong.

    Attributes:
        status: 4xx or 501.
        body: what the client did wrong.
    """

    def __init__(self, status: HTTPStatus, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message, **more}


class Desk:
    """Made by the server; every method named in the table of routes answers one kind of request, on the main loop."""

    def __init__(self, views: Views, commands: Commands, access: Access, order_s: float = 120.0) -> None:
        self._views = views
        self._commands = commands
        self._access = access
        self._order_s = order_s
        self._under_way: set[asyncio.Task[Any]] = set()
        self._index: Mapping[str, Any] = {}
        self._make_document: Callable[[], Mapping[str, Any]] = dict
        self._document: Mapping[str, Any] | None = None

    def describe(self, index: Mapping[str, Any], document: Callable[[], Mapping[str, Any]]) -> None:
        """What `/` and the description show; called before the first request. The document is made when asked for."""
        self._index = index
        self._make_document = document

    def close(self) -> None:
        """Give up the orders whose end nobody waits for any more."""
        for task in self._under_way:
            task.cancel()

    # What is to be seen

    async def index(self, _: web.Request, __: str) -> web.Response:
        """What there is."""
        return json_response(200, self._index)

    async def metrics(self, request: web.Request, _: str) -> web.Response:
        """A scrape."""
        body, content_type = self._views.metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def live(self, request: web.Request, _: str) -> web.Response:
        """Does it run?"""
        return self._health(self._views.live(), request)

    async def ready(self, request: web.Request, _: str) -> web.Response:
        """Does it work?"""
        return self._health(self._views.ready(), request)

    async def openapi(self, _: web.Request, __: str) -> web.Response:
        """The description of all this."""
        if self._document is None:
            self._document = self._make_document()
        return json_response(200, self._document)

    async def status(self, _: web.Request, __: str) -> web.Response:
        """Everything."""
        status = self._views.status()
        return json_response(200, status, config_hash=status["config_hash"])

    async def sources(self, _: web.Request, __: str) -> web.Response:
        """All sources."""
        status = self._views.status()
        body = {"config_hash": status["config_hash"], "sources": status["sources"]}
        return json_response(200, body, config_hash=status["config_hash"])

    async def source(self, request: web.Request, _: str) -> web.Response:
        """One source."""
        name, status = request.match_info["name"], self._views.status()
        for source in status["sources"]:
            if source["name"] == name:
                return json_response(200, source, config_hash=status["config_hash"])
        raise _no_source(name)

    # Commands

    async def pause(self, request: web.Request, who: str) -> web.Response:
        """Stop reading."""
        return self._tell(request, who, "pause")

    async def resume(self, request: web.Request, who: str) -> web.Response:
        """Go on."""
        return self._tell(request, who, "resume")

    async def restart(self, request: web.Request, who: str) -> web.Response:
        """Connect anew."""
        return self._tell(request, who, "restart")

    async def reload(self, request: web.Request, who: str) -> web.Response:
        """Read the configuration again."""
        control = self._control()

        async def carry_out() -> ReloadOutcome:
            outcome = await control.reload(f"ordered by {who} over HTTP")
            self._say(who, "reload", _result(outcome))
            return outcome

        outcome = await self._finish(request, carry_out())
        return _still_at_it() if outcome is None else _answer(outcome, HTTPStatus.OK)

    async def put_source(self, request: web.Request, who: str) -> web.Response:
        """Add or change a source."""
        name = request.match_info["name"]
        control = self._control_of_sources()
        if request.content_type != "application/json":
            raise WrongError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the source's table as application/json")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise WrongError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the source's table without a Content-Encoding")
        table = _table(await request.read())
        if_match = _if_match(request, control.config_hash)
        is_new = name not in {source["name"] for source in self._views.status()["sources"]}

        async def carry_out() -> ReloadOutcome:
            outcome = await control.put_source(name, table, if_match)
            self._say(who, f"put source {name}", _result(outcome))
            return outcome

        outcome = await self._finish(request, carry_out())
        if outcome is None:
            return _still_at_it()
        return _answer(outcome, HTTPStatus.CREATED if is_new else HTTPStatus.OK, HTTPStatus.UNPROCESSABLE_ENTITY)

    async def delete_source(self, request: web.Request, who: str) -> web.Response:
        """Remove a source."""
        name = request.match_info["name"]
        control = self._control_of_sources()
        if_match = _if_match(request, control.config_hash)

        async def carry_out() -> tuple[ReloadOutcome | None]:
            outcome = await control.delete_source(name, if_match)
            self._say(who, f"delete source {name}", "there is no such source" if outcome is None else _result(outcome))
            return (outcome,)

        ended = await self._finish(request, carry_out())
        if ended is None:
            return _still_at_it()
        if ended[0] is None:
            raise _no_source(name)
        return _answer(ended[0], HTTPStatus.OK)

    def _tell(self, request: web.Request, who: str, order: str) -> web.Response:
        control, name = self._control(), request.match_info["name"]
        tell: Callable[[str], bool] = {
            "pause": control.pause,
            "resume": control.resume,
            "restart": control.restart,
        }[order]
        known = tell(name)
        self._say(who, f"{order} source {name}", "done" if known else "there is no such source")
        if not known:
            raise _no_source(name)
        return json_response(200, {"source": name, "order": order})

    async def _finish(self, request: web.Request, order: Coroutine[Any, Any, T]) -> T | None:
        """The order's result. It is carried out to its end, whatever becomes of the client; None: it takes longer."""
        deadline = request[DEADLINE]
        # The request itself is read; what is left is the order, and then to send the answer.
        deadline.reschedule(asyncio.get_running_loop().time() + self._order_s + ANSWER_S)
        task = asyncio.create_task(order)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        done, _ = await asyncio.wait([task], timeout=self._order_s)
        return task.result() if done else None

    def _say(self, who: str, what: str, outcome: str) -> None:
        if self._commands.events is not None:
            self._commands.events.ordered(who, what, outcome)

    def _control(self) -> Control:
        if self._commands.control is None:
            raise WrongError(HTTPStatus.NOT_IMPLEMENTED, "this run takes no orders")
        return self._commands.control

    def _control_of_sources(self) -> Control:
        control = self._control()
        if not self._commands.sources_by_api:
            message = "sources cannot be changed over HTTP here; server.sources_by_api = true would allow it"
            raise WrongError(HTTPStatus.FORBIDDEN, message)
        return control

    def _health(self, health: Health, request: web.Request) -> web.Response:
        body: dict[str, Any] = {"status": "ok" if health.ok else "failing"}
        if self._access.may(request, "read"):
            body["checks"] = dict(health.checks)
            if health.sources is not None:
                body["sources"] = list(health.sources)
        return json_response(200 if health.ok else 503, body)


Answer = Callable[[Desk, web.Request, str], Awaitable[web.Response]]


def _answer(outcome: ReloadOutcome, well: HTTPStatus, invalid: HTTPStatus = HTTPStatus.CONFLICT) -> web.Response:
    if outcome.conflict:
        body: dict[str, Any] = {
            "error": "the configuration is no longer the one that If-Match names; read it again",
            "config_hash": outcome.config_hash,
        }
        return json_response(HTTPStatus.PRECONDITION_FAILED, body, config_hash=outcome.config_hash)
    if not outcome.ok:
        body = {"error": "nothing was changed", "problems": list(outcome.problems), "config_hash": outcome.config_hash}
        status = invalid if outcome.invalid else HTTPStatus.CONFLICT
        return json_response(status, body, config_hash=outcome.config_hash)
    # There may be problems nevertheless: it is in force, and could not be written to the overlay file.
    body = {
        "config_hash": outcome.config_hash,
        "changes": list(outcome.changes),
        "problems": list(outcome.problems),
    }
    return json_response(well, body, config_hash=outcome.config_hash)


def _still_at_it() -> web.Response:
    return json_response(HTTPStatus.ACCEPTED, {"status": "still under way; /api/v1/status tells the config_hash"})


def _result(outcome: ReloadOutcome) -> str:
    if outcome.conflict:
        return "refused: If-Match names another configuration"
    return f"now {outcome.config_hash}" if outcome.ok else "failed: nothing was changed"


def _no_source(name: str) -> WrongError:
    return WrongError(HTTPStatus.NOT_FOUND, f"there is no source {name!r}")


def _if_match(request: web.Request, current: str) -> str | None:
    """The hash that must be in force: `current` if it is among those that the client names. None: any will do."""
    header = ", ".join(request.headers.getall("If-Match", [])).strip()
    if header in ("", "*"):
        return None
    # A weak one matches nothing (RFC 9110, 13.1.1); a bare hash is what people type.
    strong = [tag for weak, tag in _ETAG.findall(header) if not weak] or [header]
    return current if current in strong else strong[0]


def _table(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        WrongError: there is none.
    """
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise WrongError(HTTPStatus.BAD_REQUEST, "the JSON is nested too deep") from error
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise WrongError(HTTPStatus.BAD_REQUEST, "the body is no valid JSON") from error
    if not isinstance(value, dict):
        raise WrongError(HTTPStatus.BAD_REQUEST, "the body must be a JSON object: the source's table")
    return value


def _refuse_constant(name: str) -> Iterator[None]:
    raise ValueError(f"{name} is no JSON")
