"""One run of the program: the supervisor, the HTTP server, the signals and what the terminal shows, put together."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import disable_created_metrics

from pipeline.config.settings import ConfigProblems, Settings
from pipeline.contracts.clock import Clock, SystemClock
from pipeline.contracts.errors import ConfigError
from pipeline.runtime import memory
from pipeline.runtime.status import Check, Status
from pipeline.runtime.supervisor import Report, Supervisor
from pipeline.telemetry import logs
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics
from pipeline.terminal import progress_bars, say, summary
from pipeline.version import version

if TYPE_CHECKING:
    from pipeline.server.routes import Health

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MANY_SOURCES = 4
"""With more, the memory of their pictures matters more than the half millisecond a frame that it costs to map them."""


def run_pipeline(settings: Settings, *, quiet: bool = False) -> int:
    """Run the pipeline until its sources end or a signal comes; returns the process's exit code.

    Raises:
        ConfigProblems: something that was asked for cannot be had.
    """
    logs.set_up(
        "warning" if quiet and settings.log.level in ("debug", "info") else settings.log.level, settings.log.format
    )
    disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each, which nobody reads
    if len(settings.sources) > MANY_SOURCES:
        memory.map_pictures()
    report = asyncio.run(_run(settings, SystemClock(), quiet=quiet))
    if report.late:
        # A thread that is stuck in C cannot be ended: leave without waiting for it.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(report.exit_code)
    return report.exit_code


async def _run(settings: Settings, clock: Clock, *, quiet: bool) -> Report:
    metrics = Metrics(version())
    events = Events(clock)
    supervisor = Supervisor(settings, events=events, metrics=metrics, clock=clock)
    lingering_ends = asyncio.Event()
    began_at = clock.monotonic()

    def on_signal(name: str) -> None:
        lingering_ends.set()
        supervisor.stop(name)

    with _signals(on_signal):
        async with _server(settings, supervisor, metrics, events, clock):
            async with progress_bars(supervisor, shown=not quiet and not _is_terminal_taken(settings)):
                report = await supervisor.run()
            if not quiet:
                say(summary(report, clock.monotonic() - began_at))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lingering_ends.wait(), settings.server.linger_s)
    return report


def _is_terminal_taken(settings: Settings) -> bool:
    """Results go to the terminal where the bar would be."""
    to_stdout = any(sink.type == "stdout" for sink in settings.sinks.values())
    return to_stdout and sys.stdout is not None and sys.stdout.isatty()


@contextlib.contextmanager
def _signals(handle: Callable[[str], None]) -> Iterator[None]:
    """The signals that mean "stop" go to `handle`, by name, on the loop."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, handle, number.name)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # all is done: one more signal shall not make a failure of it


@contextlib.asynccontextmanager
async def _server(
    settings: Settings, supervisor: Supervisor, metrics: Metrics, events: Events, clock: Clock
) -> AsyncIterator[None]:
    """The HTTP server, from before the first component is opened until after the last has ended."""
    if settings.server.address is None:
        yield
        return
    from pipeline.server.app import Server

    status = Status(supervisor, version(), clock)
    server = Server(
        settings.server.address,
        metrics=metrics.exposition,
        status=status.whole,
        live=lambda: _health(status.live()),
        ready=lambda: _health(status.ready()),
    )
    try:
        await server.start()
    except ConfigError as error:
        raise ConfigProblems([settings.blame("core", "", error)]) from error
    events.listening(server.url)
    try:
        yield
    finally:
        await server.close()


def _health(checks: Sequence[Check]) -> "Health":
    from pipeline.server.routes import Health

    return Health(
        all(check.ok for check in checks), {check.name: "ok" if check.ok else check.detail for check in checks}
    )
