"""An HTTP server that misbehaves on command: late, cut off, reset, garbled, endless; else it answers well."""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What is done with one request. As it stands: what the server answers when it is well.

    Attributes:
        status: of HTTP.
        headers: on top of Content-Type and Content-Length; they may contradict both.
        body: None: that of the good answer.
        times: how often the body is repeated.
        delay_s: before the answer.
        hang: no answer at all, until the server is closed or the client goes.
        bytes_per_s: the answer drips out.
        cut_at: the connection ends after so many bytes of the whole answer, head included.
        reset: it is reset, not closed; with `cut_at`, there.
        raw: sent as it is, in place of any HTTP.
    """

    status: int = 200
    headers: Headers = field(default_factory=dict)
    body: bytes | None = None
    times: int = 1
    delay_s: float = 0.0
    hang: bool = False
    bytes_per_s: int | None = None
    cut_at: int | None = None
    reset: bool = False
    raw: bytes | None = None


WELL = Reply()
HANG = Reply(hang=True)
RESET = Reply(reset=True)
GARBAGE = Reply(raw=b"\x00\xff\x17 this is no HTTP\r\n\r\n\x00" * 8)
JUNK = Reply(body=b"\x89JUNK\r\n\x1a\n" + bytes(range(256)) * 4, headers={"Content-Type": "application/json"})
HTML = Reply(body=b"<!DOCTYPE html><html><body>It works!</body></html>", headers={"Content-Type": "text/html"})
HUGE = Reply(body=b" " * (1 << 20), times=100)
BOMB = Reply(body=gzip.compress(b" " * (64 << 20), 9), headers={"Content-Encoding": "gzip"})
DRIP = Reply(bytes_per_s=20_000, body=b'{"padding": "' + b"x" * 400_000 + b'"}')
CUT = Reply(cut_at=100)
NAN = Reply(body=b'{"boxes": [[NaN, 1, 2, 3, 0.5, 0]]}')
LOADING = Reply(503, body=b'{"error": "Model toy is currently loading", "estimated_time": 20.0}')


def status(code: int, words: str = "", **headers: str) -> Reply:
    """An error with a JSON body; `Retry_After="1"` is a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(code, named, json.dumps({"message": words or f"status {code}"}).encode())


def redirect(to: str) -> Reply:
    """302 to another URL."""
    return Reply(302, {"Location": to}, b"")


def json_body(content: Any) -> Reply:
    """200 with this JSON."""
    return Reply(body=json.dumps(content).encode())


class MisbehavingServer:
    """Runs in a thread of its own between `with`; every switch may be used from the test's thread.

    Args:
        answer: the good answer to a request: a JSON document, bytes, or a `Reply`.
        tls: it speaks HTTPS with this.
    """

    def __init__(self, answer: Callable[[Asked], Any], tls: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._tls = tls
        self._script: deque[Reply] = deque()
        self._always: Reply = WELL
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="misbehaving-server", daemon=True)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked: list[Asked] = []
        self.connections = 0
        self.under_way = self.most_under_way = 0
        self.port = 0

    # The switches

    def then(self, *replies: Reply) -> None:
        """The next requests get these, one each."""
        with self._lock:
            self._script.extend(replies)

    def always(self, reply: Reply = WELL) -> None:
        """From now on, once the script is used up."""
        with self._lock:
            self._always = reply

    def down(self) -> None:
        """Refuse connections, and end those that there are."""
        self._run(self._close())

    def up(self) -> None:
        """Listen again, on the same port."""
        self._run(self._open())

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        """Of all requests, in their order."""
        return [asked.path for asked in self.asked]

    # How it lives

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._connected, "127.0.0.1", self.port, limit=1 << 26, reuse_address=True, ssl=self._tls
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            while await self._serve(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False: the connection is over."""
        asked = await _read(reader)
        if asked is None:
            return False
        with self._lock:
            self.asked.append(asked)
            reply = self._script.popleft() if self._script else self._always
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._reply(asked, reply, writer)
        finally:
            with self._lock:
                self.under_way -= 1

    async def _reply(self, asked: Asked, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        if reply.hang:
            await asyncio.Event().wait()
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        if reply.reset and reply.cut_at is None:
            _reset(writer)
            return False
        if reply.raw is not None:
            writer.write(reply.raw)
            await writer.drain()
            return False
        if reply.body is None:
            reply = self._good(asked, reply)
        body = reply.body or b""
        names = {name.lower() for name in reply.headers}
        head = [f"HTTP/1.1 {reply.status} Something"]
        if "content-type" not in names:
            head.append("Content-Type: application/json")
        if "content-length" not in names and "transfer-encoding" not in names:
            head.append(f"Content-Length: {len(body) * reply.times}")
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        start = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        if reply.cut_at is not None:
            writer.write((start + body)[: reply.cut_at])
            await writer.drain()
            if reply.reset:
                _reset(writer)
            return False
        writer.write(start)
        for _ in range(reply.times):
            await _write(writer, body, reply.bytes_per_s)
        return "close" not in asked.headers.get("connection", "").lower()

    def _good(self, asked: Asked, reply: Reply) -> Reply:
        found = self._answer(asked)
        if isinstance(found, Reply):
            headers = {**found.headers, **reply.headers}
            return replace(found, headers=headers, delay_s=reply.delay_s, cut_at=reply.cut_at, reset=reply.reset)
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        return replace(reply, body=body)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if "chunked" in headers.get("transfer-encoding", ""):
        pieces = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readline()
        body = b"".join(pieces)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    now = asyncio.get_running_loop().time()
    return Asked(method, unquote(parts.path), query, headers, body, now)


async def _write(writer: asyncio.StreamWriter, body: bytes, bytes_per_s: int | None) -> None:
    if bytes_per_s is None:
        writer.write(body)
        await writer.drain()
        return
    step = max(1, bytes_per_s // 20)
    for at in range(0, len(body), step):
        writer.write(body[at : at + step])
        await writer.drain()
        await asyncio.sleep(step / bytes_per_s)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, which takes what is on its way with it."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
