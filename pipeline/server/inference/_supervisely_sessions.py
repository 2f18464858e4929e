"""Sessions: requests of the Supervisely dialect that go on after their answer, until their results are fetched."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pipeline.server.inference.refusal import RefusedError, busy
from pipeline.telemetry.logs import LOGGER
from pipeline.wire.supervisely import CANCELLED, ERROR, FINISHED, PREPARING, RUNNING, Progress


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What sessions may take.

    Attributes:
        sessions: that are kept at once, finished ones included.
        results: that wait to be fetched from one of them; then it pauses.
        results_bytes: the same in bytes; one result may always wait.
        idle_s: a session that nobody asks for this long is forgotten.
        cleared_s: so is one that its client cleared.
        abandoned_s: one that waits this long for its results to be fetched makes way where room is needed.
        sweep_s: how often is looked for them.
    """

    sessions: int = 32
    results: int = 500
    results_bytes: int = 16 << 20
    idle_s: float = 3600.0
    cleared_s: float = 60.0
    abandoned_s: float = 120.0
    sweep_s: float = 30.0


class StoppedError(Exception):
    """The session was stopped: whoever works for it ends."""


class Session:
    """One request under way. Made by `Sessions`; used on the main loop.

    Attributes:
        uuid: its id, not to be guessed.
        total: pictures that it is about, as far as one knows.
        cancelled: somebody stopped it; may be read from any thread.
    """

    def __init__(self, limits: SessionLimits, now: Callable[[], float], total: int) -> None:
        self.uuid = secrets.token_hex(16)
        self.total = total
        self.cancelled = False
        self._limits = limits
        self._now = now
        self._stage = PREPARING
        self._current = 0
        self._results: deque[bytes] = deque()
        self._results_bytes = 0
        self._paused = False
        self._finished = False
        self._cleared = False
        self._error: tuple[str, str] | None = None
        self._changed = asyncio.Event()
        self._created_at = self._touched_at = now()
        self._keep_s = limits.idle_s

    @property
    def finished(self) -> bool:
        """No more results will come."""
        return self._finished

    @property
    def is_spent(self) -> bool:
        """It is finished, and everything was fetched, or nobody wants what is left."""
        return self._finished and (not self._results or self._cleared)

    @property
    def expires_at(self) -> float:
        """When it is forgotten."""
        return self._touched_at + self._keep_s

    @property
    def is_abandoned(self) -> bool:
        """It waits, and whoever started it does not come for its results."""
        return self._paused and self._now() - self._touched_at > self._limits.abandoned_s

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            uuid=self.uuid,
            stage=self._stage,
            current=self._current,
            total=self.total,
            pending=len(self._results),
            finished=self._finished,
            stopped=self.cancelled,
            paused=self._paused,
            error=self._error,
            created_at=round(self._created_at, 3),
            updated_at=round(self._touched_at, 3),
        )

    def touch(self) -> None:
        """Somebody asked for it."""
        self._touched_at = self._now()

    def begin(self) -> None:
        """The work starts now."""
        self._stage = RUNNING

    def pop(self) -> list[bytes]:
        """All results that wait, and no more of them: each is given once."""
        results = list(self._results)
        self._results.clear()
        self._results_bytes = 0
        self._changed.set()
        return results

    async def deliver(self, result: bytes) -> None:
        """Put a result there to be fetched, once there is room.

        Raises:
            StoppedError: the session was stopped meanwhile.
        """
        while self._is_full(len(result)) and not self.cancelled:
            self._paused = True
            self._changed.clear()
            await self._changed.wait()
        self._paused = False
        self.check()
        self._results.append(result)
        self._results_bytes += len(result)
        self._current += 1
        self.touch()

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than until the session is stopped.

        Raises:
            StoppedError: it was.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self.cancelled:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return
        self.check()

    def check(self) -> None:
        """Raises StoppedError where the session was stopped."""
        if self.cancelled:
            raise StoppedError

    def stop(self) -> None:
        """End it soon; what waits to be fetched stays."""
        if not self._finished:
            self.cancelled = True
            self._changed.set()

    def clear(self) -> None:
        """End it, and forget it in a minute."""
        self.stop()
        self._cleared = True
        self._keep_s = self._limits.cleared_s
        self.touch()

    def finish(self, error: tuple[str, str] | None = None) -> None:
        """No more results will come."""
        self._error = error
        self._stage = ERROR if error is not None else CANCELLED if self.cancelled else FINISHED
        self._finished = True
        self._paused = False
        if error is None and not self.cancelled:
            self.total = self._current  # what was expected of a video was an estimate
        self.touch()

    def _is_full(self, more_bytes: int) -> bool:
        limits, waiting = self._limits, len(self._results)
        too_large = waiting > 0 and self._results_bytes + more_bytes > limits.results_bytes
        return waiting >= limits.results or too_large


