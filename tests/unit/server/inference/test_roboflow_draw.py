"""What is drawn on a picture for clients, and where."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from asking import ANSWERS, found, masked, posed
from PIL import Image

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Prediction
from pipeline.models.picture import from_rgb
from pipeline.server.inference import _roboflow_draw as draw

GREY = from_rgb(np.full((240, 320, 3), 128, np.uint8))


def changed(prediction: Prediction, *, stroke_px: int = 1, labels: bool = False) -> npt.NDArray[np.bool_]:
    """Where the picture is no longer grey: bool (240, 320)."""
    scene = draw.annotated(GREY, prediction, stroke_px=stroke_px, labels=labels)
    assert scene.size == (320, 240)
    different: npt.NDArray[np.bool_] = (np.asarray(scene).astype(int) != 128).any(axis=2)
    return different


def test_a_box_is_drawn_on_its_sides_and_nowhere_else() -> None:
    one = found(
        xyxy=np.array([[10, 20, 110, 120]], np.float32),
        confidence=np.ones(1, np.float32),
        class_id=np.zeros(1, np.int32),
    )
    where = changed(one)
    assert where[20, 10:110].all()
    assert where[120, 10:110].all()
    assert where[20:120, 10].all()
    assert where[20:120, 110].all()
    assert not where[22:118, 12:108].any()
    assert not where[:19].any()


@pytest.mark.parametrize(("stroke_px", "wide"), [(0, 1), (1, 1), (5, 5), (10_000, draw.MAX_STROKE_PX)])
def test_a_stroke_is_as_wide_as_asked_within_reason(stroke_px: int, wide: int) -> None:
    one = found(
        xyxy=np.array([[10, 10, 300, 230]], np.float32),
        confidence=np.ones(1, np.float32),
        class_id=np.zeros(1, np.int32),
    )
    assert changed(one, stroke_px=stroke_px)[10:120, 150].sum() == wide


def test_names_stand_above_boxes_only_when_wanted() -> None:
    plain, named = changed(found()), changed(found(), labels=True)
    assert not plain[6:19, 10:40].any()
    assert named[6:19, 10:40].any()


def test_masks_are_tinted_and_keypoints_are_dots() -> None:
    assert changed(masked(Size(320, 240)))[25:115, 15:105].all()
    assert changed(posed())[30, 20]


def test_boxes_that_are_none_are_left_out_and_others_stay_within_the_picture() -> None:
    odd = found(
        xyxy=np.array([[np.nan, 0, 10, 10], [-50, -50, 900, 900], [50, 50, 20, 20]], np.float32),
        confidence=np.ones(3, np.float32),
        class_id=np.array([0, 1, 2], np.int32),
    )
    where = changed(odd, labels=True)
    assert where[0].all()
    assert where[239].all()
    assert not where[48:60, 18:60].any()


@pytest.mark.parametrize(
    ("task", "drawn"),
    [
        ("classification", True),
        ("multi-label-classification", True),
        ("semantic-segmentation", True),
        ("text", False),
        ("embedding", False),
    ],
)
def test_other_answers_are_shown_where_there_is_something_to_show(task: Task, drawn: bool) -> None:
    assert changed(ANSWERS[task](GREY, None)).any() == drawn


def test_the_picture_itself_is_never_drawn_on() -> None:
    before = GREY.rgb().copy()
    draw.annotated(GREY, found(), stroke_px=9, labels=True)
    assert (GREY.rgb() == before).all()


def test_neighbouring_classes_look_different() -> None:
    colors = np.array([draw.color_of(class_id) for class_id in range(20)])
    assert len({tuple(color) for color in colors.tolist()}) == 20
    assert np.abs(np.diff(colors, axis=0)).max(axis=1).min() > 100


def test_a_jpeg_is_one() -> None:
    file = draw.jpeg(draw.annotated(GREY, found()))
    assert Image.open(io.BytesIO(file)).format == "JPEG"
