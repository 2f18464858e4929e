"""`CircuitBreaker`: whether a server is asked at all, from how it answered of late; pure, told the time."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.backends._http_config import CircuitConfig
from pipeline.contracts.backend import Circuit
from pipeline.contracts.errors import BackendErrorCode, UnavailableError

Verdict = Literal["well", "failed", "neither"]
Tell = Callable[[str, str, bool], None]
"""State, detail, well."""

_REMEMBERED = 1000
_MAX_HOLD_S = 60.0

_SAYS_NOTHING = frozenset(
    {
        BackendErrorCode.LOADING,
        BackendErrorCode.STALE,
        BackendErrorCode.BUDGET,
        BackendErrorCode.CIRCUIT_OPEN,
    }
)


def verdict_of(code: object) -> Verdict:
    """What a failure with this `BackendErrorCode` says about the server; without a code it counts as one."""
    if code is BackendErrorCode.REJECTED:
        return "well"  # this picture was refused: the server works
    return "neither" if code in _SAYS_NOTHING else "failed"


@dataclass(slots=True, eq=False)
class Ticket:
    """The permission to ask once; given back to `CircuitBreaker.leave`.

    Attributes:
        probe: it is the one that decides whether the circuit closes.
        era: which of the circuit's states it was given in: a late answer decides nothing about the next one.
        left: it was given back.
    """

    probe: bool
    era: int
    left: bool = False


class CircuitBreaker:
    """Made by `HttpBackend`, asked by all of its threads.

    Closed: everything passes. Open: nothing does, for a while that doubles. Then half-open: one (a copy) passes, and
    decides. Besides, a server may ask for time itself (it loads its model, it names a Retry-After beyond the deadline):
    that is a hold, no failure, and does not open the circuit.

    Args:
        config: when it opens, and for how long.
        where: the server, for messages.
        now_s: the monotonic clock.
        tell: called when it opens and when it closes, outside of the lock.
    """

    def __init__(self, config: CircuitConfig, where: str, now_s: Callable[[], float], tell: Tell) -> None:
        self._config = config
        self._where = where
        self._now_s = now_s
        self._tell = tell
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._open = self._probing = False
        self._open_s = config.open_s
        self._opened_until = 0.0
        self._era = 0
        self._last_fault = ""
        self._held_until = 0.0
        self._held_for = BackendErrorCode.LOADING
        self._answers: deque[tuple[float, bool]] = deque(maxlen=_REMEMBERED)

    @property
    def state(self) -> Circuit:
        """As it is now; from any thread."""
        if not self._open:
            return Circuit.CLOSED
        return Circuit.HALF_OPEN if self._probing or self._now_s() >= self._opened_until else Circuit.OPEN

    def enter(self) -> Ticket:
        """Permission to ask.

        Raises:
            UnavailableError: not now, and for how long.
        """
        with self._lock:
            now = self._now_s()
            if self._open and (self._probing or now < self._opened_until):
                raise self._refusal(now)
            if now < self._held_until:
                why = "its model is loading" if self._held_for is BackendErrorCode.LOADING else "it asked for time"
                wait_s = self._held_until - now
                raise UnavailableError(
                    f"{self._where} is not asked for another {wait_s:.1f} s: {why}",
                    code=self._held_for,
                    retry_after_s=wait_s,
                )
            self._probing = self._open
            return Ticket(self._open, self._era)

    def check(self, ticket: Ticket) -> None:
        """Look whether what was let in may still go: it may have waited for its turn meanwhile.

        Raises:
            UnavailableError: the circuit has opened since.
        """
        with self._lock:
            if self._open and not ticket.probe:
                raise self._refusal(self._now_s())

    def _refusal(self, now: float) -> UnavailableError:
        wait_s = max(self._opened_until - now, 0.1)
        return UnavailableError(
            f"{self._where} is not asked for another {wait_s:.1f} s: {self._last_fault}",
            code=BackendErrorCode.CIRCUIT_OPEN,
            retry_after_s=wait_s,
        )

    def hold(self, code: BackendErrorCode, seconds: float) -> None:
        """The server itself wants not to be asked for so long."""
        with self._lock:
            self._held_for = code
            self._held_until = max(self._held_until, self._now_s() + min(seconds, _MAX_HOLD_S))

    def release(self) -> None:
        """The server answers: what it asked for before, while it was opened, is over."""
        with self._lock:
            self._held_until = 0.0

    def leave(self, ticket: Ticket, verdict: Verdict, fault: str = "") -> None:
        """How it went; only the first word about a ticket counts.

        Args:
            ticket: what `enter` gave.
            verdict: "neither" where nothing is known about the server.
            fault: what failed, in a few words.
        """
        with self._lock:
            told = self._leave(ticket, verdict, fault)
        if told is not None:
            self._tell(*told)

    def _leave(self, ticket: Ticket, verdict: Verdict, fault: str) -> tuple[str, str, bool] | None:
        if ticket.left or ticket.era != self._era:
            return None
        ticket.left = True
        if ticket.probe:
            return self._decide(verdict, fault)
        if verdict == "neither":
            return None
        now = self._now_s()
        self._in_a_row = self._in_a_row + 1 if verdict == "failed" else 0
        self._answers.append((now, verdict == "failed"))
        if verdict == "well" or not self._is_broken(now):
            return None
        self._open = True
        self._shut_out(fault)
        return "circuit open", f"{self._where} is not asked for {self._open_s:g} s: {self._last_fault}", False

    def _decide(self, verdict: Verdict, fault: str) -> tuple[str, str, bool] | None:
        """What the one request that was let through says."""
        self._probing = False
        if verdict == "neither":
            return None  # the next one decides
        if verdict == "failed":
            self._open_s = min(2 * self._open_s, self._config.max_open_s)
            self._shut_out(fault)
            return None
        self._open, self._open_s, self._in_a_row = False, self._config.open_s, 0
        self._era += 1
        self._answers.clear()
        return "circuit closed", f"{self._where} answers again", True

    def _shut_out(self, fault: str) -> None:
        self._era += 1
        self._last_fault = fault or "it failed too often"
        self._opened_until = self._now_s() + self._open_s

    def _is_broken(self, now: float) -> bool:
        while now - self._answers[0][0] > self._config.window_s:
            self._answers.popleft()
        failures = sum(failed for _, failed in self._answers)
        many = failures >= 4 * self._config.failures and 2 * failures >= len(self._answers)
        return self._in_a_row >= self._config.failures or many
