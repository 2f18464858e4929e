"""A running pipeline of fakes that is given other configurations, and what its tests need for that."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from fakes import STUCK, FakeBackendConfig, FakeSinkConfig, FakeSource, FakeSourceConfig, LiveFakeConfig
from harness import Run, run

from pipeline.config.loader import from_tree
from pipeline.config.settings import Settings
from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.registry import Registry
from pipeline.runtime.reload import ReloadError
from pipeline.telemetry.readings import SourceState

CAMERA: dict[str, Any] = {"type": "live", "live": True, "endless": True, "fps": 200.0}
EVENTS = {"keep": {"notices": ["sources"]}}


class UnbuildableConfig(LiveFakeConfig):
    type: Literal["unbuildable"] = "unbuildable"  # type: ignore[assignment]

    def build(self, ctx: Context) -> FakeSource:
        raise FatalError("no such library")


class OneReaderConfig(LiveFakeConfig):
    """A device that only one can read at a time, and that takes a while to be let go."""

    type: Literal["one_reader"] = "one_reader"  # type: ignore[assignment]
    exclusive: bool = True

    def build(self, ctx: Context) -> FakeSource:
        return OneReader(self, ctx)


class OneReader(FakeSource):
    device: ClassVar[threading.Lock] = threading.Lock()

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        if not self.device.acquire(blocking=False):
            raise TransientError("device or resource busy")
        try:
            yield from super().frames(stop)
            threading.Event().wait(0.3)
        finally:
            self.device.release()


class QuietFolderConfig(FakeSourceConfig):
    """A folder that is watched: it is well, and nothing comes."""

    type: Literal["quiet_folder"] = "quiet_folder"  # type: ignore[assignment]

    def build(self, ctx: Context) -> FakeSource:
        return QuietFolder(self, ctx)


class QuietFolder(FakeSource):
    may_idle = True

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        yield from super().frames(stop)
        stop.wait()


PLUGINS = (QuietFolderConfig, UnbuildableConfig, OneReaderConfig)


def tree(**tables: Any) -> dict[str, Any]:
    """The tables of one camera, one backend and one sink, but for those that are given."""
    usual: dict[str, Any] = {"sources": {"cam": CAMERA}, "backends": {"model": {}}, "sinks": {"keep": {}}}
    tables = usual | tables
    for kind in usual:
        tables[kind] = {name: {"type": "fake", **table} for name, table in tables[kind].items()}
    return {"server": {"listen": "off"}, "reload_timeout_s": 5.0} | tables


def settings_of(**tables: Any) -> Settings:
    """The same, as settings."""
    registry = Registry.of(FakeSourceConfig, LiveFakeConfig, FakeBackendConfig, FakeSinkConfig, *PLUGINS)
    return from_tree(tree(**tables), base_dir=Path.cwd(), registry=registry)


def run_with(during: Callable[[Run], Any], **tables: Any) -> Run:
    """Run such a pipeline; `during` begins when it has started, and it is stopped after that."""

    async def after_the_start(this: Run) -> None:
        try:
            await this.supervisor.started.wait()
            await during(this)
        finally:
            STUCK.set()
            if not this.supervisor.stopping:
                this.supervisor.stop("test")

    STUCK.clear()
    return run(tree(**tables), after_the_start, PLUGINS)


async def seen(this: Run, more: int = 20) -> None:
    """Wait until the sink `keep` was given so many more results."""
    before = this.sink().results_seen
    await this.until(lambda: this.sink().results_seen > before + more)


async def stuck(this: Run) -> None:
    """Wait until nothing moves any more in the backend."""
    backend = this.supervisor.topology.backends["model"]
    await this.until(lambda: len(backend.queue) > 1)  # as many as a camera may have waiting
    await asyncio.sleep(0.1)
    assert len(backend.queue) > 1


async def refused(this: Run, **tables: Any) -> str:
    """Apply such settings, which must be refused; why they were."""
    with pytest.raises(ReloadError) as caught:
        await this.supervisor.apply(settings_of(**tables))
    return str(caught.value)


def state(this: Run, name: str = "cam") -> SourceState:
    """What a source is doing."""
    return this.supervisor.topology.sources[name].state
