from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.contracts.frame import ColorMatrix, Size
from pipeline.contracts.result import Classification, Detections, Embedding, Text
from pipeline.testing import detections
from sinks._colors import class_color, to_ycbcr
from sinks._draw import Painter
from sinks._planes import Planes
from sinks._style import style_of

SIZE = Size(320, 240)
GREY = 77


def blank(size: Size = SIZE) -> Planes:
    half = (size.height // 2, size.width // 2)
    return Planes(
        np.full((size.height, size.width), GREY, np.uint8), np.full(half, 128, np.uint8), np.full(half, 128, np.uint8)
    )


def painter(size: Size = SIZE, *, boxes: bool = True, labels: bool = False) -> Painter:
    names = [name for name, wanted in (("box", boxes), ("label", labels)) if wanted]
    return Painter(size, "bt601", full_range=False, style=style_of(tuple(names)))


def touched(planes: Planes) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(planes.y != GREY)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_a_box_is_drawn_where_it_is_and_its_inside_stays() -> None:
    planes = blank()
    painter().paint(planes, detections((40, 60, 200, 180)))
    assert touched(planes) == (40, 60, 200, 180)
    assert (planes.y[62:178, 42:198] == GREY).all()
    color = to_ycbcr(class_color(0), "bt601", full_range=False)
    assert (planes.y[60:62, 40:200] == color.y).all()
    assert (planes.u[30, 20:100] == color.cb).all()
    assert (planes.v[30:90, 20] == color.cr).all()
    assert (planes.u[31:89, 21:99] == 128).all()


def test_a_box_partly_outside_is_closed_at_the_border() -> None:
    planes = blank()
    painter().paint(planes, detections((-50, 100, 60, 999)))
    assert touched(planes) == (0, 100, 60, 240)
    assert (planes.y[100:240, 0] != GREY).all()


@pytest.mark.parametrize("box", [(-90, 10, 0, 50), (320, 10, 400, 50), (10, -9, 50, 0), (50, 50, 40, 60)])
def test_a_box_wholly_outside_or_inside_out_is_not_drawn(box: tuple[float, float, float, float]) -> None:
    planes = blank()
    painter(labels=True).paint(planes, detections(box))
    assert (planes.y == GREY).all()


@given(
    arrays(np.float32, (4, 4), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.text(max_size=60),
)
def test_nothing_that_a_model_says_breaks_the_drawing(xyxy: np.ndarray, halves: tuple[int, int], name: str) -> None:
    size = Size(2 * halves[0], 2 * halves[1])
    found = Detections(
        xyxy, np.array([np.nan, np.inf, 0.5, -1], np.float32), np.array([0, -5, 9, 0], np.int32), (name,)
    )
    painter(size, labels=True).paint(blank(size), found)


def test_a_label_stands_on_its_box_and_inside_where_there_is_no_room() -> None:
    for top, expected in [(100, (80, 100)), (4, (4, 24))]:
        planes = blank()
        painter(boxes=False, labels=True).paint(planes, detections((40, top, 200, 180)))
        left, label_top, _, label_bottom = touched(planes)
        assert left == 40
        assert (expected[0] <= label_top, label_bottom <= expected[1]) == (True, True)


def test_a_label_at_the_right_border_is_moved_into_the_picture() -> None:
    planes = blank()
    painter(boxes=False, labels=True).paint(planes, detections((310, 100, 319, 180), names=("refrigerator",)))
    left, _, right, _ = touched(planes)
    assert (left < 250, right) == (True, 320)


def test_the_most_confident_box_lies_on_top() -> None:
    planes = blank()
    both = replace(detections((40, 60, 200, 180), (40, 60, 200, 180)), class_id=np.array([3, 4], np.int32))
    painter().paint(planes, both)
    assert planes.y[60, 100] == to_ycbcr(class_color(3), "bt601", full_range=False).y


def test_labels_of_text_and_classes_stand_in_the_corner_and_vectors_draw_nothing() -> None:
    for prediction in (Classification(np.array([0.1, 0.9], np.float32), ("a", "b")), Text("two cars\n at a gate")):
        planes = blank()
        painter(labels=True).paint(planes, prediction)
        assert touched(planes)[:2] == (0, 0)
    planes = blank()
    painter(labels=True).paint(planes, Embedding(np.zeros(3, np.float32)))
    assert (planes.y == GREY).all()


def test_neighbouring_classes_have_colours_far_apart_and_none_is_dark() -> None:
    colors = np.array([class_color(index) for index in range(80)])
    assert (np.abs(np.diff(colors, axis=0)).max(axis=1) > 0.4).all()
    assert (colors @ [0.299, 0.587, 0.114] > 0.29).all()


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_are_what_the_scaler_makes_of_them(matrix: ColorMatrix, full_range: bool) -> None:
    import av
    from av.video.reformatter import ColorRange, Colorspace

    spaces = {"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709, "bt2020": Colorspace.BT2020}
    for index in range(12):
        rgb = class_color(index)
        pixels = np.broadcast_to(np.round(np.array(rgb) * 255).astype(np.uint8), (16, 16, 3))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            format="yuv444p",
            dst_colorspace=spaces[matrix],
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        )
        expected = frame.to_ndarray()[:, 8, 8].astype(int)
        assert np.abs(expected - to_ycbcr(rgb, matrix, full_range=full_range)).max() <= 2
