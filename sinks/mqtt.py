"""`mqtt`: results and events as messages of an MQTT broker."""

import contextlib
import threading
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Literal

from pipeline.contracts.component import Context
from pipeline.contracts.event import Event
from pipeline.contracts.result import Result
from pipeline.contracts.sender import Parcel, RefusedError, UndeliveredError
from pipeline.contracts.tls import unverified
from pipeline.wire.http import shorten
from sinks._mqtt_broker import Broker, Message, properties_of
from sinks._mqtt_keys import MqttKeys
from sinks._mqtt_link import HungUpError, LinkDownError, MqttLink
from sinks._mqtt_retained import Retained
from sinks._topics import Names, line_parcel

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

IDLE_RECONNECT_S = 10.0
"""While nothing is to be sent, the broker is tried so often: it is to know that we are there."""

MAX_HANG_UPS = 5
"""A message that so often in a row made the broker end the connection is taken for refused."""

_BATCH = 50  # messages handed to the library at once; how many of them are under way is its business
_HEADER_BYTES = 300  # of an MQTT message, besides topic and body, at the most
# MQTT 5.0, section 3.4.2.1: what a PUBACK says that the next attempt will not change: not authorized, topic name
# invalid, payload format invalid.
_FOR_GOOD = frozenset({0x87, 0x90, 0x99})


class MqttSinkConfig(MqttKeys):
    """Messages of an MQTT broker, one for each result or event."""

    type: Literal["mqtt"] = "mqtt"

    def build(self, ctx: Context) -> "MqttSender":  # type: ignore[override]  # see SenderConfig.build
        """Make the sender."""
        return MqttSender(self, ctx)


