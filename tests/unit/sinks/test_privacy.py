import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moving import Film, wanted
from PIL import Image

from pipeline.analytics.wanted import only
from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.event import Best, ObjectEvent
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections, Result
from pipeline.models.picture import from_rgb
from pipeline.testing import detections, frame, result
from sinks import _privacy
from sinks._drawing import Drawing
from sinks._planes import Planes
from sinks._privacy import hide
from sinks._style import BlurStep, BoxStep, PixelateStep, PrivacyStep, style_of

NAMES = ("person", "car")
SIZE = Size(160, 120)


def noisy(size: Size = SIZE) -> Planes:
    """Every pixel unlike its neighbours: what is averaged shows."""
    chance = np.random.default_rng(1)
    half = (size.height // 2, size.width // 2)
    return Planes(
        chance.integers(0, 256, (size.height, size.width), np.uint8),
        chance.integers(0, 256, half, np.uint8),
        chance.integers(0, 256, half, np.uint8),
    )


def picture_of(size: Size = SIZE, seed: int = 1) -> Result:
    rgb = np.random.default_rng(seed).integers(0, 256, (size.height, size.width, 3), np.uint8)
    return result(replace(frame(0), picture=from_rgb(rgb)), detections())


def changed(before: Planes, after: Planes) -> np.ndarray:
    different: np.ndarray = before.y != after.y
    return different


def copied(planes: Planes) -> Planes:
    return Planes(*(plane.copy() for plane in planes))


def detail(region: np.ndarray) -> float:
    """How much two neighbours differ, on average."""
    values = region.astype(int)
    return float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean())


@pytest.mark.parametrize("step", [BlurStep(), PixelateStep()])
def test_the_whole_box_and_its_margin_lose_every_detail_and_nothing_else_changes(step: PrivacyStep) -> None:
    planes = noisy()
    before = copied(planes)
    hide(planes, detections((40, 20, 100, 80), names=NAMES), [step])
    inside = np.zeros_like(planes.y, bool)
    inside[14:86, 34:106] = True  # a tenth on each side
    assert not changed(before, planes)[~inside].any()
    assert detail(before.y[14:86, 34:106]) > 100
    assert detail(planes.y[14:86, 34:106]) < 15
    for plane, old in ((planes.u, before.u), (planes.v, before.v)):
        assert detail(plane[7:43, 17:53]) < 25
        assert (plane[50:] == old[50:]).all()


@pytest.mark.parametrize("step", [BlurStep(cells=4), PixelateStep(cells=4)])
def test_so_many_values_are_left_along_the_longer_side(step: PrivacyStep) -> None:
    planes = noisy()
    hide(planes, detections((0, 0, 160, 120), names=NAMES), [replace_margin(step)])
    if isinstance(step, PixelateStep):
        assert len({tuple(column) for column in planes.y.T}) == 4
        assert len({tuple(row) for row in planes.y}) == 3
    else:
        rounded = np.abs(np.diff(planes.y.astype(int), axis=1)).max()
        assert rounded <= 3  # nothing but slopes


def replace_margin(step: PrivacyStep) -> PrivacyStep:
    return step.model_copy(update={"margin_ratio": 0.0})


def test_a_small_box_keeps_no_more_detail_than_a_large_one() -> None:
    planes = noisy()
    hide(planes, detections((60, 40, 76, 56), names=NAMES), [PixelateStep(cells=64, margin_ratio=0)])
    assert len(np.unique(planes.y[40:56, 60:76])) <= 4  # squares of eight pixels, not sixteen values of one


def test_only_the_classes_that_are_named_are_hidden() -> None:
    planes = noisy()
    before = copied(planes)
    both = replace(detections((0, 0, 40, 40), (100, 60, 140, 100), names=NAMES), class_id=np.array([1, 0], np.int32))
    hide(planes, both, [BlurStep(classes=("person",))])
    assert not changed(before, planes)[:50, :50].any()
    assert changed(before, planes)[60:100, 100:140].mean() > 0.9


def test_a_class_that_the_model_does_not_know_is_an_error_and_no_open_window() -> None:
    with pytest.raises(FatalError, match="no class 'persn' that could be hidden, did you mean 'person'"):
        hide(noisy(), detections((0, 0, 9, 9), names=NAMES), [BlurStep(classes=("persn",))])


def test_where_nothing_says_what_to_hide_the_picture_is_not_shown() -> None:
    with pytest.raises(TransientError, match="not known"):
        hide(noisy(), None, [BlurStep()])
    with pytest.raises(FatalError, match="need a model that finds boxes"):
        hide(noisy(), Classification(np.array([1.0], np.float32), ("a",)), [BlurStep()])
    with pytest.raises(TransientError, match="does not say where"):
        hide(noisy(), detections((0, 0, float("nan"), 9), names=NAMES), [BlurStep()])


