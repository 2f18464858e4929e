"""A subscriber with a session that the broker keeps: what arrives, in its order, whoever is away in between."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


class Heard(NamedTuple):
    """One message; `user` holds its user properties."""

    topic: str
    body: bytes
    retained: bool
    user: dict[str, str]
    expires_s: int | None


class Listener:
    """Subscribed to `topic` as soon as it is entered; comes back by itself when the broker does.

    With QoS 0 it never writes to a broker that was killed, at which it would lose what it has not read yet.
    """

    def __init__(self, port: int, topic: str = "#", *, name: str = "listener", qos: int = 0) -> None:
        self.heard: list[Heard] = []
        self._topic = topic
        self._qos = qos
        self._changed = threading.Condition()
        self._subscribed = 0
        self._client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._is_subscribed
        self._client.on_message = self._received
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 3600
        self._client.connect_async("127.0.0.1", port, clean_start=False, properties=session)

    def __enter__(self) -> Self:
        self._client.loop_start()
        self.wait(lambda: self._subscribed > 0, 10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def sessions(self) -> int:
        """How often it has subscribed: once more each time that the broker is back."""
        return self._subscribed

    def wait(self, condition: Callable[[], bool], limit_s: float = 10.0) -> None:
        """Wait until something that arrives makes it true.

        Raises:
            AssertionError: nothing did.
        """
        with self._changed:
            assert self._changed.wait_for(condition, limit_s), f"not within {limit_s:g} s; {len(self.heard)} messages"

    def wait_for(self, topic: str, count: int = 1, limit_s: float = 10.0) -> list[Heard]:
        """Wait for so many messages of a topic; these."""
        self.wait(lambda: len(self.of(topic)) >= count, limit_s)
        return self.of(topic)

    def of(self, topic: str) -> list[Heard]:
        """What came of a topic until now."""
        return [heard for heard in self.heard if heard.topic == topic]

    def _connected(self, client: Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if not reason.is_failure:
            client.subscribe(self._topic, self._qos)

    def _is_subscribed(self, *_: object) -> None:
        with self._changed:
            self._subscribed += 1
            self._changed.notify_all()

    def _received(self, _client: Client, _data: object, message: Any) -> None:
        properties = message.properties
        user = dict(getattr(properties, "UserProperty", []))
        expires = getattr(properties, "MessageExpiryInterval", None)
        with self._changed:
            self.heard.append(Heard(message.topic, bytes(message.payload), bool(message.retain), user, expires))
            self._changed.notify_all()
