"""`RunContext`: what a plugin gets from the running pipeline, and the loop that all of them share."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.contracts.clock import Clock
from pipeline.contracts.packets import PacketRing, PacketRings
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import concurrent.futures

T = TypeVar("T")


class MainLoop:
    """The main thread's asyncio loop, known from the moment the supervisor runs."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self) -> None:
        """Remember the loop that runs now; called by the supervisor, in the main thread."""
        self._loop = asyncio.get_running_loop()

    def notify(self, event: asyncio.Event) -> None:
        """Set the event from any thread; nothing happens once the loop is closed."""
        self.soon(event.set)

    def soon(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call it on the loop, from any thread; not at all once the loop is closed."""
        with contextlib.suppress(RuntimeError):  # closed just now
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback, *arguments)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Run the coroutine on the loop; who waits for it is never the loop's own thread."""
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("the pipeline does not run yet")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every runner needs from the process around it.

    Attributes:
        events: where it tells what happens.
        metrics: where it measures.
        clock: the clocks that it uses.
        changed: called, from any thread, whenever its state changed.
    """

    events: Events
    metrics: Metrics
    clock: Clock
    changed: Callable[[], None]


@dataclass(frozen=True, slots=True)
class RunContext:
    """The `Context` of one component. Made by the topology."""

    kind: str
    name: str
    clock: Clock
    data_dir: Path
    loop: MainLoop
    events: Events
    metrics: Metrics
    continues: bool = False
    rings: PacketRings = field(default_factory=PacketRings)
    calls: "set[concurrent.futures.Future[Any]]" = field(default_factory=set)

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """See `Context.call`."""
        future = self.loop.begin(coroutine)
        self.calls.add(future)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise
        finally:
            self.calls.discard(future)

    def interrupt(self) -> None:
        """End the calls that are under way, for who waits in them in vain."""
        for future in tuple(self.calls):
            future.cancel()

    def packets(self, source: str) -> PacketRing:
        """See `Context.packets`."""
        return self.rings.of(source)

    def warn(self, message: str) -> None:
        """See `Context.warn`."""
        self.events.note(f"{self.kind} {self.name}", message)

    def fell_back(self, wanted: str, got: str, reason: str) -> None:
        """See `Context.fell_back`."""
        self.metrics.device_fallback(self.kind, self.name, wanted, got).inc()
        self.events.fell_back(f"{self.kind} {self.name}", wanted, got, reason)

    def tell(self, state: str, detail: str, *, well: bool) -> None:
        """See `Context.tell`."""
        self.events.component_state(f"{self.kind} {self.name}", state, detail, well=well)
