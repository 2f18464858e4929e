"""`Ending`: how one pipeline ends: stage after stage, within its time; what is late is abandoned and written off."""

import asyncio
import contextlib
import math
from collections.abc import Callable
from functools import partial

from pipeline.contracts.clock import Clock
from pipeline.runtime.backend_runner import BackendRunner
from pipeline.runtime.ledger import FrameOutcome, ResultOutcome
from pipeline.runtime.report import started_threads
from pipeline.runtime.topology import Topology, all_ended, not_needed
from pipeline.telemetry.events import Events

GRACE_S = 2.0
"""After everything was abandoned, so long is waited for the threads to notice."""


class Ending:
    """Made by the supervisor, used in the main thread. It knows how much time is left, from the start on.

    Args:
        topology: what ends.
        changed: set whenever a runner's state changes.
    """

    def __init__(self, topology: Topology, changed: asyncio.Event, events: Events, clock: Clock) -> None:
        self._topology = topology
        self._changed = changed
        self._events = events
        self._clock = clock
        self.abandoned = False
        self.deadline: float | None = None
        """Monotonic; None: there is all the time in the world."""

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return self.deadline is not None and self._clock.monotonic() >= self.deadline

    @property
    def sources_over(self) -> bool:
        """Whether no frame will come any more."""
        return all(source.ended for source in self._topology.sources.values())

    def limit(self) -> None:
        """Leave `shutdown_timeout_s` from now, unless a deadline was set before."""
        if self.deadline is None:
            self.deadline = self._clock.monotonic() + self._topology.settings.shutdown_timeout_s

    def abandon(self, why: str) -> None:
        """Give up what is left; the first time."""
        if self.abandoned:
            return
        self.abandoned = True
        self.deadline = self._clock.monotonic() + GRACE_S
        self._events.abandoning(why)
        for runner in (*self._topology.runners, *self._topology.leaving):
            runner.abandon()
        self._changed.set()

    async def until(self, done: Callable[[], bool], *, give_up: Callable[[], bool]) -> None:
        """Wait for either; both are asked again whenever a runner's state changes, and at the deadline."""
        while True:
            self._changed.clear()
            if done() or give_up():
                return
            left_s = None if self.deadline is None else max(0.0, self.deadline - self._clock.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left_s)

    async def come(self) -> None:
        """Sources, backends, sinks: each ends when the one before it has; what is late is abandoned."""
        topology = self._topology
        if not self.sources_over:
            self.limit()
        if self.deadline is not None:  # what has to pass a sink that waits for room in its spool has its time, too
            now = self._clock.monotonic()
            for sink in topology.sinks.values():
                sink.hurry(now + (self.deadline - now) / 4)
        for source in topology.sources.values():
            source.stop()
        await self._until_sources_over()
        topology.sweep()
        if topology.leaving:  # what is stuck there would be waited for for ever
            self.limit()
        leaving = [runner for runner in topology.leaving if isinstance(runner, BackendRunner)]
        await self._finish_backends([*topology.backends.values(), *leaving])
        now = self._clock.monotonic()
        until = math.inf if self.deadline is None else (now + self.deadline) / 2
        for sink in topology.sinks.values():
            sink.finish(until, patience_s=topology.settings.shutdown_timeout_s / 2)
        await self._until(self._all_over)
        if not self.abandoned and not self._all_over():
            self.abandon(f"not drained within {topology.settings.shutdown_timeout_s:g} s")
        if self.abandoned:
            await self._until(self._all_over)
            self._write_off()
        for page in topology.ledger.sinks.values():
            page.keep()
        for runner in (*topology.runners, *topology.leaving):
            for thread in started_threads(runner):
                thread.join(GRACE_S if runner.ended else 0.0)

    async def _until(self, done: Callable[[], bool]) -> None:
        await self.until(done, give_up=lambda: self.is_late)

    async def _until_sources_over(self) -> None:
        """Give the sources half of the time; who is late then is left, so that what the others gave still arrives."""
        whole = self.deadline
        if whole is not None and not self.abandoned:
            self.deadline = (self._clock.monotonic() + whole) / 2
        await self._until(lambda: self.sources_over)
        if not self.abandoned:
            self.deadline = whole
        for source in self._topology.sources.values():
            source.close_lane()

    async def _finish_backends(self, pending: list[BackendRunner]) -> None:
        """A fallback ends after those that may need it."""
        while pending and not self.is_late:
            free = not_needed(pending)
            for backend in free:
                backend.finish()
            await self._until(partial(all_ended, free))
            pending = [backend for backend in pending if backend not in free]
        for backend in pending:
            backend.finish()

    def _all_over(self) -> bool:
        return all(runner.ended for runner in (*self._topology.runners, *self._topology.leaving))

    def _write_off(self) -> None:
        """Count what is left behind, so that the ledger balances whatever a stuck thread still does."""
        ledger = self._topology.ledger
        for page in (*ledger.sources.values(), *ledger.clients.values()):
            page.write_off(FrameOutcome.DROPPED_SHUTDOWN)
        for page in ledger.sinks.values():
            page.write_off(ResultOutcome.FAILED)
