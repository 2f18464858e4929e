"""`Window`: how many requests may be under way at once, found out from how the server bears them."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

Outcome = Literal["well", "overloaded", "neither"]

_SLOWER_BY = 2.0
_SLACK_S = 0.02  # twice of next to nothing is nothing
_SMOOTHING = 0.1
_MINIMUM_LASTS_S = 30.0
_KINDS = 32


class _Latency:
    """What requests of one kind take: smoothed, and at best within the last 30 to 60 s."""

    def __init__(self, now: float, latency_s: float) -> None:
        self._smoothed_s = latency_s
        self._best_s = self._best_before_s = latency_s
        self._turns_at = now + _MINIMUM_LASTS_S

    def observe(self, now: float, latency_s: float) -> bool:
        """Note one; True where requests now take far longer than they did at best."""
        if now >= self._turns_at:
            self._best_before_s, self._best_s = self._best_s, latency_s
            self._turns_at = now + _MINIMUM_LASTS_S
        self._best_s = min(self._best_s, latency_s)
        self._smoothed_s += _SMOOTHING * (latency_s - self._smoothed_s)
        return self._smoothed_s > _SLOWER_BY * min(self._best_s, self._best_before_s) + _SLACK_S


class Window:
    """Additive increase, multiplicative decrease (Chiu and Jain, 1989), as in TCP. Lives on the main loop.

    Begins at the maximum. Halved by an overload (429, 503, a time-out), cut by a tenth while answers take twice as long
    as at best, but not below a quarter of the maximum for that: a slow server is not helped by being left idle. One
    round of requests cuts it once. It grows by one for each round of requests that used it up and went well.

    Args:
        maximum: requests at once, at most.
        adaptive: False: always the maximum.
        now_s: the monotonic clock.
    """

    def __init__(self, maximum: int, *, adaptive: bool, now_s: Callable[[], float]) -> None:
        self.limit = float(maximum)
        self.in_flight = 0
        self._maximum = maximum
        self._adaptive = adaptive
        self._now_s = now_s
        self._cut_at = float("-inf")
        self._latencies: dict[int, _Latency] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> float:
        """Wait for a place; monotonic seconds at which it was had, to be given to `leave`."""
        if self._waiting or self.in_flight >= int(self.limit):
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.cancelled() or not place.done():
                    self._waiting = deque(other for other in self._waiting if other is not place)
                else:  # it had a place when it was called off
                    self.in_flight -= 1
                    self._let_in()
                raise
        else:
            self.in_flight += 1
        return self._now_s()

    def leave(self, since: float, outcome: Outcome, kind: int | None = None) -> None:
        """Give the place back.

        Args:
            since: what `enter` gave.
            outcome: "neither" says nothing about how busy the server is.
            kind: requests of the same kind take about the same time: the number of pictures. None: not to be compared.
        """
        if self._adaptive:
            self._adapt(since, outcome, kind)
        self.in_flight -= 1
        self._let_in()

    def _adapt(self, since: float, outcome: Outcome, kind: int | None) -> None:
        now = self._now_s()
        slow = outcome == "well" and kind is not None and self._is_slow(kind, now, now - since)
        if outcome == "overloaded" or slow:
            if since < self._cut_at:  # it was sent before the last cut could help
                return
            floor = max(1.0, self._maximum // 4) if slow else 1.0
            cut = self.limit * (0.9 if slow else 0.5)
            self.limit = max(cut, min(floor, self.limit))
            self._cut_at = now
        elif outcome == "well" and self.in_flight >= int(self.limit):
            self.limit = min(float(self._maximum), self.limit + 1 / self.limit)

    def _is_slow(self, kind: int, now: float, latency_s: float) -> bool:
        known = self._latencies.get(kind)
        if known is None:
            if len(self._latencies) < _KINDS:
                self._latencies[kind] = _Latency(now, latency_s)
            return False
        return known.observe(now, latency_s)

    def _let_in(self) -> None:
        while self._waiting and self.in_flight < int(self.limit):
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)
