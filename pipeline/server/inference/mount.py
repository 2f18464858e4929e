"""`Inference`: the dialects under their prefixes: who is let in, how long it may take, how refusals are written."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from pipeline.contracts.errors import ConfigError
from pipeline.runtime.asking import AskError
from pipeline.server.access import Access, DeniedError, Scope
from pipeline.server.desk import DEADLINE
from pipeline.server.inference.body import BODY, SLACK_S, WORK
from pipeline.server.inference.refusal import RefusedError, refusal_of
from pipeline.server.inference.service import Dialect, Handler, InferenceRoute, Service

GONE = 499
"""In the metrics: the client went away before the answer was there."""

_FIRST_VARIABLE = re.compile(r"\{([_a-zA-Z]\w*)\}")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A dialect under its prefix.

    Attributes:
        prefix: "/hf", or "" for none.
        dialect: what is there.
    """

    prefix: str
    dialect: Dialect


@dataclass(frozen=True, slots=True)
class MountedRoute:
    """One line of the server's table.

    Attributes:
        method: of HTTP.
        path: the whole, as aiohttp takes it.
        scope: who may ask.
        summary: what it does.
        tag: the dialect's name.
        mounted: the dialect.
        handler: the dialect's own, without what the mount does around it.
    """

    method: str
    path: str
    scope: Scope
    summary: str
    tag: str
    mounted: Mounted
    handler: Handler


