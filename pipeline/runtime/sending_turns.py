"""`Turns`: which source's results a sink sends next, and how many: order, back-off, batches and the drain's rate."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.contracts.sender import SenderConfig
from pipeline.runtime.backoff import Backoff

MAX_ATTEMPTS_KEPT = 10_000
NOTHING = -1
FORGET_S = 60.0
"""A source that failed, and of which nothing waits any more since it was dropped or purged, is forgotten after that."""


@dataclass(slots=True)
class Way:
    """One source's results on their way to the other side.

    Attributes:
        source: whose.
        backoff: the delays between attempts.
        busy: some of them are being sent.
        failing: the last attempt failed.
        retry_at: monotonic; not before.
        look_at: monotonic; there is nothing to do before, unless something comes: a batch fills, the drain has a rate.
        since: monotonic; since when something waits that came after the last was taken; None: nothing does.
        backlog_up_to: what has no greater `seq` is of before the last interruption.
        alone_after: behind it each is sent alone, up to `alone_up_to`: one of them was refused.
        alone_up_to: see there.
        attempts: how often those were tried that failed.
    """

    source: str
    backoff: Backoff
    busy: bool = False
    failing: bool = False
    retry_at: float = 0.0
    look_at: float = 0.0
    since: float | None = None
    backlog_up_to: int = NOTHING
    alone_after: int = NOTHING
    alone_up_to: int = NOTHING
    attempts: dict[int, int] = field(default_factory=dict)

    @property
    def has_backlog(self) -> bool:
        """Whether some may be of before the last interruption."""
        return self.backlog_up_to != NOTHING

    def failed_again(self, seqs: Sequence[int], most: int | None) -> list[int]:
        """Count an attempt for each; those for which it was the last."""
        if most is None:
            return []
        for seq in seqs:
            self.attempts[seq] = self.attempts.get(seq, 0) + 1
        while len(self.attempts) > MAX_ATTEMPTS_KEPT:
            del self.attempts[min(self.attempts)]
        over = [seq for seq in seqs if self.attempts.get(seq, 0) >= most]
        self.forget(over)
        return over

    def forget(self, seqs: Sequence[int]) -> None:
        """These are no more."""
        if self.attempts:
            for seq in seqs:
                self.attempts.pop(seq, None)


class Allowance:
    """So many of a backlog a second; a second's worth at most at once. Not thread-safe."""

    def __init__(self, per_s: float | None, now: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s or 0.0)
        self._tokens = self._most
        self._at = now

    def take(self, most: int, now: float) -> int:
        """As many may go now, at most so many; they count as gone until they are given back."""
        if self._per_s is None:
            return most
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        taken = min(most, int(self._tokens))
        self._tokens -= taken
        return taken

    def give_back(self, count: int) -> None:
        """So many did not go."""
        self._tokens += count

    def next_at(self) -> float:
        """Monotonic: when one more may go."""
        return self._at + max(0.0, 1.0 - self._tokens) / self._per_s if self._per_s else self._at


class Pick(NamedTuple):
    """What is to be done: something with this way; or nothing before `wait_s` is over, None: until something comes."""

    way: Way | None
    wait_s: float | None = None
    is_stalled: bool = False
    """Nothing moves: all that wait have failed and are waiting for another try."""


class Turns:
    """Made by `Sending`; all of it is used with its lock held.

    Args:
        config: order, delays, rate.
        max_items: as many go at once.
        max_wait_s: so long is waited for that many.
        pending: how many of a source wait.
        now: monotonic.
    """

    def __init__(
        self,
        config: SenderConfig,
        max_items: int,
        max_wait_s: float,
        *,
        pending: Callable[[str], int],
        now: Callable[[], float],
    ) -> None:
        self.ways: OrderedDict[str, Way] = OrderedDict()
        self.allowance = Allowance(config.drain_rate, now())
        self.not_before = 0.0
        """Monotonic: the other side wants nothing of anybody before."""
        self.gone: list[str] = []
        """Sources of which nothing waits any more; emptied by who takes note of it."""
        self._config = config
        self._max_items = max_items
        self._max_wait_s = max_wait_s
        self._pending = pending
        self._now = now

    def way(self, source: str) -> Way:
        """The way of this source, a new one if it has none."""
        way = self.ways.get(source)
        if way is None:
            retry = self._config.retry
            way = self.ways[source] = Way(source, Backoff(retry.min_s, retry.max_s))
        return way

    def came(self, source: str) -> None:
        """Something of this source waits that did not before."""
        way = self.way(source)
        if way.since is None:
            way.since = self._now()
        if self._config.order != "oldest_first":  # it need not wait for what the drain's rate holds back
            way.look_at = 0.0

    @property
    def is_any_busy(self) -> bool:
        """Whether something is being sent."""
        return any(way.busy for way in self.ways.values())

    def pick(self, *, hurry: bool) -> Pick:
        """Whose turn it is; `hurry`: nothing more will come, so no batch is waited for."""
        now, soonest, is_stalled = self._now(), None, True
        for way in list(self.ways.values()):
            if way.busy:
                is_stalled = False
                continue
            if self._pending(way.source) <= 0:
                if not way.failing or now - way.retry_at > FORGET_S:
                    del self.ways[way.source]
                    self.gone.append(way.source)
                continue
            ready_at = max(way.retry_at, self.not_before)
            if ready_at <= now:
                is_stalled = False
                ready_at = max(ready_at, way.look_at, self._full_at(way, now, hurry=hurry))
            if ready_at <= now:
                self.ways.move_to_end(way.source)
                return Pick(way)
            soonest = ready_at if soonest is None else min(soonest, ready_at)
        return Pick(None, None if soonest is None else soonest - now, is_stalled and soonest is not None)

    def _full_at(self, way: Way, now: float, *, hurry: bool) -> float:
        """When enough of it wait, or have waited for long enough."""
        if hurry or way.has_backlog or way.since is None or self._pending(way.source) >= self._max_items:
            return now
        return way.since + self._max_wait_s
