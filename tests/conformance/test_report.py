"""The table says of each row what its tests said, and never more."""

import pytest

from tests.conformance.report import Ran, judge, lines, markdown, read
from tests.conformance.rows import ROWS, Row

ROW = Row("A7", "Roboflow client", "batches", 3, "V")

JUNIT = """<testsuites><testsuite>
<testcase name="test_a7_batches"><properties><property name="items" value="2"/></properties></testcase>
<testcase name="test_a70_is_another_row"/>
<testcase name="test_d1b_hub_ids[sync]"><failure message="boxes differ">trace</failure></testcase>
<testcase name="test_c2_connect"><skipped message="sly could not be made"/></testcase>
<testcase name="test_the_rig"/>
</testsuite></testsuites>"""


def test_the_checklist_has_all_items_once() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS) == 92
    assert sum(row.items for row in ROWS) == 384
    by_mark = {mark: sum(row.items for row in ROWS if row.mark == mark) for mark in "VPMXNL"}
    assert by_mark == {"V": 302, "P": 49, "M": 2, "X": 15, "N": 12, "L": 4}


def test_a_test_belongs_to_the_row_in_its_name() -> None:
    ran = read(JUNIT)
    assert [test.row for test in ran] == ["A7", "A70", "D1b", "C2", None]
    assert [test.outcome for test in ran] == ["pass", "pass", "fail", "skipped", "pass"]
    assert ran[0].items == 2


@pytest.mark.parametrize(
    ("row", "ran", "verdict", "shown"),
    [
        (ROW, [Ran("test_a7_x", "pass")], "pass", 3),
        (ROW, [Ran("test_a7_x", "pass", items=1), Ran("test_a7_y", "pass", items=1)], "pass", 2),
        (ROW, [Ran("test_a7_x", "pass", items=3), Ran("test_a7_y", "pass", items=3)], "pass", 3),
        (ROW, [Ran("test_a7_x", "pass"), Ran("test_a7_y", "fail", "no")], "FAIL", 0),
        (ROW, [Ran("test_a7_x", "pass"), Ran("test_a7_y", "skipped", "no venv")], "not run", 0),
        (ROW, [], "MISSING", 0),
        (ROW._replace(why="no local model reads text"), [], "later", 0),
        (ROW._replace(why="needs keys", mark="N"), [], "not testable", 0),
    ],
)
def test_the_worst_test_decides_about_its_row(row: Row, ran: list[Ran], verdict: str, shown: int) -> None:
    line = judge(row, ran)
    assert (line.verdict, line.shown) == (verdict, shown)


def test_the_report_counts_every_item_once_and_names_what_failed() -> None:
    ran = read(JUNIT)
    text = markdown(lines(ran), ran)
    total = next(line for line in text.splitlines() if line.startswith("| all"))
    cells = [int(cell) for cell in total.strip("| ").split("|")[1:]]
    assert sum(cells[:-1]) == cells[-1] == 384
    assert "test_d1b_hub_ids[sync]: boxes differ" in text
    assert "| A7 |" in text
    assert "2/3" in text


def test_a_reason_breaks_no_cell() -> None:
    ran = [Ran("test_a7_x", "fail", "a | b\n<script> " + "x" * 500)]
    line = next(line for line in markdown(lines(ran), ran).splitlines() if line.startswith("| A7 "))
    assert line.count("|") - line.count("\\|") == 7
    assert "<script>" not in line
    assert len(line) < 400
