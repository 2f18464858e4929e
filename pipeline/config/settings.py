"""`Settings`: what one run is configured to do, frozen and complete; and the tables that belong to no component."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from pipeline.config.inference import InferenceConfig, off_is_none
from pipeline.config.overlay import Overlay
from pipeline.config.problems import ConfigProblems, Places, Problem
from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.component import FrozenModel, Name, endless_is_none
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.sink import SinkConfig
from pipeline.contracts.source import SourceConfig

LISTEN_OFF = "off"
MIN_TOKEN_CHARS = 16

TokenScope = Literal["metrics", "read", "control", "infer"]
_SENDABLE = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # token68 of RFC 9110, 11.2

Seconds = Annotated[float, Field(ge=0, le=365 * 86_400)]


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:9464`, `localhost:9464` or `[::1]:9464`; port 0 lets the system choose one.

    Raises:
        ValueError: it is not of that form.
    """
    host, colon, port_text = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    well_formed = colon and host and (bracketed or ":" not in host) and port_text.isascii() and port_text.isdecimal()
    if not well_formed or len(port_text) > 5 or int(port_text) > 65_535:
        raise ValueError(f'must be "host:port", for example "127.0.0.1:9464", or "{LISTEN_OFF}"')
    return host, int(port_text)


def is_loopback(host: str) -> bool:
    """Whether only this machine itself can reach what listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class TokenConfig(FrozenModel):
    """A `[server.tokens.NAME]` table: one secret that lets its holder ask for something."""

    token: SecretStr = Field(description=f"the secret, at least {MIN_TOKEN_CHARS} characters; best from ${{VARIABLE}}")
    scopes: Annotated[tuple[TokenScope, ...], Field(min_length=1)] = Field(
        description='what it is good for: "metrics", "read" (status), "control" (orders), "infer" (use the models); '
        "none includes another"
    )
    expires: AwareDatetime | None = Field(default=None, description="no longer good from then on")

    @field_validator("token")
    @classmethod
    def _can_be_sent(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if len(text) < MIN_TOKEN_CHARS:
            raise ValueError(f"must be at least {MIN_TOKEN_CHARS} characters long; `openssl rand -hex 24` makes one")
        if not _SENDABLE.fullmatch(text):
            raise ValueError("can hold letters, digits and -._~+/= only, to fit into an HTTP header")
        return value


class ServerConfig(FrozenModel):
    """The `[server]` table: metrics, health, status and orders over HTTP."""

    tokens: dict[Name, TokenConfig] = Field(
        default={}, description="who may ask; without any, everybody on this machine"
    )
    # Behind the tokens: its validator looks at them.
    listen: Annotated[str | None, BeforeValidator(off_is_none)] = Field(
        default="127.0.0.1:9464", description='host:port, or "off"; other machines can ask only with a token'
    )
    hosts: tuple[str, ...] = Field(
        default=(), description="names by which clients may call this machine, besides its addresses and localhost"
    )
    tls_cert: ConfigPath | None = Field(default=None, description="certificate (chain) in PEM; with it, HTTPS only")
    tls_key: ConfigPath | None = Field(default=None, description="its private key in PEM, without a passphrase")
    sources_by_api: bool = Field(
        default=False, description="sources may be added, changed and removed over HTTP (scope control)"
    )
    inference: InferenceConfig = InferenceConfig()
    linger_s: Annotated[Seconds | None, BeforeValidator(endless_is_none)] = Field(
        default=0.0, description="stay up this many seconds after all files ended; inf: until stopped"
    )

    @field_validator("tokens")
    @classmethod
    def _all_different(cls, value: dict[str, TokenConfig]) -> dict[str, TokenConfig]:
        owners: dict[str, str] = {}
        for name, token in value.items():
            first = owners.setdefault(token.token.get_secret_value(), name)
            if first != name:
                raise ValueError(f"{first} and {name} are the same token; give each its own")
        return value

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        host, _ = parse_listen(value)
        if not is_loopback(host) and info.data.get("tokens") == {}:
            raise ValueError(
                f"{host} can be reached from other machines, which needs a token: add a table [server.tokens.NAME] "
                'with token and scopes, or listen on "127.0.0.1:9464"'
            )
        return value

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_cert" in info.data and (value is None) != (info.data["tls_cert"] is None):
            raise ValueError("tls_cert and tls_key go together: both or none")
        return value

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on; None: no server."""
        return None if self.listen is None else parse_listen(self.listen)

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach it."""
        address = self.address
        return address is not None and not is_loopback(address[0])


class LogConfig(FrozenModel):
    """The `[log]` table."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="the least that is logged")
    format: Literal["auto", "text", "logfmt", "json", "journal"] = Field(
        default="auto",
        description="text: for people; logfmt and json: for programs, one event a line; journal: systemd's, with "
        "fields; auto: journal where systemd reads stderr, else text",
    )


