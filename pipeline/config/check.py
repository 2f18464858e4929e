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

ANSWER_S = 1.0


def check(settings: Settings, *, to_run: bool = False, running: Settings | None = None) -> None:
    """Ask every component, and try the port. Opens nothing for long and changes nothing.

    Args:
        settings: what to check.
        to_run: do not complain of a source while there is another that is well: it will fail for itself alone. Without
            it, a port where a Penstock listens is no fault: it may be the one that this is meant for.
        running: what is in force in this process, whose components and port are not looked at again.

    Raises:
        ConfigProblems: with everything that is wrong, in the order of the file.
    """
    sources = list(_source_problems(settings, running))
    if to_run and len(sources) < len(settings.sources):
        sources = []
    problems = [*sources, *_other_problems(settings, running, to_run=to_run)]
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
                stands_in = "models" if table == "backends" and name in parts.models else table
                report(_key(stands_in, name, error), str(error))
    if parts.core is None:
        return
    for look_at in (_check_port, _check_tls):
        try:
            look_at(parts.core.server, to_run)
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


def _other_problems(settings: Settings, running: Settings | None, *, to_run: bool) -> Iterator[Problem]:
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
            look(settings.server, to_run)
        except ConfigError as error:
            yield settings.blame("core", "", error)


def _check_port(server: ServerConfig, to_run: bool) -> None:
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
        if in_use and not to_run and _is_penstock(host, port, tls=server.tls_cert is not None):
            return
        reason = "another program listens there" if in_use else (error.strerror or "unknown reason")
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}", key="server.listen") from error


def _is_penstock(host: str, port: int, *, tls: bool) -> bool:
    """Whether what listens there says that it is one."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (any address: this machine is one)
    try:
        with socket.create_connection((here, port), timeout=ANSWER_S) as plain:
            plain.settimeout(ANSWER_S)
            return b"\r\nserver: penstock\r\n" in _answer(plain, tls=tls).lower()
    except OSError:  # `ssl.SSLError` is one, too
        return False


def _answer(plain: socket.socket, *, tls: bool) -> bytes:
    """The first bytes of the answer to a question that needs no token."""
    asked = plain
    if tls:
        import ssl  # takes its time

        # It is not told anything, so that anybody may answer.
        asked = ssl._create_unverified_context().wrap_socket(plain)  # noqa: S323
    with asked:
        asked.sendall(b"HEAD /livez HTTP/1.0\r\n\r\n")
        return asked.recv(4096)


def _check_tls(server: ServerConfig, _: bool) -> None:
    if server.address is not None and server.tls_cert is not None:
        from pipeline.config.tls import tls_context  # `ssl` takes its time

        tls_context(server)
