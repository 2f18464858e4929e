"""`Courier`: the threads that send what is on a sink's shelf until it has arrived, each source's in order."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Sequence

from pipeline.contracts.component import Name
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.sender import RefusedError, Sender, SenderConfig, UndeliveredError
from pipeline.runtime.backoff import BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.sending_picks import Picks
from pipeline.runtime.sending_shelf import Shelf
from pipeline.runtime.sending_turns import NOTHING, Turns, Way
from pipeline.runtime.sink_health import SinkHealth
from pipeline.spool.errors import SpoolError

FAR_S = 3600.0
EMPTY_S = 0.2
LAST_SEND_S = 3.0
"""A send that is under way when it is over has so long to come back, before its calls are interrupted; less where the
whole of the time is short."""

LONGEST_WISH_S = 86_400.0
"""The other side may ask for no longer pause."""


class Courier:
    """Made by `Sending`: `start` and `finish` belong to its runner's thread, `limit` and `abandon` to the main thread.

    Args:
        sink: whose.
        sender: sends.
        config: order, delays, rate.
        shelf: what waits.
        surroundings: of the process.
        health: told how attempts end.
        on_failed: told, by a sending thread, that nothing more can be sent until someone acts.
        interrupt: ends the calls of the sender that are under way.
    """

    def __init__(
        self,
        sink: Name,
        sender: Sender,
        config: SenderConfig,
        shelf: Shelf,
        *,
        surroundings: Surroundings,
        health: SinkHealth,
        on_failed: Callable[[PenstockError], None],
        interrupt: Callable[[], None],
    ) -> None:
        self._component = f"sink {sink}"
        self._sender = sender
        self._config = config
        self._shelf = shelf
        self._health = health
        self._on_failed = on_failed
        self._interrupt = interrupt
        self._clock = surroundings.clock
        self._events = surroundings.events
        self._send_s = surroundings.metrics.stage("send", sink=sink)
        most = max(1, sender.max_items)
        self._bugs = BugAllowance()
        self._cond = threading.Condition()
        self._turns = Turns(
            config,
            most,
            sender.max_wait_s,
            pending=lambda source: shelf.pending.get(source, 0),
            now=self._clock.monotonic,
        )
        self._picks = Picks(config, shelf, self._turns, cond=self._cond, most=most, now=self._clock.monotonic)
        self._closing = self._over = self._sends_nothing = False
        self._at_work = 0
        self._until: float | None = None
        self._patience_s = self._moved_at = 0.0
        self._last_send_s = LAST_SEND_S
        self.threads = [
            threading.Thread(target=self._run, name=f"sink-{sink}-send-{number}", daemon=True)
            for number in range(max(1, sender.concurrency))
        ]

    def start(self) -> None:
        """Begin to send; what is on the shelf now is a backlog.

        Raises:
            SpoolError: it cannot be read.
        """
        for source in self._shelf.pending:
            self._turns.way(source).backlog_up_to = self._shelf.last_seq(source)
        for thread in self.threads:
            with self._cond:
                self._at_work += 1
            thread.start()

    def wake(self, sources: Iterable[str]) -> None:
        """Something of these sources was put on the shelf."""
        with self._cond:
            for source in sources:
                self._turns.came(source)
            self._cond.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until something was sent; False: it is over, and was before."""
        with self._cond:
            if self.is_over:
                return False
            left_s = FAR_S if self._until is None else self._until - self._clock.monotonic()
            self._cond.wait(max(0.0, min(seconds, left_s)))
            return True

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any longer, for room or for the other side."""
        if self._over or self._until is None:
            return self._over
        return self._sends_nothing or self._clock.monotonic() >= self._until

    def limit(self, until: float, patience_s: float) -> None:
        """Once `finish` is called: send until then, on the monotonic clock, and no longer without success than that."""
        with self._cond:
            self._until, self._patience_s = until, patience_s
            left_s = until - self._clock.monotonic()
            self._last_send_s = min(LAST_SEND_S, left_s / 2) if left_s > 0.0 else LAST_SEND_S
            self._cond.notify_all()

    def abandon(self) -> None:
        """Stop sending now."""
        with self._cond:
            self._until, self._over = 0.0, True
            self._cond.notify_all()
        self._interrupt()

    def finish(self) -> None:
        """Nothing more will come: send while it gets on and may, and return when all threads have ended.

        What is still under way some seconds after the end is interrupted.
        """
        with self._cond:
            self._closing = True
            self._moved_at = self._clock.monotonic()
            self._cond.notify_all()
            while self._at_work and not self.is_over:
                self._cond.wait(self._wait_s(None, self._clock.monotonic()))
            self._over = True
            self._cond.notify_all()
            if not self._cond.wait_for(lambda: not self._at_work, self._last_send_s):
                self._interrupt()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    # The sending threads

    def _run(self) -> None:
        try:
            while (way := self._next()) is not None:
                try:
                    self._send_some(way)
                finally:
                    with self._cond:
                        way.busy = False
                        self._cond.notify_all()
        except BaseException as error:  # noqa: BLE001  (a thread that dies in silence would leave its results for ever)
            self._events.bug(self._component, error)
            self._die(FatalError(f"{type(error).__name__}: {error}"))
        finally:
            with self._cond:
                self._at_work -= 1
                self._cond.notify_all()

    def _next(self) -> Way | None:
        """The way whose turn it is, once there is one; None: it is over."""
        with self._cond:
            while not self._over and not self._sends_nothing:
                pick = self._turns.pick(hurry=self._closing)
                while self._turns.gone:
                    self._health.good(f"source {self._turns.gone.pop()}")
                now = self._clock.monotonic()
                if self._closing:
                    is_idle = pick.way is None and pick.wait_s is None and not self._turns.is_any_busy
                    is_hopeless = pick.is_stalled and now - self._moved_at >= self._patience_s
                    if is_idle or is_hopeless or self.is_over:
                        self._over = True
                        self._cond.notify_all()
                        return None
                if pick.way is not None:
                    pick.way.busy = True
                    return pick.way
                self._cond.wait(self._wait_s(pick.wait_s, now))
            return None

    def _wait_s(self, wait_s: float | None, now: float) -> float:
        limits = [FAR_S if wait_s is None else wait_s]
        if self._closing and self._until is not None:
            limits += [self._until - now, max(0.05, self._moved_at + self._patience_s - now)]
        return max(0.0, min(limits))

    def _send_some(self, way: Way) -> None:
        try:
            batch = self._picks.take(way)
        except SpoolError as error:
            self._health.bad("spool", error)
            self._later(way, error)
            return
        if not batch:
            with self._cond:  # what is damaged, or was purged, is counted anew in a moment
                way.look_at = max(way.look_at, self._clock.monotonic() + EMPTY_S)
            return
        began_at = self._clock.monotonic()
        seqs = [item.seq for item in batch]
        try:
            self._sender.send([item.parcel for item in batch])
        except RefusedError as error:
            self._arrived(way, seqs[: error.delivered])
            self._refused(way, seqs[error.delivered :], error.answer or str(error))
        except (FatalError, ConfigError) as error:
            self._shelf.release(seqs)
            self._die(error)
        except TransientError as error:
            delivered = error.delivered if isinstance(error, UndeliveredError) else 0
            self._arrived(way, seqs[:delivered])
            self._not_now(way, seqs[delivered:], error)
        except (concurrent.futures.CancelledError, asyncio.CancelledError):  # interrupted
            self._shelf.release(seqs)
        except Exception as error:  # noqa: BLE001  (a plugin's bug: the one that brings it about is set aside)
            self._events.bug(self._component, error)
            if self._bugs.spend(self._clock.monotonic()):
                self._refused(way, seqs, f"{type(error).__name__} in the sink: {error}")
            else:
                self._shelf.release(seqs)
                self._die(FatalError(f"{type(error).__name__}: {error}"))
        else:
            self._send_s.observe(self._clock.monotonic() - began_at)
            self._arrived(way, seqs)
            self._is_well(way)

    # How it ended

    def _arrived(self, way: Way, seqs: Sequence[int]) -> None:
        if seqs:
            self._moved_at = self._clock.monotonic()
            way.forget(seqs)
            self._shelf.delivered(seqs, self.wait)

    def _refused(self, way: Way, seqs: Sequence[int], answer: str) -> None:
        """One of these will never be taken: of several each is sent alone from now on."""
        self._moved_at = self._clock.monotonic()
        if len(seqs) > 1:
            self._shelf.release(seqs)
            way.alone_after, way.alone_up_to = min(seqs) - 1, max(seqs)
            return
        way.forget(seqs)
        self._shelf.bury(seqs, answer, self.wait)

    def _not_now(self, way: Way, seqs: Sequence[int], error: TransientError) -> None:
        most = self._config.retry.max_attempts
        over = way.failed_again(seqs, most)
        self._shelf.release(set(seqs) - set(over))
        if over:
            self._shelf.bury(over, f"given up after {most} attempts: {error}", self.wait)
        self._later(way, error)
        self._health.bad(f"source {way.source}", error)

    def _later(self, way: Way, error: TransientError) -> None:
        with self._cond:
            now = self._clock.monotonic()
            way.failing = True
            way.retry_at = now + way.backoff.next_s()
            if error.retry_after_s is not None:
                wish_s = min(max(0.0, error.retry_after_s), LONGEST_WISH_S)
                self._turns.not_before = max(self._turns.not_before, now + wish_s)

    def _is_well(self, way: Way) -> None:
        self._health.good(f"source {way.source}")
        if not way.failing:
            return
        way.backoff.reset()
        try:
            last = self._shelf.last_seq(way.source)
        except SpoolError as error:  # then nothing of it counts as a backlog
            self._health.bad("spool", error)
            last = NOTHING
        with self._cond:
            way.failing = False
            way.backlog_up_to = last

    def _die(self, error: PenstockError) -> None:
        """Nothing more is sent; what is on the shelf stays there."""
        with self._cond:
            self._sends_nothing = True
            self._cond.notify_all()
        self._on_failed(error)
