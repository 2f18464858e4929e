"""`nats`: results and events as messages of NATS JetStream."""

import contextlib
import re
import string
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, ByteSize, Field, SecretStr, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.event import Event
from pipeline.contracts.http import host_and_port
from pipeline.contracts.result import Result
from pipeline.contracts.secret import SecretUrl
from pipeline.contracts.sender import Parcel, SenderConfig, UndeliveredError
from pipeline.contracts.tls import TlsKeys, unverified
from sinks._nats_link import NatsLink, NatsServer
from sinks._topics import Names, NameTemplate, line_parcel

_PORT = 4222
_BATCH = 100
_SPARE_S = 5.0  # the coroutine keeps to its own time-outs; this is for a loop that is late
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")


def _is_nats(url: SecretUrl) -> SecretUrl:
    if url.scheme not in {"nats", "tls"} or not url.host:
        raise ValueError('must begin with "nats://" or "tls://" and name a host')
    return url


def _is_subject(text: NameTemplate) -> NameTemplate:
    if not _SUBJECT.fullmatch(text):
        raise ValueError("a subject is words with dots between them, without spaces, * and >")
    return text


class NatsSinkConfig(TlsKeys, SenderConfig):
    """Messages of NATS JetStream, one for each result or event."""

    takes_events: ClassVar[bool] = True

    type: Literal["nats"] = "nats"
    url: Annotated[SecretUrl, AfterValidator(_is_nats)] = Field(
        description="of the server: nats://[user:password@]host[:4222], or tls:// for TLS"
    )
    username: str | None = Field(default=None, min_length=1, description="if it does not stand in the url")
    password: SecretStr | None = Field(default=None, description="if it does not stand in the url")
    token: SecretStr | None = Field(default=None, description="instead of user and password")
    subject: Annotated[NameTemplate, AfterValidator(_is_subject)] = Field(
        default="penstock.{source}.{kind}",
        description="placeholders: {source}, {kind} (results, events, notices), {class}, {event}, {phase}, {zone}, "
        "{line} (of events), {sink}, {host}",
    )
    stream: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_-]{1,255}$", description="the only stream that may take it; any if left out"
    )
    create_stream: bool = Field(default=False, description="make that stream where there is none")
    stream_max_bytes: Annotated[ByteSize, Field(ge=1 << 20)] = Field(
        default=ByteSize(1 << 30), description="of a stream made so; then the oldest messages go"
    )
    timeout_s: float = Field(default=10.0, gt=0, le=600, description="for a connection, and for a confirmation")
    concurrency: int = Field(default=4, ge=1, le=64, description="sources that are sent at once")

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        given = [self.url.username is not None, self.username is not None or self.password is not None]
        if sum(given) + (self.token is not None) > 1:
            raise ValueError("credentials stand in the url, in username and password, or in token: keep one of them")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password need each other")
        if self.create_stream and self.stream is None:
            raise ValueError("create_stream needs stream: its name")
        if self.url.scheme == "nats" and (self.ca_file or self.client_cert or not self.verify_tls):
            raise ValueError("ca_file, client_cert and verify_tls belong to TLS: the url must begin with tls://")
        return self

    def check(self) -> None:
        """Find a library that is not installed, and a certificate that cannot be read.

        Raises:
            ConfigError: keys `type`, `ca_file`, `client_cert`.
        """
        if find_spec("nats") is None:
            raise ConfigError("needs the library nats-py: pip install penstock[nats]", key="type")
        if self.url.scheme == "tls":
            self.tls_context()

    def build(self, ctx: Context) -> "NatsSender":  # type: ignore[override]  # see SenderConfig.build
        """Make the sender."""
        return NatsSender(self, ctx)

    def server(self, names: Names) -> NatsServer:
        """Where the server is, and as whom to come.

        Raises:
            ConfigError: keys `ca_file`, `client_cert`.
        """
        host = f"[{self.url.host}]" if ":" in self.url.host else self.url.host
        password, token = self.url.password or self.password, self.token
        username = self.username or self.url.username
        if username is not None and password is None:  # nats://token@host
            token, username = SecretStr(username), None
        return NatsServer(
            url=f"{self.url.scheme}://{host}:{self.url.port or _PORT}",
            where=host_and_port(self.url),
            username=username,
            password=None if password is None else password.get_secret_value(),
            token=None if token is None else token.get_secret_value(),
            tls=self.tls_context() if self.url.scheme == "tls" else None,
            name=names.fixed("penstock-{host}-{sink}"),
            timeout_s=self.timeout_s,
            stream=self.stream,
            make=(_wildcards(self.subject),) if self.create_stream else (),
            make_bytes=int(self.stream_max_bytes),
        )


class NatsSender:
    """Publishes with `Nats-Msg-Id`, by which JetStream knows what it has already; behind a spool.

    `pack` belongs to one thread, `send` to several; the connection lives on the main loop.
    """

    wants_pictures = False
    max_items = _BATCH
    max_wait_s = 0.0

    def __init__(self, config: NatsSinkConfig, ctx: Context) -> None:
        self.concurrency = config.concurrency
        self._config = config
        self._ctx = ctx
        self._names = Names(ctx.name)
        self._link: NatsLink | None = None

    def open(self) -> None:
        """Get ready; it is connected when there is something to send."""
        import nats.aio.client  # noqa: F401  (not in a thread that sends, nor on the loop)

        server = self._config.server(self._names)
        if server.tls is not None and not self._config.verify_tls:
            self._ctx.warn(unverified(server.where))
        self._link = NatsLink(server)

    def pack(self, item: Result | Event) -> Parcel:
        """The line of JSON, with its subject."""
        return line_parcel(item, self._names.of(self._config.subject, item))

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Publish them; JetStream has stored each when this returns."""
        if self._link is None:
            raise UndeliveredError("the sink is closed")
        try:
            self._ctx.call(self._link.send(parcels), 2 * self._config.timeout_s + _SPARE_S)
        except TimeoutError as error:
            raise UndeliveredError("the main loop is too busy to send") from error

    def close(self) -> None:
        """End the connection."""
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(TimeoutError):
                self._ctx.call(link.drop(), _SPARE_S)


def _wildcards(template: str) -> str:
    """The subjects that a template can become: `penstock.{source}.{kind}` is `penstock.*.*`."""
    words = []
    for word in template.split("."):
        fields = [name for _, name, _, _ in string.Formatter().parse(word) if name is not None]
        words.append("*" if fields else word)
    return ".".join(words)
