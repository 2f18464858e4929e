"""Whether the benchmark sees that two programs did not find the same."""

import json
from pathlib import Path

from tests.bench.equality import Agreement, Box, compare, iou, read

PERSON = Box(0, 10, 10, 50, 110)
CAR = Box(2, 200, 100, 300, 150)


def moved(box: Box, right: float) -> Box:
    return box._replace(left=box.left + right, right=box.right + right)


def test_the_same_boxes_in_another_order_agree_wholly() -> None:
    assert compare({0: [PERSON, CAR]}, {0: [CAR, PERSON]}) == Agreement(1, 2, 2, 2, 0.0)


def test_a_box_of_another_class_has_no_like() -> None:
    found = compare({0: [PERSON]}, {0: [PERSON._replace(class_id=1)]})

    assert found.alike == 0
    assert not found.holds


def test_a_missing_box_lowers_the_share() -> None:
    found = compare({0: [PERSON, CAR], 1: [PERSON]}, {0: [PERSON], 1: [PERSON]})

    assert found.share == 2 * 2 / 5
    assert not found.holds


def test_boxes_that_all_lie_three_pixels_off_are_alike_but_do_not_hold() -> None:
    found = compare({0: [PERSON, CAR]}, {0: [moved(PERSON, 3), moved(CAR, 3)]})

    assert found.share == 1.0
    assert found.shift_px == 3.0
    assert not found.holds


def test_one_box_is_the_like_of_one_other_only() -> None:
    twice = [PERSON, moved(PERSON, 1)]

    assert compare({0: [PERSON]}, {0: twice}).alike == 1
    assert compare({0: twice}, {0: [PERSON]}).alike == 1


def test_frames_that_one_does_not_have_are_not_compared() -> None:
    assert compare({0: [PERSON], 1: [CAR]}, {0: [PERSON]}) == Agreement(1, 1, 1, 1, 0.0)


def test_nothing_found_by_both_is_agreement() -> None:
    assert compare({0: []}, {0: []}).holds


def test_iou_is_of_areas() -> None:
    assert iou(PERSON, moved(PERSON, 20)) == 1 / 3
    assert iou(PERSON, moved(PERSON, 40)) == 0.0


def test_boxes_are_read_from_lines_with_middles_and_sizes(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    one = {"x": 30.0, "y": 60.0, "width": 40.0, "height": 100.0, "class_id": 0, "class": "person", "confidence": 0.5}
    file.write_text(json.dumps({"frame_id": 7, "predictions": [one]}) + "\n")

    assert read(file) == {7: [PERSON]}
