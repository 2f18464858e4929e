"""What only a look at the machine can tell about valid settings: missing models, unwritable folders, a taken port."""

import errno
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.config.assemble import Parts, Report
from pipeline.config.locate import Key
from pipeline.config.problems import ConfigProblems, Problem
from pipeline.config.settings import ServerConfig, Settings
from pipeline.contracts.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.contracts.component import ComponentConfig


def check(settings: Settings, *, to_run: bool = False, running: Settings | None = None) -> None:
    """Ask every component, and try the port. Opens nothing for long and changes nothing.

    Args:
        settings: what to check.
        to_run: do not complain of a source while there is another that is well: it will fail for itself alone.
        running: what is in force in this process, whose components and port are not looked at again.

    Raises:
        ConfigProblems: with everything that is wrong, in the order of the file.
    """
    sources = list(_source_problems(settings, running))
    if to_run and len(sources) < len(settings.sources):
        sources = []
    problems = [*sources, *_other_problems(settings, running)]
    if problems:
        raise ConfigProblems(problems)


def look(parts: Parts, report: Report, *, to_run: bool = False) -> None:
    """The same for what could be made of a config that is wrong elsewhere, so that all of it is told at once.

    Args:
        parts: what is valid.
        report: called with the key and the message of each fault.
        to_run: as in `check`.
    """
    found: dict[str, ConfigError] = {}
    for name, source in parts.sources.items():
        try:
            source.check()
        except ConfigError as error:
            found[name] = error
    if not to_run or len(found) == len(parts.sources):
        for name, fault in found.items():
            report(_key("sources", name, fault), str(fault))
    others: tuple[tuple[str, Mapping[str, ComponentConfig]], ...] = (
        ("backends", parts.backends),
        ("sinks", parts.sinks),
    )
    for table, components in others:
        for name, component in components.items():
            try:
                component.check()
            except ConfigError as error:
                report(_key(table, name, error), str(error))
    if parts.core is None:
        return
    for look_at in (_check_port, _check_tls):
        try:
            look_at(parts.core.server)
        except ConfigError as error:
            report(tuple((error.key or "").split(".")), str(error))


def _key(table: str, name: str, error: ConfigError) -> Key:
    return (table, name, *(error.key.split(".") if error.key else ()))


def _source_problems(settings: Settings, running: Settings | None) -> Iterator[Problem]:
    for name, source in settings.sources.items():
        if running is not None and running.sources.get(name) == source:
            continue
        try:
            source.check()
        except ConfigError as error:
            yield settings.blame("source", name, error)


def _other_problems(settings: Settings, running: Settings | None) -> Iterator[Problem]:
    for name, backend in settings.backends.items():
        if running is not None and running.backends.get(name) == backend:
            continue
        try:
            backend.check()
        except ConfigError as error:
            yield settings.blame("backend", name, error)
    for name, sink in settings.sinks.items():
        if running is not None and running.sinks.get(name) == sink:
            continue
        try:
            sink.check()
        except ConfigError as error:
            yield settings.blame("sink", name, error)
    if running is not None and running.server == settings.server:
        return
    for look in (_check_port, _check_tls):
        try:
            look(settings.server)
        except ConfigError as error:
            yield settings.blame("core", "", error)


def _check_port(server: ServerConfig) -> None:
    """Bind and let go again; who takes the port in between is found when the server starts.

    Raises:
        ConfigError: with `key="server.listen"`.
    """
    address = server.address
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


def _check_tls(server: ServerConfig) -> None:
    if server.address is not None and server.tls_cert is not None:
        from pipeline.config.tls import tls_context  # `ssl` takes its time

        tls_context(server)
