"""Runs the kills in full and writes what they gave: `python -m tests.kills.run --help`."""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from tests.kills import mqtt, webhook  # noqa: E402  (it imports the tests' own modules)
from tests.kills.webhook import Figures  # noqa: E402

RESULTS = HERE / "RESULTS.md"
EXPERIMENTS = {"webhook": webhook.in_full, "mqtt": mqtt.in_full}
NOTE = """`kill -9` at random moments of a run whose results go through a spool: `just kills`. Everything that was
committed has arrived at least once, with the body that was committed, in order for each source; duplicates are at most
the answers that got lost and what was under way at a kill; dead letters are exactly what the receiver refused."""


def main() -> int:
    """Run what is asked for; 1 where something was lost."""
    parser = argparse.ArgumentParser(description="Kill it until something is lost.")
    parser.add_argument(
        "names", nargs="*", default=list(EXPERIMENTS), help=f"of {', '.join(EXPERIMENTS)}; all if left out"
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments; another one each time")
    parser.add_argument("--write", action="store_true", help=f"put it into {RESULTS.name}")
    asked = parser.parse_args()
    found: dict[str, Figures | str] = {}
    for name in asked.names:
        with tempfile.TemporaryDirectory(prefix=f"kills_{name}_") as folder:
            try:
                found[name] = EXPERIMENTS[name](Path(folder), asked.kills, asked.seed)
            except AssertionError as error:
                found[name] = "\n".join([f"FAIL: {error}", *getattr(error, "__notes__", [])])
        print(f"{name}: {found[name]}", flush=True)
    if asked.write:
        RESULTS.write_text(_page(found, asked.seed))
    return 1 if any(isinstance(one, str) for one in found.values()) else 0


def _page(found: dict[str, Figures | str], seed: int) -> str:
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    lines = ["# Kills", "", NOTE, "", f"{when}, on {machine}, at {git.stdout.strip()}, seed {seed}.", ""]
    for name, figures in found.items():
        lines += [f"## {name}", ""]
        if isinstance(figures, str):
            lines += [figures, ""]
            continue
        lines += ["| | |", "|---|---|"]
        lines += [
            f"| {what} | {value:,.1f} |" if value % 1 else f"| {what} | {value:,.0f} |"
            for what, value in figures.items()
        ]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
