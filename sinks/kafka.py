"""`kafka`: results and events as records of Kafka topics."""

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.event import Event
from pipeline.contracts.result import Result
from pipeline.contracts.sender import Parcel, RefusedError, SenderConfig, UndeliveredError
from pipeline.contracts.tls import TlsKeys, unverified
from pipeline.wire.http import shorten
from sinks._topics import Names, NameTemplate, line_parcel

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

_BATCH = 500
_TURN_S = 0.05  # another thread may have been handed our reports: look at them so often
_SPARE_S = 1.0  # the library reports a time-out itself; this is for one that does not
_TOPIC_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-{}")

Server = Annotated[
    str, StringConstraints(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?$", max_length=300)
]


def _is_topic(text: NameTemplate) -> NameTemplate:
    if not _TOPIC_CHARS.issuperset(text):
        raise ValueError("a topic of Kafka holds letters, digits, . _ and - only")
    return text


class KafkaSinkConfig(TlsKeys, SenderConfig):
    """Records of Kafka topics, one for each result or event."""

    takes_events: ClassVar[bool] = True

    type: Literal["kafka"] = "kafka"
    servers: Annotated[tuple[Server, ...], Field(min_length=1)] = Field(
        description='some of the brokers, each "host:9092"; they tell of the others'
    )
    tls: bool = Field(default=False, description="speak TLS with them")
    username: str | None = Field(default=None, min_length=1, description="for SASL")
    password: SecretStr | None = Field(default=None, description="for SASL")
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="of SASL; PLAIN shows the password to who listens, unless tls = true"
    )
    topic: Annotated[NameTemplate, AfterValidator(_is_topic)] = Field(
        default="penstock.{kind}",
        description="placeholders: {source}, {kind} (results, events, notices), {class}, {event}, {phase}, {zone}, "
        "{line} (of events), {sink}, {host}",
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(default="none", description="of batches")
    timeout_s: float = Field(default=10.0, ge=1, le=600, description="for one batch, all the library's attempts")
    concurrency: int = Field(default=4, ge=1, le=64, description="sources that are sent at once")

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password need each other")
        if not self.tls and (self.ca_file or self.client_cert or not self.verify_tls):
            raise ValueError("ca_file, client_cert and verify_tls need tls = true")
        return self

    def check(self) -> None:
        """Find a library that is not installed, and a certificate that cannot be read.

        Raises:
            ConfigError: keys `type`, `ca_file`, `client_cert`.
        """
        if find_spec("confluent_kafka") is None:
            raise ConfigError("needs the library confluent-kafka: pip install penstock[kafka]", key="type")
        if self.tls:
            self.tls_context()

    def build(self, ctx: Context) -> "KafkaSender":  # type: ignore[override]  # see SenderConfig.build
        """Make the sender."""
        return KafkaSender(self, ctx)

    def options(self, name: str) -> dict[str, Any]:
        """What librdkafka is told. The records of a source go to one partition: their key is its name."""
        options: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.servers),
            "client.id": name,
            "enable.idempotence": True,  # acks=all; the library's own attempts make no duplicates, nor do they overtake
            "message.timeout.ms": round(self.timeout_s * 1000),
            "compression.type": self.compression,
            "queue.buffering.max.messages": max(1000, 4 * _BATCH * self.concurrency),
            "linger.ms": 0,
            "reconnect.backoff.max.ms": 1000,
            "socket.connection.setup.timeout.ms": max(1000, round(self.timeout_s * 1000)),
            "log_level": 0,  # it would write to standard error; `error_cb` hears the same
            "security.protocol": f"{'SASL_' if self.username else ''}{'SSL' if self.tls else 'PLAINTEXT'}",
        }
        if self.username is not None and self.password is not None:
            options["sasl.mechanism"] = self.mechanism
            options["sasl.username"] = self.username
            options["sasl.password"] = self.password.get_secret_value()
        if self.tls:
            options["enable.ssl.certificate.verification"] = self.verify_tls
            options["ssl.endpoint.identification.algorithm"] = "https" if self.verify_tls else "none"
            options["ssl.ca.location"] = "probe" if self.ca_file is None else str(self.ca_file)
            if self.client_cert is not None:
                options["ssl.certificate.location"] = str(self.client_cert)
                options["ssl.key.location"] = str(self.client_key or self.client_cert)
        return options


class _Batch:
    """The reports on one batch. Made by a thread that sends; filled by whichever thread the library hands them to."""

    def __init__(self, count: int) -> None:
        self.errors: list[KafkaError | None] = [None] * count
        self.arrived = [False] * count
        self._open = count
        self._lock = threading.Lock()

    @property
    def complete(self) -> bool:
        return self._open == 0

    def note(self, index: int, error: "KafkaError | None") -> None:
        with self._lock:
            self.errors[index], self.arrived[index] = error, error is None
            self._open -= 1


