import io
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from pipeline.contracts.analysis import Scene
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Detections, Result, Shared
from pipeline.models.picture import from_rgb
from pipeline.testing import detections, frame, result
from sinks import _drawing
from sinks._colors import class_color, hex_color, to_ycbcr
from sinks._draw import Painter
from sinks._drawing import Drawing
from sinks._planes import Planes
from sinks._style import AnnotatorName, DrawStep, Style, style_of
from sinks._traces import Traces

SIZE = Size(160, 120)
GREY = 77
STEPS = TypeAdapter(tuple[DrawStep, ...])


def style(*steps: dict[str, Any]) -> Style:
    return style_of(draw=STEPS.validate_python(steps))


def blank() -> Planes:
    half = (SIZE.height // 2, SIZE.width // 2)
    return Planes(
        np.full((SIZE.height, SIZE.width), GREY, np.uint8), np.full(half, 128, np.uint8), np.full(half, 128, np.uint8)
    )


def painted(
    found: Detections, *steps: dict[str, Any], scene: Scene | None = None, paths: Mapping[int, Any] | None = None
) -> Planes:
    planes = blank()
    Painter(SIZE, "bt601", full_range=False, style=style(*steps)).paint(planes, found, scene, paths)
    return planes


def drawn(planes: Planes) -> np.ndarray:
    """Which pixels are not as they were: bool (H, W)."""
    chroma = (planes.u != 128) | (planes.v != 128)
    touched: np.ndarray = (planes.y != GREY) | chroma.repeat(2, 0).repeat(2, 1)
    return touched


def luma(rgb: tuple[float, float, float]) -> int:
    return to_ycbcr(rgb, "bt601", full_range=False).y


def shown(found: Detections, grey: int = 128, **more: Any) -> Result:
    return replace(result(frame(0, width=SIZE.width, height=SIZE.height, grey=grey), found), **more)


def test_a_box_has_the_colour_and_the_line_that_the_config_says() -> None:
    planes = painted(detections((20, 20, 100, 80)), {"type": "box", "color": "#ff0000", "thickness_px": 5})
    assert (planes.y[20:26, 20:100] == luma((1, 0, 0))).all()  # even: six
    assert (planes.y[26:74, 26:94] == GREY).all()


def test_a_track_keeps_its_colour_and_what_is_no_track_has_that_of_its_class() -> None:
    both = replace(
        detections((10, 10, 50, 50), (60, 10, 100, 50)),
        tracker_id=np.array([7, -1], np.int32),
        class_id=np.array([2, 2], np.int32),
    )
    planes = painted(both, {"type": "box", "color": "track"})
    assert planes.y[10, 30] == luma(class_color(7))
    assert planes.y[10, 80] == luma(class_color(2))


def test_a_label_writes_what_it_is_told_and_no_number_where_there_is_no_track() -> None:
    one = replace(detections((10, 50, 100, 100), names=("person",)), tracker_id=np.array([3], np.int32))
    widths = [
        int(drawn(painted(found, {"type": "label", "show": show})).any(axis=0).sum())
        for found, show in [
            (one, ["track", "class", "confidence"]),
            (one, ["class", "confidence"]),
            (replace(one, tracker_id=np.array([-1], np.int32)), ["track", "class", "confidence"]),
            (one, ["class"]),
        ]
    ]
    assert widths[0] > widths[1] == widths[2] > widths[3]


def test_steps_are_about_the_classes_that_they_name() -> None:
    both = replace(
        detections((10, 10, 50, 50), (60, 10, 100, 50), names=("car", "person")), class_id=np.array([0, 1], np.int32)
    )
    planes = painted(both, {"type": "box", "classes": ["person"]})
    assert not drawn(planes)[:, :58].any()
    assert drawn(planes)[:, 60:100].any()


def test_a_mask_is_tinted_where_it_is_and_shines_through() -> None:
    mask = np.zeros((1, SIZE.height, SIZE.width), bool)
    mask[0, 31:61, 41:81] = True
    planes = painted(
        replace(detections((0, 0, 9, 9)), masks=mask), {"type": "mask", "color": "#ffffff", "opacity": 0.5}
    )
    assert (planes.y[31:61, 41:81] == round(GREY * 0.5 + luma((1, 1, 1)) * 0.5)).all()
    assert (planes.y != GREY).sum() == 30 * 40


def test_keypoints_are_dots_and_those_that_are_unsure_or_missing_are_not_drawn() -> None:
    points = np.array([[[40, 40, 0.9], [80, 40, 0.1], [np.nan, np.nan, np.nan], [np.inf, 3, 0.9]]], np.float32)
    planes = painted(replace(detections((0, 0, 9, 9)), keypoints=points), {"type": "keypoint", "radius_px": 4})
    rows, columns = np.nonzero(drawn(planes))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (36, 45, 36, 45)


def test_a_zone_and_a_line_stand_where_the_source_has_them_and_tell_their_counts() -> None:
    scene = Scene(
        zone_shapes={"door": ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))},
        line_shapes={"entry": ((0.1, 0.9), (0.9, 0.9))},
        occupancy={"door": {"person": 2}},
        crossed={"entry": {"in": {"person": 3}, "out": {}}},
    )
    zone = drawn(painted(detections(), {"type": "zone", "counts": False}, scene=scene))
    rows, columns = np.nonzero(zone)
    assert (columns.min(), columns.max()) == pytest.approx((40, 120), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((30, 90), abs=2)
    assert not zone[36:84, 46:114].any()
    line = drawn(painted(detections(), {"type": "line", "counts": False}, scene=scene))
    assert line[106:110, 20:140].any(axis=0).all()
    assert not line[:100].any()
    told = drawn(painted(detections(), {"type": "zone"}, {"type": "line"}, scene=scene))
    assert told.sum() > zone.sum() + line.sum() + 300  # the text
    filled = painted(detections(), {"type": "zone", "counts": False, "opacity": 0.5}, scene=scene)
    assert drawn(filled)[36:84, 46:114].all()
    assert not drawn(painted(detections(), {"type": "zone"}, {"type": "line"})).any()  # a source without any


def test_a_trace_is_the_way_that_an_object_came_as_long_as_it_shall_be_remembered() -> None:
    traces = Traces(length_s=0.4)
    path: Any = ()
    for seq in range(20):
        found = replace(detections((seq * 4, 40, seq * 4 + 20, 60)), tracker_id=np.array([5], np.int32))
        path = traces.follow(result(frame(seq), found))[0]
    assert path[:, 1].tolist() == [60.0] * 11  # 0.4 s at 25 frames a second
    assert path[-1, 0] == 19 * 4 + 10
    planes = painted(found, {"type": "trace", "thickness_px": 2}, paths={0: path})
    columns = np.nonzero(drawn(planes).any(axis=0))[0]
    assert (columns.min(), columns.max()) == pytest.approx((path[0, 0], path[-1, 0]), abs=2)


def test_traces_are_bounded_and_forget_what_is_gone_and_start_anew_when_time_jumps() -> None:
    traces = Traces(length_s=10.0)
    many = replace(detections(*[(0, 0, 9, 9)] * 3000), tracker_id=np.arange(3000, dtype=np.int32))
    traces.follow(result(frame(0), many))
    assert sum(len(source.ways) for source in traces._sources.values()) <= 1000
    one = replace(detections((0, 0, 9, 9)), tracker_id=np.array([1], np.int32))
    jumped = replace(frame(1), pts_s=-500.0)
    assert len(traces.follow(result(jumped, one))[0]) == 1
    for seq in range(2000):
        path = traces.follow(result(replace(frame(seq), pts_s=-500.0 + seq / 1000), one))[0]
    assert len(path) <= 500
    traces.forget("test")
    assert len(traces._sources) == 0


def test_a_drawing_leaves_the_picture_alone_and_gives_the_same_for_the_default_style_as_the_painter() -> None:
    seen = shown(detections((20, 20, 100, 80)))
    before = seen.frame.picture.yuv420p().y.copy()
    onto = blank()
    Drawing(style_of()).draw(seen, onto)
    assert (seen.frame.picture.yuv420p().y == before).all()
    planes = seen.frame.picture.yuv420p()
    by_hand = Planes(planes.y.copy(), planes.u.copy(), planes.v.copy())
    painter = Painter(SIZE, planes.matrix, full_range=planes.full_range, style=style_of())
    painter.paint(by_hand, seen.prediction)
    assert all((one == other).all() for one, other in zip(onto, by_hand, strict=True))


def count_paintings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count: list[int] = []

    class Counting(Painter):
        def paint(self, *args: Any, **kwargs: Any) -> None:
            count.append(1)
            super().paint(*args, **kwargs)

    monkeypatch.setattr(_drawing, "Painter", Counting)
    return count


def test_sinks_of_the_same_style_draw_once_and_those_of_another_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    count = count_paintings(monkeypatch)
    seen = shown(detections((20, 20, 100, 80)), shared=Shared())
    pictures = []
    for wanted in (style_of(), style_of(), style_of(("box",))):
        onto = blank()
        Drawing(wanted).draw(seen, onto)
        pictures.append(onto)
    assert len(count) == 2
    assert all((one == other).all() for one, other in zip(pictures[0], pictures[1], strict=True))
    assert (pictures[0].y != pictures[2].y).any()


def test_sinks_in_many_threads_draw_once_and_all_get_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    count = count_paintings(monkeypatch)
    seen = shown(detections((20, 20, 100, 80)), shared=Shared())
    pictures: list[np.ndarray] = []
    together = threading.Barrier(4)

    def work() -> None:
        drawing, onto = Drawing(style_of()), blank()
        together.wait(5)
        drawing.draw(seen, onto)
        pictures.append(onto.y)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(count) == 1
    assert len(pictures) == 4
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_what_one_sink_failed_to_draw_another_tries_again() -> None:
    shared = Shared()

    def broken() -> int:
        raise ValueError("oops")

    with pytest.raises(ValueError, match="oops"):
        shared.once("a", broken)
    assert shared.once("a", lambda: 1) == 1
    assert shared.once("a", lambda: 2) == 1


def test_a_sink_that_sees_only_some_objects_does_not_show_anothers_picture() -> None:
    everything = detections((20, 20, 60, 80), (100, 20, 140, 80))
    seen = shown(everything, shared=Shared())
    some = replace(seen, prediction=everything.picked([0]), unfiltered=everything)
    all_planes, some_planes = blank(), blank()
    Drawing(style_of(("box",))).draw(seen, all_planes)
    Drawing(style_of(("box",))).draw(some, some_planes)
    assert all_planes.y[20, 120] != some_planes.y[20, 120]


@pytest.mark.parametrize(
    ("max_size", "expected"), [(None, (160, 120)), (80, (80, 60)), (81, (81, 61)), (999, (160, 120))]
)
def test_a_jpeg_is_as_large_as_it_may_be_and_never_larger(max_size: int | None, expected: tuple[int, int]) -> None:
    jpeg = Drawing(style_of()).jpeg(shown(detections((20, 20, 100, 80))), max_size=max_size)
    image = Image.open(io.BytesIO(jpeg))
    assert (image.format, image.size) == ("JPEG", expected)


def test_a_jpeg_has_the_pictures_colours_and_its_boxes_where_they_are_also_when_it_is_small() -> None:
    rgb = np.zeros((120, 160, 3), np.uint8)
    rgb[:, :80], rgb[:, 80:] = (200, 30, 40), (30, 180, 60)
    seen = result(replace(frame(0), picture=from_rgb(rgb)), detections((40, 40, 120, 100)))
    drawing = Drawing(style({"type": "box", "color": "#ffffff", "thickness_px": 4}))
    for ratio in (1, 2):
        image = np.asarray(Image.open(io.BytesIO(drawing.jpeg(seen, max_size=160 // ratio, quality=95)))).astype(int)
        assert np.abs(image[5, 10 // ratio] - (200, 30, 40)).max() < 12
        assert np.abs(image[5, 150 // ratio] - (30, 180, 60)).max() < 12
        assert image[41 // ratio, 80 // ratio].min() > 200
        assert image[70 // ratio, 41 // ratio].min() > 200
    part = np.asarray(Image.open(io.BytesIO(drawing.jpeg(seen, crop=(30, 30, 60, 60), quality=95))))
    assert part.shape == (30, 30, 3)
    assert part[11, 20].min() > 200
    assert part[5, 5].max() < 220


@pytest.mark.parametrize(
    "crop", [(500, 500, 600, 600), (float("nan"), 0, 1, 1), (50, 50, 50, 60), (-10, -10, 999, 999)]
)
def test_a_part_that_is_none_is_the_whole_picture(crop: tuple[float, float, float, float]) -> None:
    jpeg = Drawing(style_of()).jpeg(shown(detections()), crop=crop)
    assert Image.open(io.BytesIO(jpeg)).size == SIZE


def test_without_a_picture_there_is_no_jpeg() -> None:
    seen = shown(detections())
    assert Drawing(style_of()).jpeg(replace(seen, frame=seen.frame.released())) == b""


def test_an_odd_picture_stays_odd_as_jpeg() -> None:
    seen = result(frame(0, width=65, height=49), detections((2, 2, 30, 30)))
    assert Image.open(io.BytesIO(Drawing(style_of()).jpeg(seen))).size == (65, 49)


def test_names_are_steps_as_they_come_and_a_wrong_one_is_told_with_the_nearest() -> None:
    assert style_of(("box", "blur", "mask", "halo")) == style(
        {"type": "box"}, {"type": "blur"}, {"type": "mask"}, {"type": "halo"}
    )
    with pytest.raises(ValidationError, match="there is no annotator 'boxx'; did you mean box"):
        TypeAdapter(AnnotatorName).validate_python("boxx")


@pytest.mark.parametrize(
    "step",
    [{"type": "boxx"}, {"type": "box", "color": "red"}, {"type": "box", "line": 3}, {"type": "blur", "cells": 0}, {}],
)
def test_a_step_that_makes_no_sense_is_an_error(step: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        style(step)


def test_hex_colours_are_what_they_say() -> None:
    assert hex_color("#ff8000") == (1.0, 128 / 255, 0.0)