class MqttSender:
    """Publishes; behind a spool. `pack` and `tick` belong to one thread, `send` to several; paho has one of its own."""

    wants_pictures = False
    max_wait_s = 0.0

    def __init__(self, config: MqttKeys, ctx: Context) -> None:
        self.concurrency = config.concurrency
        self.max_items = _BATCH
        self._config = config
        self._ctx = ctx
        self._names = Names(ctx.name)
        self._status_topic = self._names.fixed(config.status_topic)
        self._birth_topic = f"{self._names.fixed(config.discovery_prefix)}/status"
        self._retained = Retained(config.retained_topics(self._names), self._names, config.identity(self._names))
        self._broker: Broker | None = None
        self._lock = threading.Lock()
        self._link: MqttLink | None = None
        self._began_at = 0.0  # of the last connection, monotonic
        self._max_in_flight = config.max_in_flight
        self._careful: set[str] = set()  # sources whose last messages ended a connection
        self._suspects: dict[str, tuple[str, int]] = {}  # of a source: a message that may be why, and how often
        self._closed = False
        self._warned = False

    def open(self) -> None:
        """Begin to connect: the broker may be away."""
        import paho.mqtt.client  # noqa: F401  (a second of a small machine's time: not in a thread that sends)

        self._broker = self._config.broker(self._names)
        if self._broker.tls is not None and not self._config.verify_tls:
            self._ctx.warn(unverified(self._broker.where))
        if self._config.home_assistant and not self._config.counts_are_whole:
            self._ctx.warn('home_assistant shows no counts of objects: they need emit = "frames" and no where')
        with contextlib.suppress(UndeliveredError):
            self._connection()

    def pack(self, item: Result | Event) -> Parcel:
        """The line of JSON, with its topic."""
        self._retained.see(item)
        if self._retained.overflown and not self._warned:
            self._warned = True
            self._ctx.warn("Home Assistant is shown no more classes and zones: there are too many")
        topic = self._names.of(self._config.topic, item)
        return line_parcel(item, topic)

    def tick(self) -> None:
        """Keep the connection while nothing is sent, and tell how things are now."""
        link = self._link
        if link is not None and link.up:
            self._tell_retained(link)
        elif self._ctx.clock.monotonic() - self._began_at >= max(IDLE_RECONNECT_S, self._config.timeout_s):
            if link is not None:
                self._drop(link)
            with contextlib.suppress(UndeliveredError):
                self._connection()

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Publish them, all at once; with QoS 1 and 2 the broker has confirmed each when this returns.

        One at a time after a connection that ended: there are brokers that refuse a message and hang up, and what they
        said of it is lost when more was on its way.
        """
        source = parcels[0].source
        link = self._connection()
        step = 1 if source in self._careful else len(parcels)
        delivered = 0
        try:
            link.wait_up(self._config.timeout_s)
            self._tell_retained(link)
            self._see_that_it_fits(link, parcels)
            for start in range(0, len(parcels), step):
                with contextlib.closing(self._publish(link, parcels[start : start + step])) as reasons:
                    for reason in reasons:
                        _judge(reason, delivered)
                        delivered += 1
        except LinkDownError as error:
            # Without this, an answer that comes late would count for another message.
            self._drop(link)
            self._careful.add(source)
            if isinstance(error, HungUpError) and step == 1:
                self._suspect(parcels[delivered], delivered)
            raise UndeliveredError(f"the broker {self._where} {error}", delivered=delivered) from error
        self._careful.discard(source)
        self._suspects.pop(source, None)

    def _suspect(self, parcel: Parcel, delivered: int) -> None:
        """The broker took the connection and ended it when it was sent this message, and no other.

        Raises:
            RefusedError: it did so too often to be chance. It would keep back all that waits behind it for ever:
                Mosquitto does so with a message over its `message_size_limit`, of which it does not tell.
        """
        before, count = self._suspects.get(parcel.source, ("", 0))
        count = count + 1 if before == parcel.id else 1
        self._suspects[parcel.source] = (parcel.id, count)
        if count >= MAX_HANG_UPS:
            del self._suspects[parcel.source]
            raise RefusedError(
                f"the broker {self._where} ended the connection {count} times when it was sent this message",
                answer="connection ended",
                delivered=delivered,
            )

    def _publish(self, link: MqttLink, parcels: Sequence[Parcel]) -> "Generator[ReasonCode, None, None]":
        """What the broker says to each, in their order."""
        numbers = [link.publish(self._message(parcel)) for parcel in parcels]
        until_s = self._ctx.clock.monotonic() + self._config.timeout_s
        try:
            while numbers:
                yield link.answer(numbers.pop(0), until_s)
        finally:
            link.forget(numbers)

    def close(self) -> None:
        """Say farewell and end the connection."""
        with self._lock:
            self._closed = True
            link, self._link = self._link, None
        if link is not None:
            link.close(Message(self._status_topic, b"offline", 1, retain=True))

    @property
    def _where(self) -> str:
        return "" if self._broker is None else self._broker.where

    def _connection(self) -> MqttLink:
        """The connection, or the beginning of a new one."""
        with self._lock:
            if self._closed or self._broker is None:
                raise UndeliveredError("the sink is closed")
            if self._link is not None and not self._link.down and self._fits(self._link):
                return self._link
            if self._link is not None:
                self._link.close()
            self._began_at = self._ctx.clock.monotonic()
            self._link = MqttLink(
                self._broker,
                self._ctx.clock,
                max_in_flight=self._max_in_flight,
                on_up=self._came_up,
                on_message=self._message_came,
            )
            try:
                self._link.start()
            except LinkDownError as error:
                raise UndeliveredError(f"the broker {self._where} {error}") from error
            return self._link

    def _fits(self, link: MqttLink) -> bool:
        """Whether no more may be under way than the broker takes; the library is told so before it connects."""
        if link.receive_maximum is None or link.receive_maximum >= link.max_in_flight:
            return True
        self._max_in_flight = link.receive_maximum
        return False

    def _drop(self, link: MqttLink) -> None:
        with self._lock:
            if self._link is link:
                self._link = None
        link.close()

    def _came_up(self, link: MqttLink) -> None:
        link.tell(Message(self._status_topic, b"online", 1, retain=True))
        if self._config.home_assistant:
            link.subscribe(self._birth_topic)
        self._retained.renew()
        self._tell_retained(link)

    def _message_came(self, link: MqttLink, topic: str, body: bytes) -> None:
        if topic == self._birth_topic and body == b"online":
            self._retained.renew()
            self._tell_retained(link)

    def _tell_retained(self, link: MqttLink) -> None:
        for topic, body in self._retained.due(self._ctx.clock.monotonic()):
            link.tell(Message(topic, body, 1, retain=True))

    def _message(self, parcel: Parcel) -> Message:
        config = self._config
        about = properties_of(parcel, config.expire_after_s) if config.version == "5" else None
        return Message(parcel.about, parcel.body, config.qos, config.retain, about)

    def _see_that_it_fits(self, link: MqttLink, parcels: Sequence[Parcel]) -> None:
        if link.greatest_qos < self._config.qos:
            raise UndeliveredError(f"the broker {self._where} takes no QoS {self._config.qos}: set qos = 1 or 0")
        for parcel in parcels:
            size = len(parcel.body) + len(parcel.about.encode()) + _HEADER_BYTES
            if link.max_packet_bytes is not None and size > link.max_packet_bytes:
                raise RefusedError(
                    f"a message of {size} bytes, and the broker {self._where} takes {link.max_packet_bytes}",
                    answer=f"Maximum Packet Size {link.max_packet_bytes}",
                )


def _judge(reason: "ReasonCode", delivered: int) -> None:
    """What the confirmation of one message means; those before it were good."""
    if not reason.is_failure:
        return
    answer = shorten(str(reason))
    if reason.value in _FOR_GOOD:
        raise RefusedError(f"the broker refuses it: {answer}", answer=answer, delivered=delivered)
    raise UndeliveredError(f"the broker does not take it: {answer}", delivered=delivered)
