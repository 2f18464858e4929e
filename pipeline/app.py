"""One run of the program: the supervisor, the HTTP server, the signals and what the terminal shows, put together."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

from prometheus_client import disable_created_metrics

from pipeline.config.check import check
from pipeline.config.loader import load
from pipeline.config.overlay import Overlay
from pipeline.config.secrets import secrets_of
from pipeline.config.settings import Settings
from pipeline.contracts.clock import Clock, SystemClock
from pipeline.contracts.secret import Redactor
from pipeline.devices.gpus import gpus
from pipeline.offer import of_file
from pipeline.registry import Registry
from pipeline.runtime import memory
from pipeline.runtime.controller import Controller
from pipeline.runtime.report import Report
from pipeline.runtime.supervisor import Supervisor
from pipeline.service import Notifier, StatusLine, keep
from pipeline.serving import serve, tokens_of
from pipeline.telemetry import logs
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics
from pipeline.terminal import progress_bars, say, summary
from pipeline.version import version

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_pipeline(settings: Settings, *, quiet: bool = False) -> int:
    """Run the pipeline until its sources end or a signal comes; returns the process's exit code.

    Raises:
        ConfigProblems: something that was asked for cannot be had.
    """
    redactor = Redactor()
    _set_up_logs(settings, redactor, quiet=quiet)
    logs.catch_uncaught()
    disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each, which nobody reads
    memory.few_heaps()
    report = asyncio.run(_run(settings, SystemClock(), redactor, quiet=quiet))
    if report.late:
        # A thread that is stuck in C cannot be ended: leave without waiting for it.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(report.exit_code)
    return report.exit_code


def _set_up_logs(settings: Settings, redactor: Redactor, *, quiet: bool) -> None:
    redactor.learn(secrets_of(settings))
    level = "warning" if quiet and settings.log.level in ("debug", "info") else settings.log.level
    logs.set_up(level, settings.log.format, redactor)


async def _run(settings: Settings, clock: Clock, redactor: Redactor, *, quiet: bool) -> Report:
    metrics = Metrics(version())
    metrics.read_devices(gpus().copied)
    events = Events(clock, redactor)
    supervisor = Supervisor(settings, events=events, metrics=metrics, clock=clock)
    notifier = Notifier.from_environment(os.environ)

    def read_again(overlay: Overlay | None, running: Settings) -> Settings:
        new = _read_again(overlay, running)
        redactor.learn(secrets_of(new))  # before anything of it is tried
        return new

    controller = Controller(supervisor, read_again, events=events, metrics=metrics)

    def on_reload(begins: bool) -> None:
        if notifier.is_ready:  # a reload does not make a start that is under way complete
            notifier.reloading() if begins else notifier.ready()

    controller.on_reload = on_reload
    # In a terminal the signal says that the terminal was closed.
    hangups = None if settings.path is None or sys.stderr.isatty() else asyncio.Event()
    lingering_ends = asyncio.Event()
    began_at = clock.monotonic()

    def on_signal(name: str) -> None:
        if name == "SIGHUP" and hangups is not None:
            hangups.set()
            return
        lingering_ends.set()
        notifier.stopping()
        supervisor.stop(name)

    if notifier.watchdog_s is not None:
        supervisor.watch.tell_after_s = min(supervisor.watch.tell_after_s, notifier.watchdog_s / 2)
    control = None if settings.path is None else controller  # without a file there is nothing to read again
    with _signals(on_signal), contextlib.closing(notifier):
        serving = serve(
            settings,
            supervisor,
            metrics,
            events,
            clock,
            control=control,
            asking=supervisor.clients,
            redact=redactor,
        )
        async with serving as access:

            def on_applied(new: Settings) -> None:
                _set_up_logs(new, redactor, quiet=quiet)
                if access is not None:
                    access.replace(tokens_of(new.server))

            controller.on_applied = on_applied
            async with (
                _beside(_keep_notified(notifier, supervisor, clock), _reload_on(hangups, controller)),
                progress_bars(supervisor, shown=not quiet and not _is_terminal_taken(settings)),
            ):
                report = await supervisor.run()
            if not quiet:
                say(summary(report, clock.monotonic() - began_at))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lingering_ends.wait(), settings.server.linger_s)
    return report


def _read_again(overlay: Overlay | None, running: Settings) -> Settings:
    """The configuration as its file and its overlay are now, checked against what runs; in a thread of its own."""
    if running.path is None:
        raise RuntimeError("a run without a file has nothing to read again")
    new = load(running.path, registry=Registry.load(), overlay=overlay)
    if running.serves_only:
        new = of_file(new, running.listen)
    check(new, to_run=True, running=running)
    return new


async def _reload_on(hangups: asyncio.Event | None, controller: Controller) -> None:
    """Reload at every SIGHUP; several that come during one reload are one more."""
    while hangups is not None:
        await hangups.wait()
        hangups.clear()
        await controller.reload("SIGHUP")


async def _keep_notified(notifier: Notifier, supervisor: Supervisor, clock: Clock) -> None:
    """Tell the service manager when the start is over, and that all goes on."""
    line = StatusLine(clock)

    def status(stuck: Sequence[str]) -> str:
        return line.text(supervisor.read_sources(), stuck)

    async def tell_ready() -> None:
        if await supervisor.until_warm():
            notifier.ready(status(()))

    async with _beside(tell_ready()):
        await keep(notifier, stuck=supervisor.watch.stuck, status=status, clock=clock)


@contextlib.asynccontextmanager
async def _beside(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let them run beside the block, and end them with it; an error of theirs is raised then."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


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
