"""Runs the tests with the vendors' programs and writes the table of the checklist: `just conformance-report`.

A test belongs to the row whose id stands in its name. It shows all items of its row, or as many as it says with
`record_property("items", 3)`; several tests of a row add up.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
REPORT = HERE / "REPORT.md"
NOTE = """Every feature of the vendors' reference documents, shown by their own programs: clients against our server,
servers behind our backends. `just conformance-report` writes this file. "Mark" says how a feature can be shown:
V by the vendor's current client, P by an older one that is pinned, M with a small fake platform, X only by plain HTTP
(the real client lacks or breaks it), L inside of the client without any traffic, N not offline. "Items" counts what was
shown of what there is. "Later": nothing of the program's own wire, it belongs to a client library."""

sys.path.insert(0, str(HERE.parent / "support"))

from tests.conformance.rows import ROWS, Row  # noqa: E402  (also run as a program)

Outcome = Literal["pass", "fail", "skipped"]
Verdict = Literal["pass", "FAIL", "not run", "later", "not testable", "MISSING"]

_ID = re.compile(r"^test_([a-d]\d+b?)(?:_|\[|$)")
_MAX_WHY = 160


@dataclass(frozen=True)
class Ran:
    """One test, as it ended.

    Attributes:
        name: of the test.
        outcome: how it ended.
        why: it was skipped, or how it failed.
        items: what it says that it shows; None: all of its row.
    """

    name: str
    outcome: Outcome
    why: str = ""
    items: int | None = None

    @property
    def row(self) -> str | None:
        """The row's id, where the name carries one."""
        found = _ID.match(self.name)
        return (
            None if found is None else found[1].upper().replace("B", "b") if found[1][-1] == "b" else found[1].upper()
        )


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    row: Row
    verdict: Verdict
    shown: int
    why: str = ""

    @property
    def rest(self) -> int:
        """Items that were not shown."""
        return self.row.items - self.shown


def read(junit: str) -> list[Ran]:
    """The tests in pytest's JUnit XML."""
    found = []
    for case in ET.fromstring(junit).iter("testcase"):  # noqa: S314 - written by our own pytest a moment ago
        outcome: Outcome = "pass"
        why = ""
        for child in case:
            if child.tag in {"failure", "error"}:
                outcome, why = "fail", child.get("message", "")
            elif child.tag == "skipped" and outcome == "pass":
                outcome, why = "skipped", child.get("message", "")
        items = [p.get("value", "") for p in case.iter("property") if p.get("name") == "items"]
        found.append(Ran(case.get("name", ""), outcome, why, sum(map(int, items)) if items else None))
    return found


def judge(row: Row, ran: Sequence[Ran]) -> Line:
    """What the tests say about their row."""
    failed = [test for test in ran if test.outcome == "fail"]
    passed = [test for test in ran if test.outcome == "pass"]
    skipped = [test for test in ran if test.outcome == "skipped"]
    shown = min(row.items, sum(row.items if test.items is None else test.items for test in passed))
    if failed:
        return Line(row, "FAIL", 0, f"{failed[0].name}: {failed[0].why}")
    if skipped:
        return Line(row, "not run", 0, f"{skipped[0].name}: {skipped[0].why}")
    if passed:
        return Line(row, "pass", shown, row.why if shown < row.items else "")
    if row.mark == "N":
        return Line(row, "not testable", 0, row.why)
    return Line(row, "later", 0, row.why) if row.why else Line(row, "MISSING", 0, "there is no test")


def lines(ran: Iterable[Ran]) -> list[Line]:
    """The whole table."""
    of_row: dict[str, list[Ran]] = {row.id: [] for row in ROWS}
    for test in ran:
        if test.row in of_row:
            of_row[test.row].append(test)
    return [judge(row, of_row[row.id]) for row in ROWS]


def markdown(table: Sequence[Line], ran: Sequence[Ran]) -> str:
    """The report."""
    text = ["# Conformance", "", NOTE, "", *_totals(table), "", *_rows(table)]
    others = [test for test in ran if test.row is None]
    bad = [test for test in others if test.outcome != "pass"]
    text += ["", f"Tests that belong to no row (faults, KServe, the rig itself): {len(others)}, {len(bad)} not passed."]
    text += [f"- {test.name}: {test.outcome}: {_cell(test.why)}" for test in bad]
    return "\n".join(text) + "\n"


def _totals(table: Sequence[Line]) -> list[str]:
    columns: tuple[Verdict, ...] = ("pass", "FAIL", "not run", "later", "not testable", "MISSING")
    text = [f"| reference (items) | {' | '.join(columns)} | total |", "|---|" + "---:|" * (len(columns) + 1)]
    names = list(dict.fromkeys(line.row.reference for line in table))
    for name in [*names, "all"]:
        own = [line for line in table if name in {line.row.reference, "all"}]
        counts = dict.fromkeys(columns, 0)
        for line in own:
            if line.verdict == "pass":
                counts["pass"] += line.shown
                # What is not shown of a row that passes needs a reason, as a row without tests does.
                counts["later" if line.why else "MISSING"] += line.rest
            else:
                counts[line.verdict] += line.row.items
        text.append(f"| {name} | {' | '.join(str(counts[c]) for c in columns)} | {sum(counts.values())} |")
    return text


def _rows(table: Sequence[Line]) -> list[str]:
    text = ["| id | feature | mark | items | verdict | why |", "|---|---|---|---|---|---|"]
    for line in table:
        row = line.row
        items = f"{line.shown}/{row.items}"
        cells = (row.id, _cell(row.feature), row.mark, items, line.verdict, _cell(line.why))
        text.append(f"| {' | '.join(cells)} |")
    return text


def _cell(text: str) -> str:
    """Fit for one cell: no line breaks, no pipes, no HTML, not endless, and no folder of this machine."""
    clean = " ".join(text.split()).replace(str(HERE.parents[1]), ".").replace(str(Path.home()), "~")
    clean = clean.replace("|", "\\|").replace("<", "&lt;")
    return clean if len(clean) <= _MAX_WHY else clean[:_MAX_WHY] + "..."


def main(arguments: Sequence[str]) -> int:
    """Runs the tests, prints the report, writes it; 1 where something failed or is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--junit", type=Path, help="read this instead of running the tests")
    parser.add_argument("--no-write", action="store_true", help="only print it")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        junit: Path = options.junit or Path(folder) / "junit.xml"
        if options.junit is None:
            command = [sys.executable, "-m", "pytest", "-q", str(HERE), f"--junitxml={junit}"]
            subprocess.run([*command, "-o", "junit_family=xunit1"], cwd=HERE.parents[1], check=False)
        ran = read(junit.read_text(encoding="utf-8"))
    table = lines(ran)
    text = markdown(table, ran)
    sys.stdout.write(text)
    if not options.no_write:
        REPORT.write_text(text, encoding="utf-8")
    bad = any(line.verdict in {"FAIL", "MISSING"} for line in table) or any(test.outcome == "fail" for test in ran)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
