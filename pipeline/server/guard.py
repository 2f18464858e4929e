"""What every request passes: the check of its `Host`, a deadline, and errors that tell nothing about insides."""

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Middleware

from pipeline.contracts.clock import SystemClock
from pipeline.server.access import DeniedError
from pipeline.server.desk import DEADLINE, WrongError
from pipeline.server.views import json_response
from pipeline.telemetry.limits import Limiter
from pipeline.telemetry.logs import LOGGER

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

FIXED_HEADERS = {"Server": "penstock", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


WriteError = Callable[[web.Request, int, str | None, str | None], web.Response | None]
"""From the request, the status, the message and what `Allow` says to an error; None: in the server's own form."""


def make_guard(hosts: Collection[str], deadline_s: float, write_error: WriteError = lambda *_: None) -> Middleware:
    """The middleware around every handler.

    Args:
        hosts: the names, in lower case, that this machine goes by besides its addresses and localhost.
        deadline_s: how long a request may take in all: its body, the answer, and the client's reading of it. aiohttp
            itself waits for ever for each of them.
        write_error: gives errors another form where others listen.
    """

    bugs = Limiter(SystemClock())

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(deadline_s) as deadline:
                request[DEADLINE] = deadline
                response = await _answer(request, handler, hosts, bugs, write_error)
                # Sent from here, so that the deadline holds for a client that does not read, too.
                await response.prepare(request)
                await response.write_eof()
                return response
        except TimeoutError:
            return _too_late(request)

    return guard


async def _answer(
    request: web.Request, handler: Handler, hosts: Collection[str], bugs: Limiter, write_error: WriteError
) -> web.StreamResponse:
    if not _is_for_us(request.headers.get("Host"), hosts):
        message = "this server does not go by that name; server.hosts can add it"
        written = write_error(request, HTTPStatus.MISDIRECTED_REQUEST, message, None)
        return written or error_response(HTTPStatus.MISDIRECTED_REQUEST, message)
    try:
        return await handler(request)
    except DeniedError as error:
        response = error_response(error.status, error.reason)
        if error.status == HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = 'Bearer realm="penstock"'
        return response
    except WrongError as error:
        return json_response(error.status, error.body)
    except web.HTTPException as error:
        allow = error.headers.get("Allow")
        written = write_error(request, error.status, error.reason, allow)
        response = written or error_response(error.status, error.reason)
        if allow is not None:
            response.headers["Allow"] = allow
        return response
    except ConnectionError:  # the client went away
        raise
    except Exception as error:  # a bug in what a page shows is logged, and is no reason to stop the video
        resource = request.match_info.route.resource  # not the path: a client could make up names without end
        held_back = bugs.let_through(request.path if resource is None else resource.canonical)
        if held_back is not None:
            log = logging.getLogger(LOGGER)
            log.error("server: %s failed (%d more before): %s", request.path, held_back, error, exc_info=error)
        written = write_error(request, HTTPStatus.INTERNAL_SERVER_ERROR, None, None)
        return written or error_response(HTTPStatus.INTERNAL_SERVER_ERROR)


def _too_late(request: web.Request) -> web.StreamResponse:
    response = error_response(HTTPStatus.REQUEST_TIMEOUT)
    response.force_close()
    transport = request.transport
    if transport is not None and request.writer.output_size > 0:  # half an answer is out: there is no way to say it
        # Without this the kernel would keep offering the rest to a client that does not read, for minutes.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    return response


def _is_for_us(header: str | None, hosts: Collection[str]) -> bool:
    """Whether the `Host` header names this machine.

    A web page that a browser shows can make its own name resolve to 127.0.0.1 and then read what is served there
    (DNS rebinding); its requests carry that name. An address cannot be rebound.
    """
    if header is None:
        return True  # HTTP/1.0; every browser sends it
    name = header.rpartition("]")[0].removeprefix("[") if header.startswith("[") else header.partition(":")[0]
    name = name.lower()
    if name == "localhost" or name in hosts or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def error_response(status: int, message: str | None = None) -> web.Response:
    """The JSON body of every error: what the client did wrong, and nothing else."""
    return json_response(status, {"error": message or HTTPStatus(status).phrase})


async def set_fixed_headers(_: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: aiohttp would name its own and Python's version otherwise."""
    response.headers.update(FIXED_HEADERS)
