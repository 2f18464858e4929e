"""Predictions as tensors: through a body and back they are what they were, and nothing strange is believed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.wire.kserve import InferResponse, decode_response, encode_response
from pipeline.wire.kserve_models import TensorSpec
from pipeline.wire.kserve_reading import from_tensors
from pipeline.wire.kserve_results import outputs_of, task_of, to_tensors
from pipeline.wire.kserve_tensors import Tensor, tensor

NAMES = ("person", "bus", "dög")
NODES = ("nose", "eye")
SIZE = Size(32, 24)
TASKS: tuple[Task, ...] = (
    *("object-detection", "instance-segmentation", "keypoint-detection", "classification"),
    *("multi-label-classification", "semantic-segmentation", "embedding", "text"),
)
unit = st.floats(0, 1, width=32)


@st.composite
def detections(draw: st.DrawFn, task: Task) -> Detections:
    count = draw(st.integers(0, 4))
    lefts = draw(npst.arrays(np.float32, (count, 2), elements=st.floats(0, 20, width=32)))
    sides = draw(npst.arrays(np.float32, (count, 2), elements=st.floats(0, 20, width=32)))
    masks = keypoints = None
    if task == "instance-segmentation":
        masks = draw(npst.arrays(np.bool_, (count, SIZE.height, SIZE.width)))
    if task == "keypoint-detection":
        keypoints = draw(npst.arrays(np.float32, (count, len(NODES), 3), elements=st.floats(0.5, 30, width=32)))
        keypoints[draw(npst.arrays(np.bool_, (count, len(NODES))))] = np.nan
    return Detections(
        np.hstack([lefts, lefts + sides]),
        draw(npst.arrays(np.float32, count, elements=unit)),
        draw(npst.arrays(np.int32, count, elements=st.integers(0, len(NAMES) - 1))),
        NAMES,
        masks,
        keypoints,
        keypoint_names=NODES if keypoints is not None else (),
    )


def predictions(task: Task) -> st.SearchStrategy[Any]:
    if task in ("object-detection", "instance-segmentation", "keypoint-detection"):
        return detections(task)
    match task:
        case "semantic-segmentation":
            shape = (SIZE.height, SIZE.width)
            sure = st.none() | npst.arrays(np.uint8, shape)
            maps = npst.arrays(np.int32, shape, elements=st.integers(0, 300))
            return st.builds(lambda a, b: SemanticMask(a, NAMES, b), maps, sure)
        case "embedding":
            numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
            return st.builds(Embedding, npst.arrays(np.float32, 5, elements=numbers))
        case "text":
            return st.builds(Text, st.text(alphabet=st.characters(exclude_categories=["Cs"])))
        case _:
            multi = task == "multi-label-classification"
            scores = npst.arrays(np.float32, len(NAMES), elements=unit)
            return st.builds(lambda values: Classification(values, NAMES, multi_label=multi), scores)


def info_of(task: Task, labels: tuple[str, ...] = NAMES) -> ModelInfo:
    return ModelInfo(task, labels, keypoints=NODES if task == "keypoint-detection" else ())


def through(found: Sequence[Prediction], info: ModelInfo, *, binary: bool) -> list[Prediction]:
    """As they come out of a body."""
    outputs = to_tensors(found, info)
    specs = outputs_of(info.task)
    assert [(one.name, one.datatype) for one in outputs] == [(spec.name, spec.datatype) for spec in specs]
    for one, spec in zip(outputs, specs, strict=True):
        assert len(one.shape) == len(spec.shape)
        assert all(side in (-1, own) for side, own in zip(spec.shape, one.shape, strict=True))
    body = encode_response(InferResponse("m", "1", outputs), {spec.name for spec in specs} if binary else ())
    return from_tensors(decode_response(body.data, body.header_length).outputs, [SIZE] * len(found), info)


def same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    for name in type(one).__slots__:
        if name == "timings":
            continue
        mine, its = getattr(one, name), getattr(other, name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == its.dtype
            np.testing.assert_array_equal(mine, its)
        else:
            assert mine == its


@pytest.mark.parametrize("task", TASKS)
@settings(deadline=None)
@given(st.data())
def test_predictions_come_back_as_they_were(task: Task, data: st.DataObject) -> None:
    found = data.draw(st.lists(predictions(task), min_size=1, max_size=3))
    # PNG and run lengths are no text: those tensors go as raw buffers. The others may be JSON as well.
    binary = task == "semantic-segmentation" or data.draw(st.booleans())
    back = through(found, info_of(task), binary=binary)
    assert len(back) == len(found)
    for one, other in zip(found, back, strict=True):
        same(one, other)


def test_without_a_list_of_labels_the_names_come_with_the_objects() -> None:
    found = Detections(
        np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.array([2], np.int32), NAMES
    )
    (back,) = through([found], info_of("object-detection", ()), binary=True)
    assert isinstance(back, Detections)
    assert back.label(0) == "dög"
    assert back.names == ("class_0", "class_1", "dög")


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_known_by_its_outputs(task: Task) -> None:
    found = task_of(outputs_of(task))
    # The two kinds of classification have the same outputs.
    assert found == ("classification" if task == "multi-label-classification" else task)
    assert task_of((*outputs_of(task), TensorSpec("more", "FP32", (1,)))) is None
    assert task_of([]) is None


def test_an_answer_of_another_kind_than_the_task_is_refused() -> None:
    with pytest.raises(ValueError, match="of another kind"):
        to_tensors([Text("x")], info_of("object-detection"))


def objects(**changes: Any) -> list[Tensor]:
    fields: dict[str, Any] = {
        "num_detections": np.array([1], np.int32),
        "boxes": np.array([[[1, 2, 3, 4]]], np.float32),
        "scores": np.array([[0.5]], np.float32),
        "classes": np.array([[1]], np.int32),
        "labels": [b"bus"],
        **changes,
    }
    found = [tensor(name, value) for name, value in fields.items() if value is not None]
    return [
        Tensor(one.name, one.datatype, one.array.reshape(1, -1)) if one.name in ("labels", "masks") else one
        for one in found
    ]


GOOD_MASK = b'{"size":[24,32],"counts":"Ph0"}'


@pytest.mark.parametrize(
    "changes",
    [
        {"num_detections": None},
        {"num_detections": np.array([2], np.int32)},
        {"num_detections": np.array([-1], np.int32)},
        {"num_detections": np.array([1.0], np.float32)},
        {"num_detections": np.array([1, 1], np.int32)},
        {"boxes": np.array([[[1, 2, np.nan, 4]]], np.float32)},
        {"boxes": np.array([[[1, 2, 1e300, 4]]], np.float64)},
        {"boxes": np.array([[[3, 2, 1, 4]]], np.float32)},
        {"boxes": np.array([[1, 2, 3, 4]], np.float32)},
        {"boxes": np.array([[[1, 2, 3, 4]]], np.int32)},
        {"scores": np.array([[1.5]], np.float32)},
        {"scores": np.array([[0.5, 0.5]], np.float32)},
        {"classes": np.array([[-1]], np.int32)},
        {"classes": np.array([[70_000]], np.int32)},
        {"labels": [b"a", b"b"]},
        {"labels": np.array([[1]], np.int32)},
    ],
)
def test_objects_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    info = info_of("object-detection", ())
    assert len(from_tensors(objects(), [SIZE], info)) == 1
    with pytest.raises(ValueError, match=r"\w"):
        from_tensors(objects(**changes), [SIZE], info)


@pytest.mark.parametrize(
    "mask",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"size":[24,32]}',
        b'{"size":[24,32],"counts":7}',
        b'{"size":[24,32],"counts":"zz"}',
        b'{"size":[32,24],"counts":"Ph0"}',
        b'{"size":[1e9,1e9],"counts":"Ph0"}',
        b"[" * 100_000,
    ],
)
def test_a_mask_that_is_none_is_refused(mask: bytes) -> None:
    info = info_of("instance-segmentation")
    assert len(from_tensors(objects(masks=[GOOD_MASK]), [SIZE], info)) == 1
    with pytest.raises(ValueError, match=r"\w"):
        from_tensors(objects(masks=[mask]), [SIZE], info)


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        ("keypoint-detection", objects()),
        ("keypoint-detection", objects(keypoints=np.array([[[[np.inf, 1, 1]]]], np.float32))),
        ("classification", [tensor("scores", np.array([[2.0, 0, 0]], np.float32))]),
        ("classification", [tensor("scores", np.array([[0.5, 0.5]], np.float32))]),
        ("semantic-segmentation", [tensor("class_map", [b"no PNG"])]),
        ("semantic-segmentation", [tensor("class_map", [])]),
        ("embedding", [tensor("embedding", np.array([[np.nan]], np.float32))]),
        ("embedding", [tensor("embedding", np.zeros((2, 3), np.float32))]),
        ("text", [tensor("text", [b"\xff"])]),
        ("text", []),
    ],
)
def test_other_answers_that_make_no_sense_are_refused(task: Task, outputs: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        from_tensors(outputs, [SIZE], info_of(task))


def test_a_class_map_of_another_size_is_refused() -> None:
    outputs = to_tensors([SemanticMask(np.zeros((4, 4), np.int32))], info_of("semantic-segmentation"))
    with pytest.raises(ValueError, match="of the picture's size"):
        from_tensors(outputs, [SIZE], info_of("semantic-segmentation"))
