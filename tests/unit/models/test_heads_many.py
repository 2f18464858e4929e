"""Heads of several outputs: made by hand, and the boxes that they mean."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from model_files import cells, yunet_outputs

from pipeline.contracts.frame import Size
from pipeline.models import heads, heads_many
from pipeline.models.heads import HeadOptions
from pipeline.models.heads_many import YUNET_OUTPUTS

SIZE = Size(64, 64)


def transformer(scores: list[float], labels: list[int]) -> list[npt.NDArray[Any]]:
    boxes = np.array([[1, 2, 30, 40]] * len(scores), np.float32)
    return [np.array(labels, np.int64), boxes, np.array(scores, np.float32)]


def test_a_transformers_rows_over_the_threshold_are_boxes_already() -> None:
    found = heads_many.rtdetr(transformer([0.9, 0.5, 0.2], [3, 0, 1]), SIZE, HeadOptions(0.5))
    assert found.xyxy.tolist() == [[1, 2, 30, 40]] * 2
    assert found.class_ids.tolist() == [3, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert [str(a.dtype) for a in found[:3]] == ["float32", "float32", "int32"]


@pytest.mark.parametrize("label", [-1, 2**40])
def test_a_class_that_cannot_be_is_no_box(label: int) -> None:
    assert len(heads_many.rtdetr(transformer([0.9], [label]), SIZE, HeadOptions(0.5)).scores) == 0


def test_rf_detrs_queries_give_a_box_for_each_class_over_the_threshold() -> None:
    boxes = np.array([[0.5, 0.25, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32)
    logits = np.array([[0.0, np.log(3), -9], [-9, -9, -9]], np.float32)
    found = heads_many.rfdetr([boxes, logits], Size(64, 32), HeadOptions(0.5))
    assert found.class_ids.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.5, 0.75])
    assert found.xyxy.tolist() == [[16, 0, 48, 16]] * 2
    for confidence, count in ((0.0, 6), (1.0, 0)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(heads_many.rfdetr([boxes, logits], SIZE, HeadOptions(confidence)).scores) == count


def test_a_face_lies_where_its_cell_puts_it() -> None:
    # Cell (3, 2) of stride 8 is row 2 * 8 + 3.
    outputs = yunet_outputs(
        {19: (0.81, 1.0, (0.5, 0.25, np.log(2), np.log(4)), [(0.0, 0.0), (1.0, 0.5)] + [(0, 0)] * 3)}
    )
    found = heads_many.yunet([outputs[name] for name in YUNET_OUTPUTS], SIZE, HeadOptions(0.5))
    assert found.scores.tolist() == pytest.approx([0.9])
    np.testing.assert_allclose(found.xyxy, [[28 - 8, 18 - 16, 28 + 8, 18 + 16]], atol=1e-4)
    assert found.extras is not None
    np.testing.assert_allclose(found.extras[0, :4], [24, 16, 32, 20])
    assert found.class_ids.tolist() == [0]


def test_no_face_is_no_box_and_no_landmarks() -> None:
    found = heads_many.yunet([yunet_outputs({})[name] for name in YUNET_OUTPUTS], SIZE, HeadOptions(0.5))
    assert found.extras is not None
    assert (found.xyxy.shape, found.extras.shape) == ((0, 4), (0, 10))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_numbers_that_are_none_never_leave_a_head(value: float) -> None:
    face = yunet_outputs({0: (0.9, 0.9, (0, 0, 1, 1), [(0, 0)] * 5)})
    for name in YUNET_OUTPUTS[:9:3]:
        outputs = {key: array.copy() for key, array in face.items()}
        outputs[name][0, -1] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = heads_many.yunet([outputs[key] for key in YUNET_OUTPUTS], SIZE, HeadOptions(0.25))
        assert np.isfinite(found.xyxy).all()
        assert np.isfinite(found.scores).all()
    boxes, logits = np.full((2, 4), 0.5, np.float32), np.full((2, 3), -9, np.float32)
    boxes[0, 2], logits[:, 0] = value, 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(heads_many.rfdetr([boxes, logits], SIZE, HeadOptions(0.5)).scores) == 1
        heads_many.rfdetr([boxes[1:], np.full((1, 3), value, np.float32)], SIZE, HeadOptions(0.5))
    broken = transformer([0.9, 0.9], [1, 1])
    broken[1][0, 2] = value
    assert len(heads_many.rtdetr(broken, SIZE, HeadOptions(0.5)).scores) == 1


@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_extras_stand_behind_the_classes_and_are_no_scores(layout: heads.Layout) -> None:
    output = np.zeros((4 + 2 + 3, cells(64, 64)), np.float32)
    output[:, 5] = (32, 16, 8, 4, 0.25, 0.75, 9.0, -8.0, 7.0)
    output[6:, 6] = 5.0  # extras alone make no box
    found = heads.yolov8(output if layout == "columns" else output.T, SIZE, HeadOptions(0.5, layout, extras=3))
    assert found.scores.tolist() == [0.75]
    assert found.class_ids.tolist() == [1]
    assert found.extras is not None
    assert found.extras.tolist() == [[9, -8, 7]]


def test_extras_of_the_other_families_follow_their_boxes() -> None:
    row = np.array([[32, 16, 8, 4, 1.0, 0.25, 0.75, 9, 8], [0, 0, 0, 0, 0, 0, 0, 1, 1]], np.float32)
    found = heads.yolov5(row, SIZE, HeadOptions(0.5, extras=2))
    assert found.extras is not None
    assert (found.scores.tolist(), found.extras.tolist()) == ([0.75], [[9, 8]])
    rows = np.array([[1, 2, 3, 4, 0.1, 0, 5, 5], [1, 2, 3, 4, 0.9, 7, 9, 8]], np.float32)
    found = heads.end2end(rows, SIZE, HeadOptions(0.5, extras=2))
    assert found.extras is not None
    assert (found.class_ids.tolist(), found.extras.tolist()) == ([7], [[9, 8]])
