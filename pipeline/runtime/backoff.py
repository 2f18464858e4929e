"""How long to wait before the next try, and when to stop believing in one: pure arithmetic, no waiting."""

import random
from collections import deque


class Backoff:
    """Capped exponential back-off with full jitter: each delay is uniform in base .. min(cap, 2 * base * 2 ** tries).

    The formula is "Full Jitter" of the AWS Architecture Blog, "Exponential Backoff And Jitter" (2015), above the base.
    """

    def __init__(self, base_s: float = 1.0, cap_s: float = 30.0, rng: random.Random | None = None) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._rng = rng or random.Random()  # noqa: S311  (jitter, not a secret)
        self._tries = 0

    def next_s(self, at_least_s: float | None = None, *, longest: bool = False) -> float:
        """Seconds to wait before the next try.

        Args:
            at_least_s: the other side's own wish.
            longest: trying often makes it worse (a wrong password locks an account): half of the cap at least.
        """
        ceiling_s = self._cap_s if longest else min(self._cap_s, self._base_s * 2 ** min(self._tries + 1, 32))
        floor_s = self._cap_s / 2 if longest else min(self._base_s, ceiling_s)
        self._tries += 1
        return max(self._rng.uniform(floor_s, ceiling_s), at_least_s or 0.0)

    def reset(self) -> None:
        """It worked: the next failure starts from the beginning."""
        self._tries = 0


class BugAllowance:
    """Five restarts in a minute are a component with a bug that may pass; the sixth makes it fatal."""

    def __init__(self, restarts: int = 5, within_s: float = 60.0) -> None:
        self._within_s = within_s
        self._restarts = restarts
        self._at: deque[float] = deque()

    def spend(self, now_s: float) -> bool:
        """Note a bug at `now_s` (monotonic); False when there were too many of late."""
        while self._at and now_s - self._at[0] > self._within_s:
            self._at.popleft()
        self._at.append(now_s)
        return len(self._at) <= self._restarts
