"""`ExchangeFeed`: a feed that another one takes the place of, between two runs, without a frame lost."""

import threading
from collections.abc import Callable, Sequence

from pipeline.backends._onnx.feed import Feed, Placed, Ran
from pipeline.contracts.frame import Frame


class _Used:
    """A feed and how many runs are in it; guarded by the owner's lock."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.runs = 0
        self.left = False


class ExchangeFeed:
    """Made when a backend opens; used by its workers, exchanged by the thread that made something better.

    Args:
        feed: the first one.
    """

    def __init__(self, feed: Feed) -> None:
        self._now = _Used(feed)
        self._closed = False
        self._lock = threading.Lock()
        self._before_close: Callable[[], None] | None = None

    def before_close(self, stop: Callable[[], None]) -> None:
        """Called once at the beginning of `close`: whoever might still exchange is stopped there."""
        self._before_close = stop

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        """See `Feed`."""
        with self._lock:
            used = self._now
            used.runs += 1
        try:
            return used.feed.run(batch, places)
        finally:
            with self._lock:
                used.runs -= 1
                is_last = used.left and used.runs == 0
            if is_last:
                used.feed.close()

    def exchange(self, feed: Feed) -> bool:
        """From the next run on this one is used; the one before is closed when its last run is over.

        Returns:
            False where it came too late: it is still the caller's, to close.
        """
        with self._lock:
            if self._closed:
                return False
            before, self._now = self._now, _Used(feed)
            before.left = True
            unused = before.runs == 0
        if unused:
            before.feed.close()
        return True

    def close(self) -> None:
        """See `Feed`."""
        if self._before_close is not None:
            self._before_close()
        with self._lock:
            self._closed = True
        self._now.feed.close()
