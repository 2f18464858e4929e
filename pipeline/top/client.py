"""A running daemon, asked over HTTP: its /metrics and /api/v1/status at one moment."""

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from pipeline.config.settings import LISTEN_OFF, ServerConfig, parse_listen
from pipeline.config.toml_file import parse, read_text
from pipeline.contracts.errors import ConfigError

ANSWER_TIMEOUT_S = 5.0
TOKEN_VARIABLE = "PENSTOCK_API_TOKEN"  # noqa: S105  (its name)
MAX_ANSWER_BYTES = 64 * 1_048_576


class UnreachableError(Exception):
    """The daemon does not answer; it may later."""


class RefusedError(Exception):
    """The daemon answers, and not with what was asked for: somebody must act."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """Where a daemon is, and what it must be shown."""

    url: str
    token: str | None = None
    tls: ssl.SSLContext | None = None

    def get(self, path: str) -> str:
        """The text of an answer.

        Raises:
            UnreachableError: there is none.
            RefusedError: it is an error.
        """
        request = urllib.request.Request(self.url + path)  # noqa: S310  (`url_of` takes http and https only)
        if self.token is not None:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with _opener(self.tls).open(request, timeout=ANSWER_TIMEOUT_S) as answer:
                content: bytes = answer.read(MAX_ANSWER_BYTES)
                return content.decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(f"{self.url}{path}: {error.code} {_reason(error)}") from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            if isinstance(reason, ssl.SSLCertVerificationError):
                said = f"{reason.verify_message}: name the certificate that it is signed with: --ca-file"
            raise UnreachableError(f"{self.url}: {clean(said)}") from error


def _opener(tls: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """Follows no redirect, which would take the token elsewhere, and uses no proxy."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=tls),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def clean(text: str) -> str:
    """What a daemon says, without what would steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return clean(str(json.loads(error.read(4096))["error"]))
    except (OSError, ValueError, LookupError, TypeError):
        return clean(str(error.reason))


def daemon_at(where: str, token_file: Path | None = None, ca_file: Path | None = None) -> Daemon:
    """The daemon at `where`; its token stands in a file, or in `PENSTOCK_API_TOKEN`.

    Raises:
        ConfigError: it is not said where that is, or one of the files cannot be read.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip() or None
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"{token_file} cannot be read: {reason}") from error
    try:
        tls = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"{ca_file} cannot be used: it is no certificate in PEM") from error
    return Daemon(url_of(where), token, tls)


def url_of(where: str) -> str:
    """The URL of the daemon at `where`: a URL, or a pipeline.toml that says where it listens.

    Raises:
        ConfigError: it is neither, or the file does not tell.
    """
    if "://" in where:
        parts = urlsplit(where)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{where} is no URL of a daemon; it looks like http://127.0.0.1:9464")
        if parts.username is not None:
            raise ConfigError("a token is not part of the URL; use --token-file or PENSTOCK_API_TOKEN")
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    server = parse(read_text(Path(where)), where).get("server", {})
    listen = server.get("listen", ServerConfig.model_fields["listen"].default) if isinstance(server, dict) else ""
    if listen == LISTEN_OFF:
        raise ConfigError(f'{where}: server.listen = "{LISTEN_OFF}": this daemon cannot be asked')
    try:
        host, port = parse_listen(str(listen))
    except ValueError as error:
        raise ConfigError(f"{where}: server.listen does not tell where; name the URL instead") from error
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"{'https' if server.get('tls_cert') else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A daemon at one moment: `at` is monotonic."""

    at: float
    samples: Mapping[str, Sequence[tuple[Labels, float]]]
    status: Mapping[str, Any]

    def sum(self, name: str, **labels: str) -> float:
        """All samples of a name with these labels, whatever their others are."""
        wanted = labels.items()
        return sum(value for found, value in self.samples.get(name, ()) if found >= wanted)


def look(daemon: Daemon) -> Snapshot:
    """Ask the daemon.

    Raises:
        UnreachableError: it does not answer.
        RefusedError: it answers otherwise.
    """
    text, status_text = daemon.get("/metrics"), daemon.get("/api/v1/status")
    samples: dict[str, list[tuple[Labels, float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append((frozenset(sample.labels.items()), sample.value))
        status = json.loads(status_text)
        is_whole = all(isinstance(status[kind], list) for kind in ("sources", "backends", "sinks"))
    except (ValueError, LookupError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise RefusedError(f"{daemon.url} is no Penstock, or another version of it")
    return Snapshot(time.monotonic(), samples, status)
