"""`HttpClient`: one session with one server: attempts, retries, deadlines, limits and counts of what was sent."""

import asyncio
import math
import random
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.backends._http import Request, Response
from pipeline.backends._http_body import body_of, target
from pipeline.backends._http_budget import Budget
from pipeline.backends._http_call import Call, Counts
from pipeline.backends._http_config import HttpBackendConfig
from pipeline.backends._http_retry import FailedAttemptError, failed, judge, wait_s
from pipeline.backends._http_window import Outcome, Window
from pipeline.contracts.clock import Clock
from pipeline.contracts.errors import BackendErrorCode, UnavailableError
from pipeline.contracts.tls import tls_fault
from pipeline.wire.http import ENCODINGS, AnswerBody, TooLargeError, authorization, shorten

if TYPE_CHECKING:
    import aiohttp

_PIECE_BYTES = 64 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_KEEP_ALIVE_S = 4.0  # uvicorn lets go after 5: better to be the first than to send into a connection that just ends
_MAX_HOLD_S = 60.0

Hold = Callable[[BackendErrorCode, float], None]
"""Nothing is asked for so many seconds, because the server said so."""


class HttpClient:
    """Made by `HttpBackend`; lives on the main loop, from `open` to `close`.

    No redirects, no cookies, no proxies from the environment: what the config names is asked, nobody else.
    """

    def __init__(
        self,
        config: HttpBackendConfig,
        *,
        clock: Clock,
        budget: Budget,
        window: Window,
        counts: Counts,
        hold: Hold,
    ) -> None:
        self._config = config
        self._clock = clock
        self._budget = budget
        self._window = window
        self._counts = counts
        self._hold = hold
        self._rng = random.Random()  # noqa: S311  (jitter, not a secret)
        self._session: aiohttp.ClientSession | None = None
        self._headers: dict[str, str] = {}
        self._alive_at = -math.inf

    async def open(self, tls: ssl.SSLContext | None) -> None:
        """Make the session; connects to nobody yet."""
        import aiohttp

        if self._session is not None:
            return
        config = self._config
        headers = {"User-Agent": "penstock", "Accept-Encoding": ENCODINGS, "Accept": "*/*"}
        basic = authorization(config.url)
        if basic is not None:
            headers["Authorization"] = basic
        self._headers = headers | {name: value.get_secret_value() for name, value in config.headers.items()}
        connector = aiohttp.TCPConnector(
            # The window bounds inference; what a dialect sends besides (start, stop, clear) needs room, too.
            limit=2 * config.max_concurrent_requests + 2,
            ssl=tls if tls is not None else True,
            keepalive_timeout=_KEEP_ALIVE_S,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout_s),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=_PIECE_BYTES,
        )

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(self, request: Request, call: Call, limit: float | None) -> Response:
        """See `Client.send`.

        Args:
            request: what to send.
            call: on whose behalf.
            limit: a deadline of the dialect's own.
        """
        attempt, deadline = 0, math.inf
        before: FailedAttemptError | None = None
        while True:
            attempt += 1
            try:
                since = await self._place(call)
                deadline = min(call.begin(since, anew=attempt == 1), math.inf if limit is None else limit)
                return await self._attempt(request, call, since, deadline, again=attempt > 1)
            except FailedAttemptError as failure:
                failed_with = failure
            except UnavailableError as error:  # the circuit has opened, the budget is used up
                self._counts.note(error.code or BackendErrorCode.BUDGET)
                raise
            failed_with = self._noted(failed_with, before)
            code, before = failed_with.code, failed_with
            may = failed_with.again and (request.retry or not failed_with.reached)
            # A model that is loading is waited for as long as there is time.
            if may and (attempt < self._config.retries.max_attempts or code is BackendErrorCode.LOADING):
                delay_s = wait_s(self._config.retries, attempt, failed_with.retry_after_s, self._rng)
                if self._clock.monotonic() + delay_s < deadline:
                    await asyncio.sleep(delay_s)
                    continue
            wish_s = failed_with.error.retry_after_s
            if code is BackendErrorCode.LOADING:
                self._hold(code, min(max(wish_s or 0.0, 1.0), 5.0))
            elif failed_with.retry_after_s:
                self._hold(code, min(failed_with.retry_after_s, _MAX_HOLD_S))
            raise failed_with.error

    def _noted(self, failure: FailedAttemptError, before: FailedAttemptError | None) -> FailedAttemptError:
        """Count it; where only the time had run out, what was wrong until then says more."""
        if before is None:
            self._counts.note(failure.code)
            return failure
        if failure.code is not BackendErrorCode.STALE:  # then it was not sent
            self._counts.note(failure.code)
        late = {BackendErrorCode.STALE}
        if before.code is BackendErrorCode.LOADING:
            late.add(BackendErrorCode.TIMEOUT)
        return before if failure.code in late else failure

    async def _place(self, call: Call) -> float:
        """A place in the window, since when. Waiting for it costs nothing of the time-out while others are answered."""
        stale_at, timeout_s = call.stale_at, self._config.timeout_s
        since = self._clock.monotonic()
        while True:
            left_s = timeout_s if stale_at is None else min(timeout_s, self._left(stale_at))
            try:
                async with asyncio.timeout(left_s):
                    return await self._window.enter()
            except TimeoutError:
                now = self._clock.monotonic()
            if stale_at is not None and now >= stale_at:
                raise _stale(self._config.where)
            if self._alive_at < since and now - since >= timeout_s:
                message = f"no answer from {self._config.where} to anybody within {timeout_s:g} s"
                raise failed(message, BackendErrorCode.TIMEOUT)

    async def _attempt(self, request: Request, call: Call, since: float, deadline: float, *, again: bool) -> Response:
        """One attempt, from a place in the window that is given back whatever happens."""
        outcome: Outcome = "neither"
        try:
            call.check()
            left_s = self._left(deadline)
            body, media_type = body_of(request)
            self._budget.take(len(body or b""))
            self._counts.note_sent(len(body or b""), again=again)
            response = await self._exchange(request, body, media_type, left_s)
            outcome = "well"
            self._alive_at = self._clock.monotonic()
        except FailedAttemptError as failure:
            if failure.is_answer:
                self._alive_at = self._clock.monotonic()
            late = failure.code is BackendErrorCode.TIMEOUT and call.is_fair
            outcome = "overloaded" if failure.overloaded or late else "neither"
            if not failure.again and not again:
                call.failed(failure.error)  # before who waits is let in: it may be one failure too many
            raise
        finally:
            self._window.leave(since, outcome, call.pictures)
        call.note_answer()
        return response

    def _left(self, deadline: float) -> float:
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            raise _stale(self._config.where)
        return left_s

    async def _exchange(self, request: Request, body: bytes | None, media_type: str | None, left_s: float) -> Response:
        """One request and its answer, or why there is none."""
        import aiohttp

        where = self._config.where
        try:
            async with asyncio.timeout(left_s):
                return await self._ask(request, body, media_type)
        except aiohttp.ConnectionTimeoutError:
            limit_s = self._config.connect_timeout_s
            message = f"no connection to {where} within {limit_s:g} s"
            raise failed(message, BackendErrorCode.CONNECTION, again=True, reached=False) from None
        except TimeoutError:
            message = f"no answer from {where} within {left_s:.3g} s"
            raise failed(message, BackendErrorCode.TIMEOUT) from None
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise failed(f"no TLS with {where}: {tls_fault(error)}", BackendErrorCode.TLS) from None
        except aiohttp.ClientConnectorError as error:
            message = f"no connection to {where}: {error.os_error.strerror or type(error.os_error).__name__}"
            raise failed(message, BackendErrorCode.CONNECTION, again=True, reached=False) from None
        except aiohttp.ClientResponseError:
            raise failed(f"what {where} answers is no HTTP", BackendErrorCode.BAD_ANSWER) from None
        except (aiohttp.ClientError, OSError) as error:
            message = f"the connection to {where} was lost ({type(error).__name__})"
            raise failed(message, BackendErrorCode.CONNECTION, again=True) from None

    async def _ask(self, request: Request, body: bytes | None, media_type: str | None) -> Response:
        import yarl
        from multidict import CIMultiDict

        where, limit = self._config.where, self._config.max_response_bytes
        if self._session is None:
            raise failed(f"the session with {where} is closed", BackendErrorCode.CONNECTION, reached=False)
        try:
            url = target(self._config.url, request)
        except ValueError as error:
            raise failed(f"{where}: {error}", BackendErrorCode.BAD_ANSWER, reached=False) from error
        headers = CIMultiDict(self._headers)
        headers.update(request.headers)
        if media_type is not None:
            headers["Content-Type"] = media_type
        async with self._session.request(
            request.method, yarl.URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
        ) as answer:
            try:
                if answer.status >= 300:
                    said = await _beginning(answer)
                    # A path that is not there is what the user wrote wrong: it is shown, without the query.
                    at = f"{where}{shorten(yarl.URL(url, encoded=True).path)}" if answer.status in {404, 405} else where
                    raise judge(at, answer.status, answer.headers, said, self._clock.wall())
                collected = AnswerBody(answer.headers, limit)
                async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                    collected.feed(piece)
                return Response(answer.status, answer.headers, _no_page(collected.finish()))
            except TooLargeError:
                message = f"the answer of {where} is longer than {limit} bytes (max_response_bytes)"
                raise failed(message, BackendErrorCode.TOO_LARGE) from None
            except ValueError as error:
                raise failed(f"{where}: {error}", BackendErrorCode.BAD_ANSWER) from None
            finally:
                if not answer.content.at_eof():
                    answer.close()  # what is left is not read: the connection cannot be used again


def _no_page(body: bytes) -> bytes:
    """The body, unless it is a page for people: a proxy's, or that of the wrong server. Its label may lie."""
    if body[:512].lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise ValueError("it answers with an HTML page")
    return body


async def _beginning(answer: "aiohttp.ClientResponse") -> bytes:
    """What an error says, as far as anybody would read it."""
    collected = bytearray()
    try:
        body = AnswerBody({"Content-Encoding": answer.headers.get("Content-Encoding", "")}, _MAX_ERROR_BYTES)
        async for piece in answer.content.iter_chunked(4096):
            collected += piece
            body.feed(piece)
        return body.finish()
    except TooLargeError:
        return bytes(collected[:4096])
    except ValueError:
        return b""


def _stale(where: str) -> FailedAttemptError:
    return failed(f"too late to ask {where}", BackendErrorCode.STALE)
