"""What an MQTT broker is told: who we are, and the messages; and the client of paho's that tells it."""

import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.contracts.sender import Parcel
from pipeline.contracts.tls import tls_fault
from pipeline.wire.http import shorten

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.properties import Properties

Qos = Literal[0, 1, 2]
Version = Literal["5", "3.1.1"]

_CONNECT_S = 5.0  # who closes waits for it


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is and as whom we come.

    Attributes:
        where: host and port for messages.
        username, password: None: none is sent. Never shown.
        tls: None: no TLS.
        keepalive_s: how often each side hears of the other at least.
        timeout_s: for one connection.
        will_topic: what the broker tells there, retained, once we are gone without a farewell: "offline".
    """

    host: str
    port: int
    where: str
    version: Version
    client_id: str
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None
    keepalive_s: int
    timeout_s: float
    will_topic: str

    def __repr__(self) -> str:
        return f"Broker({self.where})"


@dataclass(frozen=True, slots=True)
class Message:
    """One message: for paho, and for who reads its log. `properties` is for MQTT 5."""

    topic: str
    body: bytes
    qos: Qos
    retain: bool
    properties: "Properties | None" = None


class _TidySocket(ssl.SSLSocket):
    """Closed where its handshake fails: the library only lets go of it."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def properties_of(parcel: Parcel, expire_after_s: int | None) -> "Properties":
    """What MQTT 5 says of a message besides topic and body."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.PayloadFormatIndicator = 1
    properties.ContentType = "application/json"
    properties.UserProperty = [("id", parcel.id), ("source", parcel.source)]
    if expire_after_s is not None:
        properties.MessageExpiryInterval = expire_after_s
    return properties


def connection_fault(error: BaseException) -> str:
    """Why there is no connection, in a few words."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {shorten(tls_fault(error))}"
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, socket.gaierror):
        return "is not known: no address for its name"
    return shorten(getattr(error, "strerror", None) or type(error).__name__).lower()


def client_of(broker: Broker, max_in_flight: int) -> "Client":
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    version = MQTTProtocolVersion.MQTTv5 if broker.version == "5" else MQTTProtocolVersion.MQTTv311
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=broker.client_id,
        protocol=version,
        clean_session=None if broker.version == "5" else True,
        reconnect_on_failure=False,
    )
    client.connect_timeout = min(broker.timeout_s, _CONNECT_S)
    client.max_inflight_messages = max_in_flight
    client.will_set(broker.will_topic, b"offline", 1, retain=True)
    if broker.username is not None or broker.password is not None:
        client.username_pw_set(broker.username or "", broker.password)
    if broker.tls is not None:
        broker.tls.sslsocket_class = _TidySocket
        client.tls_set_context(broker.tls)
    return client
