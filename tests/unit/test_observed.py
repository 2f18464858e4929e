"""What the rigs judge by: an unbalanced ledger, a rising line and a failed round are seen as what they are."""

import sys
from pathlib import Path

import pytest
from observed import Samples

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.scorecard.leaks import slope
from tests.scorecard.run import one
from tests.scorecard.table import NotRunError, Round, Row, markdown

BALANCED = """
# HELP penstock_frames_decoded_total Frames
penstock_frames_decoded_total{source="cam"} 12.0
penstock_frames_total{outcome="inferred",source="cam"} 9.0
penstock_frames_total{outcome="gated",source="cam"} 1.0
penstock_frames_in_flight{source="cam"} 2.0
penstock_sink_results_total{outcome="accepted",sink="lines"} 9.0
penstock_sink_results_total{outcome="delivered",sink="lines"} 8.0
penstock_sink_pending{sink="lines"} 1.0
"""


def test_a_balanced_ledger_passes_and_samples_are_found_by_some_of_their_labels() -> None:
    samples = Samples.parse(BALANCED)
    samples.check_ledger()
    assert samples.of("penstock_frames_total") == 10
    assert samples.of("penstock_frames_total", source="cam", outcome="gated") == 1
    assert samples.of("penstock_frames_total", source="other") == 0


@pytest.mark.parametrize("line", ['gated",source="cam"} 1.0', 'flight{source="cam"} 2.0', 'pending{sink="lines"} 1.0'])
def test_one_frame_or_result_too_many_is_seen(line: str) -> None:
    assert line in BALANCED
    more = BALANCED.replace(line, line[:-3] + str(int(line[-3]) + 1) + ".0")
    with pytest.raises(AssertionError, match="ledger of"):
        Samples.parse(more).check_ledger()


def test_the_slope_is_that_of_the_line() -> None:
    assert slope([(0, 5), (1, 7), (2, 9)]) == pytest.approx(2)


def _passes(_: Path) -> dict[str, float]:
    """It works."""
    return {"seen s": 4.0}


def _fails(_: Path) -> dict[str, float]:
    """It does not."""
    raise AssertionError("not within 5 s")


def _breaks(_: Path) -> dict[str, float]:
    """The rig itself is broken."""
    raise KeyError("cam")


def _cannot(_: Path) -> dict[str, float]:
    """No rights."""
    raise NotRunError("needs root")


def test_a_round_passes_only_where_nothing_was_raised(tmp_path: Path) -> None:
    verdicts = [one(Row(number, run), tmp_path).verdict for number, run in enumerate((_passes, _fails, _breaks))]
    assert verdicts == ["pass", "FAIL", "FAIL"]
    assert one(Row(9, _cannot), tmp_path).verdict == "not run"


def test_the_table_counts_rounds_and_says_why_one_failed() -> None:
    rows = [Row(1, _passes), Row(2, _cannot)]
    rounds = [
        Round(1, "pass", 3.0, {"seen s": 4.0}),
        Round(1, "pass", 5.0, {"seen s": 4.5}),
        Round(1, "FAIL", 9.0, {}, "not within 5 s"),
        Round(2, "not run", 0.0, {}, "needs root"),
    ]
    table = markdown(rows, rounds, ["# Scorecard"])
    assert "| 1 | It works. | 2/3 | seen s 4.25 | 5 |" in table
    assert "| 2 | No rights. | not run |  | 0 |" in table
    assert "* Row 1, FAIL: not within 5 s" in table
