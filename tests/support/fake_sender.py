"""A sender that does what a test tells it to: the other side is an object in the test's own process."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.event import DaemonEvent, Event, ObjectEvent
from pipeline.contracts.result import Result
from pipeline.contracts.sender import Parcel, RefusedError, SenderConfig, UndeliveredError

Answer = Callable[[list[Parcel]], None]


class OtherSide:
    """What was sent, in the order in which it came. `answer` may raise; what it raises is what `send` raises."""

    def __init__(self) -> None:
        self.got: list[Parcel] = []
        self.batches: list[list[Parcel]] = []
        self.tries = 0
        self.away = False
        self.answer: Answer = lambda _: None
        self.retry_after_s: float | None = None
        self.most_at_once: Counter[str] = Counter()
        self._at_once: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, parcels: list[Parcel]) -> None:
        """Called by the sender."""
        source = parcels[0].source
        with self._lock:
            self.tries += 1
            self._at_once[source] += 1
            self.most_at_once[source] = max(self.most_at_once[source], self._at_once[source])
        try:
            if self.away:
                raise TransientError("nobody there", retry_after_s=self.retry_after_s)
            delivered = len(parcels)
            try:
                self.answer(parcels)
            except (RefusedError, UndeliveredError) as error:
                delivered = error.delivered
                raise
            except BaseException:
                delivered = 0
                raise
            finally:
                with self._lock:
                    self.got += parcels[:delivered]
                    self.batches.append(parcels[:delivered])
        finally:
            with self._lock:
                self._at_once[source] -= 1

    def ids(self, source: str | None = None) -> list[str]:
        """Of what came from one source, or from all."""
        return [parcel.id for parcel in self.got if source in (None, parcel.source)]

    def seqs(self, source: str = "cam") -> list[int]:
        """The numbers of one source's frames."""
        return [int(parcel.body) for parcel in self.got if parcel.source == source and parcel.kind == "result"]


class FakeSenderConfig(SenderConfig):
    """Sends to an `OtherSide`, found by name."""

    type: Literal["far"] = "far"
    takes_events: ClassVar[bool] = True
    to: str = "there"
    concurrency: int = 2
    max_items: int = 1
    max_wait_s: float = 0.0
    send_s: float = 0.0
    wants_pictures: bool = False
    pack_bug_every: int = 0
    padding: int = 0

    sides: ClassVar[dict[str, OtherSide]] = {}

    def build(self, ctx: Context) -> "FakeSender":  # type: ignore[override]  # a sender
        return FakeSender(self, ctx)


class FakeSender:
    def __init__(self, config: FakeSenderConfig, ctx: Context) -> None:
        self.wants_pictures = config.wants_pictures
        self.concurrency = config.concurrency
        self.max_items = config.max_items
        self.max_wait_s = config.max_wait_s
        self.ctx = ctx
        self.opened = self.closed = self.ticks = 0
        self._config = config
        self._packed = 0
        self._side = FakeSenderConfig.sides.setdefault(config.to, OtherSide())

    def open(self) -> None:
        self.opened += 1

    def tick(self) -> None:
        self.ticks += 1

    def pack(self, item: Result | Event) -> Parcel:
        self._packed += 1
        if self._config.pack_bug_every and self._packed % self._config.pack_bug_every == 0:
            raise ZeroDivisionError("packing has a bug")
        if isinstance(item, Result):
            seq = item.frame.seq
            return Parcel(item.id, item.frame.source, "result", str(seq).encode(), b" " * self._config.padding)
        if isinstance(item, DaemonEvent):
            return Parcel(item.id, "", "notice", item.value.encode())
        kind: Literal["event", "notice"] = "event" if isinstance(item, ObjectEvent) else "notice"
        return Parcel(item.id, item.source, kind, kind.encode())

    def send(self, parcels: Sequence[Parcel]) -> None:
        if self.closed:
            raise FatalError("sent after close")
        if self._config.send_s:
            threading.Event().wait(self._config.send_s)
        self._side.take(list(parcels))

    def close(self) -> None:
        self.closed += 1
