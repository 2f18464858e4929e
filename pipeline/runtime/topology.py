"""`Topology`: the one place that knows who is connected to whom; made from the settings, before any thread starts."""

import asyncio
from dataclasses import dataclass

from pipeline.config.settings import Settings
from pipeline.contracts.clock import Clock
from pipeline.contracts.component import QueueConfig
from pipeline.contracts.source import Source
from pipeline.runtime.backend_runner import BackendRunner
from pipeline.runtime.context import MainLoop, RunContext, Surroundings
from pipeline.runtime.ledger import Ledger
from pipeline.runtime.queue import LaneLimits
from pipeline.runtime.sampling import Sampler
from pipeline.runtime.sink_runner import SinkRunner
from pipeline.runtime.source_runner import SourceRunner
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics

MIB = 1 << 20
FILE_LANE = QueueConfig(max_frames=4, max_bytes=32 * MIB, when_full="block")
LIVE_LANE = QueueConfig(max_frames=2, max_bytes=32 * MIB, when_full="drop_oldest")
PICTURE_QUEUE = QueueConfig(max_frames=4, max_bytes=32 * MIB)
RESULT_QUEUE = QueueConfig(max_frames=512, max_bytes=32 * MIB)


Runner = SourceRunner | BackendRunner | SinkRunner


@dataclass(frozen=True, slots=True)
class Topology:
    """The runners of one pipeline, by name, and the ledger that they write in."""

    ledger: Ledger
    sources: dict[str, SourceRunner]
    backends: dict[str, BackendRunner]
    sinks: dict[str, SinkRunner]

    @property
    def runners(self) -> list[Runner]:
        """All of them."""
        return [*self.sources.values(), *self.backends.values(), *self.sinks.values()]


def build(
    settings: Settings, *, loop: MainLoop, changed: asyncio.Event, events: Events, metrics: Metrics, clock: Clock
) -> Topology:
    """Make every component and connect them; opens nothing.

    Args:
        settings: what to build.
        loop: for the components' coroutines.
        changed: set whenever a runner's state changes.
        events: where the runners tell what happens.
        metrics: where they measure.
        clock: the clocks that they use.
    """

    def context(kind: str, name: str) -> RunContext:
        return RunContext(kind, name, clock, settings.data_dir, loop, events)

    surroundings = Surroundings(events, metrics, clock, lambda: loop.notify(changed))
    ledger = Ledger(settings.sources, settings.sinks)
    sources = {name: config.build(context("source", name)) for name, config in settings.sources.items()}
    sinks = {}
    for name, config in settings.sinks.items():
        sink = config.build(context("sink", name))
        usual = PICTURE_QUEUE if sink.wants_pictures else RESULT_QUEUE
        lanes = {source: _limits(config.queue, usual, sources[source]) for source in settings.sources_of(name)}
        sinks[name] = SinkRunner(name, sink, lanes=lanes, page=ledger.sinks[name], surroundings=surroundings)
    backends = {}
    for name, backend_config in settings.backends.items():
        routes = {
            source: (page, [sinks[sink] for sink in sinks if source in settings.sources_of(sink)])
            for source, page in ledger.sources.items()
            if settings.backend_of(source) == name
        }
        backends[name] = BackendRunner(
            name,
            backend_config.build(context("backend", name)),
            routes=routes,
            config_hash=settings.config_hash,
            surroundings=surroundings,
        )
    runners = {}
    for name, source in sources.items():
        source_config = settings.sources[name]
        usual = LIVE_LANE if source.live else FILE_LANE
        limits = _limits(source_config.queue, usual, source, source_config.max_staleness_s)
        runners[name] = SourceRunner(
            name,
            source,
            lane=backends[settings.backend_of(name)].queue.lane(limits),
            page=ledger.sources[name],
            sampler=Sampler(source_config.stride, source_config.max_fps),
            surroundings=surroundings,
        )
    return Topology(ledger, runners, backends, sinks)


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