def test_whatever_fails_while_hiding_fails_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(region: object, step: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(_privacy, "_coarsen", broken)
    shown = replace(picture_of(), prediction=detections((10, 10, 60, 60), names=NAMES))
    drawing = Drawing(style_of(draw=(BlurStep(), BoxStep())))
    with pytest.raises(TransientError, match="a picture is not shown"):
        drawing.draw(shown, noisy())
    with pytest.raises(TransientError, match="a picture is not shown"):
        drawing.jpeg(shown)


@given(
    st.lists(st.tuples(*[st.integers(-40, 280)] * 4), min_size=1, max_size=3),  # quarters of a pixel
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([BlurStep(), PixelateStep(), BlurStep(cells=64, margin_ratio=0), PixelateStep(cells=1)]),
)
def test_every_pixel_of_every_box_is_averaged_whatever_the_box(
    quarters: list[tuple[int, ...]], halves: tuple[int, int], step: PrivacyStep
) -> None:
    size = Size(2 * halves[0], 2 * halves[1])
    planes = noisy(size)
    xyxy, count = (np.array(quarters) / 4).astype(np.float32), len(quarters)
    found = Detections(xyxy, np.ones(count, np.float32), np.zeros(count, np.int32), NAMES)
    hide(planes, found, [step])
    regions = _privacy._regions(found, step, planes.y.shape)
    for box in xyxy.astype(float):
        left, right = sorted((box[0], box[2]))
        top, bottom = sorted((box[1], box[3]))
        if right <= 0 or bottom <= 0 or left >= size.width or top >= size.height or left == right or top == bottom:
            continue
        # One region holds all that is seen of the box.
        assert any(
            r[0] <= max(left, 0)
            and r[1] <= max(top, 0)
            and r[2] >= min(right, size.width)
            and r[3] >= min(bottom, size.height)
            for r in regions
        )


def test_what_a_sink_is_not_about_is_hidden_all_the_same() -> None:
    everything = replace(
        detections((10, 10, 60, 60), (90, 50, 150, 110), names=NAMES), class_id=np.array([0, 1], np.int32)
    )
    shown = replace(picture_of(), prediction=everything.picked([1]), unfiltered=everything)
    onto, plain = noisy(), noisy()
    Drawing(style_of(draw=(PixelateStep(classes=("person",)),))).draw(shown, onto)
    Drawing(style_of(())).draw(shown, plain)
    assert detail(onto.y[10:60, 10:60]) < detail(plain.y[10:60, 10:60]) / 5


def test_a_person_whom_the_model_takes_for_something_else_once_stays_hidden_also_where_only_others_are_shown() -> None:
    film = Film(wanted({}))
    walker, car = (10.0, 10.0, 60.0, 60.0), (90.0, 50.0, 150.0, 110.0)
    for _ in range(5):
        film.show(("person", walker), ("car", car))
    taken_for_a_car, _ = film.show(("car", walker), ("car", car))
    assert isinstance(taken_for_a_car.prediction, Detections)
    shown = replace(taken_for_a_car, frame=picture_of().frame)
    filtered = only(shown, taken_for_a_car.prediction, [1])
    onto, plain = noisy(), noisy()
    drawing = Drawing(style_of(draw=(PixelateStep(classes=("person",)),)))
    Drawing(style_of(())).draw(shown, plain)
    for one in (shown, filtered):
        drawing.draw(one, onto)
        assert detail(onto.y[10:60, 10:60]) < detail(plain.y[10:60, 10:60]) / 5
        assert detail(onto.y[60:100, 96:144]) == detail(plain.y[60:100, 96:144])


def event(of: Result, xyxy: tuple[float, float, float, float], *, told: bool = True) -> ObjectEvent:
    best = Best(of.id, 0, 0.0, 0.0, 0.9, xyxy)
    return ObjectEvent(
        *("1" * 32, "2" * 32, "new", "object", "test", "car", 4, 0.0, 0.0),
        frame=of.frame,
        confidence=0.9,
        xyxy=xyxy,
        best=best,
        result=of if told else None,
    )


def grey(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).astype(int)


def test_everybody_is_hidden_in_the_picture_of_an_event_and_without_knowing_who_there_is_none() -> None:
    everything = replace(
        detections((10, 10, 60, 60), (90, 50, 150, 110), names=NAMES), class_id=np.array([0, 1], np.int32)
    )
    shown = replace(picture_of(), prediction=everything)
    drawing = Drawing(style_of(draw=(BlurStep(classes=("person",)),)))
    picture = grey(drawing.jpeg(event(shown, (90, 50, 150, 110)), quality=95))
    assert detail(picture[10:60, 10:60]) < 12
    assert detail(picture[50:110, 90:150]) > 50
    with pytest.raises(TransientError, match="not known"):
        drawing.jpeg(event(shown, (90, 50, 150, 110), told=False))


def test_it_is_hidden_in_a_part_of_the_picture_and_in_a_smaller_one() -> None:
    shown = replace(picture_of(Size(320, 240)), prediction=detections((100, 60, 220, 180), names=NAMES))
    drawing = Drawing(style_of(draw=(BlurStep(),)))
    part = grey(drawing.jpeg(shown, crop=(90, 50, 160, 120), quality=95))
    assert part.shape == (70, 70)
    assert detail(part) < 12
    small = grey(drawing.jpeg(shown, max_size=160, quality=95))
    assert small.shape == (120, 160)
    assert detail(small[28:92, 48:112]) < 12
    assert detail(small[:20]) > 20
    plain = grey(drawing.jpeg(shown, boxes=False, quality=95))  # what hides is no decoration
    assert detail(plain[60:180, 100:220]) < 12


def test_an_annotator_that_works_on_rgb_sees_only_what_is_hidden() -> None:
    from sinks._style import SupervisionStep

    shown = replace(picture_of(), prediction=detections((40, 20, 100, 80), names=NAMES))
    onto = noisy()
    Drawing(style_of(draw=(PixelateStep(), SupervisionStep(type="dot")))).draw(shown, onto)
    assert detail(onto.y[24:50, 40:100]) < 15
