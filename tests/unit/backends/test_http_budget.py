"""Budgets by day: they hold across restarts, and a clock that jumps fills none of them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.backends._http_budget import Budget
from pipeline.contracts.errors import BackendErrorCode, UnavailableError
from pipeline.testing import MovableClock

NOON = 1_700_000_000.0 // 86_400 * 86_400 + 43_200
DAY_S = 86_400.0
ROOT = Path(__file__).resolve().parents[3]


def budget(file: Path, clock: MovableClock, *, requests: int | None = 2, size: int | None = None) -> Budget:
    made = Budget(file, requests, size, clock, warned.append)
    made.load()
    return made


warned: list[str] = []
refusals: list[UnavailableError] = []


def used_up(made: Budget) -> bool:
    try:
        made.take(10)
    except UnavailableError as error:
        refusals.append(error)
        return True
    return False


def test_requests_and_bytes_are_limited_each(tmp_path: Path) -> None:
    clock = MovableClock(NOON)
    made = budget(tmp_path / "b.json", clock)
    assert [used_up(made) for _ in range(3)] == [False, False, True]
    assert made.requests == 2, "what was refused is not counted"
    assert (refusals[-1].code, refusals[-1].retry_after_s) == (BackendErrorCode.BUDGET, 43_200)
    made = budget(tmp_path / "c.json", clock, requests=None, size=25)
    assert [used_up(made) for _ in range(3)] == [False, False, True]
    made.take(5)
    assert made.bytes == 25
    unlimited = Budget(None, None, None, clock, warned.append)
    unlimited.take(1 << 40)
    unlimited.save(at_once=True)
    assert unlimited.bytes == 1 << 40


def test_it_is_full_again_at_midnight_in_greenwich(tmp_path: Path) -> None:
    clock = MovableClock(NOON)
    made = budget(tmp_path / "b.json", clock)
    made.take(1)
    made.take(1)
    clock.advance(43_199)
    assert used_up(made)
    clock.advance(1)
    assert not used_up(made)


def test_a_restart_forgets_nothing_but_the_last_second(tmp_path: Path) -> None:
    clock = MovableClock(NOON)
    file = tmp_path / "deep" / "b.json"
    first = budget(file, clock, requests=10)
    first.take(7)
    first.save()
    first.take(7)
    first.save()
    assert budget(file, clock, requests=10).requests == 1, "written at most once a second"
    clock.advance(1)
    first.save()
    again = budget(file, clock, requests=10)
    assert (again.requests, again.bytes) == (2, 14)
    assert file.stat().st_mode & 0o777 == 0o640
    first.take(7)
    first.save(at_once=True)
    assert budget(file, clock, requests=10).requests == 3
    clock.advance(DAY_S)
    assert budget(file, clock, requests=10).requests == 0


def test_a_clock_that_jumps_back_fills_nothing(tmp_path: Path) -> None:
    clock = MovableClock(NOON)
    file = tmp_path / "b.json"
    made = budget(file, clock)
    made.take(1)
    made.take(1)
    clock.advance(-DAY_S)
    assert used_up(made)
    made.save(at_once=True)
    assert used_up(budget(file, clock))
    clock.advance(DAY_S)
    assert used_up(made), "the day it was is no new one"
    clock.advance(DAY_S)
    assert not used_up(made)


def test_a_clock_that_stood_years_ahead_does_not_close_the_budget_for_years(tmp_path: Path) -> None:
    clock = MovableClock(NOON + 3000 * DAY_S)
    made = budget(tmp_path / "b.json", clock)
    made.take(1)
    made.take(1)
    clock.advance(-3000 * DAY_S)
    assert used_up(made), "nor does it fill it"
    clock.advance(DAY_S)
    assert not used_up(made)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"day": "x"}', b"[" * 5000, b'{"day": 1e999, "requests": 1, "bytes": 1}', b"\xff"]
)
def test_a_file_that_makes_no_sense_is_told_of(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "b.json"
    file.write_bytes(content)
    warned.clear()
    made = budget(file, MovableClock(NOON))
    assert len(warned) == 1
    assert not used_up(made)


def test_a_folder_that_cannot_be_written_is_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    warned.clear()
    made = Budget(tmp_path / "file" / "b.json", 5, None, MovableClock(NOON), warned.append)
    for _ in range(3):
        made.take(1)
        made.save(at_once=True)
    assert len(warned) == 1
    assert "cannot be written" in warned[0]


def test_a_crash_while_writing_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    clock = MovableClock(NOON)
    made = budget(file, clock)
    made.take(1)
    made.save(at_once=True)
    file.with_suffix(".new").write_bytes(b'{"da')
    assert budget(file, clock).requests == 1
    assert json.loads(file.read_bytes())["requests"] == 1


def test_kill_9_loses_a_second_at_most(tmp_path: Path) -> None:
    """Each request is counted at once and written by the next one that comes a second later."""
    code = """
import os, signal, sys, time
from pathlib import Path
from pipeline.backends._http_budget import Budget
from pipeline.contracts.clock import SystemClock
budget = Budget(Path(sys.argv[1]), 1000, None, SystemClock(), print)
budget.load()
start = time.monotonic()
while time.monotonic() < start + 1.6:
    budget.take(1)
    budget.save()
    time.sleep(0.02)
print(budget.requests, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    file = tmp_path / "b.json"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=50, check=False, cwd=ROOT
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    sent, kept = int(done.stdout), json.loads(file.read_bytes())["requests"]
    assert sent - 52 <= kept <= sent
    assert kept > 20
