"""`Reload`: from one configuration to another while the pipeline runs: all of it, or nothing.

First what is new is opened beside the old: backends and sinks, then sources. Any failure throws it away, and all is as
it was. Then, without a failure being possible any more, the old is exchanged for the new. Two sinks that write the
same file cannot be open at once: they are exchanged between the two, one after the other, and back if that fails.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from pipeline.config.diff import Plan, diff, is_rebuilt
from pipeline.config.settings import Settings
from pipeline.contracts.errors import ConfigError, PenstockError
from pipeline.contracts.sink import SinkConfig
from pipeline.contracts.source import Idle, LiveSourceConfig, Source
from pipeline.runtime.backend_runner import BackendRunner
from pipeline.runtime.ledger import telling
from pipeline.runtime.sending import spool_path
from pipeline.runtime.sink_runner import SinkRunner
from pipeline.runtime.source_runner import HANDOVER_S, SourceRunner
from pipeline.runtime.topology import Runner, Topology, all_ended, not_needed
from pipeline.telemetry.readings import SourceState


class Until(Protocol):
    """How to wait."""

    def __call__(self, done: Callable[[], bool], timeout_s: float, *, through_stop: bool = False) -> Awaitable[bool]:
        """Wait until `done`, at most `timeout_s`; True when it came true.

        Once the pipeline is told to stop it waits no longer; with `through_stop` as long as can be afforded.
        """
        ...


class ReloadError(Exception):
    """The new configuration cannot be put in force; everything is as it was.

    Args:
        problems: why, a line each.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Reload:
    """Made and used once, by the supervisor, in the main thread."""

    def __init__(self, topology: Topology, new: Settings, until: Until) -> None:
        self._topology = topology
        self._old = topology.settings
        self._new = new
        self._until = until
        self.plan: Plan = diff(self._old, new)
        self._sinks: dict[str, SinkRunner] = {}
        self._backends: dict[str, BackendRunner] = {}
        self._sources: dict[str, SourceRunner] = {}
        self._added: dict[str, Source] = {}

    async def carry_out(self) -> None:
        """Put the new configuration in force.

        Raises:
            ReloadError: it cannot be; everything is as it was.
        """
        try:
            await self._open_backends_and_sinks()
            await self._try_sources()
            await self._exchange_sinks_on_one_file()
        except BaseException:
            self._throw_away()
            raise
        await self._commit()

    # Beside the old

    async def _open_backends_and_sinks(self) -> None:
        for name in [*self.plan.names("backend", "added", "changed"), *self._unloaded_but_needed()]:
            self._backends[name] = self._topology.make_backend(self._new, name, trial=True)
            self._backends[name].start()
        for name in self._rebuilt_sinks():
            if not self._shares_a_file(name):
                self._sinks[name] = self._topology.make_sink(self._new, name, trial=True)
                self._sinks[name].start()
        runners: list[BackendRunner | SinkRunner] = [*self._backends.values(), *self._sinks.values()]
        await self._until(
            lambda: any(runner.error for runner in runners) or all(map(_is_open, runners)), self._new.reload_timeout_s
        )
        self._raise_for([(runner, runner.error, _is_open(runner)) for runner in runners])

    def _unloaded_but_needed(self) -> list[str]:
        """Models that a client took out while no camera used them, and that now are not for clients alone."""
        names = self._new.needed_backends - {*self.plan.names("backend", "added", "changed")}
        return [name for name, runner in self._topology.backends.items() if runner.unloaded and name in names]

    async def _try_sources(self) -> None:
        """A camera that is down is no reason to refuse a configuration, but one that would be lost by it is."""
        tried = []
        for name in self.plan.names("source", "added"):
            self._added[name] = self._topology.build_source(self._new, name)
        changed = self.plan.names("source", "changed")
        rebuilt = [n for n in changed if is_rebuilt(self._old.sources[n], self._new.sources[n], "source")]
        for name in [*rebuilt, *self._left_by_their_backend()]:
            runner = self._sources[name] = self._topology.make_source(self._new, name)
            if self._topology.sources[name].state is SourceState.RUNNING and self._can_be_tried(runner):
                runner.start()
                tried.append(runner)
        await self._until(
            lambda: any(runner.trial_error for runner in tried) or all(runner.primed for runner in tried),
            self._new.reload_timeout_s,
        )
        self._raise_for([(runner, runner.trial_error, runner.primed) for runner in tried])

    def _left_by_their_backend(self) -> list[str]:
        """Cameras that ended because their backend failed for good, and that now get another."""
        return [
            name
            for name, runner in self._topology.sources.items()
            if runner.state is SourceState.STOPPED and runner.source.live and self._new.sources.get(name) is not None
            if self._old.sources[name] == self._new.sources[name] and self._new.backend_of(name) in self._backends
        ]

    def _can_be_tried(self, runner: SourceRunner) -> bool:
        """Not where two readers would be one too many, nor where a first frame may be hours away."""
        config, source = self._new.sources[runner.name], runner.source
        is_exclusive = isinstance(config, LiveSourceConfig) and config.exclusive
        return not is_exclusive and not (isinstance(source, Idle) and source.may_idle)

    def _raise_for(self, tried: Sequence[tuple[Runner, PenstockError | None, bool]]) -> None:
        problems = []
        for runner, error, good in tried:
            kind = _kind_of(runner)
            if isinstance(error, ConfigError):
                problems.append(str(self._new.blame(kind, runner.name, error)))
            elif error is not None:
                problems.append(f"{kind} {runner.name}: {error}")
            elif not good and not any(other is not None for _, other, _ in tried):
                problems.append(f"{kind} {runner.name}: not open within {self._new.reload_timeout_s:g} s")
        if problems:
            raise ReloadError(problems)

    def _throw_away(self) -> None:
        made: list[Runner] = [*self._sources.values(), *self._backends.values(), *self._sinks.values()]
        for runner in made:
            if isinstance(runner, SinkRunner):
                runner.finish()
            else:
                runner.abandon()
            self._topology.let_go(runner)

    # One after the other

    def _rebuilt_sinks(self) -> list[str]:
        added = self.plan.names("sink", "added")
        changed = self.plan.names("sink", "changed")
        return added + [n for n in changed if is_rebuilt(self._old.sinks[n], self._new.sinks[n], "sink")]

    def _shares_a_file(self, name: str) -> bool:
        old = self._old.sinks.get(name)
        if old is None:
            return False
        names = {*self._old.sources, *self._new.sources}
        spools = [spool_path(Path(), name, config) for config in (old, self._new.sinks[name])]
        shares_a_spool = spools[0] is not None and spools[0] == spools[1]
        return shares_a_spool or bool(_files(old, names) & _files(self._new.sinks[name], names))

    async def _exchange_sinks_on_one_file(self) -> None:
        names = [name for name in self._rebuilt_sinks() if self._shares_a_file(name)]
        made = {name: self._topology.make_sink(self._new, name, trial=True, continues=True) for name in names}
        for number, name in enumerate(names):
            error = await self._exchange(made[name], self._new)
            if error is None:
                continue
            await self._take_back(name, failed=made[name])
            for exchanged in names[:number]:
                await self._take_back(exchanged)
            raise ReloadError([f"sink {name}: {error}"])

    async def _take_back(self, name: str, failed: SinkRunner | None = None) -> None:
        """What was in force before is tried for ever: it did work."""
        new = self._topology.make_sink(self._old, name, continues=True)
        if failed is not None:
            new.inherit(failed)
        await self._exchange(new, self._old)

    async def _exchange(self, new: SinkRunner, settings: Settings) -> PenstockError | None:
        """Results wait in the new one's queue while the old one ends; the error if the new one does not open."""
        topology, name = self._topology, new.name
        old, topology.sinks[name] = topology.sinks[name], new
        topology.connect_sink(self._old, name)  # from which sources is changed with all the rest, if it is
        old.finish()
        topology.let_go(old)
        await self._until(lambda: old.ended, HANDOVER_S, through_stop=True)
        new.start()
        await self._until(lambda: new.opened or new.ended, settings.reload_timeout_s, through_stop=True)
        return new.error if new.opened or new.error else PenstockError("did not open in time")

    # Nothing fails from here on

    async def _commit(self) -> None:
        topology, new, plan = self._topology, self._new, self.plan
        old_sinks = [topology.sinks[name] for name in self._sinks if name in topology.sinks]
        old_sources = {name: topology.sources[name] for name in [*self._sources, *plan.names("source", "removed")]}
        backends_out = [*self._backends, *plan.names("backend", "removed")]
        old_backends = [topology.backends[name] for name in backends_out if name in topology.backends]
        for old in old_backends:  # what they have may still be lent by one that is removed
            topology.let_go(old)
        topology.settings = new
        topology.sinks |= self._sinks
        topology.backends |= self._backends
        for name, source in self._added.items():
            topology.forget_route(name)  # of one of this name that is still on its way out
            topology.add_route(name)
            self._sources[name] = topology.wrap_source(new, name, source)
        topology.sources |= self._sources
        for name in plan.names("source", "removed"):
            del topology.sources[name]
        topology.arrange_scenes(new)
        old_sinks += [topology.remove_sink(name) for name in plan.names("sink", "removed")]
        for name in plan.names("backend", "removed"):
            del topology.backends[name]
        for name in topology.sinks:
            topology.connect_sink(new, name)
        for sink in old_sinks:
            sink.finish()
            topology.let_go(sink)
        movers = self._move_sources(old_sources)
        await self._relieve(old_backends, movers)
        for mover in movers:
            if topology.sources.get(mover.name) is mover:  # and not begun anew in the meantime
                self._let_run(mover, old_sources[mover.name])

    def _move_sources(self, old_sources: dict[str, SourceRunner]) -> list[SourceRunner]:
        """To the new readers and backends; those that must wait for what they have in another backend are left."""
        topology, movers = self._topology, []
        for name, runner in topology.sources.items():
            if name not in self._sources:
                if self._new.backend_of(name) in self._backends:
                    topology.move_port(self._new, runner)
                continue
            old = old_sources.get(name)
            if old is not None:
                old.stop(replaced=True)
                if old.is_paused:
                    runner.pause()
            if old is not None and self._old.backend_of(name) != self._new.backend_of(name):
                movers.append(runner)
            else:
                self._let_run(runner, old)
        for old in old_sources.values():
            old.stop()
            old.close_lane()
            topology.let_go(old)
        return movers

    def _let_run(self, runner: SourceRunner, old: SourceRunner | None = None) -> None:
        port = self._topology.new_port(self._new, runner.name, replaces=old)
        if runner.threads[0].ident is None:
            runner.start(port, after=None if self._can_be_tried(runner) else old)
        else:
            runner.go(port)

    async def _relieve(self, old_backends: list[BackendRunner], movers: list[SourceRunner]) -> None:
        """The new take frames when the old have given back theirs, so that no result overtakes another."""
        topology = self._topology
        pages = [topology.routes[mover.name].page for mover in movers]
        pending, in_time = list(old_backends), True
        while pending and in_time:
            free = not_needed(pending)
            for old in free:
                old.finish()
            pending = [old for old in pending if old not in free]
            in_time = await self._until(partial(all_ended, free), HANDOVER_S, through_stop=True)
        for old in pending:
            old.finish()
        with telling(pages, topology.changed):
            await self._until(
                lambda: all_ended(old_backends) and not any(page.read().open for page in pages),
                HANDOVER_S if in_time else 0.0,
                through_stop=True,
            )
        for old in old_backends:
            if not old.ended:
                old.abandon()
        for backend in topology.backends.values():
            backend.config_hash = self._new.config_hash
        for backend in self._backends.values():
            backend.go()


def _is_open(runner: BackendRunner | SinkRunner) -> bool:
    return runner.ready if isinstance(runner, BackendRunner) else runner.opened


def _kind_of(runner: Runner) -> Literal["source", "backend", "sink"]:
    if isinstance(runner, SourceRunner):
        return "source"
    return "backend" if isinstance(runner, BackendRunner) else "sink"


def _files(config: SinkConfig, sources: set[str]) -> set[object]:
    """What the sink writes, as far as known: the files, and what it was given as its path."""
    return {*(path for source in sources for path in config.writes(source)), getattr(config, "path", None)} - {None}
