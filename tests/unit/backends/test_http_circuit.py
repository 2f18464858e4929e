"""The circuit breaker: what opens it, what does not, and how it closes again."""

import pytest

from pipeline.backends._http_circuit import CircuitBreaker, Ticket, Verdict, verdict_of
from pipeline.backends._http_config import CircuitConfig
from pipeline.contracts.backend import Circuit
from pipeline.contracts.errors import BackendErrorCode, UnavailableError
from pipeline.testing import MovableClock


class Rig:
    def __init__(self, **keys: float) -> None:
        self.clock = MovableClock()
        self.told: list[tuple[str, str, bool]] = []
        config = CircuitConfig.model_validate({"failures": 3, **keys})
        self.circuit = CircuitBreaker(
            config,
            "there:80",
            self.clock.monotonic,
            lambda state, detail, well: self.told.append((state, detail, well)),
        )

    def is_now(self, state: Circuit) -> bool:
        return self.circuit.state is state

    def ask(self, *verdicts: Verdict) -> None:
        for verdict in verdicts:
            self.circuit.leave(self.circuit.enter(), verdict, "it burns")

    def refused(self) -> UnavailableError:
        with pytest.raises(UnavailableError) as caught:
            self.circuit.enter()
        return caught.value


def test_failures_in_a_row_open_it() -> None:
    rig = Rig()
    rig.ask("failed", "failed", "well", "failed", "failed")
    assert rig.is_now(Circuit.CLOSED)
    rig.ask("failed")
    assert rig.is_now(Circuit.OPEN)
    assert rig.told == [("circuit open", "there:80 is not asked for 5 s: it burns", False)]
    assert "it burns" in str(rig.refused())


def test_so_does_half_of_many_answers_within_the_window() -> None:
    rig = Rig(window_s=30)
    for _ in range(11):
        rig.ask("failed", "well")
    assert rig.is_now(Circuit.CLOSED)
    rig.ask("failed")
    assert rig.is_now(Circuit.OPEN)
    rig = Rig(window_s=30)
    for _ in range(50):
        rig.clock.advance(3)
        rig.ask("failed", "well")
    assert rig.is_now(Circuit.CLOSED), "few a minute are not many"


def test_one_finds_out_whether_it_is_back() -> None:
    rig = Rig()
    rig.ask("failed", "failed", "failed")
    rig.clock.advance(4.9)
    assert rig.refused().retry_after_s == pytest.approx(0.1)
    rig.clock.advance(0.1)
    assert rig.is_now(Circuit.HALF_OPEN)
    probe = rig.circuit.enter()
    assert rig.is_now(Circuit.HALF_OPEN)
    rig.refused()
    rig.circuit.leave(probe, "neither")
    probe = rig.circuit.enter()
    rig.circuit.leave(probe, "well")
    assert rig.is_now(Circuit.CLOSED)
    rig.ask("failed", "failed")
    assert rig.is_now(Circuit.CLOSED), "it counts from the beginning"
    assert [state for state, _, _ in rig.told] == ["circuit open", "circuit closed"]


def test_each_failed_try_doubles_the_wait_up_to_the_limit_and_is_not_told_again() -> None:
    rig = Rig(open_s=5, max_open_s=30)
    rig.ask("failed", "failed", "failed")
    waits = []
    for _ in range(5):
        waits.append(rig.refused().retry_after_s)
        rig.clock.advance(waits[-1] or 0)
        rig.ask("failed")
    assert waits == [5, 10, 20, 30, 30]
    assert len(rig.told) == 1
    rig.clock.advance(30)
    rig.ask("well")
    rig.ask("failed", "failed", "failed")
    assert rig.refused().retry_after_s == 5, "after it was well the waits begin anew"


def test_an_answer_to_what_was_asked_before_decides_nothing() -> None:
    rig = Rig()
    early = [rig.circuit.enter() for _ in range(4)]
    for ticket in early[:3]:
        rig.circuit.leave(ticket, "failed")
    rig.circuit.leave(early[3], "well")
    assert rig.is_now(Circuit.OPEN)
    rig.clock.advance(5)
    rig.ask("well")
    rig.circuit.leave(Ticket(probe=True, era=0), "failed")
    assert rig.is_now(Circuit.CLOSED)


def test_a_hold_is_no_failure_and_ends_by_itself() -> None:
    rig = Rig()
    rig.circuit.hold(BackendErrorCode.LOADING, 3)
    rig.circuit.hold(BackendErrorCode.LOADING, 1)
    error = rig.refused()
    assert (error.code, error.retry_after_s) == (BackendErrorCode.LOADING, 3)
    assert rig.is_now(Circuit.CLOSED)
    rig.clock.advance(3)
    rig.ask("well")
    rig.circuit.hold(BackendErrorCode.RATE_LIMITED, 86_400)
    assert rig.refused().retry_after_s == 60, "nobody is believed for longer"


def test_what_is_not_the_servers_fault_does_not_count() -> None:
    neither = {code for code in BackendErrorCode if verdict_of(code) == "neither"}
    assert neither == {"loading", "stale", "budget", "circuit_open"}
    assert {code for code in BackendErrorCode if verdict_of(code) == "well"} == {"rejected"}
    assert verdict_of(None) == "failed"
