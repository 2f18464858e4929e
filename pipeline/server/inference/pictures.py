"""`PictureReader`: pictures out of requests, decoded in a few threads, with a limit on what they hold."""

import asyncio
import base64
import binascii
import contextlib
import functools
import re
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pipeline.contracts.frame import Picture
from pipeline.models.images import BrokenPictureError, TooLargeError, decode_picture
from pipeline.server.inference.budget import Budget
from pipeline.server.inference.fetch import Fetcher
from pipeline.server.inference.limits import InferenceLimits
from pipeline.server.inference.refusal import RefusedError, busy

_DATA_URL = re.compile(rb"\s*data:[^,]{0,200},")
_RAW: Final = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\r\n\v\f"
_BYTES_PER_PIXEL = 3
_GONE = RefusedError(499, "nobody waits for this any more")

Work = Callable[[], Picture]


class PictureReader:
    """The server's `Pictures`. Made once; used on the main loop, closed with the server.

    Args:
        limits: how large, how many, and from where.
        fetcher: for tests; left out: one that keeps to the limits.
    """

    def __init__(self, limits: InferenceLimits, fetcher: Fetcher | None = None) -> None:
        self._limits = limits
        self.budget = Budget(limits.pictures_bytes, "pictures")
        self._fetcher = fetcher or Fetcher(limits, Budget(limits.bodies_bytes, "fetched files"))
        self._threads = ThreadPoolExecutor(limits.decoders, "pictures")
        self._waiting = 0
        self._most = max(limits.max_waiting, limits.max_pictures)

    async def decode(self, data: bytes) -> Picture:
        """See `Pictures`."""
        return await self._in_a_thread(functools.partial(self._decoded, data))

    async def decode_base64(self, text: str | bytes) -> Picture:
        """See `Pictures`."""
        return await self._in_a_thread(lambda: self._decoded(unbase64(text)))

    async def fetch(self, url: str) -> bytes:
        """See `Pictures`."""
        return await self._fetcher.fetch(url)

    async def close(self) -> None:
        """Wait for the pictures that are being decoded, forget those that wait."""
        await self._fetcher.close()
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    async def _in_a_thread(self, work: Work) -> Picture:
        if self._waiting >= self._most:
            raise busy("too many pictures wait to be decoded already")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Picture | RefusedError] = loop.create_future()
        self._waiting += 1
        self._threads.submit(self._carry_out, work, answer, loop)
        outcome = await answer
        if not isinstance(outcome, RefusedError):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # its traceback holds this frame, and this frame all that was sent

    def _carry_out(
        self, work: Work, answer: "asyncio.Future[Picture | RefusedError]", loop: asyncio.AbstractEventLoop
    ) -> None:
        """In a thread. The answer goes to the loop by hand: the pool's own futures would keep it for a while."""
        outcome: Picture | RefusedError | BaseException
        try:
            outcome = _GONE if answer.cancelled() else work()
        except RefusedError as error:
            outcome = error.with_traceback(None)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._settle, answer, outcome)

    def _settle(
        self, answer: "asyncio.Future[Picture | RefusedError]", outcome: "Picture | RefusedError | BaseException"
    ) -> None:
        self._waiting -= 1
        if answer.done():  # who asked is gone
            return
        if isinstance(outcome, BaseException) and not isinstance(outcome, RefusedError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def _decoded(self, data: bytes) -> Picture:
        lease = self.budget.lease()

        def reserve(width: int, height: int) -> None:
            lease.grow(width * height * _BYTES_PER_PIXEL)

        try:
            picture = decode_picture(data, self._limits.max_pixels, reserve)
        except TooLargeError as error:
            lease.release()
            raise RefusedError(413, f"the picture is too large: {error}") from None
        except BrokenPictureError as error:
            lease.release()
            raise RefusedError(400, f"the picture cannot be read: {error}") from None
        weakref.finalize(picture, lease.release).atexit = False
        return picture


def unbase64(text: str | bytes) -> bytes:
    """What base64 stands for: standard or URL-safe, with or without padding, line breaks and a `data:` prefix.

    Raises:
        RefusedError: 400.
    """
    try:
        data = text.encode("ascii") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError as error:
        raise RefusedError(400, "the picture is no base64") from error
    if not data.strip():
        raise RefusedError(400, "the picture is empty")
    if data.startswith(_RAW) and not data.isascii():
        raise RefusedError(400, "this is a picture as it is; encode it as base64")
    prefix = _DATA_URL.match(data)
    if prefix is not None:
        data = data[prefix.end() :]
    data = data.translate(_URL_SAFE, _WHITESPACE).rstrip(b"=")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(400, "the picture is no base64") from error
