"""`Aside`: blocking work for the main loop in threads that nobody waits for at the end of the process."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class Aside:
    """Used on the main loop. A thread of asyncio's own pool would not do: one that hangs would hold up the others' work
    and, since asyncio joins it, the end of the process.

    Args:
        name: of the threads.
        most: at most so many at once, those that hang included.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._places = threading.Semaphore(most)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives or raises.

        Raises:
            BlockingIOError: all threads are at work.
        """
        if not self._places.acquire(blocking=False):
            raise BlockingIOError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        try:
            threading.Thread(target=self._work, args=(work, loop, future), name=self._name, daemon=True).start()
        except RuntimeError as error:  # the system gives no more threads
            self._places.release()
            raise BlockingIOError from error
        return await future

    def _work(self, work: Callable[[], T], loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]") -> None:
        try:
            ending = partial(_end, future, future.set_result, work())
        except Exception as error:  # noqa: BLE001  (raised where it is waited for)
            ending = partial(_end, future, future.set_exception, error)
        finally:
            self._places.release()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(ending)


def _end(future: "asyncio.Future[T]", how: Callable[..., None], what: object) -> None:
    if not future.done():  # else nobody waits any more
        how(what)
