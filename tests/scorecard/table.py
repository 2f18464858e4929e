"""Owns the rows' outcomes and the table that is made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

Figures = dict[str, float]
"""What a row measured: each figure by its name with unit."""


class NotRunError(Exception):
    """A row cannot run on this machine; says why."""


@dataclass(frozen=True)
class Row:
    """One experiment.

    Attributes:
        number: in the list of experiments.
        run: carries it out in a folder of its own; raises AssertionError where the program fails.
        limit_s: it is killed, and has failed, after so long.
        alone: nothing else may run beside it: it loads or measures the processor.
    """

    number: int
    run: Callable[[Path], Figures]
    limit_s: float = 120.0
    alone: bool = False

    @property
    def what(self) -> str:
        """What it does, in a line."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


Verdict = Literal["pass", "FAIL", "not run"]


@dataclass(frozen=True)
class Round:
    """How one round of a row ended."""

    row: int
    verdict: Verdict
    seconds: float
    figures: Figures = field(default_factory=dict)
    why: str = ""
    commit: str = ""
    """What was checked out; there may have been changes on top."""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


def medians(rounds: Sequence[Round]) -> str:
    """The figures of all rounds that passed, as their medians."""
    passed = [one.figures for one in rounds if one.verdict == "pass"]
    names = dict.fromkeys(name for figures in passed for name in figures)
    return ", ".join(
        f"{name} {_number(median(figures[name] for figures in passed if name in figures))}" for name in names
    )


def markdown(rows: Sequence[Row], rounds: Sequence[Round], head: Sequence[str]) -> str:
    """The table, and under it why what failed failed."""
    lines = [*head, "", "| row | what | passed | figures (medians) | seconds |", "|---:|---|---|---|---:|"]
    notes = []
    for row in rows:
        mine = [one for one in rounds if one.row == row.number]
        if not mine:
            continue
        if all(one.verdict == "not run" for one in mine):
            passed = "not run"
        else:
            passed = f"{sum(one.verdict == 'pass' for one in mine)}/{len(mine)}"
        seconds = median(one.seconds for one in mine)
        lines.append(f"| {row.number} | {row.what} | {passed} | {medians(mine)} | {seconds:.0f} |")
        notes += [f"* Row {row.number}, {one.verdict}: {one.why}" for one in mine if one.why]
    if notes:
        lines += ["", "What did not pass:", "", *dict.fromkeys(notes)]
    return "\n".join(lines) + "\n"
