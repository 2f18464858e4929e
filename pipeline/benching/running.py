"""The whole pipeline, run for some seconds in this process: what it does a second, and what that costs."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from pipeline.benching.machine import busy_s
from pipeline.config.settings import Settings
from pipeline.contracts.clock import SystemClock
from pipeline.contracts.errors import ConfigError
from pipeline.runtime.supervisor import Supervisor
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics

PATIENCE_S = 60.0
"""For models to load and be tuned; a GPU's first start takes long."""

SETTLE_S = 1.0
"""Until queues are as full as they will be."""


class Ran(NamedTuple):
    """What happened in some seconds of a run.

    Attributes:
        seconds: how many they were.
        cpu_s: CPU seconds of the whole process in them.
        decoded: frames that came.
        inferred: frames with a result.
        dropped: frames that were let go or failed.
        devices: where the models ran.
        others_cores: how many cores other processes kept busy meanwhile; 0 where the system does not say.
    """

    seconds: float
    cpu_s: float
    decoded: int
    inferred: int
    dropped: int
    devices: tuple[str, ...]
    others_cores: float = 0.0

    @property
    def cores(self) -> float:
        """How many cores were kept busy."""
        return self.cpu_s / self.seconds

    @property
    def fps(self) -> float:
        """Results a second."""
        return self.inferred / self.seconds


def run_for(settings: Settings, seconds: float, begun: Callable[[], object] = lambda: None) -> Ran:
    """Start it, let it settle, watch it for `seconds`, and stop it.

    Args:
        settings: what to run.
        seconds: how long to watch.
        begun: called when the loop runs: from then on Ctrl-C is its to handle.

    Raises:
        ConfigProblems: something that was asked for cannot be had.
        ConfigError: it does not start, or gives nothing.
    """
    return asyncio.run(_run(settings, seconds, begun))


async def _run(settings: Settings, seconds: float, begun: Callable[[], object]) -> Ran:
    begun()
    clock = SystemClock()
    supervisor = Supervisor(settings, events=Events(clock), metrics=Metrics("bench"), clock=clock)
    watched = asyncio.create_task(_watch(supervisor, seconds))
    try:
        running = asyncio.create_task(supervisor.run())
        await asyncio.wait((running, watched), return_when=asyncio.FIRST_COMPLETED)
        supervisor.stop("measured")
        report = await running
    finally:
        watched.cancel()
        await asyncio.gather(watched, return_exceptions=True)
    if watched.cancelled():
        failed = f" ({', '.join(report.failed)} failed)" if report.failed else ""
        raise ConfigError(f"the pipeline ended before it could be measured{failed}: run it with penstock run")
    return watched.result()


async def _watch(supervisor: Supervisor, seconds: float) -> Ran:
    async with asyncio.timeout(PATIENCE_S):
        await supervisor.until_warm()
    await asyncio.sleep(min(SETTLE_S, seconds))
    before, busy_before_s = _counts(supervisor), busy_s()
    cpu_s, at = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    after, cpu_s, lasted_s = _counts(supervisor), time.process_time() - cpu_s, time.monotonic() - at
    after.subtract(before)
    all_s = busy_s()
    others_s = 0.0 if all_s is None or busy_before_s is None else max(0.0, all_s - busy_before_s - cpu_s)
    devices = {device for state in supervisor.read_backends() for device in state.devices}
    lost = sum(count for name, count in after.items() if name.startswith(("dropped", "failed")))
    return Ran(lasted_s, cpu_s, after["decoded"], after["inferred"], lost, tuple(sorted(devices)), others_s / lasted_s)


def _counts(supervisor: Supervisor) -> "Counter[str]":
    found: Counter[str] = Counter()
    for reading in supervisor.read_sources():
        found["decoded"] += reading.decoded
        found.update({str(name): count for name, count in reading.outcomes.items()})
    return found
