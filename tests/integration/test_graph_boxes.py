"""A decoder's planes, or bytes, in front of a real model: the boxes are those of the plain path."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
import pytest

from pipeline.backends.onnx import OnnxBackendConfig
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.result import Detections
from pipeline.models.graph import Parts, compose
from pipeline.models.graph_picks import choice_of_picks, enough
from pipeline.models.graph_planes import PlanesIn, SlotOut
from pipeline.models.picture import VideoPicture
from pipeline.models.reader import Reader
from pipeline.models.rules import ReadSettings
from pipeline.testing import PluginContext

CLIPS = {"vtest.avi": (0, 300, 600), "highway_mpeg4.mp4": (0, 100, 200), "bikes.mp4": (10, 60, 200)}


def frames(path: Path, numbers: tuple[int, ...]) -> list[av.VideoFrame]:
    found = []
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in numbers:
                found.append(frame)
            if number >= max(numbers):
                break
    return found


def pairs(one: Detections, other: Detections) -> int:
    """How many boxes of the one have a box of the other in their place: same class, IoU above 0.9."""
    count = 0
    for (x1, y1, x2, y2), class_id in zip(one.xyxy, one.class_id, strict=True):
        boxes = other.xyxy[other.class_id == class_id]
        width = np.clip(np.minimum(x2, boxes[:, 2]) - np.maximum(x1, boxes[:, 0]), 0, None)
        height = np.clip(np.minimum(y2, boxes[:, 3]) - np.maximum(y1, boxes[:, 1]), 0, None)
        inter = width * height
        area = (x2 - x1) * (y2 - y1) + (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        count += bool((inter > 0.9 * (area - inter)).any())
    return count


@pytest.mark.parametrize("clip", CLIPS)
def test_boxes_from_planes_are_those_from_the_scaler(shared_data: Path, clip: str) -> None:
    config = OnnxBackendConfig(model=shared_data / "models" / "yolox_nano_416.onnx", device="cpu")
    model = config.describe()
    plain = Reader(model, ReadSettings(confidence=0.3))
    picks = plain.reading(choice_of_picks(model))
    backend = config.model_copy(update={"confidence": 0.3, "workers": 1, "tune": False}).build(PluginContext())
    backend.open()
    sessions: dict[Any, Any] = {}
    seen = 0
    for frame in frames(shared_data / "videos" / clip, CLIPS[clip]):
        picture = VideoPicture(frame)
        yuv = picture.yuv420p()
        pitches = frame.planes[0].line_size, frame.planes[1].line_size
        planes = PlanesIn("i420", Size(*picture.size), *pitches, yuv.matrix, yuv.full_range)
        place = plain.place(picture.size)
        if planes not in sessions:
            composed = compose(
                model.file.path.read_bytes(), model, Parts((planes, SlotOut(model.preprocess, place)), picks=True)
            )
            sessions[planes] = onnxruntime.InferenceSession(composed, providers=["CPUExecutionProvider"])
        feeds = {}
        for spec, plane in zip(planes.tensors, frame.planes, strict=True):
            shape = [int(side) for side in spec.shape]
            feeds[spec.name] = np.frombuffer(memoryview(plane), np.uint8)[: int(np.prod(shape))].reshape(shape)
        (picked,) = sessions[planes].run(list(picks.outputs), feeds)
        assert enough(picked[0], 0.3)
        found = picks.read([picked[0]], place, picture.size)
        (wanted,) = backend.infer([Frame("test", 0, 0.0, 0.0, "pts", picture, 0.0)])
        assert isinstance(found, Detections)
        assert isinstance(wanted, Detections)
        assert abs(len(found) - len(wanted)) <= 1, "one may lie at the threshold"
        assert pairs(wanted, found) >= len(wanted) - 1
        seen += len(wanted)
    backend.close()
    assert seen >= 3


@pytest.mark.parametrize("in_graph", ["input", "output", "both"])
def test_a_configured_graph_finds_the_same_objects(shared_data: Path, tmp_path: Path, in_graph: Any) -> None:
    found = []
    for way in ("none", in_graph):
        ctx = PluginContext(data_dir=tmp_path)
        config = OnnxBackendConfig(
            model=shared_data / "models" / "yolox_nano_416.onnx", device="cpu", workers=1, tune=False, in_graph=way
        )
        backend = config.build(ctx)
        backend.open()
        with av.open(str(shared_data / "images" / "bus.jpg")) as container:
            picture = VideoPicture(next(container.decode(video=0)))
        (answer,) = backend.infer([Frame("test", 0, 0.0, 0.0, "pts", picture, 0.0)])
        assert isinstance(answer, Detections)
        found.append(answer)
        backend.close()
        assert ctx.warnings == []
    assert len(list(tmp_path.rglob("*.onnx"))) == 1
    assert len(found[0]) >= 4
    if in_graph == "output":
        assert np.array_equal(found[0].xyxy, found[1].xyxy)
    assert abs(len(found[0]) - len(found[1])) <= 1, "one may lie at the threshold"
    assert pairs(found[0], found[1]) == len(found[0])
