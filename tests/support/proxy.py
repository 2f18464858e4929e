"""A proxy in front of a server: lets through, slows down, answers 429 or 500 itself, cuts off; as it is told."""

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Literal, Self

import aiohttp
from aiohttp import web

Mode = Literal["through", "slow", "drip", "429", "500", "503", "hang", "cut100", "cut1000", "reset", "garbage"]

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host", "content-encoding"})
DRIP_BYTES_PER_S = 20_000
_LONG_BYTES = 100_000


class Proxy:
    """Runs in a thread of its own between `with`; `mode` may be set at any time and counts for what comes then.

    Args:
        to: the server's URL, without a path.
        slow_s: what "slow" adds to each answer.
        retry_after_s: what 429 and 503 ask for; None: nothing.
    """

    def __init__(self, to: str, *, slow_s: float = 2.0, retry_after_s: int | None = None) -> None:
        self.to = to
        self.mode: Mode = "through"
        self.slow_s = slow_s
        self.retry_after_s = retry_after_s
        self.answers: Counter[str] = Counter()
        self.given_up_after_s: list[float] = []
        """How long whoever asked had waited when they went, for each request that they left unanswered."""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def down(self) -> None:
        """Refuse connections, and end those that there are."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)

    def up(self) -> None:
        """Listen again, on the same port."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    async def _open(self) -> None:
        self._gone = asyncio.Event()
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60))
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        self._gone.set()
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body, mode = await request.read(), self.mode
        self.answers[mode] += 1
        start = time.monotonic()
        try:
            return await self._answer(request, body, mode)
        except (asyncio.CancelledError, ConnectionError):
            self.given_up_after_s.append(time.monotonic() - start)
            raise

    async def _answer(self, request: web.Request, body: bytes, mode: Mode) -> web.StreamResponse:
        if mode in {"429", "500", "503"}:
            headers = {} if self.retry_after_s is None or mode == "500" else {"Retry-After": str(self.retry_after_s)}
            return web.json_response({"message": f"told to answer {mode}"}, status=int(mode), headers=headers)
        if mode == "garbage":
            return web.Response(body=b"\x00\xffnothing that anybody knows" * 50, content_type="application/json")
        if mode == "reset":
            return _reset(request)
        if mode == "hang":
            await self._gone.wait()
        if mode == "slow":
            await asyncio.sleep(self.slow_s)
        return await self._through(request, body, mode)

    async def _through(self, request: web.Request, body: bytes, mode: Mode) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        try:
            async with self._session.request(
                request.method, self.to + request.raw_path, data=body, headers=headers, allow_redirects=False
            ) as found:
                content = await found.read()
                kept = {name: value for name, value in found.headers.items() if name.lower() not in _HOP_BY_HOP}
                if "Content-Encoding" in found.headers:
                    kept["Content-Encoding"] = found.headers["Content-Encoding"]
                if mode in {"through", "slow"}:
                    return web.Response(status=found.status, body=content, headers=kept)
                return await self._spoilt(request, found.status, kept, content, mode)
        except (aiohttp.ClientConnectionError, TimeoutError):
            # What is behind is not there: whoever asks is told so by the connection, as without a proxy.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)

    async def _spoilt(
        self, request: web.Request, status: int, headers: dict[str, str], content: bytes, mode: Mode
    ) -> web.StreamResponse:
        answer = web.StreamResponse(status=status, headers=headers)
        answer.content_length = max(len(content), _LONG_BYTES)
        await answer.prepare(request)
        padded = content + b" " * (answer.content_length - len(content))
        if mode in {"cut100", "cut1000"}:
            await answer.write(padded[: int(mode[3:])])
            if request.transport is not None:
                request.transport.close()
            return answer
        step = DRIP_BYTES_PER_S // 20
        for at in range(0, len(padded), step):
            await answer.write(padded[at : at + step])
            await asyncio.sleep(step / DRIP_BYTES_PER_S)
        return answer


def _reset(request: web.Request) -> web.StreamResponse:
    """End the connection with RST."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response(status=500)
