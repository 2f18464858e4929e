"""One client's connection, and how its requests come in: what aiohttp does otherwise, below its middlewares."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage

from pipeline.server.guard import FIXED_HEADERS, error_response

_SLASHES = re.compile("/{2,}")


class Connection(web.RequestHandler):
    """One client: requests that are no HTTP get a short answer, instead of a traceback in the log for each."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See aiohttp's: what became of a request that could not be answered."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is already on its way")
        response = error_response(status)
        response.headers.update(FIXED_HEADERS)
        response.force_close()
        return response


class Refusal(asyncio.Protocol):
    """A client over the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it at once."""
        if isinstance(transport, asyncio.Transport):
            transport.abort()


def handler_options(idle_s: float, linger_s: float) -> dict[str, Any]:
    """Of a `Connection`: see `Limits`."""
    return {
        "keepalive_timeout": idle_s,
        "lingering_time": linger_s,
        "access_log": None,
        # A megabyte can unpack to a gigabyte: who takes packed bodies unpacks them within limits.
        "auto_decompress": False,
    }


def with_single_slashes(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Requests whose path has `//` for `/` are seen by everybody as if it had not: a client's base URL may end in one.

    Here, and not in a middleware: those come after a route was looked for.
    """

    def make_request(message: RawRequestMessage, *more: Any) -> web.BaseRequest:
        path = message.url.raw_path
        if "//" in path:
            url = message.url.with_path(_SLASHES.sub("/", path), encoded=True, keep_query=True)
            message = message._replace(url=url)
        return make(message, *more)

    return make_request
