"""What only a look at the machine can tell about valid settings: missing models, unwritable folders, a taken port."""

import errno
import socket
from collections.abc import Iterator

from pipeline.config.problems import ConfigProblems, Problem
from pipeline.config.settings import Settings
from pipeline.contracts.errors import ConfigError


def check(settings: Settings, *, to_run: bool = False) -> None:
    """Ask every component, and try the port. Opens nothing for long and changes nothing.

    Args:
        settings: what to check.
        to_run: do not complain of a source while there is another that is well: it will fail for itself alone.

    Raises:
        ConfigProblems: with everything that is wrong, in the order of the file.
    """
    sources = list(_source_problems(settings))
    if to_run and len(sources) < len(settings.sources):
        sources = []
    problems = [*sources, *_other_problems(settings)]
    if problems:
        raise ConfigProblems(problems)


def _source_problems(settings: Settings) -> Iterator[Problem]:
    for name, source in settings.sources.items():
        try:
            source.check()
        except ConfigError as error:
            yield settings.blame("source", name, error)


def _other_problems(settings: Settings) -> Iterator[Problem]:
    for name, backend in settings.backends.items():
        try:
            backend.check()
        except ConfigError as error:
            yield settings.blame("backend", name, error)
    for name, sink in settings.sinks.items():
        try:
            sink.check()
        except ConfigError as error:
            yield settings.blame("sink", name, error)
    try:
        _check_port(settings.server.address)
    except ConfigError as error:
        yield settings.blame("core", "", error)


def _check_port(address: tuple[str, int] | None) -> None:
    """Bind and let go again; who takes the port in between is found when the server starts.

    Raises:
        ConfigError: with `key="server.listen"`.
    """
    if address is None or address[1] == 0:
        return
    host, port = address
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = "another program listens there" if in_use else (error.strerror or "unknown reason")
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}", key="server.listen") from error
