"""A `PluginContext` whose coroutines share one loop in a thread, as those of a running pipeline share the main loop."""

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pipeline.contracts.clock import Clock
from pipeline.testing import PluginContext

T = TypeVar("T")


class LoopedContext(PluginContext):
    """For backends that keep a session open between calls: `with LoopedContext("cloud", tmp_path) as ctx`.

    At its end no task may be left on the loop: a leak fails the test.
    """

    def __init__(self, name: str = "test", data_dir: Path = Path("data"), clock: Clock | None = None) -> None:
        super().__init__(name, data_dir, clock)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=f"loop-{name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = asyncio.run_coroutine_threadsafe(self._left(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        if error is None:
            assert not left, f"tasks left on the loop: {left}"

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    async def _left(self) -> list[str]:
        await asyncio.sleep(0.01)  # transports that were closed say so in the next round of the loop
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        return [str(task) for task in others]
