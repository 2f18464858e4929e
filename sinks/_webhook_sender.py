"""`WebhookSender`: packs results and events into parcels, and sends them as requests of one session."""

import asyncio
import concurrent.futures
import io
import os
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.event import DaemonEvent, Event, ObjectEvent
from pipeline.contracts.result import Result
from pipeline.contracts.sender import Parcel, ParcelKind, RefusedError, UndeliveredError
from pipeline.contracts.tls import tls_fault, unverified
from pipeline.wire.http import ENCODINGS, AnswerBody, TooLargeError, authorization, bare, retry_after, words_of
from pipeline.wire.results import event_dict, to_dict
from sinks._style import style_of
from sinks._webhook_body import Message, message, portions
from sinks._webhook_keys import WebhookKeys
from sinks._webhook_signature import Signer
from sinks._webhook_template import chosen, encoded, filled

if TYPE_CHECKING:
    import aiohttp

    from sinks._drawing import Drawing

_LOOP_MARGIN_S = 5.0
_CLOSES_WITHIN_S = 2.0
_KEEP_ALIVE_S = 4.0  # uvicorn lets go after 5: better to be the first than to send into a connection that just ends
_MAX_ANSWER_BYTES = 64 * 1024
_ANSWER_S = 2.0  # what is said beside the status is for people: it is not waited for longer
_PIECE_BYTES = 16 * 1024
_STREAMED_FROM_BYTES = 1 << 20  # aiohttp writes a longer body of bytes in one go, and warns about it
_LATER_STATUS = frozenset({408, 425, 429})


