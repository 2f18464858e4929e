"""`Topology`: the one place that knows who is connected to whom; builds it at the start and at a reload alike."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pipeline.config.settings import Settings
from pipeline.contracts.clock import Clock
from pipeline.contracts.component import QueueConfig
from pipeline.contracts.packets import PacketRings
from pipeline.contracts.sender import SenderConfig
from pipeline.contracts.source import Idle, Source
from pipeline.runtime.backend_runner import BackendRunner
from pipeline.runtime.context import MainLoop, RunContext, Surroundings
from pipeline.runtime.handling import Handling
from pipeline.runtime.ledger import Ledger
from pipeline.runtime.port import Port
from pipeline.runtime.queue import LaneLimits
from pipeline.runtime.route import Route, Waiting
from pipeline.runtime.scenes import Scenes
from pipeline.runtime.selecting import SinkSelecting
from pipeline.runtime.sending import Sending
from pipeline.runtime.sink_runner import SinkRunner
from pipeline.runtime.source_runner import SourceRunner
from pipeline.runtime.watch import Stage

if TYPE_CHECKING:
    from pipeline.contracts.sink import Sink

MIB = 1 << 20
FILE_LANE = QueueConfig(max_frames=4, max_bytes=32 * MIB, when_full="block")
LIVE_LANE = QueueConfig(max_frames=2, max_bytes=32 * MIB, when_full="drop_oldest")
PICTURE_QUEUE = QueueConfig(max_frames=4, max_bytes=32 * MIB)
RESULT_QUEUE = QueueConfig(max_frames=512, max_bytes=32 * MIB)

Runner = SourceRunner | BackendRunner | SinkRunner


class Topology:
    """The runners of one pipeline, by name, and the ledger that they write in. Belongs to the main thread.

    `make_...` builds a component and its runner, opens nothing and connects nothing; at a reload what is made may be
    thrown away again.
    """

    def __init__(self, settings: Settings, *, loop: MainLoop, surroundings: Surroundings) -> None:
        self.settings = settings
        self.ledger = Ledger()
        self.routes: dict[str, Route] = {}
        self.sources: dict[str, SourceRunner] = {}
        self.backends: dict[str, BackendRunner] = {}
        self.sinks: dict[str, SinkRunner] = {}
        self.leaving: list[Runner] = []
        """Runners that were told to end and have not."""
        self.scenes = Scenes(settings.data_dir, surroundings)
        self._rings = PacketRings()
        self._loop = loop
        self._surroundings = surroundings
        for name in settings.sources:
            self.add_route(name)
            self.sources[name] = self.make_source(settings, name)
        self.arrange_scenes(settings)
        for name in settings.sinks:
            self.sinks[name] = self.make_sink(settings, name)
        for name in settings.backends:
            self.backends[name] = self.make_backend(settings, name)
        for name in self.sinks:
            self.connect_sink(settings, name)

    @property
    def clock(self) -> Clock:
        """The clocks that all of them use."""
        return self._surroundings.clock

    @property
    def runners(self) -> list[Runner]:
        """All of them, but for those that are leaving."""
        return [*self.sources.values(), *self.backends.values(), *self.sinks.values()]

    def changed(self) -> None:
        """Let the supervisor look again whether it is as it wants it; from any thread."""
        self._surroundings.changed()

    def stages(self) -> list[Stage]:
        """What has work to do, for the watchdog."""
        return [runner.watch() for runner in self.runners if not isinstance(runner, SourceRunner)]

    def add_route(self, source: str) -> None:
        """The way of a source's frames and results, if it has none yet."""
        if source not in self.routes:
            self.routes[source] = Route(source, self.ledger.source(source), self._surroundings.metrics)

    def make_source(self, settings: Settings, name: str) -> SourceRunner:
        """A source with its route."""
        return self.wrap_source(settings, name, self.build_source(settings, name))

    def build_source(self, settings: Settings, name: str) -> Source:
        """A source alone, for one that has no route yet."""
        return settings.sources[name].build(self._context("source", name, settings))

    def wrap_source(self, settings: Settings, name: str, source: Source) -> SourceRunner:
        """The runner around a source, with its route."""
        return SourceRunner(
            name,
            source,
            route=self.routes[name],
            handling=Handling.of(settings.sources[name], source),
            surroundings=self._surroundings,
        )

    def arrange_scenes(self, settings: Settings) -> None:
        """Let each source have what tracks and counts in its pictures."""

        def goes_on(name: str) -> bool:
            source = self.sources[name].source
            return source.live or (isinstance(source, Idle) and source.may_idle)

        self.scenes.arrange(settings, self.routes, goes_on)

    def make_backend(self, settings: Settings, name: str, *, trial: bool = False) -> BackendRunner:
        """A backend without any lane."""
        config, context = settings.backends[name], self._context("backend", name, settings)
        return BackendRunner(
            name,
            config.build(context),
            interrupt=context.interrupt,
            config_hash=settings.config_hash,
            surroundings=self._surroundings,
            max_wait_s=config.max_wait_s,
            trial=trial,
            fallback=config.fallback,
            lender=None if config.fallback is None else partial(self._lender, config.fallback),
        )

    def _lender(self, name: str) -> BackendRunner | None:
        """Whoever stands, or stood, under this name; asked by the workers of the backend whose fallback it is."""
        found = self.backends.get(name)
        if found is not None:
            return found
        left = (runner for runner in reversed(self.leaving) if isinstance(runner, BackendRunner))
        return next((runner for runner in left if runner.name == name), None)

    def make_sink(self, settings: Settings, name: str, *, trial: bool = False, continues: bool = False) -> SinkRunner:
        """A sink that is connected to no route; `continues`: in place of one that wrote the same files."""
        config, page = settings.sinks[name], self.ledger.sink(name)
        context = self._context("sink", name, settings, continues=continues)
        sink: Sink
        if isinstance(config, SenderConfig):
            sink = Sending(
                config.build(context),
                config,
                context,
                page=page,
                surroundings=self._surroundings,
                interrupt=context.interrupt,
            )
        else:
            sink = config.build(context)
        return SinkRunner(
            name,
            sink,
            page=page,
            surroundings=self._surroundings,
            trial=trial,
            notices=config.notices,
            selecting=SinkSelecting(name, config, self._surroundings),
        )

    def connect_sink(self, settings: Settings, name: str) -> None:
        """Connect a sink with the routes that it shall have, and with no other."""
        wanted = settings.sources_of(name)
        for source, route in self.routes.items():
            if source not in self.sources:  # it is leaving: what is under way still arrives
                if name in route.outlets:
                    self.sinks[name].connect(route, route.outlets[name].port.lane.limits)
            elif source in wanted:
                self.sinks[name].connect(route, self._sink_limits(settings, name, source))
            else:
                self.sinks[name].disconnect(route)

    def new_port(self, settings: Settings, source: str, *, replaces: SourceRunner | None = None) -> Port[Waiting]:
        """A port into the backend of a source; takes over what `replaces` has waiting there."""
        queue = self.backends[settings.backend_of(source)].queue
        limits = self._source_limits(settings, source)
        old = replaces.port.lane if replaces is not None and replaces.port is not None else None
        return Port(queue.lane(limits, taking_over=old if old is not None and old.queue is queue else None))

    def move_port(self, settings: Settings, runner: SourceRunner) -> None:
        """Let the frames of a source go to the backend that stands under its name now."""
        if runner.ended:
            runner.close_lane()  # it may have ended just when it was moved the last time
        elif runner.port is not None:
            queue = self.backends[settings.backend_of(runner.name)].queue
            runner.port.move(queue.lane(self._source_limits(settings, runner.name)))

    # What is no longer wanted

    def remove_sink(self, name: str) -> SinkRunner:
        """Take a sink out; what it has is still written."""
        for route in self.routes.values():
            self.sinks[name].disconnect(route)
        return self.sinks.pop(name)

    def forget_route(self, source: str) -> None:
        """Close the books of a source that was removed; what is still under way is dropped and counted."""
        route = self.routes.pop(source, None)
        if route is not None:
            for sink in self.sinks.values():
                sink.disconnect(route)
            self.ledger.remove_source(source)
            self.scenes.forget(source)
            self._rings.forget(source)

    def let_go(self, runner: Runner) -> None:
        """Remember a runner that was told to end until it has; then its name, if there is no other, is forgotten."""
        self.leaving.append(runner)

    def sweep(self) -> None:
        """Forget the runners that have ended since; called now and then."""
        self.leaving = [runner for runner in self.leaving if not self._is_gone(runner)]

    def _is_gone(self, runner: Runner) -> bool:
        if not _is_over(runner):
            return False
        namesakes = [other for other in self.leaving if type(other) is type(runner) and other.name == runner.name]
        if not all(map(_is_over, namesakes)):
            return False  # the last of that name closes the books
        metrics = self._surroundings.metrics
        if isinstance(runner, SourceRunner) and runner.name not in self.sources:
            route = self.routes.get(runner.name)
            if route is not None and route.page.read().open:
                return False
            self.forget_route(runner.name)
            metrics.forget(source=runner.name)
        elif isinstance(runner, BackendRunner) and runner.name not in self.backends:
            self.ledger.remove_client(runner.name)
            metrics.forget(backend=runner.name)
        elif isinstance(runner, SinkRunner) and runner.name not in self.sinks:
            if runner.name in self.ledger.sinks:
                self.ledger.remove_sink(runner.name)
            metrics.forget(sink=runner.name)
        return True

    def _context(self, kind: str, name: str, settings: Settings, *, continues: bool = False) -> RunContext:
        events, metrics = self._surroundings.events, self._surroundings.metrics
        rings = self._rings
        return RunContext(kind, name, self.clock, settings.data_dir, self._loop, events, metrics, continues, rings)

    def _source_limits(self, settings: Settings, name: str) -> LaneLimits:
        config, source = settings.sources[name], self.sources[name].source
        usual = LIVE_LANE if source.live else FILE_LANE
        limits = _limits(config.queue, usual, source, config.max_staleness_s)
        return limits._replace(priority=config.priority)

    def _sink_limits(self, settings: Settings, name: str, source: str) -> LaneLimits:
        # Events are few, and come several at a time.
        few = self.sinks[name].sink.wants_pictures and settings.sinks[name].emit != "events"
        usual = PICTURE_QUEUE if few else RESULT_QUEUE
        config = settings.sinks[name]
        if isinstance(config, SenderConfig) and config.buffer.when_full == "block":
            usual = usual.model_copy(update={"when_full": "block"})
        return _limits(config.queue, usual, self.sources[source].source)


