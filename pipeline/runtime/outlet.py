"""`Outlet`: one source's way into one sink: what the sink wants of the source is chosen here, and its end is told."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from pipeline.contracts.component import Name
from pipeline.contracts.event import DaemonEvent, ObjectEvent, SourceEvent
from pipeline.contracts.result import Result
from pipeline.runtime.ledger import Page, ResultOutcome
from pipeline.runtime.port import Port


class Released(NamedTuple):
    """The last item of a source in a sink's queue: nothing of it will come any more."""

    source: str
    last: Callable[[], Sequence[ObjectEvent]] = tuple
    """Asked by the sink's thread: what is to be handed over yet, the ends of what was going on."""

    gone: bool = True
    """False: it is the whole run that ends, and the sink will be closed."""


Delivery = Result | ObjectEvent | SourceEvent | DaemonEvent | Released
"""What goes into a sink's queue; only results and what objects do are in the ledger."""


class Selector(Protocol):
    """What one sink wants of one source; called by one thread at a time, in the order of the results."""

    def pick(self, result: Result) -> Iterable[Result | ObjectEvent] | None:
        """What to hand to the sink; None: it could not be found out."""
        ...

    def end(self) -> Sequence[ObjectEvent]:
        """Nothing comes for a while, or never again: the ends of all that was going on."""
        ...

    def forget(self, event_id: str) -> None:
        """The sink did not take this event: it shall hear no more of it."""
        ...


class Selecting(Protocol):
    """Makes the selectors of one sink; equal to another one that selects the same."""

    def selector(self, source: Name) -> Selector | None:
        """A selector for this source; None: every result as it is."""
        ...


class Outlet:
    """One source's way into one sink; survives the exchange of the sink.

    `offer` belongs to the backend's deliverer, the rest to the main thread. A deliverer may wait for a sink for long,
    and the main thread must not: what it wants meanwhile is done by the deliverer, as soon as that is through.
    """

    def __init__(
        self, source: Name, port: Port[Delivery], page: Page, *, wants_pictures: bool, wants_notices: bool
    ) -> None:
        self.port = port
        self.wants_pictures = wants_pictures
        self.wants_notices = wants_notices
        self._source = source
        self._page = page
        self._closed = False
        self._selecting: Selecting | None = None
        self._selector: Selector | None = None
        self._orders: deque[Callable[[], None]] = deque()
        self._at_work = threading.Lock()

    def offer(self, result: Result) -> None:
        """Hand over what the sink wants of one result; waits only where the policy is `block` and the sink alive."""
        with self._at_work:
            self._offer(result)
        self._carry_out()

    def choose(self, selecting: Selecting | None) -> None:
        """From now on the sink wants this of the source; what goes on under the same choice goes on."""
        if selecting != self._selecting:
            self._selecting = selecting
            self._order(lambda: self._choose(selecting))

    def pause(self) -> None:
        """Nothing comes for a while: what was going on has ended."""
        self._order(self._end)

    def finish(self) -> None:
        """The run is over: what was going on has ended."""
        if self._selector is None:
            self.port.close()
        else:
            self.port.close(Released(self._source, self._last, gone=False))

    def close(self) -> None:
        """The sink shall have no more of this source: what it refuses from now on is not lost, but not for it."""
        self._closed = True
        self.port.close(Released(self._source, self._last))

    def _last(self) -> Sequence[ObjectEvent]:
        """For the sink's thread: the port is closed, so that no deliverer stays in here."""
        with self._at_work:
            return () if self._selector is None else self._selector.end()

    # With `_at_work` held

    def _offer(self, result: Result) -> None:
        selector = self._selector
        if selector is None:
            self._put(result, result.frame.picture.nbytes + result.prediction.nbytes)
            return
        items = selector.pick(result)
        if items is None:
            self._page.enter_settled(ResultOutcome.FAILED)
            return
        nbytes = result.frame.picture.nbytes
        for item in items:
            # The pixels are the same in all that comes of one result.
            if not self._put(item, nbytes + result.prediction.nbytes) and isinstance(item, ObjectEvent):
                selector.forget(item.event_id)
            nbytes = 0

    def _put(self, item: Result | ObjectEvent, nbytes: int, *, force: bool = False) -> bool:
        if self.port.put(item, nbytes, force=force) is None:
            return True
        if not self._closed:
            self._page.enter_settled(ResultOutcome.FAILED)
        return False

    def _end(self) -> None:
        if self._selector is not None:
            for event in self._selector.end():  # few, and without pixels
                self._put(event, 0, force=True)

    def _choose(self, selecting: Selecting | None) -> None:
        self._end()
        self._selector = None if selecting is None else selecting.selector(self._source)

    # Without

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._carry_out()

    def _carry_out(self) -> None:
        """Whoever holds the lock looks again once it is free, so that no order is left."""
        while self._orders and self._at_work.acquire(blocking=False):
            try:
                while self._orders:
                    self._orders.popleft()()
            finally:
                self._at_work.release()