class KafkaSender:
    """Produces, and waits for the delivery reports; behind a spool.

    `pack` belongs to one thread, `send` to several, which share one producer of librdkafka with its own threads.
    """

    wants_pictures = False
    max_items = _BATCH
    max_wait_s = 0.0

    def __init__(self, config: KafkaSinkConfig, ctx: Context) -> None:
        self.concurrency = config.concurrency
        self._config = config
        self._ctx = ctx
        self._names = Names(ctx.name)
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        self._closed = True
        self._said = ""
        """The last thing that the library said about the connections."""

    def open(self) -> None:
        """Make the producer: it connects by itself, whenever a broker is there."""
        if self._config.tls and not self._config.verify_tls:
            self._ctx.warn(unverified(", ".join(self._config.servers)))
        self._closed = False
        self._made()

    def pack(self, item: Result | Event) -> Parcel:
        """The line of JSON, with the name of its topic."""
        return line_parcel(item, self._names.of(self._config.topic, item))

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Produce them; the brokers have reported each as stored when this returns."""
        from confluent_kafka import KafkaException

        producer, batch = self._made(), _Batch(len(parcels))
        began_at = self._ctx.clock.monotonic()
        for index, parcel in enumerate(parcels):
            try:
                producer.produce(
                    parcel.about,
                    value=parcel.body,
                    key=(parcel.source or "daemon").encode(),
                    headers=[("id", parcel.id.encode()), ("kind", parcel.kind.encode())],
                    on_delivery=_into(batch, index),
                )
            except KafkaException as error:
                batch.note(index, error.args[0])
            except BufferError:
                batch.note(index, _full())
        while not batch.complete:
            producer.poll(_TURN_S)
            if self._ctx.clock.monotonic() - began_at > self._config.timeout_s + _SPARE_S:
                self._drop(producer)
                break
        self._judge(producer, batch)

    def close(self) -> None:
        """Let go of what is under way: the spool has it."""
        with self._lock:
            self._closed = True
            producer, self._producer = self._producer, None
        if producer is not None:
            _end(producer)

    def _made(self) -> "Producer":
        from confluent_kafka import KafkaException, Producer

        with self._lock:
            if self._closed:
                raise UndeliveredError("the sink is closed")
            if self._producer is None:
                options = self._config.options(self._names.fixed("penstock-{host}-{sink}"))
                try:
                    self._producer = Producer({**options, "error_cb": self._heard})
                except KafkaException as error:
                    raise ConfigError(f"the library refuses its options: {_words(error.args[0])}") from error
            return self._producer

    def _drop(self, producer: "Producer") -> None:
        """It failed for good, or does not report: the next attempt makes another one."""
        with self._lock:
            if self._producer is producer:
                self._producer = None
        _end(producer)

    def _judge(self, producer: "Producer", batch: _Batch) -> None:
        """What the reports mean, of the first that was not delivered.

        Raises:
            RefusedError: it never will be.
            UndeliveredError: not now.
        """
        delivered = next((index for index, arrived in enumerate(batch.arrived) if not arrived), None)
        if delivered is None:
            return
        error = batch.errors[delivered]
        if any(one is not None and one.fatal() for one in batch.errors):
            self._drop(producer)
        if error is None:
            raise UndeliveredError(f"the brokers do not answer{self._because()}", delivered=delivered)
        words = _words(error)
        if error.code() in _for_good():
            raise RefusedError(f"the brokers refuse it: {words}", answer=words, delivered=delivered)
        raise UndeliveredError(f"the brokers do not take it: {words}{self._because()}", delivered=delivered)

    def _because(self) -> str:
        return f" ({self._said})" if self._said else ""

    def _heard(self, error: "KafkaError") -> None:
        """Called by whichever thread polls."""
        self._said = _words(error)


def _into(batch: _Batch, index: int) -> Any:
    def report(error: "KafkaError | None", _message: "Message") -> None:
        batch.note(index, error)

    return report


def _end(producer: "Producer") -> None:
    """Without this the library would wait for what is under way."""
    producer.purge()
    producer.flush(_SPARE_S)


def _words(error: "KafkaError") -> str:
    return shorten(f"{error.name()}: {error.str()}")


def _full() -> "KafkaError":
    from confluent_kafka import KafkaError

    return KafkaError(KafkaError._QUEUE_FULL)


def _for_good() -> frozenset[int]:
    """What the next attempt will not change."""
    from confluent_kafka import KafkaError

    return frozenset(
        {
            KafkaError.MSG_SIZE_TOO_LARGE,
            KafkaError.INVALID_MSG,
            KafkaError.INVALID_MSG_SIZE,
            KafkaError.INVALID_RECORD,
            KafkaError.TOPIC_EXCEPTION,
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.RECORD_LIST_TOO_LARGE,
        }
    )
