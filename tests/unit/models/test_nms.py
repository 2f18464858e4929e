"""Suppression: both ways of doing it give what the plain greedy rule gives."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import nms as module
from pipeline.models.nms import nms

Boxes = npt.NDArray[np.float32]


def greedy(xyxy: Boxes, scores: npt.NDArray[np.float32], classes: list[int], threshold: float) -> list[int]:
    """The rule itself, one pair at a time."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda n: (-scores[n], n)):
        for j in kept:
            w = min(xyxy[i, 2], xyxy[j, 2]) - max(xyxy[i, 0], xyxy[j, 0])
            h = min(xyxy[i, 3], xyxy[j, 3]) - max(xyxy[i, 1], xyxy[j, 1])
            inter = max(w, 0) * max(h, 0)
            union = sum((xyxy[n, 2] - xyxy[n, 0]) * (xyxy[n, 3] - xyxy[n, 1]) for n in (i, j)) - inter
            if classes[i] == classes[j] and inter > threshold * union:
                break
        else:
            kept.append(i)
    return kept


boxes = st.lists(
    st.tuples(
        *(st.integers(0, 12) for _ in range(2)),
        *(st.integers(0, 12) for _ in range(2)),
        st.sampled_from([0.25, 0.5, 0.75, 0.9]),
        st.integers(0, 2),
    ),
    max_size=40,
)


@given(found=boxes, threshold=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), aware=st.booleans(), many=st.booleans())
def test_both_ways_agree_with_the_greedy_rule(
    found: list[tuple[int, int, int, int, float, int]], threshold: float, aware: bool, many: bool
) -> None:
    rows = np.array(found, np.float32).reshape(-1, 6)
    xyxy = np.concatenate((rows[:, :2], rows[:, :2] + rows[:, 2:4]), axis=1)
    scores, classes = rows[:, 4], rows[:, 5].astype(np.int32)
    limit = module.MATRIX_MAX
    module.MATRIX_MAX = -1 if many else limit
    try:
        kept = nms(xyxy, scores, classes if aware else None, iou_threshold=threshold, max_detections=1000)
    finally:
        module.MATRIX_MAX = limit
    assert kept.tolist() == greedy(xyxy, scores, classes.tolist() if aware else [0] * len(rows), threshold)


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_no_more_boxes_stay_than_asked_for_and_the_best_come_first(count: int) -> None:
    x = np.arange(count, dtype=np.float32) * 10
    xyxy = np.stack((x, x, x + 5, x + 5), axis=1)
    scores = np.linspace(0.1, 0.9, count, dtype=np.float32)
    kept = nms(xyxy, scores, None, iou_threshold=0.5, max_detections=3)
    assert kept.tolist() == list(range(count))[::-1][:3]


def test_a_chain_of_overlaps_is_settled_from_its_best_box() -> None:
    # 0 covers 1, 1 covers 2, 2 covers 3: 1 goes, so 2 stays, so 3 goes.
    x = np.array([0, 4, 8, 12], np.float32)
    xyxy = np.stack((x, np.zeros(4, np.float32), x + 10, np.full(4, 10, np.float32)), axis=1)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    assert nms(xyxy, scores, None, iou_threshold=0.3, max_detections=10).tolist() == [0, 2]


def test_a_hostile_number_of_candidates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CANDIDATES", 500)
    xyxy = np.tile(np.array([[0, 0, 1, 1]], np.float32), (2000, 1)) + np.arange(2000, dtype=np.float32)[:, None] * 2
    kept = nms(xyxy, np.linspace(0, 1, 2000, dtype=np.float32), None, iou_threshold=0.5, max_detections=5000)
    assert kept.tolist() == list(range(1999, 1499, -1))
