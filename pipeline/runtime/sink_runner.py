"""`SinkRunner`: the thread and the bounded queue around one sink; it owns the sink's page of the ledger."""

import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from pipeline.contracts.errors import ConfigError, EnoughError, FatalError, PenstockError, TransientError
from pipeline.contracts.event import DaemonEvent
from pipeline.contracts.packets import Recording
from pipeline.contracts.result import Result
from pipeline.contracts.sink import Mending, Sink, Ticking
from pipeline.runtime.backoff import Backoff, BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.ledger import Page, ResultOutcome
from pipeline.runtime.outlet import Delivery, Released, Selecting
from pipeline.runtime.queue import LaneLimits
from pipeline.runtime.route import Route
from pipeline.runtime.sending import Sending
from pipeline.runtime.sink_handing import Other, Tick, counted, hand_over, runs
from pipeline.runtime.sink_health import SinkHealth
from pipeline.runtime.sink_intake import Intake
from pipeline.runtime.watch import Stage
from pipeline.telemetry.readings import SinkReading, SinkState

MAX_BATCH = 16
"""How many results a sink that wants no pictures is handed at once, at the most."""

MAX_SPOOLED_BATCH = 256
"""The same for a sink with a spool: one commit for all of them."""

TICK_S = 1.0
"""How often a sink is woken although nothing comes."""


