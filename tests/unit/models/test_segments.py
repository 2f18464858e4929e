"""Masks of objects: against shapes that are known, and against a slow way that was written apart."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contracts.frame import Size
from pipeline.models.letterbox import Placement, centre_crop, place, stretch
from pipeline.models.segments import object_masks

Floats = npt.NDArray[np.float32]
INPUT = Size(64, 64)


def one_by_one(
    coefficients: Floats, prototypes: Floats, boxes: Floats, placement: Placement, frame: Size
) -> npt.NDArray[np.bool_]:
    """The same, pixel by pixel, straight from the definition."""
    _, height, width = prototypes.shape
    masks = np.zeros((len(coefficients), frame.height, frame.width), np.bool_)
    for mask, row, (x1, y1, x2, y2) in zip(masks, coefficients, boxes.tolist(), strict=True):
        small = np.tensordot(row.astype(np.float64), prototypes.astype(np.float64), 1)
        for y in range(frame.height):
            for x in range(frame.width):
                if not (x1 <= x < x2 and y1 <= y < y2):
                    continue
                u = ((x + 0.5) * placement.scale + placement.left) * width / placement.input_size.width - 0.5
                v = ((y + 0.5) * placement.scale_y + placement.top) * height / placement.input_size.height - 0.5
                u, v = min(max(u, 0), width - 1), min(max(v, 0), height - 1)
                left, top = min(int(u), width - 2), min(int(v), height - 2)
                a, b = u - left, v - top
                value = (small[top, left] * (1 - a) + small[top, left + 1] * a) * (1 - b) + (
                    small[top + 1, left] * (1 - a) + small[top + 1, left + 1] * a
                ) * b
                mask[y, x] = value > 0
    return masks


@given(
    seed=st.integers(0, 10_000),
    frame=st.builds(Size, st.integers(1, 90), st.integers(1, 90)),
    how=st.sampled_from(["letterbox", "stretch", "crop"]),
)
@settings(max_examples=40, deadline=None)
def test_masks_are_those_of_the_definition(seed: int, frame: Size, how: str) -> None:
    random = np.random.default_rng(seed)
    coefficients = random.normal(size=(3, 4)).astype(np.float32)
    prototypes = random.normal(size=(4, 16, 16)).astype(np.float32)
    corners = random.uniform(0, 1, size=(3, 2, 2)) * np.array(frame)
    boxes = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1).astype(np.float32)
    placement = {
        "letterbox": place(frame, INPUT, centred=True),
        "stretch": stretch(frame, INPUT),
        "crop": centre_crop(frame, INPUT, 0.875),
    }[how]
    found = object_masks(coefficients, prototypes, boxes, placement, frame)
    wanted = one_by_one(coefficients, prototypes, boxes, placement, frame)
    # A value of almost nothing may fall to either side of 0.
    assert (found != wanted).mean() < 0.002


def test_a_round_object_is_round_in_the_frame_and_cut_off_at_its_box() -> None:
    frame, placement = Size(256, 128), place(Size(256, 128), INPUT, centred=True)
    y, x = np.mgrid[:16, :16]
    # A disc around the middle of the input, 4 cells (16 input pixels, 64 of the frame) in radius.
    prototypes = (4 - np.hypot(x - 7.5, y - 7.5))[None].astype(np.float32)
    box = np.array([[64.5, 10.0, 160.0, 100.2]], np.float32)
    (mask,) = object_masks(np.ones((1, 1), np.float32), prototypes, box, placement, frame)
    rows, columns = np.mgrid[:128, :256]
    disc = np.hypot(columns + 0.5 - 128, rows + 0.5 - 64) < 64
    inside = (columns >= 64.5) & (columns < 160) & (rows >= 10) & (rows < 100.2)
    wanted = disc & inside
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.98
    assert not mask[~inside].any()
    assert mask[10, 100:150].all(), "the box's first row belongs to it"
    assert mask[100, 128], "a row that the box touches belongs to it"


def test_nothing_found_is_an_array_of_no_masks() -> None:
    empty = np.empty((0, 4), np.float32)
    masks = object_masks(empty, np.zeros((4, 16, 16), np.float32), empty, stretch(Size(9, 7), INPUT), Size(9, 7))
    assert (masks.shape, str(masks.dtype)) == ((0, 7, 9), "bool")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_numbers_that_are_none_give_no_mask_and_no_warning(value: float) -> None:
    box = np.array([[0, 0, 9, 7]], np.float32)
    prototypes = np.zeros((2, 16, 16), np.float32)
    prototypes[1, 3] = value
    object_masks(np.ones((1, 2), np.float32), prototypes, box, stretch(Size(9, 7), INPUT), Size(9, 7))
