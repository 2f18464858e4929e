"""`Limits`: how often something may be told, for each thing by itself."""

from collections import deque
from collections.abc import Hashable

from pipeline.contracts.sink import LimitConfig

_MOST_KEYS = 1_000


class Limits:
    """Made for one sink and source, used by one thread at a time. Seconds are the source's own, never the wall clock.

    `per_minute` is a sliding window: 10 are 10 in any 60 s, 0.5 is 1 in any 120 s.
    """

    def __init__(self, config: LimitConfig) -> None:
        self._cooldown_s = config.cooldown_s
        rate = config.per_minute
        self._most = 1 if rate is None else max(1, int(rate))
        self._window_s = 0.0 if rate is None else 60.0 * self._most / rate
        self.active = self._cooldown_s > 0 or rate is not None
        self._told: dict[Hashable, deque[float]] = {}

    def allow(self, key: Hashable, now_s: float) -> bool:
        """Whether one more of this key may be told now; if so it counts as told."""
        if not self.active:
            return True
        told = self._told.get(key)
        if told is None:
            if len(self._told) >= _MOST_KEYS:  # labels that a model makes up have no bound
                del self._told[next(iter(self._told))]
            told = self._told[key] = deque(maxlen=self._most)
        elif now_s - told[-1] < self._cooldown_s or self._is_full(told, now_s):
            return False
        told.append(now_s)
        return True

    def _is_full(self, told: deque[float], now_s: float) -> bool:
        return len(told) == self._most and now_s - told[0] < self._window_s