def not_needed(backends: Sequence[BackendRunner]) -> list[BackendRunner]:
    """Those that no other one of them falls back on, which may end first; all where they go round in a circle."""
    needed = {backend.fallback for backend in backends}
    return [backend for backend in backends if backend.name not in needed] or list(backends)


def all_ended(backends: Sequence[BackendRunner]) -> bool:
    """Whether all of them have."""
    return all(backend.ended for backend in backends)


def _is_over(runner: Runner) -> bool:
    return runner.ended and not any(thread.is_alive() for thread in runner.threads)


def _limits(configured: QueueConfig, usual: QueueConfig, source: Source, max_age_s: float | None = None) -> LaneLimits:
    """Limits of a lane for what comes from `source`: files wait, live sources let the oldest go, unless configured.

    Files share what their queue may hold; who configures a lane, or has a camera, gets the lane's bytes on top.
    """
    queue = configured.merged(usual)
    max_bytes = queue.max_bytes or MIB
    is_own = source.live or configured.max_frames is not None or configured.max_bytes is not None
    return LaneLimits(
        max_items=queue.max_frames or 1,
        max_bytes=max_bytes,
        when_full=queue.when_full or ("drop_oldest" if source.live else "block"),
        max_age_s=max_age_s,
        own_bytes=max_bytes if is_own else 0,
    )
