"""`NatsLink`: one connection to a NATS server and its JetStream; everything in it runs on the main loop."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.contracts.sender import Parcel, RefusedError, UndeliveredError
from pipeline.contracts.tls import tls_fault
from pipeline.wire.http import shorten

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.api import PubAck
    from nats.js.client import JetStreamContext

_FAREWELL_S = 2.0
# JetStream's error codes for what the next attempt will not change: message and header too large.
_FOR_GOOD = {10054, 10097}
_PERMISSIONS = "permissions violation for publish to"
_NO_STREAM = 'no stream for this subject: make one, or set stream = "NAME" and create_stream = true'


@dataclass(frozen=True, slots=True)
class NatsServer:
    """Where a server is, as whom we come, and what is asked of its streams.

    Attributes:
        url: without credentials.
        where: host and port for messages.
        username, password, token: None: not sent. Never shown.
        tls: None: no TLS.
        name: under which the server lists us.
        timeout_s: for a connection, and for the confirmations of one batch.
        stream: the only one that may take it; None: any.
        make: the subjects of that stream, if it is to be made where there is none; () if not.
        make_bytes: and how large it may become.
    """

    url: str
    where: str
    username: str | None
    password: str | None
    token: str | None
    tls: ssl.SSLContext | None
    name: str
    timeout_s: float
    stream: str | None
    make: tuple[str, ...]
    make_bytes: int

    def __repr__(self) -> str:
        return f"NatsServer({self.where})"


class NatsLink:
    """Made by the sender. It is connected when something is to be sent, and after a failure anew; the library's own
    reconnecting is off: what it would keep for that the spool keeps."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self._connecting = asyncio.Lock()
        self._client: Client | None = None
        self._stream: JetStreamContext | None = None
        self._ended = asyncio.Event()
        self._waiting: dict[asyncio.Task[PubAck], str] = {}
        self._last_error: Exception | None = None

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Publish them in order; JetStream has stored each when this returns.

        Raises:
            RefusedError: it will never take the first that is not delivered.
            UndeliveredError: not now.
        """
        import nats.errors

        stream, ended = await self._connected()
        delivered = 0
        try:
            async with asyncio.timeout(self._server.timeout_s):
                async with contextlib.aclosing(self._publish(stream, parcels, ended)) as stored:
                    async for _ in stored:
                        delivered += 1
        except nats.errors.MaxPayloadError as error:
            size = len(parcels[delivered].body)
            raise RefusedError(
                f"a message of {size} bytes is more than the server {self._where} takes",
                answer="maximum payload exceeded",
                delivered=delivered,
            ) from error
        except (TimeoutError, OSError, nats.errors.Error, _DeniedError) as error:
            failure = self._judged(error, delivered)
            if not isinstance(error, _answers()):  # what it says to one message leaves the connection as it was
                await self.drop()
            raise failure from error

    async def _publish(
        self, stream: "JetStreamContext", parcels: Sequence[Parcel], ended: asyncio.Event
    ) -> AsyncGenerator[None, None]:
        """Publish all, in order, and yield once for each that is stored, in order."""
        tasks = []
        try:
            for parcel in parcels:  # a task runs up to where its message is in the library's buffer before the next one
                headers = {"Nats-Msg-Id": parcel.id, "Penstock-Source": parcel.source, "Penstock-Kind": parcel.kind}
                publish = stream.publish(
                    parcel.about, parcel.body, self._server.timeout_s, self._server.stream, headers
                )
                tasks.append(asyncio.create_task(publish))
                self._waiting[tasks[-1]] = parcel.about
            for task in tasks:
                await self._one(task, ended)
                yield
        finally:
            for task in tasks:
                del self._waiting[task]
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drop(self) -> None:
        """End the connection; the next `send` makes another one."""
        client, self._client, self._stream = self._client, None, None
        if client is None:
            return
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_FAREWELL_S):
                await client.close()

    @property
    def _where(self) -> str:
        return self._server.where

    async def _one(self, task: "asyncio.Task[PubAck]", ended: asyncio.Event) -> None:
        """Wait for one confirmation, or for the end of the connection."""
        end = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            end.cancel()
        if not task.done():
            raise ConnectionResetError("ended the connection")
        if task.cancelled():
            raise _DeniedError(_words(self._last_error))
        task.result()

    async def _connected(self) -> "tuple[JetStreamContext, asyncio.Event]":
        import nats.errors
        from nats.aio.client import Client

        async with self._connecting:
            if self._stream is not None and self._client is not None and self._client.is_connected:
                return self._stream, self._ended
            await self.drop()
            self._ended, self._last_error = asyncio.Event(), None
            client, server = Client(), self._server
            try:
                async with asyncio.timeout(server.timeout_s):
                    await client.connect(
                        server.url,
                        error_cb=self._failed,
                        closed_cb=self._closed(self._ended),
                        name=server.name,
                        allow_reconnect=False,
                        max_reconnect_attempts=1,  # of the first connection; 0 would be: for ever
                        reconnect_time_wait=0,
                        connect_timeout=max(1, round(server.timeout_s)),
                        ping_interval=30,
                        tls=server.tls,
                        user=server.username,
                        password=server.password,
                        token=server.token,
                    )
                    self._client = client
                    self._stream = client.jetstream(timeout=server.timeout_s)
                    await self._make(self._stream)
            except (TimeoutError, OSError, nats.errors.Error) as error:
                self._client = client
                await self.drop()
                raise UndeliveredError(f"the server {self._where} {self._fault(error)}") from error
            return self._stream, self._ended

    async def _make(self, stream: "JetStreamContext") -> None:
        """Make the stream where there is none; one that is there stays as it is."""
        from nats.js.api import DiscardPolicy
        from nats.js.errors import NotFoundError

        if not self._server.make or self._server.stream is None:
            return
        try:
            await stream.stream_info(self._server.stream)
        except NotFoundError:
            await stream.add_stream(
                name=self._server.stream,
                subjects=list(self._server.make),
                max_bytes=self._server.make_bytes,
                discard=DiscardPolicy.OLD,
            )

    def _judged(self, error: Exception, delivered: int) -> RefusedError | UndeliveredError:
        """What an error means for the messages that are not delivered."""
        from nats.errors import NoRespondersError
        from nats.js.errors import BadRequestError, NoStreamResponseError

        where = f"the server {self._where}"
        if isinstance(error, BadRequestError) and error.err_code in _FOR_GOOD:
            words = shorten(error.description or "bad request")
            return RefusedError(f"{where} refuses it: {words}", answer=words, delivered=delivered)
        if isinstance(error, _DeniedError):
            words = shorten(str(error))
            return RefusedError(f"{where} refuses it: {words}", answer=words, delivered=delivered)
        if isinstance(error, NoStreamResponseError | NoRespondersError):
            return UndeliveredError(f"{where} has {_NO_STREAM}", delivered=delivered)
        return UndeliveredError(f"{where} {self._fault(error)}", delivered=delivered)

    def _fault(self, error: Exception) -> str:
        from nats.errors import NoServersError

        if isinstance(error, NoServersError) and self._last_error is not None:
            error = self._last_error  # it says why
        if isinstance(error, ssl.SSLError):
            return f"TLS: {shorten(tls_fault(error))}"
        if isinstance(error, TimeoutError):
            return "does not answer"
        if isinstance(error, OSError) and error.errno:
            return f"cannot be reached: {os.strerror(error.errno)}"  # asyncio's own words repeat the address
        if isinstance(error, OSError) and error.strerror:
            return shorten(error.strerror).lower()
        return _words(error)

    async def _failed(self, error: Exception) -> None:
        """What the server says to nothing in particular: a subject that is forbidden it tells only here."""
        self._last_error = error
        words = _words(error)
        if not words.lower().startswith(_PERMISSIONS):
            return
        for task, subject in self._waiting.items():
            if f'"{subject.lower()}"' in words.lower():
                task.cancel()

    def _closed(self, ended: asyncio.Event):  # type: ignore[no-untyped-def]
        async def closed() -> None:
            ended.set()

        return closed


class _DeniedError(Exception):
    """We may not publish to this subject."""


def _words(error: Exception | None) -> str:
    """What the library says, without its prefixes."""
    return shorten(getattr(error, "description", None) or str(error)).removeprefix("nats: ")


def _answers() -> tuple[type[Exception], ...]:
    """What comes from the server about one message."""
    from nats.js.errors import APIError, NoStreamResponseError

    return (APIError, NoStreamResponseError, _DeniedError)
