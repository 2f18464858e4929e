"""`HttpBackendConfig`: the keys that every backend elsewhere has."""

import ssl
from abc import ABC
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.component import FrozenModel
from pipeline.contracts.http import Headers, HttpUrl, host_and_port
from pipeline.contracts.tls import TlsKeys

_MIB = 1 << 20
_MAX_DEPTH = 8


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


class HttpBackendConfig(TlsKeys, BackendConfig, ABC):
    """What `type = "roboflow" | "huggingface" | "supervisely" | "kserve"` have in common."""

    url: HttpUrl = Field(description="of the server: http:// or https://")
    serve: bool = Field(default=False, description="offer the model to clients of the HTTP server")
    headers: Headers = Field(default={}, description="sent with every request; the values are secrets")
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

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.retries.min_s > self.retries.max_s:
            raise ValueError("retries: min_s is more than max_s")
        if self.circuit.open_s > self.circuit.max_open_s:
            raise ValueError("circuit: open_s is more than max_open_s")
        return self

    @property
    def where(self) -> str:
        """Host and port for logs and errors; nothing secret can be in them."""
        return host_and_port(self.url)

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
        return self.tls_context() if self.url.scheme == "https" else None
