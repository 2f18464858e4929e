"""`Picks`: which of a source's results go next: one alone where one was refused, live ones, the backlog at its rate."""

import threading
from collections.abc import Callable

from pipeline.contracts.sender import SenderConfig
from pipeline.runtime.sending_shelf import Shelf
from pipeline.runtime.sending_turns import NOTHING, Turns, Way
from pipeline.spool.records import Spooled


class Picks:
    """Made by `Courier`; used by its sending threads, each for the way that it made busy.

    Args:
        config: order and rate.
        shelf: what waits.
        turns: has the backlog's rate.
        cond: guards `turns` and the ways.
        most: at most so many at once.
        now: the monotonic clock.
    """

    def __init__(
        self,
        config: SenderConfig,
        shelf: Shelf,
        turns: Turns,
        *,
        cond: threading.Condition,
        most: int,
        now: Callable[[], float],
    ) -> None:
        self._config = config
        self._shelf = shelf
        self._turns = turns
        self._cond = cond
        self._most = most
        self._now = now

    def take(self, way: Way) -> list[Spooled]:
        """What is to be sent next of this source; nothing where its rate allows none now.

        Raises:
            SpoolError: nothing can be read now.
        """
        newest = self._config.order == "newest_first"
        if way.alone_up_to != NOTHING:
            alone = self._shelf.take(way.source, 1, newest=newest, after=way.alone_after, up_to=way.alone_up_to)
            if alone:
                return alone
            way.alone_up_to = NOTHING
        if self._config.order != "oldest_first":
            live = self._taken(way, self._most, newest=newest, after=way.backlog_up_to)
            if live:
                return live
        if not way.has_backlog:
            return self._taken(way, self._most, newest=newest)
        with self._cond:
            allowed = self._turns.allowance.take(self._most, self._now())
            if allowed == 0:
                way.look_at = self._turns.allowance.next_at()
                return []
        backlog: list[Spooled] = []
        try:
            backlog = self._taken(way, allowed, newest=newest, up_to=way.backlog_up_to)
        finally:
            with self._cond:
                self._turns.allowance.give_back(allowed - len(backlog))
        if not backlog:
            way.backlog_up_to = NOTHING
            return self._taken(way, self._most, newest=newest)
        return backlog

    def _taken(
        self, way: Way, most: int, *, newest: bool, after: int = NOTHING, up_to: int | None = None
    ) -> list[Spooled]:
        found = self._shelf.take(way.source, most, newest=newest, after=after, up_to=up_to)
        with self._cond:
            way.since = self._now()
        return found