class CoreConfig(FrozenModel):
    """What stands in pipeline.toml outside of `sources`, `backends`, `sinks` and `defaults`."""

    server: ServerConfig = ServerConfig()
    log: LogConfig = LogConfig()
    data_dir: ConfigPath | None = Field(
        default=None,
        description="folder for state that survives a restart; $STATE_DIRECTORY or `data` beside the file if left out",
    )
    shutdown_timeout_s: Seconds = Field(
        default=10.0, description="how long a stop may take before what is late is named and left"
    )
    reload_timeout_s: Seconds = Field(
        default=30.0, description="how long a reload waits for what is new to open before everything stays as it was"
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """One configuration, whole and valid. Made by the loader, read by everybody, compared by value at a reload.

    Attributes:
        sources: by name, in the order of the file; `backend` is always filled in. Without any, models are served.
        backends: by name, those of `[models]` behind them. At least one.
        sinks: by name. At least one where there are sources.
        server: where metrics, health and status are served.
        log: level and format of the log.
        data_dir: absolute; nothing creates it until a component asks for it.
        shutdown_timeout_s: seconds from the order to stop until what still runs is named and left behind.
        reload_timeout_s: seconds that a reload waits for what is new to open.
        config_hash: 12 hex digits that are the same wherever the same configuration runs; secrets have no part in it.
        path: the file it comes from; None: from the command line.
        places: knows where every key stands, for errors that turn up later.
        overlay: the sources that were put or removed over HTTP, which `sources` already reckons with.
        models: names of the backends that stand in `[models]`: they are there for clients, no source uses them.
        serves_only: `penstock serve`: sources and sinks of the file are left alone.
        listen: what `penstock serve --listen` said, which goes before the file's; None: nothing.
        file_sources: names of the sources that stand in the file itself, whether the overlay hides them or not.
    """

    sources: Mapping[str, SourceConfig]
    backends: Mapping[str, BackendConfig]
    sinks: Mapping[str, SinkConfig]
    server: ServerConfig
    log: LogConfig
    data_dir: Path
    shutdown_timeout_s: float
    reload_timeout_s: float
    config_hash: str
    path: Path | None
    places: Places = field(compare=False, repr=False)
    overlay: Overlay | None = field(default=None, compare=False, repr=False)
    file_sources: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    models: frozenset[str] = frozenset()
    serves_only: bool = False
    listen: str | None = None

    def backend_of(self, source: str) -> str:
        """Name of the backend that answers for `source`."""
        name = self.sources[source].backend
        return next(iter(self.backends)) if name is None else name

    @property
    def needed_backends(self) -> frozenset[str]:
        """Names of the backends that sources use, or that others fall back on."""
        fallbacks = (backend.fallback for backend in self.backends.values() if backend.fallback is not None)
        return frozenset((*map(self.backend_of, self.sources), *fallbacks))

    def sources_of(self, sink: str) -> tuple[str, ...]:
        """Names of the sources whose results go to `sink`."""
        chosen = self.sinks[sink].sources
        return tuple(self.sources) if chosen is None else chosen

    def blame(self, kind: Literal["source", "backend", "sink", "core"], name: str, error: ConfigError) -> Problem:
        """The problem, with its place in the file, that `error` is when component `name` (of any use) raises it.

        Args:
            kind: which table the component stands in; `core` for the rest, where `error.key` is the full key.
            name: the component's name; not looked at for `core`.
            error: what it raised, in `check` or in `open`.
        """
        table = "models" if kind == "backend" and name in self.models else f"{kind}s"
        key = () if kind == "core" else (table, name)
        inner = tuple(error.key.split(".")) if error.key else ()
        return self.places.problem((*key, *inner), str(error))


__all__ = [
    "ConfigProblems",
    "CoreConfig",
    "InferenceConfig",
    "LogConfig",
    "Problem",
    "ServerConfig",
    "Settings",
    "TokenConfig",
    "is_loopback",
    "parse_listen",
]