class SinkRunner:
    """Made by the topology, started and joined by the supervisor, offered results by the backend's workers.

    A sink that is slow or fails loses only its own results, by its own policy, and each of them is counted. A `trial`
    is given up at the first failure to open.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        page: Page,
        surroundings: Surroundings,
        trial: bool = False,
        notices: Collection[str] = (),
        selecting: Selecting | None = None,
    ) -> None:
        self.name = name
        self.sink = sink
        self.error: PenstockError | None = None
        self.tried = False  # True once the first attempt to open it is over, however it ended
        self.opened = False
        self.ended = False
        self._is_done_for = False
        self._page = page
        self._trial = trial
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._on_change = surroundings.changed
        self._bugs = BugAllowance()
        self._spooled = sink if isinstance(sink, Sending) else None
        self._health = self._spooled.health if self._spooled is not None else SinkHealth(name, surroundings)
        if self._spooled is not None:
            self._spooled.on_failed = self._sender_failed
        self._write_s = surroundings.metrics.stage("write", sink=name)
        self._intake = Intake(
            name,
            page,
            self._clock,
            wants_pictures=sink.wants_pictures,
            notices=notices,
            selecting=selecting,
        )
        self._busy = False
        self._written = 0
        self._no_retry = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)

    def inherit(self, failed: "SinkRunner") -> None:
        """Take over what waits for a sink that did not open on trial, which gets nothing even if it opens yet."""
        self._intake.inherit(failed._intake)

    def connect(self, route: Route, limits: LaneLimits) -> None:
        """Take the results of this route, too, or keep to other limits; what went to a sink of this name comes here."""
        if self._intake.connect(route, limits) and isinstance(self.sink, Recording):
            self.sink.attach(route.source)

    def disconnect(self, route: Route) -> None:
        """Take no more of this route's results, whichever sink of this name did; what is there is still written."""
        self._intake.disconnect(route)

    def start(self) -> None:
        """Open the sink in its own thread, and begin to write."""
        self._thread.start()

    def finish(self, until: float = 0.0, patience_s: float = 0.0) -> None:
        """No more will be offered: write what is there, close the sink, end.

        Args:
            until: monotonic; until then what is in its spool may be sent; a sink that is only replaced leaves it there.
            patience_s: what is in memory only is tried for so long without success.
        """
        self._no_retry.set()
        if self._spooled is not None:
            self._spooled.finish(until, patience_s)
        self._intake.finish()
        if self._thread.ident is None:
            self.ended = True

    def hurry(self, until: float) -> None:
        """More may be offered, but until then (monotonic) whoever waits for room in a spool has it."""
        if self._spooled is not None:
            self._spooled.hurry(until)

    def tell(self, event: DaemonEvent) -> None:
        """Let the sink know, if it wants to; never waits. From any thread."""
        self._intake.tell(event)

    def abandon(self) -> None:
        """Drop what is there and end as soon as may be."""
        self._no_retry.set()
        self._intake.queue.close(ResultOutcome.FAILED)
        if self._spooled is not None:
            self._spooled.abandon()

    def watch(self) -> Stage:
        """Whether it has work, and how much it has done; to wait for room in a spool on purpose is none."""
        waits = self._spooled is not None and self._spooled.waiting
        has_work = self.opened and not waits and (self._busy or len(self._intake.queue) > 0)
        return Stage("sink", self.name, has_work, self._written)

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads to join, once they were started."""
        return [self._thread, *(self._spooled.threads if self._spooled is not None else ())]

    @property
    def spool_path(self) -> Path | None:
        """The file of its spool; None: it has none."""
        return None if self._spooled is None else self._spooled.path

    @property
    def takes_more(self) -> bool:
        """Whether results are of any use to it: also to one that failed, where they wait in a spool for who acts."""
        return self.error is None or (self._spooled is not None and self.opened and not self._is_done_for)

    @property
    def trouble(self) -> str | None:
        """What failed last, and may work again; None: all is well."""
        return self._health.trouble

    @property
    def state(self) -> SinkState:
        """What it is doing."""
        if self.error is not None:
            return SinkState.FAILED
        if self.ended:
            return SinkState.STOPPED
        if not self.opened:
            return SinkState.STARTING
        return SinkState.READY if self._health.trouble is None else SinkState.DEGRADED

    def read(self) -> SinkReading:
        """The sink at this moment, for metrics and status."""
        account = self._page.read()
        return SinkReading(
            name=self.name,
            accepted=account.entered,
            outcomes=account.outcomes,
            pending=account.open,
            restored=account.restored,
            state=self.state,
            spool=None if self._spooled is None else self._spooled.read(),
            mended=self.sink.mended if self._spooled is None and isinstance(self.sink, Mending) else 0,
        )

    def _run(self) -> None:
        try:
            if self._open():
                self._write_all()
        except BaseException as error:  # noqa: BLE001  (a sink that dies in silence would block its backend)
            self._is_done_for = True
            self._events.bug(f"sink {self.name}", error)
            self._fail(FatalError(f"{type(error).__name__}: {error}"))
        finally:
            if self.opened or not self._trial:  # what waits for a trial that failed is another's
                self._intake.queue.close(ResultOutcome.FAILED)
            self._close()
            self.tried = self.ended = True
            self._on_change()

    def _open(self) -> bool:
        backoff = Backoff()
        while True:
            try:
                self.sink.open()
            except TransientError as error:
                if self._no_retry.is_set() or self._trial:
                    self._fail(FatalError(str(error)))
                    return False
                delay_s = backoff.next_s(error.retry_after_s)
                self._events.sink_retry(self.name, delay_s, error)
                self._set_tried()
                self._no_retry.wait(delay_s)
            except (FatalError, ConfigError) as error:
                self._fail(error)
                return False
            except Exception as error:  # noqa: BLE001  (a plugin's bug: it never worked, so it is fatal at once)
                self._events.bug(f"sink {self.name}", error)
                self._fail(FatalError(f"{type(error).__name__}: {error}"))
                return False
            else:
                self._events.sink_ready(self.name)
                self.opened = True
                self._trial = False
                self._set_tried()
                return True

    def _write_all(self) -> None:
        # A batch of pictures would double what the queue may hold.
        usual = MAX_BATCH if self._spooled is None else MAX_SPOOLED_BATCH
        max_items = 1 if self.sink.wants_pictures else usual
        ticks = isinstance(self.sink, Ticking)
        tick_s = TICK_S if self._spooled is None else self._spooled.tick_s
        ticked_at = self._clock.monotonic()
        while self.takes_more:
            taken = self._intake.queue.get(max_items, idle_s=tick_s if ticks else None)
            if not taken.items and not taken.idle:
                return
            self._busy = True
            if self._spooled is not None:
                self._spool(self._spooled, taken.items)
            else:
                self._write_one_by_one(taken.items)
            if ticks and self._clock.monotonic() - ticked_at >= tick_s:
                self._write((), Tick())
                ticked_at = self._clock.monotonic()
            self._busy = False
            self._written += 1

    def _write_one_by_one(self, items: Sequence[Delivery]) -> None:
        for results, other in runs(items):
            if isinstance(other, Released):
                for event in other.last():
                    self._page.enter()
                    self._write((), event)
            self._write(results, other)

    def _spool(self, sending: Sending, items: Sequence[Delivery]) -> None:
        """Put all into the spool, which settles each of them in the ledger."""
        deliveries: list[Delivery] = []
        for item in items:
            if isinstance(item, Released):
                last = item.last()
                self._page.enter(len(last))
                deliveries += last
            deliveries.append(item)
        began_at = self._clock.monotonic()
        try:
            sending.accept(deliveries)
        except FatalError as error:
            self._fail(error)
            self._is_done_for = True
        self._write_s.observe(self._clock.monotonic() - began_at)

    def _sender_failed(self, error: PenstockError) -> None:
        """Nothing can be sent until someone acts; what comes waits in the spool for that. From a sending thread."""
        self._fail(error)
        self._on_change()

    def _write(self, results: Sequence[Result], other: Other | None) -> None:
        """Hand over results, or one other thing; nothing more once it has failed for good."""
        count = counted(results, other)
        if self.error is not None and not (self.takes_more and isinstance(other, Tick)):
            self._page.settle(ResultOutcome.FAILED, count)
            return
        what = "tick" if isinstance(other, Tick) else "write"
        began_at = self._clock.monotonic()
        try:
            hand_over(self.sink, results, other)
        except TransientError as error:
            self._health.bad(what, error, lost=count)
            self._events.sink_write_failed(self.name, count, error)
        except (FatalError, ConfigError) as error:
            self._fail(error)
        except BaseException as error:  # noqa: BLE001  (a plugin's bug: these results failed; too many bugs are fatal)
            self._events.bug(f"sink {self.name}", error)
            if not self._bugs.spend(self._clock.monotonic()):
                self._fail(FatalError(f"{type(error).__name__}: {error}"))
        else:
            now = self._clock.monotonic()
            self._write_s.observe(now - began_at)
            self._health.good(what)
            for result in results:
                route = self._intake.route_of(result.frame.source)
                if route is not None:  # not removed in the meantime
                    route.delivered_age_s.observe(max(0.0, now - result.frame.decoded_at))
            self._page.settle(ResultOutcome.DELIVERED, count)
            return
        self._page.settle(ResultOutcome.FAILED, count)

    def _close(self) -> None:
        try:
            self.sink.close()
        except PenstockError as error:
            self._fail(error)
        except BaseException as error:  # noqa: BLE001  (a plugin's bug: it is over anyway, and the exit code says so)
            self._events.bug(f"sink {self.name}", error)
            self._fail(FatalError(f"{type(error).__name__}: {error}"))

    def _fail(self, error: PenstockError) -> None:
        if self.error is None:
            self.error = error
            # At the start the supervisor tells all configuration errors, at a reload whatever it is.
            if not self._trial and (self.tried or not isinstance(error, ConfigError)):
                tell = self._events.sink_closed if isinstance(error, EnoughError) else self._events.sink_failed
                tell(self.name, error)

    def _set_tried(self) -> None:
        self.tried = True
        self._on_change()
