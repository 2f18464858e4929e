"""What keeps the log short: a limiter for what repeats, and one for components that come and go."""

from dataclasses import dataclass

from pipeline.contracts.clock import Clock

EVERY_S = 10.0


class Limiter:
    """Lets a repeated event through once in `every_s` seconds and says how many it held back. Not thread-safe."""

    def __init__(self, clock: Clock, every_s: float = EVERY_S) -> None:
        self._clock = clock
        self._every_s = every_s
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def let_through(self, key: str, every_s: float | None = None) -> int | None:
        """None: hold this one back. A number: log it, and so many were held back before it."""
        now = self._clock.monotonic()
        last = self._last.get(key)
        if last is not None and now - last < (self._every_s if every_s is None else every_s):
            self.hold(key)
            return None
        self._last[key] = now
        return self._held.pop(key, 0)

    def begin(self, key: str) -> None:
        """Count the time from now: what repeats was just said in other words."""
        self._last[key] = self._clock.monotonic()

    def hold(self, key: str) -> None:
        """Count one that was not logged."""
        self._held[key] = self._held.get(key, 0) + 1

    def forget(self, prefix: str) -> dict[str, int]:
        """Drop all keys that begin so, for a component that is gone; what was held back for them."""
        for key in [key for key in self._last if key.startswith(prefix)]:
            del self._last[key]
        return {key: self._held.pop(key) for key in list(self._held) if key.startswith(prefix)}

    def leftovers(self) -> dict[str, int]:
        """What is still held back, by key, and no longer after this."""
        held, self._held = self._held, {}
        return held


@dataclass(slots=True)
class _Turn:
    tokens: float
    at: float
    hidden: bool = False


class Turns:
    """Which of a component's turns, down and up again, are told: all of them, until it flaps. Not thread-safe.

    What was told down is told up. A component that goes down for the third time within a minute or so is flapping: its
    turns are no longer told one by one, until it is quiet for a while.
    """

    BURST = 2.0
    REFILL_S = 40.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._turns: dict[str, _Turn] = {}

    def down(self, name: str) -> bool:
        """It went down: whether to tell."""
        now = self._clock.monotonic()
        turn = self._turns.setdefault(name, _Turn(self.BURST, now))
        turn.tokens = min(self.BURST, turn.tokens + (now - turn.at) / self.REFILL_S)
        turn.at = now
        turn.hidden = turn.tokens < 1.0
        turn.tokens -= not turn.hidden
        return not turn.hidden

    def said_down(self, name: str) -> None:
        """It was told in another way that it is down."""
        if name in self._turns:
            self._turns[name].hidden = False

    def up(self, name: str) -> bool:
        """It is up: whether to tell."""
        turn = self._turns.get(name)
        if turn is None or not turn.hidden:
            return True
        turn.hidden = False
        return False

    def forget(self, name: str) -> None:
        """It is gone."""
        self._turns.pop(name, None)
