"""`HttpBackendConfig`: the keys that every backend elsewhere has, and what TLS is made of them."""

import ssl
from abc import ABC
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.component import FrozenModel
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.secret import SecretUrl

_MIB = 1 << 20
_MAX_DEPTH = 8
_TOKEN_CHARS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# What frames a request: two of them would contradict each other.
_OURS = frozenset({"content-length", "content-type", "content-encoding", "transfer-encoding", "host", "connection"})


def _is_http(url: SecretUrl) -> SecretUrl:
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError('must begin with "http://" or "https://" and name a host')
    if "#" in url.reveal():
        raise ValueError("must not hold a fragment (#...): nothing of it would be sent")
    return url


def _headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not name or not _TOKEN_CHARS.issuperset(name):
            raise ValueError("a header's name holds letters, digits and dashes only")
        if name.lower() in _OURS:
            raise ValueError(f"{name} is set by the program itself")
        if any(character in value.get_secret_value() for character in "\r\n\0"):
            raise ValueError(f"the value of {name} holds a line break")
    return headers


def sendable(value: dict[str, Any]) -> dict[str, Any]:
    """A table of parameters as it is, if a server can be told of it in JSON.

    Raises:
        ValueError: it cannot; for a validator.
    """
    if not _is_plain(value, 0):
        raise ValueError("holds what cannot be sent: numbers, texts, true, false, and lists and tables of them can")
    return value


def _is_plain(value: object, depth: int) -> bool:
    if isinstance(value, dict):
        return depth < _MAX_DEPTH and all(_is_plain(inner, depth + 1) for inner in value.values())
    if isinstance(value, list):
        return depth < _MAX_DEPTH and all(_is_plain(inner, depth + 1) for inner in value)
    if isinstance(value, float):
        return value - value == 0.0  # finite
    return isinstance(value, str | int)


HttpUrl = Annotated[SecretUrl, AfterValidator(_is_http)]
"""An http:// or https:// URL that may hold credentials, in front of the host or in its query."""


class RetryConfig(FrozenModel):
    """What is done about an answer that may be better next time: 408, 429, 502, 503, 504, a lost connection."""

    max_attempts: int = Field(default=3, ge=1, le=20, description="attempts at one request, the first one included")
    min_s: float = Field(default=0.1, gt=0, le=60, description="the first wait is at most twice this, at random")
    max_s: float = Field(default=2.0, gt=0, le=600, description="no wait is longer, unless the server asks for it")


class CircuitConfig(FrozenModel):
    """When a server is no longer asked, and for how long."""

    failures: int = Field(default=5, ge=1, le=1000, description="so many failures in a row open the circuit")
    window_s: float = Field(
        default=30.0, gt=0, le=3600, description="so does half of all answers within this time, if they are many"
    )
    open_s: float = Field(default=5.0, gt=0, le=3600, description="then nothing is asked for this long; doubles")
    max_open_s: float = Field(default=60.0, gt=0, le=3600, description="up to this")


class HttpBackendConfig(BackendConfig, ABC):
    """What `type = "roboflow" | "huggingface" | "supervisely" | "kserve"` have in common."""

    url: HttpUrl = Field(description="of the server: http:// or https://")
    serve: bool = Field(default=False, description="offer the model to clients of the HTTP server")
    headers: Annotated[dict[str, SecretStr], AfterValidator(_headers)] = Field(
        default={}, description="sent with every request; the values are secrets"
    )
    timeout_s: float = Field(default=10.0, gt=0, le=3600, description="for one answer, all attempts together")
    connect_timeout_s: float = Field(default=3.0, gt=0, le=600, description="for one connection")
    max_concurrent_requests: int = Field(default=4, ge=1, le=256, description="requests under way at once")
    max_batch_size: int = Field(default=1, ge=1, le=256, description="pictures in one request, where it takes several")
    max_size: int | None = Field(default=None, ge=16, le=16_384, description="the longest side sent, in pixels")
    format: Literal["jpeg", "png"] = Field(default="jpeg", description="of the pictures that are sent")
    jpeg_quality: int = Field(default=85, ge=1, le=100, description="1 to 100")
    max_response_bytes: int = Field(default=16 * _MIB, ge=1024, le=1024 * _MIB, description="the longest answer taken")
    retries: RetryConfig = Field(default=RetryConfig(), description="max_attempts, min_s, max_s")
    adaptive: bool = Field(
        default=True, description="ask for less at once while the server is slow or says that it is too much"
    )
    circuit: CircuitConfig = Field(default=CircuitConfig(), description="failures, window_s, open_s, max_open_s")
    max_requests_per_day: int | None = Field(default=None, ge=1, description="per day (UTC), counted across restarts")
    max_bytes_per_day: int | None = Field(default=None, ge=1, description="of request bodies per day (UTC)")
    ca_file: ConfigPath | None = Field(default=None, description="the certificates to trust (PEM); the system's if out")
    verify_tls: bool = Field(default=True, description="false: take any certificate")
    client_cert: ConfigPath | None = Field(default=None, description="our own certificate (chain) in PEM")
    client_key: ConfigPath | None = Field(default=None, description="its private key in PEM, without a passphrase")

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key needs client_cert")
        if self.retries.min_s > self.retries.max_s:
            raise ValueError("retries: min_s is more than max_s")
        if self.circuit.open_s > self.circuit.max_open_s:
            raise ValueError("circuit: open_s is more than max_open_s")
        return self

    @property
    def where(self) -> str:
        """Host and port for logs and errors; nothing secret can be in them."""
        host = f"[{self.url.host}]" if ":" in self.url.host else self.url.host
        return host if self.url.port is None else f"{host}:{self.url.port}"

    def check(self) -> None:
        """Find certificates that cannot be read. A subclass calls this first.

        Raises:
            ConfigError: with the key to blame.
        """
        self.tls()

    def tls(self) -> ssl.SSLContext | None:
        """How the server proves who it is; None for http://.

        Raises:
            ConfigError: keys `ca_file`, `client_cert`.
        """
        if self.url.scheme != "https":
            return None
        try:
            context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        except FileNotFoundError as error:
            raise ConfigError(f"{self.ca_file}: there is no such file", key="ca_file") from error
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self.ca_file}: holds no certificates that can be read (PEM)", key="ca_file") from error
        if not self.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert is not None:
            key = None if self.client_key is None else str(self.client_key)
            try:
                # A passphrase would be asked for on the terminal: an empty one makes that an error.
                context.load_cert_chain(str(self.client_cert), key, password="")
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(
                    f"{self.client_cert}: no certificate and private key that fit together and can be read (PEM, "
                    "without a passphrase)",
                    key="client_cert",
                ) from error
        return context
