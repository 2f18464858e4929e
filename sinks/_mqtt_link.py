"""`MqttLink`: one connection to an MQTT broker, from CONNECT to its end; it is never connected again."""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pipeline.contracts.clock import Clock
from pipeline.wire.http import shorten
from sinks._mqtt_broker import Broker, Message, client_of, connection_fault

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

_FAREWELL_S = 1.0
_REFUSED = "refuses the connection"


class LinkDownError(Exception):
    """The connection is not there (any more): what it was told last, fit for a log."""


class HungUpError(LinkDownError):
    """The broker ended the connection while it owed an answer to this one message."""


class MqttLink:
    """Made by the sink, for each connection anew: what paho still held for the old one is gone with it, and the spool
    sends it again. Any thread may publish; paho's network thread calls the `_on_...` methods, the last of them
    `on_up` (before any message of ours is sent) and `on_message`.

    Attributes:
        max_packet_bytes: the broker takes no larger packets; None: it did not say.
        receive_maximum: so many messages may be under way, says the broker; None: it did not say.
        greatest_qos: that the broker takes.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        *,
        max_in_flight: int,
        on_up: Callable[["MqttLink"], None],
        on_message: Callable[["MqttLink", str, bytes], None],
    ) -> None:
        self.max_packet_bytes: int | None = None
        self.receive_maximum: int | None = None
        self.greatest_qos = 2
        self.max_in_flight = max_in_flight
        self._broker = broker
        self._clock = clock
        self._on_up = on_up
        self._message_came = on_message
        self._changed = threading.Condition()
        self._closing = threading.Lock()
        self._taken = False  # messages may be published
        self._up = False
        self._down: str | None = None  # why
        self._hung_up = False
        self._answers: dict[int, ReasonCode] = {}
        self._unasked: set[int] = set()  # messages nobody waits for
        self._owed: set[int] = set()  # messages somebody waits for
        self._client = client_of(broker, max_in_flight)
        self._client.on_connect = self._connected
        self._client.on_connect_fail = self._not_connected
        self._client.on_disconnect = self._disconnected
        self._client.on_publish = self._published
        self._client.on_message = self._received

    def start(self) -> None:
        """Begin to connect, without waiting: paho's thread does it."""
        with _as_link_error():
            self._client.connect_async(self._broker.host, self._broker.port, self._broker.keepalive_s)
            self._client.loop_start()

    @property
    def up(self) -> bool:
        """The broker has taken the connection, and it has not ended."""
        return self._up

    @property
    def down(self) -> bool:
        """It has ended, or never came to be."""
        return self._down is not None

    def wait_up(self, timeout_s: float) -> None:
        """Wait until the broker takes the connection.

        Raises:
            LinkDownError: it does not.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._up or self._down is not None, timeout_s)
            if self._down is not None or not self._up:
                raise LinkDownError(self._down or f"does not answer within {timeout_s:g} s")

    def publish(self, message: Message) -> int:
        """Hand a message over for sending; the number by which `answer` asks for it.

        Raises:
            LinkDownError: there is no connection.
        """
        if not self._taken or self._down is not None:  # paho would keep it for a connection that never comes
            raise LinkDownError(self._down or "is not connected")
        with _as_link_error():
            info = self._client.publish(
                message.topic, message.body, message.qos, message.retain, properties=message.properties
            )
        if info.rc not in {0, 4}:  # 4: "not connected", between two looks; the answer will not come
            raise LinkDownError(f"the message was not taken by the library: code {int(info.rc)}")
        with self._changed:
            if info.mid not in self._answers:
                self._owed.add(info.mid)
        return info.mid

    def tell(self, message: Message) -> None:
        """Hand a message over that nobody waits for; lost where there is no connection."""
        try:
            number = self.publish(message)
        except LinkDownError:
            return
        self.forget([number])

    def answer(self, number: int, until_s: float) -> "ReasonCode":
        """What the broker said to a message; waits for it until then (monotonic).

        Raises:
            HungUpError: it ended the connection instead, with no other message unanswered.
            LinkDownError: it said nothing.
        """
        with self._changed:
            left_s = until_s - self._clock.monotonic()
            self._changed.wait_for(lambda: number in self._answers or self._down is not None, max(0.0, left_s))
            if number in self._answers:
                return self._answers.pop(number)
            if self._down is None:
                raise LinkDownError("did not confirm what it was sent in time")
            raise (HungUpError if self._hung_up else LinkDownError)(self._down)

    def forget(self, numbers: Iterable[int]) -> None:
        """Nobody will ask for the answers to these."""
        with self._changed:
            for number in numbers:
                self._owed.discard(number)
                if self._answers.pop(number, None) is None:
                    self._unasked.add(number)

    def subscribe(self, topic: str) -> None:
        """Ask for the messages of a topic; belongs into `on_up`."""
        self._client.subscribe(topic, 1)

    def close(self, farewell: Message | None = None) -> None:
        """End it and paho's thread; with a last message, if the connection still stands."""
        with self._closing:  # two senders may find out at once that it is of no use
            self._close(farewell)

    def _close(self, farewell: Message | None) -> None:
        if farewell is not None and self._up and not self.down:
            with contextlib.suppress(LinkDownError):
                self.answer(self.publish(farewell), self._clock.monotonic() + _FAREWELL_S)
            self._client.disconnect()
            with self._changed:
                self._changed.wait_for(lambda: self._down is not None, _FAREWELL_S)
        self._end("was closed")
        # With messages unconfirmed, paho's loop goes on for ever unless the connection ends.
        sock: Any = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):
                sock.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()
        self._client.reinitialise()  # closes its own pair of sockets now, not when it is collected

    # Called by paho's thread

    def _connected(
        self, _client: "Client", _data: object, _flags: object, reason: "ReasonCode", properties: "Properties | None"
    ) -> None:
        if reason.is_failure:
            self._end(f"{_REFUSED}: {shorten(str(reason))}")
            return
        self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        self.receive_maximum = getattr(properties, "ReceiveMaximum", None)
        self.greatest_qos = getattr(properties, "MaximumQoS", 2)
        self._taken = True
        self._on_up(self)
        with self._changed:
            self._up = self._down is None
            self._changed.notify_all()

    def _not_connected(self, client: "Client", _data: object) -> None:
        error = sys.exception()
        self._end(connection_fault(error) if error is not None else "cannot be reached")
        client.loop_stop()  # it would try again by itself

    def _disconnected(
        self, _client: "Client", _data: object, _flags: object, reason: "ReasonCode", _properties: "Properties | None"
    ) -> None:
        self._hung_up = self._up and len(self._owed) == 1
        self._end(f"ended the connection: {shorten(str(reason))}")

    def _published(
        self, _client: "Client", _data: object, number: int, reason: "ReasonCode", _properties: "Properties"
    ) -> None:
        with self._changed:
            if number in self._unasked:
                self._unasked.discard(number)
            else:
                self._owed.discard(number)
                self._answers[number] = reason
                self._changed.notify_all()

    def _received(self, _client: "Client", _data: object, message: Any) -> None:
        self._message_came(self, message.topic, bytes(message.payload))

    def _end(self, why: str) -> None:
        with self._changed:
            if self._down is None:
                self._down = why
            self._up = False
            self._changed.notify_all()


@contextlib.contextmanager
def _as_link_error() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise LinkDownError(f"cannot be told: {shorten(str(error))}") from error
