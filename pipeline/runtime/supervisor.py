"""`Supervisor`: the life of one pipeline, from the first thread to the last, in the main thread's loop."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from pipeline.config.settings import ConfigProblems, Settings
from pipeline.contracts.backend import Measured
from pipeline.contracts.clock import Clock
from pipeline.contracts.errors import ConfigError
from pipeline.runtime import memory
from pipeline.runtime.clients import Clients
from pipeline.runtime.context import MainLoop, Surroundings
from pipeline.runtime.ending import Ending
from pipeline.runtime.notices import Notices
from pipeline.runtime.reload import Reload, ReloadError
from pipeline.runtime.report import Report, report_of
from pipeline.runtime.tapping import ResultBuffer
from pipeline.runtime.topology import Runner, Topology
from pipeline.runtime.watch import Watch
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics
from pipeline.telemetry.readings import BackendState, SceneReading, SinkReading, SourceReading, SourceState

GIVE_BACK_EVERY_S = 60.0
"""How often memory that decoders, sources and sinks left behind is returned to the system."""

KEEP_SCENES_S = 1.0
"""How often is looked for counts of lines that should be kept."""

TICK_S = 0.5
"""How often is looked for what is stuck, silent or over."""


class Supervisor:
    """Made and run once, in the main thread; its methods are called there only, the threads notify through the loop."""

    def __init__(self, settings: Settings, *, events: Events, metrics: Metrics, clock: Clock) -> None:
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._loop = MainLoop()
        self._changed = asyncio.Event()
        self.changing = asyncio.Lock()
        """Held by who changes the pipeline, its end included."""
        self._stop_asked = False
        self._why = "all sources have ended"
        self._draining = False
        self._over = False
        self.started = asyncio.Event()
        """Set once sinks are open, backends warm (or tried) and sources started."""
        self.watch = Watch(events)
        surroundings = Surroundings(events, metrics, clock, lambda: self._loop.notify(self._changed))
        self.topology = Topology(settings, loop=self._loop, surroundings=surroundings)
        self._ending = Ending(self.topology, self._changed, events, clock)
        self.clients = Clients(self.topology, self._loop, surroundings, self)
        """What clients of the server may ask of the models."""
        self._notices = Notices(lambda: tuple(self.topology.sinks.values()), clock)
        events.listen(self._notices.tell)
        metrics.set_config_hash(settings.config_hash)
        metrics.read_from(self)

    # What others may ask at any time

    def read_sources(self) -> Iterable[SourceReading]:
        """All sources at this moment."""
        return [source.read() for source in self.topology.sources.values()]

    def read_sinks(self) -> Iterable[SinkReading]:
        """All sinks at this moment."""
        return [sink.read() for sink in self.topology.sinks.values()]

    def read_backends(self) -> Iterable[BackendState]:
        """All backends at this moment."""
        clients = self.topology.ledger.clients
        return [
            BackendState(
                name,
                runner.backend.read() if isinstance(runner.backend, Measured) else None,
                runner.on_fallback,
                page.read() if (page := clients.get(name)) is not None else None,
                runner.devices,
                runner.backend.max_batch if runner.ready else None,
            )
            for name, runner in self.topology.backends.items()
        ]

    def read_scenes(self) -> Iterable[SceneReading]:
        """Tracks, zones and lines of all sources that have any; who is there is not known of those that are down."""
        sources, shown = self.topology.sources, (SourceState.STARTING, SourceState.RUNNING, SourceState.ENDED)
        return self.topology.scenes.read(frozenset(n for n, source in sources.items() if source.state not in shown))

    def tap(self, source: str, *, size: int, pictures: bool) -> ResultBuffer | None:
        """See `Taps`."""
        route = self.topology.routes.get(source)
        return None if route is None or source not in self.topology.sources else route.tap(size, pictures=pictures)

    def read_stuck(self) -> Mapping[tuple[str, str], float]:
        """For how long each stage has had work and made no progress."""
        return self.watch.read()

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self.topology.settings

    @property
    def stopping(self) -> bool:
        """True once the order to stop was given, or the sources have ended."""
        return self._stop_asked or self._draining

    def stop(self, why: str) -> None:
        """The first time: stop the sources and drain. After that: abandon what is left."""
        if self._over:
            return
        if self._stop_asked:
            self._ending.abandon(why)
            return
        self._stop_asked = True
        self._why = why
        self._ending.limit()
        self._events.stopping(why)
        for source in self.topology.sources.values():
            source.stop()
        self._changed.set()

    async def run(self) -> Report:
        """Start everything, wait until the sources have ended or a stop is asked for, drain, and report.

        Raises:
            ConfigProblems: a component found at its start that what it was asked for cannot be had. All is stopped.
        """
        self._loop.attach()
        started = False
        ticking, keeping = asyncio.create_task(self._tick()), asyncio.create_task(self._keep_scenes())
        try:
            if started := await self._start():
                self.started.set()
                while not self._draining:
                    await self._ending.until(self._is_done, give_up=lambda: False)
                    async with self.changing:  # a reload under way may bring a source, or take back a sink
                        self._draining = self._is_done()
        finally:
            async with self.changing:  # a reload that is under way gives up, or is finished
                self._draining = True
                if started:
                    self._notices.tell("penstock", "stop", "draining", self._why)
                await self._ending.come()
            ticking.cancel()
            keeping.cancel()
            ended = [name for name, each in self.topology.sources.items() if each.state is SourceState.ENDED]
            if self.topology.scenes:
                await asyncio.to_thread(self.topology.scenes.save, at_once=True, complete=ended)
        self._over = True
        if not started:
            self._raise_config_errors()
        return report_of(self.topology, self._events, abandoned=self._ending.abandoned)

    # Start

    async def _start(self) -> bool:
        """Sinks, then backends, then sources; False when it is not worth going on."""
        sinks, backends, sources = (
            self.topology.sinks.values(),
            self.topology.backends.values(),
            self.topology.sources.values(),
        )
        for sink in sinks:
            sink.start()
        await self._ending.until(lambda: all(sink.tried for sink in sinks), give_up=self._is_hopeless)
        if self._is_hopeless():
            return False
        for backend in backends:
            backend.start()
        await self._ending.until(
            lambda: all(backend.ready or backend.tried or backend.ended for backend in backends),
            give_up=self._is_hopeless,
        )
        if self._is_hopeless():
            return False
        memory.give_back()
        self._notices.tell("penstock", "start", "ok", f"configuration {self.settings.config_hash}")
        for source in sources:
            source.start(self.topology.new_port(self.settings, source.name))
        return True

    def _is_hopeless(self) -> bool:
        """Not worth starting: told to stop, or a component was asked for what cannot be had."""
        return self._stop_asked or any(isinstance(runner.error, ConfigError) for runner in self.topology.runners)

    def _is_pointless(self) -> bool:
        """Not worth going on: nobody is left to take the results."""
        return not any(sink.takes_more for sink in self.topology.sinks.values())

    def _is_done(self) -> bool:
        return self._stop_asked or (not self._serves() and (self._is_pointless() or self._ending.sources_over))

    def _serves(self) -> bool:
        """Whether there are models for clients: they go on when all files have ended, until the last one fails."""
        settings, backends = self.settings, self.topology.backends
        offered = settings.server.address is not None and settings.server.inference.enabled
        return offered and any(backends[name].error is None for name in settings.models)

    async def _tick(self) -> None:
        """Look now and then for what nobody tells: that something does not happen."""
        gave_back_at = self._clock.monotonic()
        while True:
            if self._clock.monotonic() - gave_back_at > GIVE_BACK_EVERY_S:
                await asyncio.to_thread(memory.give_back)
                gave_back_at = self._clock.monotonic()
            topology = self.topology
            for source in topology.sources.values():
                source.check_silence()
                source.tell_if_away()
            self.watch.look(topology.stages(), self._clock.monotonic())
            topology.sweep()
            await asyncio.sleep(TICK_S)

    async def _keep_scenes(self) -> None:
        """Let what lines have counted survive a kill; a disk that hangs holds up nothing else."""
        while True:
            if self.topology.scenes:
                await asyncio.to_thread(self.topology.scenes.save)
            await asyncio.sleep(KEEP_SCENES_S)

    async def until_warm(self) -> bool:
        """Wait until all backends are warm and all sinks open; False when it is stopped before."""

        def warm() -> bool:
            topology = self.topology
            backends, sinks = topology.backends.values(), topology.sinks.values()
            covered = all(backend.covered or backend.unloaded for backend in backends)
            return self.started.is_set() and covered and all(sink.opened for sink in sinks)

        await self._ending.until(warm, give_up=lambda: self.stopping)
        return warm() and not self.stopping

    # Change

    async def apply(self, new: Settings) -> list[str]:
        """Put another configuration in force; changes follow each other.

        Returns:
            What was changed, a line each.

        Raises:
            ReloadError: it cannot be; everything is as it was.
        """
        async with self.changing:
            if self.stopping or not self.started.is_set():
                raise ReloadError(["the pipeline is stopping" if self.stopping else "the pipeline is still starting"])
            reload = Reload(self.topology, new, self.within)
            await reload.carry_out()
            self._metrics.set_config_hash(new.config_hash)
            self._changed.set()
            return reload.plan.lines()

    async def within(self, done: Callable[[], bool], timeout_s: float, *, through_stop: bool = False) -> bool:
        """Wait until it is so, at most so long; once a stop is asked for not at all, or half of the time for that."""
        deadline = self._clock.monotonic() + timeout_s
        while not done():
            self._changed.clear()
            if self._ending.deadline is not None:
                deadline = min(deadline, self._ending.deadline - self.settings.shutdown_timeout_s / 2)
            left_s = deadline - self._clock.monotonic()
            if done() or left_s <= 0 or self._ending.abandoned or (self._stop_asked and not through_stop):
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left_s)
        return done()

    def replace_source(self, name: str) -> None:
        """Begin a source anew that has ended or failed, or a file from its beginning."""
        if self.stopping or not self.started.is_set():
            return  # it is read from its beginning soon, or never again
        old = self.topology.sources[name]
        new = self.topology.sources[name] = self.topology.make_source(self.settings, name)
        old.stop(replaced=True)
        new.start(self.topology.new_port(self.settings, name, replaces=old), after=old)
        old.close_lane()
        self.topology.let_go(old)

    # The end

    def _raise_config_errors(self) -> None:
        kinds: list[tuple[Literal["backend", "sink"], Iterable[Runner]]] = [
            ("backend", self.topology.backends.values()),
            ("sink", self.topology.sinks.values()),
        ]
        problems = [
            self.settings.blame(kind, runner.name, runner.error)
            for kind, runners in kinds
            for runner in runners
            if isinstance(runner.error, ConfigError)
        ]
        if problems:
            raise ConfigProblems(problems)
