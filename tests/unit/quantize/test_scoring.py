"""Average precision by COCO's rules, against COCO's own code; and how far two models agree."""

import contextlib
import io
import math

import numpy as np
import pytest

from pipeline.quantize.judging import Accuracy
from pipeline.quantize.scoring import Boxes, agreement, average_precision, boxes


def scene(seed: int, pictures: int = 6) -> tuple[list[Boxes], list[Boxes]]:
    """Labels with crowds, and boxes that are right, moved, doubled, of another class, or nowhere."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(pictures):
        count = int(rng.integers(0, 9))
        corners = rng.uniform(0, 80, (count, 2))
        real = np.concatenate((corners, corners + rng.uniform(4, 40, (count, 2))), 1)
        ids = rng.integers(0, 3, count)
        crowd = rng.random(count) < 0.15
        truth.append(boxes(real, None, ids, crowd))
        moved = np.concatenate((real, real[: count // 2])) + rng.normal(0, 2, (count + count // 2, 4))
        moved = np.sort(moved.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        own_ids = np.concatenate((ids, ids[: count // 2]))
        own_ids = np.where(rng.random(len(own_ids)) < 0.1, rng.integers(0, 4, len(own_ids)), own_ids)
        found.append(boxes(moved, np.round(rng.random(len(own_ids)), 3), own_ids))
    return found, truth


def by_pycocotools(found: list[Boxes], truth: list[Boxes]) -> float:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools (dependency group: dev) is not installed")
    evaluating = pytest.importorskip("pycocotools.cocoeval")
    annotations: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    for image, (own, real) in enumerate(zip(found, truth, strict=True)):
        for (x1, y1, x2, y2), class_id, crowd in zip(real.xyxy, real.class_ids, real.crowd, strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(class_id), "iscrowd": int(crowd)}
                | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            )
        for (x1, y1, x2, y2), score, class_id in zip(own.xyxy, own.scores, own.class_ids, strict=True):
            rows.append(
                {"image_id": image, "category_id": int(class_id), "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            )
    labels = coco.COCO()
    labels.dataset = {
        "images": [{"id": image} for image in range(len(truth))],
        "categories": [{"id": number, "name": str(number)} for number in range(4)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        labels.createIndex()
        evaluation = evaluating.COCOeval(labels, labels.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("seed", range(12))
def test_average_precision_is_that_of_pycocotools(seed: int) -> None:
    found, truth = scene(seed)
    assert average_precision(found, truth) == pytest.approx(by_pycocotools(found, truth), abs=1e-6)


def test_without_any_label_there_is_no_precision() -> None:
    nothing = boxes([], None, [])
    assert math.isnan(average_precision([boxes([[0, 0, 1, 1]], [0.9], [0])], [nothing]))


def test_two_that_find_the_same_agree_fully() -> None:
    found, _ = scene(1)
    assert agreement(found, found) == 1.0


def test_a_box_that_only_one_finds_costs_agreement() -> None:
    one = boxes([[0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8], [0, 0])
    other = boxes([[0, 0, 10, 10]], [0.9], [0])
    assert agreement([one], [other]) == pytest.approx(2 / 3)
    assert agreement([other], [one]) == pytest.approx(2 / 3)


def test_a_box_of_another_class_or_elsewhere_is_not_the_same() -> None:
    one = boxes([[0, 0, 10, 10]], [0.9], [0])
    assert agreement([one], [boxes([[0, 0, 10, 10]], [0.9], [1])]) == 0.0
    assert agreement([one], [boxes([[20, 0, 30, 10]], [0.9], [0])]) == 0.0


def test_what_lies_near_a_threshold_is_no_loss() -> None:
    sure, likely, hardly = (boxes([[0, 0, 10, 10]], [score], [0]) for score in (0.41, 0.30, 0.20))
    assert agreement([likely], [sure]) == 1.0
    assert agreement([hardly], [sure]) == 0.0


def test_two_that_find_nothing_say_nothing_of_each_other() -> None:
    nothing = boxes([], [], [])
    assert math.isnan(agreement([nothing], [nothing]))


@pytest.mark.parametrize(("after", "said"), [(0.31, "0.0100 lost"), (0.33, "0.0100 won"), (0.32, "0.0000 lost")])
def test_a_twin_that_is_better_has_won_and_not_lost_less_than_nothing(after: float, said: str) -> None:
    assert str(Accuracy("AP", 0.32, after, 32)).endswith(f"on 32 labelled pictures: {said}")