class WebhookSender:
    """One receiver. Made by its config; `send` is called by `concurrency` threads, requests are on the main loop.

    No redirects, no cookies, no proxies from the environment: what the config names is asked, nobody else. The path of
    the URL is in no message, as it may be a key.
    """

    def __init__(self, config: WebhookKeys, ctx: Context) -> None:
        self.wants_pictures = config.snapshot is not None
        self.concurrency = config.concurrency
        self.max_items = 1 if config.batch is None else config.batch.max_items
        self.max_wait_s = 0.0 if config.batch is None else config.batch.max_wait_s
        self._config = config
        self._ctx = ctx
        self._signer = Signer(config.secret)
        self._headers = _headers(config)
        self._drawing: Drawing | None = None
        self._tls: ssl.SSLContext | None = None
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Read the certificates and what is needed for drawing; nobody is asked yet.

        Raises:
            ConfigError: a certificate cannot be read.
        """
        if self._config.url.scheme == "https":
            self._tls = self._config.tls_context()
            if not self._config.verify_tls:
                self._ctx.warn(unverified(self._config.server))
        if self._config.snapshot is not None:
            from sinks._drawing import Drawing

            self._drawing = Drawing(style_of(draw=self._config.snapshot.draw))

    def pack(self, item: Result | Event) -> Parcel:
        """The body as it will be sent, and the picture that goes with it."""
        kind: ParcelKind
        if isinstance(item, Result):
            document, kind, source = to_dict(item), "result", item.frame.source
        else:
            document = event_dict(item)
            kind = "event" if isinstance(item, ObjectEvent) else "notice"
            source = "" if isinstance(item, DaemonEvent) else item.source
        picture = self._picture(item) if isinstance(item, Result | ObjectEvent) else b""
        return Parcel(item.id, source, kind, self._body(document), picture)

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Send them, in one request or, where they are large, several.

        Raises:
            UndeliveredError: the receiver is not there, or says later.
            RefusedError: it says never.
            FatalError: it wants no more (410).
        """
        batch, snapshot = self._config.batch, self._config.snapshot
        form = "inline" if snapshot is None else snapshot.format
        if batch is None:
            for delivered, parcel in enumerate(parcels):
                self._ask(message([parcel], form=form, batched=False), delivered)
            return
        delivered = 0
        for portion in portions(parcels, batch.max_bytes):
            self._ask(message(portion, form=form, batched=True), delivered)
            delivered += len(portion)

    def close(self) -> None:
        """Let the connections go."""
        if self._session is not None:
            self._ctx.call(self._close(), _CLOSES_WITHIN_S + _LOOP_MARGIN_S)

    def _body(self, document: Mapping[str, Any]) -> bytes:
        if self._config.template is not None:
            return encoded(filled(self._config.template, document))
        if self._config.fields is not None:
            return encoded(chosen(document, self._config.fields))
        return encoded(document)

    def _picture(self, item: Result | ObjectEvent) -> bytes:
        config = self._config.snapshot
        if config is None or self._drawing is None:
            return b""
        try:
            return self._drawing.jpeg(item, max_size=config.max_size, quality=config.quality, boxes=config.boxes)
        except TransientError:  # what must not be seen could not be hidden: no picture goes out, all else does
            return b""

    def _ask(self, what: Message, delivered: int) -> None:
        """One request, from a sending thread; `delivered` is what the error says arrived before."""
        body = what.packed() if self._config.gzip else what.body
        # Signed is what the receiver's program sees, behind whatever unpacks requests in front of it.
        headers = self._headers | self._signer.headers(what.id, self._ctx.clock.wall(), what.body)
        headers["content-type"] = what.media_type
        if self._config.gzip:
            headers["content-encoding"] = "gzip"
        try:
            status, answered, said = self._ctx.call(
                self._exchange(body, headers), self._config.timeout_s + _LOOP_MARGIN_S
            )
        except UndeliveredError as error:
            raise UndeliveredError(str(error), delivered=delivered) from None
        except TimeoutError:
            raise UndeliveredError(f"no answer from {self._config.server} in time", delivered=delivered) from None
        except concurrent.futures.CancelledError:
            raise UndeliveredError("the sink is being closed", delivered=delivered) from None
        self._judge(status, answered, said, delivered)

    def _judge(self, status: int, headers: Mapping[str, str], body: bytes, delivered: int) -> None:
        """What an answer means."""
        if 200 <= status < 300:
            return
        where = self._config.server
        words, _ = words_of(headers, body)
        answer = f"{status}: {words}" if words else str(status)
        if status == 410:
            raise FatalError(f"{where} answered 410 (gone): it wants no more; see to it and reload")
        if 400 <= status < 500 and status not in _LATER_STATUS:
            raise RefusedError(f"{where} answered {answer}", answer=answer, delivered=delivered)
        # A portal that wants a login, or a server that has moved: what waits here is sent when that is over.
        about = f"{status}, a redirection, which is not followed" if 300 <= status < 400 else answer
        wish_s = retry_after(headers.get("Retry-After"), self._ctx.clock.wall())
        raise UndeliveredError(f"{where} answered {about}", retry_after_s=wish_s, delivered=delivered)

    async def _exchange(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and the beginning of what is said, or why there is no answer."""
        import aiohttp

        where, limit_s = self._config.server, self._config.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._answer(body, headers)
        except TimeoutError:
            raise UndeliveredError(f"no answer from {where} within {limit_s:g} s") from None
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise UndeliveredError(f"no TLS with {where}: {tls_fault(error)}") from None
        except aiohttp.ClientConnectorError as error:
            raise UndeliveredError(f"no connection to {where}: {_why(error.os_error)}") from None
        except aiohttp.ClientResponseError:
            raise UndeliveredError(f"what {where} answers is no HTTP") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UndeliveredError(f"the connection to {where} was lost: {_why(error)}") from None
        # From here on the status stands, whatever becomes of the rest.
        async with answer:
            said = await _said(answer)
            if not answer.content.at_eof():
                answer.close()  # what is left is not read: the connection cannot be used again
        return answer.status, answer.headers, said

    async def _answer(self, body: bytes, headers: Mapping[str, str]) -> "aiohttp.ClientResponse":
        """The answer as far as its headers; who gets it closes it."""
        import yarl

        return await self._opened().request(
            self._config.method,
            yarl.URL(bare(self._config.url), encoded=True),
            data=io.BytesIO(body) if len(body) >= _STREAMED_FROM_BYTES else body,
            headers=headers,
            allow_redirects=False,
        )

    def _opened(self) -> "aiohttp.ClientSession":
        """The session, made at the first request: it needs the loop."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self.concurrency,
                    ssl=self._tls if self._tls is not None else True,
                    keepalive_timeout=_KEEP_ALIVE_S,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                trust_env=False,
                auto_decompress=False,
                read_bufsize=_PIECE_BYTES,
            )
        return self._session

    async def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _said(answer: "aiohttp.ClientResponse") -> bytes:
    """What is said beside the status, unpacked, as far as it comes soon and can be read; the status stands anyway."""
    import aiohttp

    try:
        body = AnswerBody({"Content-Encoding": answer.headers.get("Content-Encoding", "")}, _MAX_ANSWER_BYTES)
        async with asyncio.timeout(_ANSWER_S):
            async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                body.feed(piece)
        return body.finish()
    except (TimeoutError, TooLargeError, ValueError, aiohttp.ClientError, OSError):
        return b""


def _why(error: Exception) -> str:
    """In the system's own words: asyncio's have the address in them, a second time."""
    if not isinstance(error, OSError):
        return "it ended before the answer did"
    code = error.errno or 0
    return os.strerror(code) if code > 0 else error.strerror or "it ended before the answer did"


def _headers(config: WebhookKeys) -> dict[str, str]:
    """What goes with every request, by names in lower case."""
    headers = {"user-agent": "penstock", "accept-encoding": ENCODINGS, "accept": "*/*"}
    basic = authorization(config.url)
    if basic is not None:
        headers["authorization"] = basic
    return headers | {name.lower(): value.get_secret_value() for name, value in config.headers.items()}
