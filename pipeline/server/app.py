"""The HTTP server: listening, limits and a clean end. Importing this imports aiohttp: do it late."""

import asyncio
import errno
import logging
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web

from pipeline.contracts.errors import ConfigError
from pipeline.server.access import Access, DeniedError
from pipeline.server.connections import Connection, Refusal, handler_options, with_single_slashes
from pipeline.server.desk import Desk
from pipeline.server.guard import WriteError, make_guard, set_fixed_headers
from pipeline.server.inference.mount import Inference, MountedRoute, refused
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.openapi import document, index
from pipeline.server.routes import ROUTES, Route
from pipeline.server.views import Commands, Health, Views
from pipeline.telemetry.events import Events
from pipeline.telemetry.logs import LOGGER


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, or all of them, may take.

    Attributes:
        idle_s: a connection without a whole request header is closed after this long; aiohttp rounds it up to a full
            second of its clock, so that 14 keeps the promise of 15.
        deadline_s: how long one request may take in all.
        handshake_s: how long a client may take to agree on TLS.
        linger_s: how long the rest of a body that nobody asked for is read, before the connection is closed.
        close_s: how long a request that is being answered may hold up `close`.
        connections: those over it are closed at once; up to a hundred more that come in the same turn of the loop.
        body_bytes: the longest body that is read.
        order_s: how long an answer waits for the end of an order; it is carried out to its end in any case.
    """

    idle_s: float = 14.0
    deadline_s: float = 15.0
    handshake_s: float = 5.0
    linger_s: float = 2.0
    close_s: float = 0.5
    connections: int = 256
    body_bytes: int = 65_536
    order_s: float = 120.0


class Server:
    """Serves metrics, health and status, and takes orders. Made and used on the main loop; `start` and `close` once.

    Args:
        address: host and port.
        metrics: see `Views`, as the next three.
        status: see there.
        live: see there.
        ready: see there.
        commands: who carries out orders; left out: nobody does.
        access: who may ask; left out: everybody who can reach it.
        hosts: names that this machine goes by besides its addresses, localhost and the host in `address`.
        tls: certificate and key; left out: plain HTTP.
        inference: the models, offered to clients of other servers; left out: they are not.
        version: of Penstock.
        limits: for tests.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        metrics: Callable[[str], tuple[bytes, str]],
        status: Callable[[], Mapping[str, Any]],
        live: Callable[[], Health],
        ready: Callable[[], Health],
        commands: Commands | None = None,
        access: Access | None = None,
        hosts: Sequence[str] = (),
        tls: ssl.SSLContext | None = None,
        inference: Inference | None = None,
        version: str = "unknown",
        limits: Limits | None = None,
    ) -> None:
        self._host, self._port = address
        self._limits = limits or Limits()
        self._access = access or Access()
        self._commands = commands or Commands()
        self._desk = Desk(Views(metrics, status, live, ready), self._commands, self._access, self._limits.order_s)
        self._hosts = frozenset(name.lower() for name in (self._host, *hosts))
        self._tls = tls
        self._inference = inference
        self._version = version
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; the real port once it is started, also where 0 was asked for."""
        return self._host, self._port

    @property
    def url(self) -> str:
        """`http://127.0.0.1:9464`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self._port}"

    async def start(self) -> None:
        """Listen; when it returns, requests are answered.

        Raises:
            ConfigError: with `key="server.listen"`: the address cannot be had; with that of a dialect: it cannot be
                where it is put.
        """
        limits = self._limits
        app = make_app(
            self._desk, self._access, self._hosts, limits, events=self._commands.events, inference=self._inference
        )
        self._desk.describe(index(ROUTES, self._version, self._offered()), self._document)
        runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            keepalive_timeout=limits.idle_s,
            lingering_time=limits.linger_s,
            shutdown_timeout=limits.close_s,
        )
        await runner.setup()
        self._runner = runner
        serve = runner.server
        if serve is None:
            raise RuntimeError("aiohttp made no server")
        serve.request_factory = with_single_slashes(serve.request_factory)
        loop, options = asyncio.get_running_loop(), handler_options(limits.idle_s, limits.linger_s)

        def connection() -> asyncio.Protocol:
            full = len(serve.connections) >= limits.connections
            return Refusal() if full else Connection(serve, loop=loop, **options)

        try:
            self._listening = await loop.create_server(
                connection,
                self._host,
                self._port,
                reuse_address=True,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else limits.handshake_s,
            )
        except OSError as error:
            await runner.cleanup()
            self._runner = None
            raise ConfigError(self._refused(error), key="server.listen") from error
        self._port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, close idle connections, give requests under way `Limits.close_s`, close them too."""
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._desk.close()
        if self._inference is not None:
            await self._inference.close()
        if self._listening is not None:
            await self._listening.wait_closed()
        self._listening = self._runner = None

    def _document(self) -> Mapping[str, Any]:
        source_schema = self._commands.source_schema
        schema = {"type": "object"} if source_schema is None else source_schema()
        return document(ROUTES, self._version, schema, self._offered())

    def _offered(self) -> "list[MountedRoute]":
        return [] if self._inference is None else self._inference.routes(own_paths())

    def _refused(self, error: OSError) -> str:
        where = f"cannot listen on {self._host} port {self._port}"
        if error.errno == errno.EADDRINUSE:
            return f"{where}: another program listens there; stop it, or choose another port"
        if error.errno == errno.EACCES:
            return f"{where}: ports below 1024 need a privilege; choose a higher one"
        return f"{where}: this machine has no such address, or it cannot be used"


def make_app(
    desk: Desk,
    access: Access,
    hosts: Collection[str],
    limits: Limits,
    *,
    events: Events | None = None,
    routes: Sequence[Route] = ROUTES,
    inference: Inference | None = None,
) -> web.Application:
    """The application that serves `routes` and those of `inference`, and nothing else."""
    write_error = _in_its_own_form if inference is None else _in_the_form_of(inference)
    guard = make_guard(hosts, limits.deadline_s, write_error)
    app = web.Application(middlewares=[guard], client_max_size=limits.body_bytes)
    app.on_response_prepare.append(set_fixed_headers)
    for route in routes:
        app.router.add_route(route.method, route.path, _handler(route, desk, access, events))
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, _handler(route, desk, access, events))
    if inference is not None:
        for offered in inference.routes([route.path for route in routes]):
            app.router.add_route(offered.method, offered.path, inference.handler(offered, access))
    return app


def own_paths() -> list[str]:
    """All paths that are the server's own."""
    return [route.path for route in ROUTES]


def _in_its_own_form(*_: object) -> None:
    """Errors are as the guard writes them."""


def _in_the_form_of(inference: Inference) -> WriteError:
    """Errors below a dialect's paths are as its clients know them."""
    own = {path.split("/")[1] for path in own_paths()}

    def write_error(request: web.Request, status: int, message: str | None, allow: str | None) -> web.Response | None:
        mounted = None if request.path.split("/")[1] in own else inference.mounted_at(request.path)
        if mounted is None:
            return None
        error = RefusedError(status, message or HTTPStatus(status).phrase)
        try:
            return refused(request, mounted.dialect, error, allow)
        except Exception as bug:  # noqa: BLE001 - the server has a form of its own for what is to be said
            logging.getLogger(LOGGER).error("server: a refusal could not be written: %s", bug)
            return None

    return write_error


def _handler(route: Route, desk: Desk, access: Access, events: Events | None) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.Response:
        try:
            who = access.admit(request, route.scope)
        except DeniedError as error:
            if events is not None and route.scope == "control":
                what = f"{request.method} {request.path}"  # it matched a route: its name holds nothing odd
                events.order_denied(error.who or f"somebody at {request.remote}", what, error.reason)
            raise
        return await route.answer(desk, request, who)

    return handle
