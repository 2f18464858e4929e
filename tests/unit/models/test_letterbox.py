"""Letterbox geometry: the reference's numbers, and the way there and back for any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.frame import Size
from pipeline.models.letterbox import centre_crop, fitted, place, points_to_frame, stretch, to_frame, to_input

sides = st.integers(1, 5000)
sizes = st.builds(Size, sides, sides)
inputs = st.builds(Size, st.integers(1, 40).map(lambda n: n * 32), st.integers(1, 40).map(lambda n: n * 32))


@pytest.mark.parametrize(
    ("frame", "content", "left", "top"),
    [
        # What `LetterBox` of ultralytics 8.3 gives for a 640 x 640 input.
        (Size(1920, 1080), Size(640, 360), 0, 140),
        (Size(810, 1080), Size(480, 640), 80, 0),
        (Size(451, 300), Size(640, 426), 0, 107),
        (Size(640, 427), Size(640, 427), 0, 106),
        (Size(320, 320), Size(640, 640), 0, 0),
    ],
)
def test_a_centred_letterbox_has_the_references_numbers(frame: Size, content: Size, left: int, top: int) -> None:
    placement = place(frame, Size(640, 640), centred=True)
    assert (placement.content, placement.left, placement.top) == (content, left, top)


def test_a_top_left_letterbox_starts_in_the_corner() -> None:
    placement = place(Size(451, 300), Size(416, 416), centred=False)
    assert (placement.content, placement.left, placement.top) == (Size(416, 277), 0, 0)


@given(frame=sizes, size=inputs, centred=st.booleans())
def test_the_picture_fits_touches_two_edges_and_keeps_its_shape(frame: Size, size: Size, centred: bool) -> None:
    p = place(frame, size, centred=centred)
    assert 0 <= p.left <= p.right <= size.width
    assert 0 <= p.top <= p.bottom <= size.height
    assert p.content.width == size.width or p.content.height == size.height
    for side, original in zip(p.content, frame, strict=True):
        assert side == 1 or abs(side - original * p.scale) <= 0.5 + 1e-6


@given(frame=sizes, size=inputs, centred=st.booleans(), data=st.data())
def test_boxes_come_back_where_they_were(frame: Size, size: Size, centred: bool, data: st.DataObject) -> None:
    x = sorted(data.draw(st.tuples(st.floats(0, frame.width, width=32), st.floats(0, frame.width, width=32))))
    y = sorted(data.draw(st.tuples(st.floats(0, frame.height, width=32), st.floats(0, frame.height, width=32))))
    box = np.array([[x[0], y[0], x[1], y[1]]], np.float32)
    placement = place(frame, size, centred=centred)
    back = to_frame(to_input(box, placement), placement, frame)
    # The input has 24 bits for a number as large as its side; one step of it, in pixels of the frame.
    tolerance = max(size) * 2.0**-22 / placement.scale + max(frame) * 2.0**-22
    np.testing.assert_allclose(back, box, atol=tolerance)


def test_boxes_are_clipped_to_the_frame() -> None:
    placement = place(Size(100, 50), Size(64, 64), centred=True)
    boxes = np.array([[-10, -10, 1000, 1000]], np.float32)
    assert to_frame(boxes, placement, Size(100, 50)).tolist() == [[0, 0, 100, 50]]


@given(frame=sizes, limit=inputs)
def test_a_fitted_input_is_the_least_multiple_that_keeps_the_scale_to_half_a_pixel(frame: Size, limit: Size) -> None:
    size = fitted(frame, limit, 32)
    whole, part = place(frame, limit, centred=True), place(frame, size, centred=True)
    assert all(side % 32 == 0 and side <= top for side, top in zip(size, limit, strict=True))
    assert all(side - content < 32 for side, content in zip(size, whole.content, strict=True))
    assert abs(part.scale - whole.scale) <= 0.5 / min(frame) + 1e-6


SIDES = st.integers(1, 4000)


@given(st.builds(Size, SIDES, SIDES), st.builds(Size, st.integers(32, 800), st.integers(32, 800)))
def test_a_stretched_frame_fills_the_input_and_comes_back_by_two_scales(frame: Size, size: Size) -> None:
    placement = stretch(frame, size)
    assert (placement.content, placement.left, placement.top, placement.cut) == (size, 0, 0, False)
    box = np.array([[0, 0, frame.width / 2, frame.height]], np.float32)
    there = to_input(box, placement)
    np.testing.assert_allclose(there, [[0, 0, size.width / 2, size.height]], rtol=1e-5)
    np.testing.assert_allclose(to_frame(there, placement, frame), box, rtol=1e-5)


@pytest.mark.parametrize(
    ("frame", "ratio", "content", "corner"),
    [
        (Size(640, 480), 0.875, Size(341, 256), (-58, -16)),  # torchvision: Resize(256), CenterCrop(224)
        (Size(480, 640), 0.875, Size(256, 341), (-16, -58)),
        (Size(640, 480), 1.0, Size(299, 224), (-38, 0)),
        (Size(10, 10), 0.875, Size(256, 256), (-16, -16)),
    ],
)
def test_a_centre_crop_is_torchvisions(frame: Size, ratio: float, content: Size, corner: tuple[int, int]) -> None:
    placement = centre_crop(frame, Size(224, 224), ratio)
    assert placement.content == content
    assert (placement.left, placement.top) == corner
    assert placement.cut
    assert placement.right >= 224
    assert placement.bottom >= 224


def test_points_come_back_clipped_and_what_is_no_number_stays_none() -> None:
    placement = place(Size(128, 64), Size(64, 64), centred=True)
    points = np.array([[[32, 32], [-5, 99], [np.nan, 32]]], np.float32)
    found = points_to_frame(points, placement, Size(128, 64))
    assert found[0, :2].tolist() == [[64, 32], [0, 64]]
    assert np.isnan(found[0, 2, 0])
