"""Bodies of requests: read as they come, unpacked, and never more than may be held; and the JSON in them."""

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from pipeline.server.inference.budget import Budget, Lease, LeasedBytes
from pipeline.server.inference.limits import InferenceLimits
from pipeline.server.inference.refusal import RefusedError
from pipeline.wire import document

BODY = web.RequestKey("body", bytes)
"""Where a body is kept for who asks for it again; the mount forgets it with the request."""

WORK = web.RequestKey("work", asyncio.Timeout)
"""Where the mount leaves the deadline of the work on a request, which begins when the body is there."""

SLACK_S: Final = 2.0
"""So much later than `timeout_s` the work on a request is cut off, where the models themselves have not ended it."""

_STEP_BYTES = 256 << 10
_WBITS_GZIP, _WBITS_ZLIB, _WBITS_RAW = 31, 15, -15


class BodyReader:
    """Reads bodies within the limits. Made by the service; used on the main loop."""

    def __init__(self, limits: InferenceLimits) -> None:
        self._limits = limits
        self.budget = Budget(limits.bodies_bytes, "bodies")

    async def read(self, request: web.Request) -> bytes:
        """The whole body, unpacked.

        Raises:
            RefusedError: 400, 408, 413, 415, 503.
        """
        if BODY in request:
            return request[BODY]
        if (request.content_length or 0) > self._limits.max_body_bytes:
            raise self._too_long()
        work = request.get(WORK)
        if work is not None:
            work.reschedule(None)
        body = await self._read(request)
        request[BODY] = body
        if work is not None:
            work.reschedule(asyncio.get_running_loop().time() + self._limits.timeout_s + SLACK_S)
        return body

    async def _read(self, request: web.Request) -> bytes:
        unpack = _Unpacker(request.headers.get("Content-Encoding", ""))
        lease, body = self.budget.lease(), bytearray()
        loop, limits = asyncio.get_running_loop(), self._limits
        deadline_s, received = loop.time() + limits.body_s, 0
        try:
            async with asyncio.timeout_at(deadline_s) as deadline:
                while chunk := await request.content.readany():
                    received += len(chunk)
                    # Who sends fast enough may go on; who drips is cut off.
                    deadline.reschedule(deadline_s + received / limits.body_bytes_per_s)
                    for piece in unpack.feed(chunk):
                        self._append(body, piece, lease)
                        if len(piece) == _STEP_BYTES:
                            await asyncio.sleep(0)  # a small chunk can be a large one: others get their turns
            for piece in unpack.rest():
                self._append(body, piece, lease)
        except TimeoutError as error:
            raise RefusedError(408, "the body did not come in time") from error
        except web.RequestPayloadError as error:
            raise RefusedError(400, "the body is cut off, or its chunks are malformed") from error
        except zlib.error as error:
            raise RefusedError(400, "the body is not packed as its Content-Encoding says") from error
        if not unpack.complete:
            raise RefusedError(400, "the packed body is cut off")
        return LeasedBytes.of(body, lease)

    def _append(self, body: bytearray, piece: bytes, lease: Lease) -> None:
        if len(body) + len(piece) > self._limits.max_body_bytes:
            raise self._too_long()
        lease.grow(len(piece))
        body += piece

    def _too_long(self) -> RefusedError:
        return RefusedError(413, f"the body is longer than {self._limits.max_body_bytes} bytes")


class _Unpacker:
    """One body's Content-Encoding, undone in small pieces: a megabyte of gzip holds a gigabyte."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.strip().lower()
        if self._encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise RefusedError(415, "this Content-Encoding is not understood; gzip and deflate are")
        self._inflate = zlib.decompressobj(_WBITS_GZIP) if self._encoding.endswith("gzip") else None
        self._started = False

    @property
    def complete(self) -> bool:
        """Whether nothing is missing at the end."""
        return self._inflate is None or self._inflate.eof or not self._started

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What the chunk unpacks to."""
        if self._encoding in ("", "identity"):
            yield chunk
            return
        self._started = True
        if self._inflate is None:
            # RFC 9110 says zlib; some programs send it bare. A zlib header is recognised by its first byte (RFC 1950).
            self._inflate = zlib.decompressobj(_WBITS_ZLIB if chunk[0] & 0x0F == 8 else _WBITS_RAW)
        while chunk and not self._inflate.eof:
            yield self._inflate.decompress(chunk, _STEP_BYTES)
            chunk = self._inflate.unconsumed_tail
        if self._inflate.eof and (self._inflate.unused_data or chunk):
            raise zlib.error("there is something behind the end")

    def rest(self) -> Iterator[bytes]:
        """What was held back because a piece was full."""
        while self._inflate is not None and (piece := self._inflate.decompress(b"", _STEP_BYTES)):
            yield piece


def parse_json(body: bytes) -> Any:
    """The document in a body.

    Raises:
        RefusedError: 400: there is none; 413: it has too many items.
    """
    if not body.strip():
        raise RefusedError(400, "the body is empty; JSON is wanted")
    if document.marks_in(body) > document.MAX_ITEMS:
        raise RefusedError(413, f"the JSON has more than {document.MAX_ITEMS} items")
    try:
        return document.loads(body)
    except ValueError as error:  # no JSON, no UTF-8, nested too deep, or a number of thousands of digits
        raise RefusedError(400, f"the body is no valid JSON: {str(error)[:200]}") from error
