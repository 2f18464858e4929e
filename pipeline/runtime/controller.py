"""`Controller`: carries out orders to the running pipeline: reload, pause, put a source; one change at a time."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config.overlay import Overlay
from pipeline.config.problems import ConfigProblems
from pipeline.config.settings import Settings
from pipeline.contracts.errors import PenstockError
from pipeline.runtime.control import ReloadOutcome
from pipeline.runtime.reload import ReloadError
from pipeline.runtime.supervisor import Supervisor
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics

Load = Callable[[Overlay | None, Settings], Settings]
"""Reads and checks the configuration anew: with this overlay (None: the one that is kept), against what is running.

Raises `ConfigProblems`. Called in a thread of its own.
"""


class Controller:
    """The `Control` of a supervisor. Made by the app, used on the main loop.

    Attributes:
        on_reload: told True before and False after every attempt to change the configuration: systemd wants to know.
            Not while the pipeline is starting or stopping: it is not ready then, whatever became of the attempt.
        on_applied: told what is in force now.
    """

    def __init__(self, supervisor: Supervisor, load: Load, *, events: Events, metrics: Metrics) -> None:
        self._supervisor = supervisor
        self._load = load
        self._events = events
        self._metrics = metrics
        self.on_reload: Callable[[bool], None] = lambda _: None
        self.on_applied: Callable[[Settings], None] = lambda _: None
        self._one_at_a_time = asyncio.Lock()

    @property
    def config_hash(self) -> str:
        """See `Control`."""
        return self._supervisor.settings.config_hash

    def pause(self, source: str) -> bool:
        """See `Control`."""
        runner = self._supervisor.topology.sources.get(source)
        if runner is not None:
            runner.pause()
        return runner is not None

    def resume(self, source: str) -> bool:
        """See `Control`."""
        runner = self._supervisor.topology.sources.get(source)
        if runner is not None:
            runner.resume()
        return runner is not None

    def restart(self, source: str) -> bool:
        """See `Control`. What has ended or failed, and a file, begins anew from its beginning."""
        runner = self._supervisor.topology.sources.get(source)
        if runner is None:
            return False
        if runner.source.live and not runner.ended:
            runner.restart()
        else:
            self._supervisor.replace_source(source)
        return True

    async def reload(self, why: str) -> ReloadOutcome:
        """See `Control`."""
        async with self._one_at_a_time:
            return await self._change(why, None)

    async def put_source(self, name: str, table: Mapping[str, Any], if_match: str | None) -> ReloadOutcome:
        """See `Control`."""
        async with self._one_at_a_time:
            if if_match is not None and if_match != self.config_hash:
                return self._conflict()
            try:
                overlay = self._overlay.put(name, table)
            except ConfigProblems as error:
                return self._refused([str(problem) for problem in error.problems], invalid=True)
            return await self._change(f"source {name} was put", overlay)

    async def delete_source(self, name: str, if_match: str | None) -> ReloadOutcome | None:
        """See `Control`."""
        async with self._one_at_a_time:
            settings = self._supervisor.settings
            if name not in settings.sources:
                return None
            if if_match is not None and if_match != self.config_hash:
                return self._conflict()
            overlay = self._overlay.remove(name, in_file=name in settings.file_sources)
            return await self._change(f"source {name} was removed", overlay)

    @property
    def _overlay(self) -> Overlay:
        overlay = self._supervisor.settings.overlay
        if overlay is None:
            raise RuntimeError("a run without a file has no overlay")
        return overlay

    async def _change(self, why: str, overlay: Overlay | None) -> ReloadOutcome:
        self._events.reloading(why)
        if not self._supervisor.started.is_set():  # and so nobody is told that it is ready again
            return self._refused(["the pipeline is still starting"])
        self.on_reload(True)
        try:
            new = await asyncio.to_thread(self._load, overlay, self._supervisor.settings)
            changes = await self._supervisor.apply(new)
        except ConfigProblems as error:
            return self._refused([str(problem) for problem in error.problems], invalid=True)
        except ReloadError as error:
            return self._refused(error.problems)
        except Exception as error:  # noqa: BLE001  (a plugin's bug, before anything was changed: the run goes on)
            self._events.bug("reload", error)
            text = str(error) if isinstance(error, PenstockError) else type(error).__name__
            return self._refused([f"internal error: {text}"])
        finally:
            if not self._supervisor.stopping:
                self.on_reload(False)
        self.on_applied(new)
        problems = await self._save(overlay)
        self._metrics.count_reload(ok=True)
        self._events.reloaded(new.config_hash, changes)
        return ReloadOutcome(True, new.config_hash, tuple(changes), problems)

    async def _save(self, overlay: Overlay | None) -> tuple[str, ...]:
        """It is in force already; that a restart will not know it is a problem to be told."""
        if overlay is None:
            return ()
        try:
            await asyncio.to_thread(overlay.save)
        except OSError as error:
            return (f"in force, but a restart will not know it: {overlay.path}: {error.strerror}",)
        return ()

    def _refused(self, problems: list[str], *, invalid: bool = False) -> ReloadOutcome:
        self._metrics.count_reload(ok=False)
        self._events.reload_failed(problems)
        return ReloadOutcome(False, self.config_hash, (), tuple(problems), invalid=invalid)

    def _conflict(self) -> ReloadOutcome:
        problem = f"the configuration in force is {self.config_hash}"
        return ReloadOutcome(False, self.config_hash, (), (problem,), conflict=True)
