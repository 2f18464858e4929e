"""`MqttKeys`: the keys of the sink `mqtt`, and what is made of them."""

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from pipeline.contracts.http import host_and_port
from pipeline.contracts.secret import SecretUrl
from pipeline.contracts.sender import SenderConfig
from pipeline.contracts.sink import Notices
from pipeline.contracts.tls import TlsKeys
from sinks._mqtt_broker import Broker, Qos, Version
from sinks._mqtt_retained import RetainedTopics
from sinks._topics import FIXED_PLACEHOLDERS, Names, NameTemplate, checked_template

_PORTS = {"mqtt": 1883, "mqtts": 8883}


def _is_mqtt(url: SecretUrl) -> SecretUrl:
    if url.scheme not in _PORTS or not url.host:
        raise ValueError('must begin with "mqtt://" or "mqtts://" and name a host')
    return url


def _topic(*known: str) -> AfterValidator:
    allowed = FIXED_PLACEHOLDERS | set(known)

    def check(text: str) -> str:
        checked_template(text, allowed)
        if "source" in known and "{source}" not in text:
            raise ValueError("must hold {source}: each source has a state of its own")
        if any(character in text for character in "+#") or text.startswith(("$", "/")):
            raise ValueError("a topic to publish to holds no + or #, and does not begin with $ or /")
        return text

    return AfterValidator(check)


def _item_topic(text: NameTemplate) -> str:
    if any(character in text for character in "+#") or text.startswith(("$", "/")):
        raise ValueError("a topic to publish to holds no + or #, and does not begin with $ or /")
    return text


class MqttKeys(TlsKeys, SenderConfig):
    """The keys of `mqtt`; what builds the sink is `MqttSinkConfig`."""

    takes_events: ClassVar[bool] = True

    url: Annotated[SecretUrl, AfterValidator(_is_mqtt)] = Field(
        description="of the broker: mqtt://[user:password@]host[:1883], or mqtts:// for TLS (8883)"
    )
    username: str | None = Field(default=None, description="if it does not stand in the url")
    password: SecretStr | None = Field(default=None, description="if it does not stand in the url")
    client_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="who we are; penstock-HOST-SINK if left out"
    )
    version: Version = Field(default="5", description='of the protocol: "5" or "3.1.1"')
    topic: Annotated[NameTemplate, AfterValidator(_item_topic)] = Field(
        default="penstock/{source}/{kind}",
        description="placeholders: {source}, {kind} (results, events, notices), {class}, {event}, {phase}, {zone}, "
        "{line} (of events), {sink}, {host}",
    )
    qos: Qos = Field(default=1, description="0: told once; 1: confirmed; 2: confirmed twice, by brokers that must")
    retain: bool = Field(default=False, description="the broker keeps the last message of each topic")
    expire_after_s: int | None = Field(
        default=None, ge=1, le=2**32 - 1, description="MQTT 5: the broker forgets a message that nobody fetched"
    )
    status_topic: Annotated[str, _topic()] = Field(
        default="penstock/status", description="retained: online, and offline once we are gone (last will)"
    )
    state_topic: Annotated[str, _topic("source")] = Field(
        default="penstock/{source}/state",
        description='retained, with notices = ["sources"]: running, reconnecting, failed, frozen, black, ...',
    )
    counts_topic: Annotated[str, _topic("source")] = Field(
        default="penstock/{source}/counts",
        description="retained, with home_assistant: how many of each class are there, and in which zone",
    )
    home_assistant: bool = Field(default=False, description="tell Home Assistant what there is (MQTT discovery)")
    discovery_prefix: Annotated[str, _topic()] = Field(
        default="homeassistant", description="where Home Assistant listens for that"
    )
    notices: tuple[Notices, ...] = Field(
        default=("sources",),
        description='tell it also what becomes of its "sources" (down, frozen), or of the "daemon"',
    )
    keepalive_s: int = Field(default=30, ge=5, le=65_535, description="a silent connection is looked after so often")
    timeout_s: float = Field(default=10.0, gt=0, le=600, description="for a connection, and for a confirmation")
    max_in_flight: int = Field(default=20, ge=1, le=1000, description="messages sent and not confirmed yet")
    concurrency: int = Field(default=4, ge=1, le=64, description="sources that are sent at once")

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.expire_after_s is not None and self.version != "5":
            raise ValueError('expire_after_s needs version = "5"')
        if self.url.username is not None and (self.username is not None or self.password is not None):
            raise ValueError("user and password stand in the url and in keys of their own: keep one of them")
        if self.password is not None and self.username is None:
            raise ValueError("password needs username")
        if self.url.scheme == "mqtt" and (self.ca_file or self.client_cert or not self.verify_tls):
            raise ValueError("ca_file, client_cert and verify_tls belong to TLS: the url must begin with mqtts://")
        return self

    def check(self) -> None:
        """Find a certificate that cannot be read.

        Raises:
            ConfigError: keys `ca_file`, `client_cert`.
        """
        if self.url.scheme == "mqtts":
            self.tls_context()

    def broker(self, names: Names) -> Broker:
        """Where the broker is, and as whom to come.

        Raises:
            ConfigError: keys `ca_file`, `client_cert`.
        """
        password = self.url.password or self.password
        return Broker(
            host=self.url.host,
            port=self.url.port or _PORTS[self.url.scheme],
            where=host_and_port(self.url),
            version=self.version,
            client_id=self.identity(names),
            username=self.url.username or self.username,
            password=None if password is None else password.get_secret_value(),
            tls=self.tls_context() if self.url.scheme == "mqtts" else None,
            keepalive_s=self.keepalive_s,
            timeout_s=self.timeout_s,
            will_topic=names.fixed(self.status_topic),
        )

    def identity(self, names: Names) -> str:
        """As whom the broker knows us."""
        return self.client_id or names.fixed("penstock-{host}-{sink}")

    @property
    def counts_are_whole(self) -> bool:
        """Whether the sink sees every object of its sources: else it cannot tell how many are there."""
        return self.emit != "events" and self.where is None

    def retained_topics(self, names: Names) -> RetainedTopics:
        """Where what the broker keeps is told."""
        return RetainedTopics(
            status=names.fixed(self.status_topic),
            state=self.state_topic if "sources" in self.notices else None,
            counts=self.counts_topic if self.home_assistant and self.counts_are_whole else None,
            discovery=names.fixed(self.discovery_prefix) if self.home_assistant else None,
        )
