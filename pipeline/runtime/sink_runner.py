"""`SinkRunner`: the thread and the bounded queue around one sink; it owns the sink's page of the ledger."""

import threading
from collections.abc import Mapping, Sequence

from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.result import Result
from pipeline.contracts.sink import Sink
from pipeline.runtime.backoff import Backoff, BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.ledger import Page, ResultOutcome
from pipeline.runtime.queue import Drops, LaneLimits, LaneQueue
from pipeline.telemetry.readings import SinkReading

MAX_BATCH = 64
"""How many results a sink that wants no pictures is handed at once, at the most."""

DROPS = Drops(
    full=ResultOutcome.DROPPED_QUEUE_FULL, stale=ResultOutcome.DROPPED_QUEUE_FULL, closed=ResultOutcome.FAILED
)


class SinkRunner:
    """Made by the topology, started and joined by the supervisor, offered results by the backend's workers.

    A sink that is slow or fails loses only its own results, by its own policy, and each of them is counted.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        lanes: Mapping[str, LaneLimits],
        page: Page,
        surroundings: Surroundings,
    ) -> None:
        self.name = name
        self.sink = sink
        self.error: PenstockError | None = None
        self.tried = False  # True once the first attempt to open it is over, however it ended
        self.opened = False
        self.ended = False
        self._page = page
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._on_change = surroundings.changed
        self._bugs = BugAllowance()
        self._write_s = surroundings.metrics.stage("write", sink=name)
        self._age_s = {source: surroundings.metrics.age(source, "delivered") for source in lanes}
        self._queue: LaneQueue[Result] = LaneQueue(
            on_drop=lambda _, reason: page.settle(reason), drops=DROPS, clock=self._clock
        )
        self._lanes = {source: self._queue.lane(limits) for source, limits in lanes.items()}
        self._no_retry = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)

    def start(self) -> None:
        """Open the sink in its own thread, and begin to write."""
        self._thread.start()

    def offer(self, result: Result) -> None:
        """Hand over one result; waits only where the policy is `block` and the sink alive. Never raises."""
        self._page.enter()
        nbytes = result.prediction.nbytes + result.frame.picture.nbytes
        self._lanes[result.frame.source].put(result, nbytes)

    def finish(self) -> None:
        """No more will be offered: write what is there, close the sink, end."""
        self._no_retry.set()
        for lane in self._lanes.values():
            lane.close()
        if self._thread.ident is None:
            self.ended = True

    def abandon(self) -> None:
        """Drop what is there and end as soon as may be."""
        self._no_retry.set()
        self._queue.close(ResultOutcome.FAILED)

    @property
    def threads(self) -> list[threading.Thread]:
        """The thread to join, once it was started."""
        return [self._thread]

    def read(self) -> SinkReading:
        """The sink at this moment, for metrics and status."""
        account = self._page.read()
        return SinkReading(self.name, account.entered, account.outcomes, account.open)

    def _run(self) -> None:
        try:
            if self._open():
                self._write_all()
        except BaseException as error:  # noqa: BLE001  (a sink that dies in silence would block its backend)
            self._events.bug(f"sink {self.name}", error)
            self._fail(FatalError(f"{type(error).__name__}: {error}"))
        finally:
            self._queue.close(ResultOutcome.FAILED)
            self._close()
            self.tried = self.ended = True
            self._on_change()

    def _open(self) -> bool:
        backoff = Backoff()
        while True:
            try:
                self.sink.open()
            except TransientError as error:
                if self._no_retry.is_set():
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
                self._set_tried()
                return True

    def _write_all(self) -> None:
        # A batch of pictures would double what the queue may hold.
        max_items = 1 if self.sink.wants_pictures else MAX_BATCH
        while self.error is None:
            results = self._queue.get(max_items).items
            if not results:
                return
            self._write(results)

    def _write(self, results: Sequence[Result]) -> None:
        began_at = self._clock.monotonic()
        try:
            self.sink.write(results)
        except TransientError as error:
            self._events.sink_write_failed(self.name, len(results), error)
        except (FatalError, ConfigError) as error:
            self._fail(error)
        except BaseException as error:  # noqa: BLE001  (a plugin's bug: these results failed; too many bugs are fatal)
            self._events.bug(f"sink {self.name}", error)
            if not self._bugs.spend(self._clock.monotonic()):
                self._fail(FatalError(f"{type(error).__name__}: {error}"))
        else:
            now = self._clock.monotonic()
            self._write_s.observe(now - began_at)
            for result in results:
                self._age_s[result.frame.source].observe(max(0.0, now - result.frame.decoded_at))
            self._page.settle(ResultOutcome.DELIVERED, len(results))
            return
        self._page.settle(ResultOutcome.FAILED, len(results))

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
            if self.tried or not isinstance(error, ConfigError):  # at the start the supervisor tells all of those
                self._events.sink_failed(self.name, error)

    def _set_tried(self) -> None:
        self.tried = True
        self._on_change()
