import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.contracts.errors import FatalError
from pipeline.contracts.result import Detections
from pipeline.testing import PluginContext, detections, frame, result
from sinks._annotators import CLASSES, Annotators
from sinks._style import Supervisions, SupervisionStep
from sinks.video import VideoSinkConfig


def found() -> Detections:
    masks = np.zeros((1, 96, 128), bool)
    masks[0, 20:60, 20:80] = True
    return replace(detections((20, 20, 80, 60)), masks=masks, tracker_id=np.array([1], np.int32))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_annotator_leaves_the_picture_alone_and_draws_on_its_copy(name: Supervisions) -> None:
    picture = frame(0, width=128, height=96).picture
    before = picture.rgb().copy()
    annotators = Annotators([SupervisionStep(type=name)])
    for shift in range(3):  # heat maps need a past
        moved = found()
        drawn = annotators.annotate(picture, replace(moved, xyxy=moved.xyxy + 4 * shift), picture.yuv420p())
    assert drawn.y.shape == (96, 128)
    assert (picture.rgb() == before).all()
    plain = Annotators([]).annotate(picture, found(), picture.yuv420p())
    changes = [np.abs(getattr(drawn, plane).astype(int) - getattr(plain, plane)).max() for plane in "yuv"]
    assert max(changes) > 3


def test_annotators_stand_in_the_video_and_boxes_lie_on_top(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    sink = VideoSinkConfig.model_validate(
        {"path": str(tmp_path / "a.mp4"), "annotators": ["box", "color"], "crf": 5}
    ).build(ctx)
    sink.open()
    sink.write([result(frame(0, width=128, height=96, grey=20), found())])
    sink.close()
    (picture,) = clips.planes(tmp_path / "a.mp4")
    assert picture[90, 120] < 40 < picture[40, 50] < picture[20:22, 20:80].mean()


def test_an_annotator_without_what_it_needs_draws_nothing() -> None:
    picture = frame(0).picture
    steps = [SupervisionStep(type="halo"), SupervisionStep(type="polygon")]
    Annotators(steps).annotate(picture, detections((8, 8, 24, 24)), picture.yuv420p())


def test_each_source_has_heat_maps_of_its_own(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Annotators] = []
    real = Annotators.__init__

    def count(self: Annotators, steps: tuple[SupervisionStep, ...]) -> None:
        made.append(self)
        real(self, steps)

    monkeypatch.setattr(Annotators, "__init__", count)
    sink = VideoSinkConfig.model_validate({"path": str(tmp_path / "{source}.mp4"), "annotators": ["heat_map"]}).build(
        ctx
    )
    sink.open()
    sink.write([result(frame(seq, source=name), found_small()) for seq in range(3) for name in ("gate", "yard")])
    sink.close()
    assert len(made) == 2


def found_small() -> Detections:
    return replace(detections((8, 8, 24, 24)), tracker_id=np.array([1], np.int32))


@pytest.fixture
def without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


@pytest.mark.usefixtures("without_opencv")
@pytest.mark.parametrize(("names", "warnings"), [(["box", "label", "mask", "blur"], 0), (["halo", "box"], 1)])
def test_that_opencv_is_missing_is_said_once_and_only_where_it_matters(
    tmp_path: Path, ctx: PluginContext, names: list[str], warnings: int
) -> None:
    sink = VideoSinkConfig.model_validate({"path": str(tmp_path / "a.mp4"), "annotators": names}).build(ctx)
    sink.open()
    sink.close()
    assert len(ctx.warnings) == warnings


def test_an_annotator_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    annotators = Annotators([SupervisionStep(type="dot")])

    class Broken:
        def annotate(self, scene: object, detections: object) -> None:
            raise KeyError("x")

    monkeypatch.setattr(annotators, "_annotators", [(SupervisionStep(type="dot"), Broken())])
    with pytest.raises(FatalError, match="annotator 'dot' failed: KeyError"):
        annotators.annotate(frame(0).picture, detections(), frame(0).picture.yuv420p())
