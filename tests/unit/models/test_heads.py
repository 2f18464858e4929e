"""Heads: outputs made by hand, and the boxes that they mean."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from model_files import cells, objects_output, yolov8_output

from pipeline.contracts.frame import Size
from pipeline.models import heads
from pipeline.models.heads import Candidates, HeadOptions

SIZE = Size(64, 64)


def rows(found: Candidates) -> list[tuple[list[float], Any, int]]:
    columns = found.xyxy.tolist(), found.scores.tolist(), found.class_ids.tolist()
    return [(box, pytest.approx(score), number) for box, score, number in zip(*columns, strict=True)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_yolov8_gives_corners_the_best_class_and_its_score(dtype: type[np.generic], layout: heads.Layout) -> None:
    output = yolov8_output((32, 16, 8, 4, 1, 0.75), (10, 10, 4, 4, 0, 0.125)).astype(dtype)
    output[4, 0] = 0.25  # the lesser class of the first box
    found = heads.yolov8(output if layout == "columns" else output.T, SIZE, HeadOptions(0.25, layout))
    assert rows(found) == [([28, 14, 36, 18], 0.75, 1)]
    assert [str(array.dtype) for array in found[:3]] == ["float32", "float32", "int32"]


def test_yolov8_of_one_class_works() -> None:
    found = heads.yolov8(yolov8_output((8, 8, 2, 2, 0, 0.5), classes=1), SIZE, HeadOptions(0.5, "columns"))
    assert rows(found) == [([7, 7, 9, 9], 0.5, 0)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_yolov5_scores_are_objectness_times_class(dtype: type[np.generic]) -> None:
    output = objects_output((32, 16, 8, 4, 1, 0.5, 0.75), (10, 10, 4, 4, 0, 0.5, 0.25)).astype(dtype)
    assert rows(heads.yolov5(output, SIZE, HeadOptions(0.25))) == [([28, 14, 36, 18], 0.375, 1)]


def test_yolox_puts_the_raw_output_on_the_grid() -> None:
    output = np.zeros((cells(64, 64), 7), np.float32)
    # Cell (3, 2) of stride 8 is row 2 * 8 + 3; cell (1, 0) of stride 32 is row 64 + 16 + 1.
    output[19] = (0.5, 0.25, np.log(2), np.log(4), 0.5, 1, 0)
    output[81] = (0, 0, 0, 0, 1, 0, 0.5)
    found = heads.yolox(output, SIZE, HeadOptions(0.25, raw_grid=True))
    boxes = [([20, 2, 36, 34], 0.5, 0), ([16, -16, 48, 16], 0.5, 1)]
    for (box, score, number), (wanted, wanted_score, wanted_number) in zip(rows(found), boxes, strict=True):
        assert box == pytest.approx(wanted, abs=1e-4)
        assert (score, number) == (wanted_score, wanted_number)


def test_yolox_decoded_inside_is_read_as_it_is() -> None:
    output = objects_output((32, 16, 8, 4, 1, 0.5, 1.0), rows=cells(64, 64))
    assert rows(heads.yolox(output, SIZE, HeadOptions(0.25))) == [([28, 14, 36, 18], 0.5, 1)]


def test_end2end_rows_are_boxes_already() -> None:
    output = np.array([[1, 2, 3, 4, 0.9, 7], [0, 0, 9, 9, 0.2, 1], [0, 0, 0, 0, 0, 0]], np.float32)
    assert rows(heads.end2end(output, SIZE, HeadOptions(0.25))) == [([1, 2, 3, 4], 0.9, 7)]


def test_a_score_equal_to_the_threshold_counts() -> None:
    assert len(heads.yolov8(yolov8_output((8, 8, 2, 2, 0, 0.25)), SIZE, HeadOptions(0.25, "columns")).scores) == 1


BROKEN = [np.nan, np.inf, -np.inf, 1e38]


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("head", [heads.yolov8, heads.yolov5, heads.yolox, heads.end2end])
def test_numbers_that_are_none_never_leave_a_head(head: heads.Decode, value: float) -> None:
    output: npt.NDArray[np.float32]
    for column in range(6):
        if head is heads.yolov8:
            output, layout = yolov8_output((8, 8, 2, 2, 0, 0.5)), "columns"
            output[column, 0] = value
        else:
            output, layout = objects_output((8, 8, 2, 2, 0, 0.5, 1), classes=1, rows=cells(64, 64)), "rows"
            output[0, column] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = head(output, SIZE, HeadOptions(0.25, "columns" if layout == "columns" else "rows", raw_grid=True))
        assert np.isfinite(found.xyxy).all()
        assert np.isfinite(found.scores).all()
