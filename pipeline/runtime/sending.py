"""`Sending`: what stands around a sender: a shelf that keeps what it is given, and a courier that sends it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError
from pipeline.contracts.event import DaemonEvent, Event, SourceEvent
from pipeline.contracts.result import Result
from pipeline.contracts.sender import Parcel, Sender, SenderConfig
from pipeline.contracts.sink import Ticking
from pipeline.runtime.backoff import Backoff, BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.ledger import Page, ResultOutcome
from pipeline.runtime.outlet import Delivery, Released
from pipeline.runtime.sending_out import Courier
from pipeline.runtime.sending_shelf import RETRY_S, Shelf
from pipeline.runtime.sink_health import SinkHealth
from pipeline.spool.errors import SpoolError
from pipeline.telemetry.readings import SpoolReading

TICK_S = 1.0
MIN_TICK_S = 0.05


def spool_path(data_dir: Path, name: str, config: object) -> Path | None:
    """The file of this sink's spool; None: it has none on disk."""
    if not isinstance(config, SenderConfig) or config.buffer.type != "disk":
        return None
    return data_dir / "spool" / f"{name}.{config.type}.db"


class Sending:
    """A sink, for its runner, that keeps what it is given until a sender has sent it.

    Made by the topology. `open`, `accept`, `tick` and `close` belong to the runner's thread; `concurrency` threads of
    its own send. `finish` and `abandon` belong to the main thread.

    Args:
        sender: packs and sends.
        config: its keys.
        ctx: of the sink.
        page: of the ledger.
        surroundings: of the process.
        interrupt: ends the calls of the sender that are under way.
    """

    def __init__(
        self,
        sender: Sender,
        config: SenderConfig,
        ctx: Context,
        *,
        page: Page,
        surroundings: Surroundings,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self.wants_pictures = sender.wants_pictures
        self.sender = sender
        kept = "results wait in the spool" if config.buffer.type == "disk" else "results wait in memory"
        self.health = SinkHealth(ctx.name, surroundings, kept)
        self.on_failed: Callable[[PenstockError], None] = lambda _: None
        """Told, by a sending thread, that nothing more can be sent until someone acts."""
        self.waiting = False
        """True while there is no room, and it waits for some because it was told to, or because the disk is full."""
        sync_s = config.buffer.sync_interval_s
        self.tick_s = min(TICK_S, max(MIN_TICK_S, sync_s)) if sync_s else TICK_S
        """How often `tick` is to be called."""
        self._name = ctx.name
        self._page = page
        self._clock = surroundings.clock
        self._events = surroundings.events
        self._bugs = BugAllowance()
        path = spool_path(ctx.data_dir, ctx.name, config)
        self.path = path
        """The spool's file; None: memory."""
        self._shelf = Shelf(ctx.name, path, config.buffer, page=page, surroundings=surroundings, health=self.health)
        self._courier = Courier(
            ctx.name,
            sender,
            config,
            self._shelf,
            surroundings=surroundings,
            health=self.health,
            on_failed=self._failed,
            interrupt=interrupt,
        )
        self.threads = self._courier.threads

    # The runner's thread

    def open(self) -> None:
        """See `Sink.open`."""
        self._shelf.open()
        self.sender.open()
        self._courier.start()

    def write(self, results: Sequence[Result]) -> None:
        """See `Sink.write`."""
        self.accept(results)

    def accept(self, items: Sequence[Delivery]) -> None:
        """Put these into the spool; when it returns each of them is settled, or on disk.

        Raises:
            FatalError: the sender has too many bugs to pack them.
        """
        parcels: list[Parcel] = []
        fatal: FatalError | None = None
        for item in items:
            if isinstance(item, Released):
                continue
            try:
                if fatal is None:
                    parcels.append(self._packed(item))
                    continue
            except Exception as error:  # noqa: BLE001  (a plugin's bug: this one failed; too many bugs are fatal)
                self._events.bug(f"sink {self._name}", error)
                if not self._bugs.spend(self._clock.monotonic()):
                    fatal = FatalError(f"{type(error).__name__}: {error}")
            if not isinstance(item, SourceEvent | DaemonEvent):
                self._page.settle(ResultOutcome.FAILED)
        self._put(parcels)
        if fatal is not None:
            raise fatal

    def tick(self) -> None:
        """See `Ticking.tick`."""
        try:
            if isinstance(self.sender, Ticking):
                self.sender.tick()
        finally:
            self._tend()

    def close(self) -> None:
        """See `Sink.close`: send what can be sent until `finish` says that it is enough, then keep the rest."""
        self._courier.finish()
        try:
            self.sender.close()
        finally:
            self._shelf.close()

    def written(self) -> Sequence[str]:
        """See `Sink.written`: what is sent is not here."""
        return ()

    # The main thread

    def finish(self, until: float, patience_s: float) -> None:
        """No more will come: what is in the spool may be sent until then, on the monotonic clock, while it gets on.

        What is only in memory has `patience_s` to get on again: it would be lost.
        """
        self._courier.limit(until, 0.0 if self.path is not None else patience_s)

    def hurry(self, until: float) -> None:
        """From then on, on the monotonic clock, nobody waits for room in the spool any more; more may come."""
        self._courier.limit(until, 0.0)

    def abandon(self) -> None:
        """Stop sending now."""
        self._courier.abandon()

    def read(self) -> SpoolReading:
        """The spool at this moment; waits for nobody."""
        return self._shelf.read()

    def _failed(self, error: PenstockError) -> None:
        self.on_failed(error)

    # In

    def _packed(self, item: Result | Event) -> Parcel:
        """As the sender packs it; the ledger counts by its kind."""
        parcel = self.sender.pack(item)
        kind = "notice" if isinstance(item, SourceEvent | DaemonEvent) else "event"
        if parcel.kind != ("result" if isinstance(item, Result) else kind):
            raise TypeError(f"pack made a parcel of kind {parcel.kind!r} of a {type(item).__name__}")
        f"{parcel.id}{parcel.source}{parcel.about}".encode()  # ValueError here, and not in the spool for all of them
        return parcel

    def _put(self, parcels: list[Parcel]) -> None:
        backoff = Backoff(*RETRY_S)
        try:
            while parcels:
                try:
                    taken = self._shelf.put(parcels, force=self._courier.is_over)
                except SpoolError as error:
                    self.health.bad("spool", error)
                    if not self._wait_for_room(backoff.next_s()):
                        break
                    continue
                came, parcels = parcels[:taken], parcels[taken:]
                self._courier.wake({parcel.source for parcel in came})
                if parcels:
                    self._shelf.tell_full("its sources wait")
                    if not self._wait_for_room(1.0):
                        break
        finally:
            self.waiting = False
        lost = sum(parcel.kind != "notice" for parcel in parcels)
        if lost:
            self._page.settle(ResultOutcome.FAILED, lost)
            self._events.sink_write_failed(self._name, lost, "the spool had no room until the end")

    def _wait_for_room(self, seconds: float) -> bool:
        """Wait a little, or until something was sent; False: it is over, and was before."""
        self.waiting = True
        if not self._courier.wait(seconds):
            return False
        self._tend()
        return True

    def _tend(self) -> None:
        if self._shelf.tend():
            self._courier.wake(list(self._shelf.pending))
