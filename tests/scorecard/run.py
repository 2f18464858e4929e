"""Runs the experiments against the real program and prints the table: `python -m tests.scorecard.run --help`.

Each round of a row is a process of its own, in a session of its own, killed when it takes too long. Several run at
once, as most of them only wait; those that load the processor run alone, at the end. Rows that are run anew with
`--rows 1,2 --write` take the places of their older rounds in the table.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from tests.scorecard import rows  # noqa: E402  (they import the tests' own modules)
from tests.scorecard.table import NotRunError, Round, Row, Verdict, markdown  # noqa: E402

RESULTS = HERE / "RESULTS.md"
ROUNDS = HERE / "rounds.json"
NOTE = """Each row drives the real program (`penstock run`) from outside: its files, its API, signals. The ledger is
checked at every scrape and at the end of every round. "Passed" counts rounds; a row stands when all of them passed.
Cameras are tried again after 0.5 s to 4 s (`reconnect`), so that "back" can be within 5 s of the fault's end. The
numbers are those of the list of experiments; those that are missing belong to parts that do not exist yet."""


def one(row: Row, folder: Path) -> Round:
    """Carry out one round of a row in this process."""
    start = time.monotonic()
    verdict: Verdict = "pass"
    figures, why = {}, ""
    try:
        figures = row.run(folder)
    except NotRunError as reason:
        verdict, why = "not run", str(reason)
    except AssertionError as error:
        verdict, why = "FAIL", "\n".join([str(error), *getattr(error, "__notes__", [])])
    except Exception as error:  # noqa: BLE001 - a rig that breaks is a row that failed; the table says how
        verdict, why = "FAIL", f"the rig broke: {type(error).__name__}: {error}"
    return Round(row.number, verdict, time.monotonic() - start, figures, why)


def _in_a_process(row: Row, keep: bool) -> Round:
    folder = Path(tempfile.mkdtemp(prefix=f"scorecard_{row.number}_"))
    start = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.scorecard.run", "--one", str(row.number), "--folder", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = child.communicate(timeout=row.limit_s)
        found = json.loads(out.splitlines()[-1])
        outcome = Round(**found)
    except subprocess.TimeoutExpired:
        outcome = Round(row.number, "FAIL", time.monotonic() - start, {}, f"not over after {row.limit_s:g} s")
    except (ValueError, IndexError):
        outcome = Round(row.number, "FAIL", time.monotonic() - start, {}, "the rig crashed")
    finally:
        for group in (child.pid, *_sessions_below(child.pid)):
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue
        child.wait()
    if not keep and outcome.verdict != "FAIL":
        shutil.rmtree(folder, ignore_errors=True)
    where = f" (kept: {folder})" if folder.exists() else ""
    why = outcome.why.splitlines()[0] if outcome.why else ""
    print(
        f"row {row.number:>2}: {outcome.verdict} in {outcome.seconds:.0f} s {outcome.figures} {why}{where}", flush=True
    )
    return outcome


def _sessions_below(pid: int) -> list[int]:
    """The sessions that the round's own children (the daemons) made for themselves."""
    import psutil

    try:
        below = psutil.Process(pid).children(recursive=True)
        return sorted({os.getsid(child.pid) for child in below} - {os.getsid(0)})
    except (psutil.NoSuchProcess, ProcessLookupError):
        return []


def _commit() -> str:
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return git.stdout.strip() or "unknown"


def _head(rounds: Sequence[Round]) -> list[str]:
    import onnxruntime

    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, ONNX Runtime {onnxruntime.__version__}"
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    commits = ", ".join(sorted({one.commit for one in rounds}))
    hours = sum(one.seconds for one in rounds) / 3600
    about = f"{when}, on {machine}, at {commits}; {len(rounds)} rounds, {hours:.1f} hours in all; `just scorecard`."
    return ["# Scorecard", "", NOTE, "", about]


def _kept(path: Path) -> list[Round]:
    """The rounds of earlier runs."""
    return [Round(**one) for one in json.loads(path.read_text())] if path.exists() else []


def _all(chosen: Sequence[Row], rounds: int, jobs: int, keep: bool) -> list[Round]:
    together = [row for row in chosen if not row.alone]
    with ThreadPoolExecutor(jobs) as pool:
        # The rounds of a row come one after the other: passed three times running.
        work = [row for _ in range(rounds) for row in together]
        done = list(pool.map(lambda row: _in_a_process(row, keep), work))
    for row in chosen:
        if row.alone:
            done += [_in_a_process(row, keep) for _ in range(rounds)]
    return done


def main() -> int:
    """Run what is asked for; 1 where something failed."""
    parser = argparse.ArgumentParser(description="Run the experiments and write the table.")
    parser.add_argument("--rows", default="", help="numbers, as 1,2,28-31; all if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=3, help="rounds that run at once")
    parser.add_argument("--together", action="store_true", help="also those that else run alone, at the end")
    parser.add_argument("--keep", action="store_true", help="keep the folders of rounds that passed, too")
    parser.add_argument("--write", action="store_true", help=f"put what was run into {RESULTS.name}; so without --rows")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one is not None:
        outcome = one(rows.ROWS[asked.one], cast("Path", asked.folder))
        print(json.dumps(asdict(outcome)))
        return 0
    chosen = [rows.ROWS[number] for number in _numbers(asked.rows)]
    if asked.together:
        chosen = [replace(row, alone=False) for row in chosen]
    commit = _commit()
    done = [replace(one, commit=commit) for one in _all(chosen, asked.rounds, asked.jobs, asked.keep)]
    print(markdown(chosen, done, _head(done)))
    if asked.write or not asked.rows:
        ran = {one.row for one in done}
        every = done + [one for one in _kept(ROUNDS) if one.row not in ran]
        every.sort(key=lambda one: one.row)
        ROUNDS.write_text(json.dumps([asdict(one) for one in every], indent=1) + "\n")
        RESULTS.write_text(markdown(list(rows.ROWS.values()), every, _head(every)))
    return 1 if any(one.verdict == "FAIL" for one in done) else 0


def _numbers(text: str) -> list[int]:
    found = set()
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return sorted(found & rows.ROWS.keys() if text else rows.ROWS)


if __name__ == "__main__":
    sys.exit(main())