class Inference:
    """All dialects of one server. Made by who makes the server; used on the main loop.

    Args:
        service: what they work with.
        mounted: them, each under its prefix.
        observe: told the dialect, the status and the seconds of every request.
        close: called after the dialects are closed.
    """

    def __init__(
        self,
        service: Service,
        mounted: Sequence[Mounted],
        *,
        observe: Callable[[str, int, float], None] = lambda *_: None,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._service = service
        self._mounted = tuple(mounted)
        self._observe = observe
        self._close = close
        self._heads = _heads(self._mounted)

    def routes(self, own_paths: Sequence[str]) -> list[MountedRoute]:
        """All routes in the order in which they are tried: those that take anything at the end.

        Args:
            own_paths: what the server serves itself; nothing here may stand in its way.

        Raises:
            ConfigError: two dialects have the same route.
        """
        own = {_first(path) for path in own_paths}
        early, late = [], []
        for mounted in self._mounted:
            for route in mounted.dialect.routes:
                path = mounted.prefix + route.path
                if route.last:
                    taken = own | {_first(head) for head, owner in self._heads.items() if owner is not mounted}
                    late.append(_line(mounted, route, _keep_off(path, taken)))
                else:
                    early.append(_line(mounted, route, path))
        _refuse_clashes([*early, *late], own_paths)
        return [*early, *late]

    def mounted_at(self, path: str) -> Mounted | None:
        """Whose form an error for this path has, where no route says so; None: the server's own."""
        found = [head for head in self._heads if path == head or path.startswith(f"{head}/")]
        return self._heads[max(found, key=len)] if found else None

    def handler(self, route: MountedRoute, access: Access) -> Handler:
        """What answers a route: everything that is the same for all of them, around the dialect's own."""
        dialect = route.mounted.dialect

        async def handle(request: web.Request) -> web.StreamResponse:
            loop = asyncio.get_running_loop()
            began_at, status = loop.time(), GONE
            # The body has its own deadline and the work has one; the guard's comes back for the answer.
            request[DEADLINE].reschedule(None)
            try:
                response = await self._answer(request, route, access)
                status = response.status
            except web.HTTPException as error:
                status = error.status
                raise
            except (ConnectionError, asyncio.CancelledError):  # the client is gone, or the server closes
                raise
            except Exception:  # a bug: the guard logs it and answers
                status = HTTPStatus.INTERNAL_SERVER_ERROR
                raise
            finally:
                if BODY in request:
                    del request[BODY]
                self._observe(dialect.name, status, loop.time() - began_at)
                request[DEADLINE].reschedule(loop.time() + self._service.limits.answer_s)
            if isinstance(response, web.Response) and not response.body and not response.prepared:
                response.headers.setdefault("Content-Type", "text/plain")  # clients ask for it, whatever there is
            request[DEADLINE].reschedule(loop.time() + self._answer_s(response))
            return response

        return handle

    async def close(self) -> None:
        """Close all dialects, then what they work with."""
        for mounted in self._mounted:
            if mounted.dialect.close is not None:
                await mounted.dialect.close()
        if self._close is not None:
            await self._close()

    async def _answer(self, request: web.Request, route: MountedRoute, access: Access) -> web.StreamResponse:
        limits, dialect = self._service.limits, route.mounted.dialect
        try:
            async with asyncio.timeout(limits.body_s + limits.timeout_s + SLACK_S) as work:
                request[WORK] = work
                await _admit(request, route, access)
                return await route.handler(request)
        except RefusedError as error:
            return refused(request, dialect, error)
        except AskError as error:
            return refused(request, dialect, refusal_of(error))
        except DeniedError as error:
            return refused(request, dialect, RefusedError(error.status, error.reason))
        except TimeoutError:
            return refused(request, dialect, RefusedError(504, "it took too long", kind="late"))

    def _answer_s(self, response: web.StreamResponse) -> float:
        limits = self._service.limits
        body = response.body if isinstance(response, web.Response) else None
        length = len(body) if isinstance(body, bytes | bytearray) else 0
        return limits.answer_s + length / limits.body_bytes_per_s


def refused(request: web.Request, dialect: Dialect, error: RefusedError, allow: str | None = None) -> web.Response:
    """A refusal in the dialect's form, with the headers that belong to its status."""
    response = dialect.refuse(request, error)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="penstock"'
    if allow is not None:
        response.headers["Allow"] = allow
    return response


async def _admit(request: web.Request, route: MountedRoute, access: Access) -> None:
    """Let in who may: with a token in any of the places where clients of these protocols put theirs.

    Raises:
        DeniedError: it may not.
        RefusedError: its body cannot be read, in which the token may be.
    """
    offered = [*request.headers.getall("x-api-key", []), *request.query.getall("api_key", [])]
    try:
        access.admit(request, route.scope, offered=offered)
    except DeniedError as error:
        find = route.mounted.dialect.token
        if error.status != HTTPStatus.UNAUTHORIZED or find is None:
            raise
        token = await find(request)
        if token is None:
            raise
        access.admit(request, route.scope, offered=[token])


def _line(mounted: Mounted, route: InferenceRoute, path: str) -> MountedRoute:
    return MountedRoute(route.method, path, route.scope, route.summary, mounted.dialect.name, mounted, route.handler)


def _heads(mounted: Sequence[Mounted]) -> dict[str, Mounted]:
    """The beginnings of paths that belong to one dialect: its prefix, or the first words of its routes."""
    heads: dict[str, Mounted] = {}
    for each in mounted:
        alone = each.prefix and sum(other.prefix == each.prefix for other in mounted) == 1
        if alone:
            heads[each.prefix] = each
            continue
        for route in each.dialect.routes:
            word = route.path.split("/")[1]
            if word and "{" not in word:
                heads.setdefault(f"{each.prefix}/{word}", each)
    return heads


def _first(path: str) -> str:
    return path.split("/")[1]


def _keep_off(path: str, taken: set[str]) -> str:
    """A path that begins with anything, changed so that it does not begin with what others have."""
    words = "|".join(sorted(re.escape(word) for word in taken if word and "{" not in word))
    if not path.startswith("/{") or not words:
        return path
    return _FIRST_VARIABLE.sub(lambda found: f"{{{found[1]}:(?!(?:{words})(?:/|$))[^{{}}/]+}}", path, count=1)


def _refuse_clashes(routes: Sequence[MountedRoute], own_paths: Sequence[str]) -> None:
    owners: dict[tuple[str, str], str] = {}
    for route in routes:
        if route.path in own_paths:
            message = f"{route.tag} has the path {route.path}, which is the server's own; mount it elsewhere"
            raise ConfigError(message, key=f"server.inference.{route.tag}")
        first = owners.setdefault((route.method, route.path), route.tag)
        if first != route.tag:
            message = f"{first} and {route.tag} both have {route.method} {route.path}; mount one of them elsewhere"
            raise ConfigError(message, key=f"server.inference.{route.tag}")
