import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.wire.polygons import mask_of, polygon_of

CORNERS = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 11)), min_size=1, max_size=6)


def filled(corners: object, height: int = 12, width: int = 16) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.array(corners, np.int32)], 1)
    return mask.astype(bool)


def holes(mask: np.ndarray) -> bool:
    outer, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return len(outer) != 1 or bool((filled(outer[0].reshape(-1, 2), *mask.shape) != mask).any())


@settings(deadline=None)
@given(CORNERS)
def test_a_mask_in_one_piece_without_holes_comes_back_out_of_its_polygon(corners: list[tuple[int, int]]) -> None:
    mask = filled(corners)
    if not holes(mask):
        np.testing.assert_array_equal(mask_of(polygon_of(mask).astype(float), 12, 16), mask)


@settings(deadline=None)
@given(arrays(bool, (9, 11)))
def test_opencv_fills_a_polygon_as_it_is_filled_here(mask: np.ndarray) -> None:
    polygon = polygon_of(mask)
    if len(polygon):
        np.testing.assert_array_equal(mask_of(polygon.astype(float), 9, 11), filled(polygon, 9, 11))


def test_of_several_pieces_the_largest_counts() -> None:
    mask = np.zeros((10, 20), bool)
    mask[1:3, 1:3] = True
    mask[4:9, 10:18] = True
    back = mask_of(polygon_of(mask).astype(float), 10, 20)
    assert back[4:9, 10:18].all()
    assert back.sum() == 40


def test_an_empty_mask_has_no_polygon_and_the_other_way_round() -> None:
    assert polygon_of(np.zeros((4, 4), bool)).shape == (0, 2)
    assert not mask_of(np.zeros((0, 2)), 4, 4).any()


def test_a_rectangle_has_four_corners() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2:6, 3:9] = True
    assert sorted(polygon_of(mask).tolist()) == [[3, 2], [3, 5], [8, 2], [8, 5]]


def test_what_of_a_polygon_is_outside_of_the_picture_is_cut_off() -> None:
    mask = mask_of(np.array([[-5.0, -5], [100, -5], [100, 2.2], [-5, 2.2]]), 6, 8)
    assert mask[:3].all()
    assert not mask[3:].any()


@pytest.mark.parametrize("far", [np.nan, np.inf, 1e7, -1e300])
def test_a_point_nowhere_near_the_picture_is_refused(far: float) -> None:
    with pytest.raises(ValueError, match="nowhere near"):
        mask_of(np.array([[0.0, 0], [far, 1], [2, 2]]), 6, 8)


def test_a_polygon_that_would_take_for_ever_is_refused() -> None:
    zigzag = np.array([[0.0, 1e6 * (-1) ** index] for index in range(1000)])
    with pytest.raises(ValueError, match="too many long sides"):
        mask_of(zigzag, 6, 8)


def test_noise_is_outlined_at_half_the_size_before_it_takes_for_ever() -> None:
    noise = np.random.default_rng(0).random((700, 700)) < 0.5
    polygon = polygon_of(noise)
    assert len(polygon) > 1000
    assert (polygon % 2 == 0).all()
    assert (polygon >= 0).all()
    assert (polygon < 700).all()
