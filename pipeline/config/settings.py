"""`Settings`: what one run is configured to do, frozen and complete; and the tables that belong to no component."""

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from pipeline.config.problems import ConfigProblems, Places, Problem
from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.component import FrozenModel
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.sink import SinkConfig
from pipeline.contracts.source import SourceConfig

LISTEN_OFF = "off"

Seconds = Annotated[float, Field(ge=0, le=365 * 86_400)]


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:9464`, `localhost:9464` or `[::1]:9464`; port 0 lets the system choose one.

    Raises:
        ValueError: it is not of that form, or the host is not this machine alone.
    """
    host, colon, port_text = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    well_formed = colon and host and (bracketed or ":" not in host) and port_text.isascii() and port_text.isdecimal()
    if not well_formed or len(port_text) > 5 or int(port_text) > 65_535:
        raise ValueError(f'must be "host:port", for example "127.0.0.1:9464", or "{LISTEN_OFF}"')
    if not _is_loopback(host):
        raise ValueError(
            f"{host} can be reached from other machines, which needs a token, and this version has none yet: "
            "listen on 127.0.0.1 and put a proxy that checks who asks in front of it"
        )
    return host, int(port_text)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _off_is_none(value: object) -> object:
    return None if value == LISTEN_OFF else value


def _endless_is_none(value: object) -> object:
    """TOML has no null, but it has `inf`; an environment variable has only text."""
    return None if (isinstance(value, float) and value == math.inf) or value == "inf" else value


class ServerConfig(FrozenModel):
    """The `[server]` table: metrics, health and status over HTTP."""

    listen: Annotated[str | None, BeforeValidator(_off_is_none)] = Field(
        default="127.0.0.1:9464", description='host:port on this machine, or "off"'
    )
    linger_s: Annotated[Seconds | None, BeforeValidator(_endless_is_none)] = Field(
        default=0.0, description="stay up this many seconds after all files ended; inf: until stopped"
    )

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None:
            parse_listen(value)
        return value

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on; None: no server."""
        return None if self.listen is None else parse_listen(self.listen)


class LogConfig(FrozenModel):
    """The `[log]` table."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="the least that is logged")
    format: Literal["text", "json"] = Field(default="text", description="for people, or one JSON object a line")


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


@dataclass(frozen=True, slots=True)
class Settings:
    """One configuration, whole and valid. Made by the loader, read by everybody, compared by value at a reload.

    Attributes:
        sources: by name, in the order of the file; `backend` is always filled in. At least one.
        backends: by name. At least one.
        sinks: by name. At least one.
        server: where metrics, health and status are served.
        log: level and format of the log.
        data_dir: absolute; nothing creates it until a component asks for it.
        shutdown_timeout_s: seconds from the order to stop until what still runs is named and left behind.
        config_hash: 12 hex digits that are the same wherever the same configuration runs; secrets have no part in it.
        path: the file it comes from; None: from the command line.
        places: knows where every key stands, for errors that turn up later.
    """

    sources: Mapping[str, SourceConfig]
    backends: Mapping[str, BackendConfig]
    sinks: Mapping[str, SinkConfig]
    server: ServerConfig
    log: LogConfig
    data_dir: Path
    shutdown_timeout_s: float
    config_hash: str
    path: Path | None
    places: Places = field(compare=False, repr=False)

    def backend_of(self, source: str) -> str:
        """Name of the backend that answers for `source`."""
        name = self.sources[source].backend
        return next(iter(self.backends)) if name is None else name

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
        key = () if kind == "core" else (f"{kind}s", name)
        inner = tuple(error.key.split(".")) if error.key else ()
        return self.places.problem((*key, *inner), str(error))


__all__ = ["ConfigProblems", "CoreConfig", "LogConfig", "Problem", "ServerConfig", "Settings", "parse_listen"]
