"""`redis`: results and events as entries of Redis streams."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.event import Event
from pipeline.contracts.http import host_and_port
from pipeline.contracts.result import Result
from pipeline.contracts.secret import SecretUrl
from pipeline.contracts.sender import Parcel, RefusedError, SenderConfig, UndeliveredError
from pipeline.contracts.tls import TlsKeys, tls_fault, unverified
from pipeline.wire.http import shorten
from sinks._topics import Names, NameTemplate, line_parcel

if TYPE_CHECKING:
    from redis import Redis

_PORTS = {"redis": 6379, "rediss": 6379}
_BATCH = 200
# What the next attempt will not change: no permission for this stream, or it is something else than a stream.
_FOR_GOOD = ("NOPERM", "WRONGTYPE")


def _is_redis(url: SecretUrl) -> SecretUrl:
    if url.scheme not in _PORTS or not url.host:
        raise ValueError('must begin with "redis://" or "rediss://" and name a host')
    parts = urlsplit(url.reveal())
    if parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ValueError("after the host only the number of a database may stand: redis://host:6379/0")
    if parts.query or parts.fragment:
        raise ValueError("takes no options behind a ? or #: they have keys of their own")
    return url


class RedisSinkConfig(TlsKeys, SenderConfig):
    """Entries of Redis streams (XADD), one for each result or event."""

    takes_events: ClassVar[bool] = True

    type: Literal["redis"] = "redis"
    url: Annotated[SecretUrl, AfterValidator(_is_redis)] = Field(
        description="redis://[user:password@]host[:6379][/database], or rediss:// for TLS"
    )
    username: str | None = Field(default=None, min_length=1, description="if it does not stand in the url")
    password: SecretStr | None = Field(default=None, description="if it does not stand in the url")
    stream: NameTemplate = Field(
        default="penstock:{source}",
        description="placeholders: {source}, {kind} (results, events, notices), {class}, {event}, {phase}, {zone}, "
        "{line} (of events), {sink}, {host}",
    )
    max_length: int | None = Field(default=100_000, ge=1, description="of a stream, about: the oldest entries go")
    timeout_s: float = Field(default=10.0, gt=0, le=600, description="for a connection, and for an answer")
    concurrency: int = Field(default=4, ge=1, le=64, description="sources that are sent at once")

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.url.password is not None and (self.username is not None or self.password is not None):
            raise ValueError("user and password stand in the url and in keys of their own: keep one of them")
        if self.username is not None and self.password is None:
            raise ValueError("username needs password")
        if self.url.scheme == "redis" and (self.ca_file or self.client_cert or not self.verify_tls):
            raise ValueError("ca_file, client_cert and verify_tls belong to TLS: the url must begin with rediss://")
        return self

    def check(self) -> None:
        """Find a library that is not installed, and a certificate that cannot be read.

        Raises:
            ConfigError: keys `type`, `ca_file`, `client_cert`.
        """
        if find_spec("redis") is None:
            raise ConfigError("needs the library redis: pip install penstock[redis]", key="type")
        if self.url.scheme == "rediss":
            self.tls_context()

    def build(self, ctx: Context) -> "RedisSender":  # type: ignore[override]  # see SenderConfig.build
        """Make the sender."""
        return RedisSender(self, ctx)


class RedisSender:
    """Adds entries, several at once in a transaction: none overtakes one that was not taken. Each thread that sends
    takes a connection of the client's pool; the client tries nothing again."""

    wants_pictures = False
    max_items = _BATCH
    max_wait_s = 0.0

    def __init__(self, config: RedisSinkConfig, ctx: Context) -> None:
        self.concurrency = config.concurrency
        self._config = config
        self._ctx = ctx
        self._names = Names(ctx.name)
        self._where = host_and_port(config.url)
        self._client: Redis | None = None

    def open(self) -> None:
        """Make the client; it connects when there is something to send."""
        if self._config.url.scheme == "rediss" and not self._config.verify_tls:
            self._ctx.warn(unverified(self._where))
        self._client = _client(self._config, f"penstock-{self._names.fixed('{host}-{sink}')}")

    def pack(self, item: Result | Event) -> Parcel:
        """The line of JSON, with the name of its stream."""
        return line_parcel(item, self._names.of(self._config.stream, item))

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Add an entry for each; Redis has answered for all of them when this returns."""
        import redis.exceptions

        if self._client is None:
            raise UndeliveredError("the sink is closed")
        length = self._config.max_length
        try:
            with self._client.pipeline(transaction=True) as pipeline:
                for parcel in parcels:
                    pipeline.xadd(parcel.about, _fields(parcel), maxlen=length, approximate=True)
                answers = pipeline.execute(raise_on_error=False)
        except redis.exceptions.ResponseError as error:  # to one of them: none was added
            raise _judged(error, self._where, 0) from error
        except (redis.exceptions.RedisError, OSError) as error:
            raise UndeliveredError(f"the server {self._where} {_fault(error)}") from error
        for delivered, answer in enumerate(answers):
            if isinstance(answer, Exception):
                raise _judged(answer, self._where, delivered) from answer

    def close(self) -> None:
        """End the connections."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _client(config: RedisSinkConfig, name: str) -> "Redis":
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    path = urlsplit(config.url.reveal()).path.strip("/")
    password = config.url.password or config.password
    tls: dict[str, Any] = {}
    if config.url.scheme == "rediss":
        tls = {
            "ssl": True,
            "ssl_cert_reqs": "required" if config.verify_tls else "none",
            "ssl_check_hostname": config.verify_tls,
            "ssl_ca_certs": None if config.ca_file is None else str(config.ca_file),
            "ssl_certfile": None if config.client_cert is None else str(config.client_cert),
            "ssl_keyfile": None if config.client_key is None else str(config.client_key),
        }
    return Redis(
        host=config.url.host,
        port=config.url.port or _PORTS[config.url.scheme],
        db=int(path or 0),
        username=config.url.username or config.username or None,
        password=None if password is None else password.get_secret_value(),
        socket_timeout=config.timeout_s,
        socket_connect_timeout=config.timeout_s,
        retry=Retry(NoBackoff(), 0),  # the spool tries again
        max_connections=config.concurrency,
        client_name=name,
        protocol=2,
        **tls,
    )


def _fields(parcel: Parcel) -> dict[Any, Any]:
    return {"id": parcel.id, "kind": parcel.kind, "source": parcel.source, "body": parcel.body}


def _judged(answer: Exception, where: str, delivered: int) -> RefusedError | UndeliveredError:
    """What Redis's answer to one entry means; those before it were added."""
    words = shorten(str(answer))
    if words.startswith(_FOR_GOOD) or type(answer).__name__ == "NoPermissionError":
        return RefusedError(f"the server {where} refuses it: {words}", answer=words, delivered=delivered)
    return UndeliveredError(f"the server {where} does not take it: {words}", delivered=delivered)


def _fault(error: Exception) -> str:
    """Why there was no answer, in a few words: what the library says may hold more than that."""
    import redis.exceptions

    if isinstance(error, redis.exceptions.AuthenticationError):
        return f"refuses the connection: {shorten(str(error))}"
    if isinstance(error, redis.exceptions.TimeoutError | TimeoutError):
        return "does not answer"
    cause = error.__cause__ or error.__context__ or error
    if "SSL" in type(cause).__name__ or "CERTIFICATE" in str(error):
        return f"TLS: {shorten(tls_fault(cause))}"
    strerror = getattr(cause, "strerror", None)
    return shorten(strerror).lower() if strerror else shorten(str(error))