class Sessions:
    """All sessions of the dialect. Made with it; used on the main loop, closed with the server."""

    def __init__(self, limits: SessionLimits | None = None) -> None:
        self._limits = limits or SessionLimits()
        self._sessions: dict[str, Session] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def current(self) -> tuple[int, int]:
        """So many pictures are done, of so many, in all sessions that run."""
        running = [session.progress() for session in self._sessions.values() if not session.finished]
        return sum(each.current for each in running), sum(each.total for each in running)

    def check_room(self) -> None:
        """Before a body is read.

        Raises:
            RefusedError: 503: there is no room for one more session.
        """
        self._forget()
        if len(self._sessions) < self._limits.sessions:
            return
        spent = [session for session in self._sessions.values() if session.is_spent]
        if not spent:
            self.stop_abandoned()
            raise busy("too many sessions are kept already; clear those that are not needed")
        self._remove(min(spent, key=lambda session: session.expires_at))

    def stop_abandoned(self) -> None:
        """End those that wait for a client that is gone; there will be room in a moment."""
        for session in [each for each in self._sessions.values() if each.is_abandoned]:
            self._remove(session)

    def start(self, total: int, work: Callable[[Session], Awaitable[None]]) -> Session:
        """A new session, for which `work` is done from now on.

        Raises:
            RefusedError: 503: there is no room for it.
        """
        self.check_room()
        loop = asyncio.get_running_loop()
        session = Session(self._limits, loop.time, total)
        self._sessions[session.uuid] = session
        task = loop.create_task(_carry_out(session, work), name=f"supervisely-{session.uuid[:8]}")
        self._tasks[session.uuid] = task
        task.add_done_callback(lambda _: self._tasks.pop(session.uuid, None))
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._limits.sweep_s, self._sweep)
        return session

    def find(self, uuid: str) -> Session:
        """The session of this id; it is kept on, because somebody asked for it.

        Raises:
            RefusedError: 404.
        """
        self._forget()
        session = self._sessions.get(uuid)
        if session is None:
            raise RefusedError(404, "there is no such inference_request_uuid; it was cleared, or nobody asked for long")
        session.touch()
        return session

    async def close(self) -> None:
        """End all sessions, and wait for those who work for them."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        tasks = list(self._tasks.values())
        for session in self._sessions.values():
            session.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sessions.clear()

    def _sweep(self) -> None:
        self._forget()
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self._limits.sweep_s, self._sweep) if self._sessions else None

    def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        for session in [each for each in self._sessions.values() if each.expires_at <= now]:
            self._remove(session)

    def _remove(self, session: Session) -> None:
        session.stop()
        del self._sessions[session.uuid]


async def _carry_out(session: Session, work: Callable[[Session], Awaitable[None]]) -> None:
    try:
        await work(session)
    except StoppedError:
        session.finish()
    except RefusedError as error:
        session.finish((error.kind or "Error", error.message))
    except asyncio.CancelledError:
        session.finish(("Cancelled", "the server is on its way out"))
        raise
    except Exception as error:  # a bug: the client hears that it was one, the log which
        session.finish(("InternalError", "the session failed"))
        logging.getLogger(LOGGER).exception("server: a session failed", exc_info=error)
    else:
        session.finish()
