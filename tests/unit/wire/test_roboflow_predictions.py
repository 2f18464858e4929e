import contextlib
import json
import types
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.testing import detections
from pipeline.wire.document import loads
from pipeline.wire.polygons import mask_of, polygon_of
from pipeline.wire.roboflow import (
    Labels,
    MaskFormat,
    PointLabels,
    decode_embeddings,
    decode_prediction,
    encode_prediction,
    encode_response,
    encode_stub,
)

SIZE = Size(24, 16)
NAMES = ("person", "car", "traffic light")


def there_and_back(
    prediction: Prediction, task: Task | None, masks: MaskFormat = "rle", points: PointLabels | None = None
) -> Prediction:
    """Through the bytes, as they go over the wire."""
    response = encode_response(prediction, SIZE, time_s=0.5, inference_id="ab", masks=masks)
    data = json.dumps(response, allow_nan=False).encode()
    return decode_prediction(loads(data), SIZE, task=task, labels=Labels(NAMES), points=points)


@st.composite
def found(draw: st.DrawFn, *, masks: bool = False, points: int = 0) -> Detections:
    count = draw(st.integers(0, 5))
    low = draw(arrays(np.float32, (count, 2), elements=st.floats(-5, 20, width=32)))
    side = draw(arrays(np.float32, (count, 2), elements=st.floats(0, 20, width=32)))
    ratio = st.floats(0, 1, width=32)
    skeletons = draw(arrays(np.float32, (count, points, 3), elements=st.floats(0, 1, width=32)))
    lost = draw(arrays(bool, (count, points)))
    skeletons[lost] = np.nan
    return Detections(
        xyxy=np.hstack([low, low + side]).astype(np.float32),
        confidence=draw(arrays(np.float32, count, elements=ratio)),
        class_id=draw(arrays(np.int32, count, elements=st.integers(0, 2))),
        names=NAMES,
        masks=draw(arrays(bool, (count, SIZE.height, SIZE.width))) if masks else None,
        keypoints=skeletons if points else None,
        tracker_id=draw(arrays(np.int32, count, elements=st.integers(0, 99)))
        if draw(st.booleans()) and count
        else None,
        keypoint_names=tuple(f"point {index}" for index in range(points)),
    )


def same(read: Prediction, was: Detections) -> Detections:
    assert isinstance(read, Detections)
    np.testing.assert_allclose(read.xyxy, was.xyxy, atol=0.011)  # centre and size with 2 decimals
    np.testing.assert_allclose(read.confidence, was.confidence, atol=0.000051)
    assert [read.label(index) for index in range(len(read))] == [was.label(index) for index in range(len(was))]
    assert read.class_id.tolist() == was.class_id.tolist()
    assert (read.tracker_id is None) == (was.tracker_id is None)
    if was.tracker_id is not None and read.tracker_id is not None:
        assert read.tracker_id.tolist() == was.tracker_id.tolist()
    return read


@settings(deadline=None)
@given(found())
def test_objects_come_back_in_their_order(was: Detections) -> None:
    for task in ("object-detection", None):
        read = same(there_and_back(was, task), was) if task or len(was) else None
        assert read is None or (read.masks is None and read.keypoints is None)


@settings(deadline=None, max_examples=50)
@given(found(masks=True))
def test_masks_come_back_pixel_for_pixel_as_run_lengths(was: Detections) -> None:
    read = same(there_and_back(was, "instance-segmentation"), was)
    np.testing.assert_array_equal(read.masks, was.masks)


@settings(deadline=None, max_examples=50)
@given(found(masks=True))
def test_masks_come_back_as_the_filled_outline_of_their_largest_piece(was: Detections) -> None:
    read = same(there_and_back(was, "instance-segmentation", masks="polygon"), was)
    assert was.masks is not None
    assert read.masks is not None
    for back, mask in zip(read.masks, was.masks, strict=True):
        outline = mask_of(polygon_of(mask).astype(float), SIZE.height, SIZE.width)
        np.testing.assert_array_equal(back, outline)


@settings(deadline=None)
@given(found(points=4))
def test_keypoints_come_back_each_in_its_place_of_the_skeleton(was: Detections) -> None:
    read = same(there_and_back(was, "keypoint-detection", points=PointLabels(was.keypoint_names)), was)
    assert read.keypoint_names == was.keypoint_names
    assert read.keypoints is not None
    assert was.keypoints is not None
    np.testing.assert_allclose(read.keypoints, was.keypoints, atol=0.0051)


def test_a_skeleton_keeps_its_length_from_answer_to_answer() -> None:
    labels, points = Labels(), PointLabels()
    box = {"x": 1, "y": 1, "width": 2, "height": 2, "confidence": 0.5, "class": "person", "class_id": 0}

    def read(*places: int) -> Detections:
        keypoints = [{"x": 1, "y": 1, "confidence": 1, "class_id": place, "class": f"p{place}"} for place in places]
        answer = {"predictions": [box | {"keypoints": keypoints}]}
        got = decode_prediction(answer, SIZE, task="keypoint-detection", labels=labels, points=points)
        assert isinstance(got, Detections)
        assert got.keypoints is not None
        return got

    assert read(0, 2).keypoints.shape == (1, 3, 3)  # type: ignore[union-attr]
    later = read(1)
    assert later.keypoint_names == ("p0", "p1", "p2")
    assert np.isnan(later.keypoints).all(axis=2).tolist() == [[True, False, True]]  # type: ignore[arg-type]


SCORES = arrays(np.float32, 3, elements=st.floats(0, 1, width=32))


@settings(deadline=None)
@given(SCORES, st.booleans(), st.sampled_from(["same", "classification", None]))
def test_classifications_come_back_class_by_class(scores: np.ndarray, multi: bool, task: str | None) -> None:
    own: Task = "multi-label-classification" if multi else "classification"
    kind: Task | None = own if task == "same" else None if task is None else "classification"
    read = there_and_back(Classification(scores, NAMES, multi), kind)
    assert isinstance(read, Classification)
    assert (read.names, read.multi_label) == (NAMES, multi)
    np.testing.assert_allclose(read.scores, scores, atol=0.000051)


CLASS_MAPS = arrays(np.int32, (SIZE.height, SIZE.width), elements=st.integers(0, 2))


@settings(deadline=None)
@given(CLASS_MAPS, st.none() | arrays(np.uint8, (SIZE.height, SIZE.width)))
def test_class_maps_come_back_pixel_for_pixel(class_map: np.ndarray, confidence: np.ndarray | None) -> None:
    read = there_and_back(SemanticMask(class_map, NAMES, confidence), "semantic-segmentation")
    assert isinstance(read, SemanticMask)
    np.testing.assert_array_equal(read.class_map, class_map)
    assert all(read.names[index] == NAMES[index] for index in np.unique(class_map).tolist())
    assert (read.confidence is None) == (confidence is None)
    if confidence is not None:
        np.testing.assert_array_equal(read.confidence, confidence)


@settings(deadline=None)
@given(arrays(np.float32, 8, elements=st.floats(-1, 1, width=32)))
def test_vectors_come_back(vector: np.ndarray) -> None:
    read = there_and_back(Embedding(vector), "embedding")
    assert isinstance(read, Embedding)
    np.testing.assert_allclose(read.vector, vector, atol=1e-6)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_come_back(said: str) -> None:
    for task in ("text", None):
        read = there_and_back(Text(said), task)
        assert isinstance(read, Text)
        assert read.text == said


@pytest.mark.parametrize(
    "task", ["object-detection", "instance-segmentation", "keypoint-detection", "classification", None]
)
def test_an_answer_without_objects_is_one(task: Task | None) -> None:
    read = decode_prediction({"predictions": [], "image": {"width": 24, "height": 16}}, SIZE, task=task)
    if task == "classification":
        assert isinstance(read, Classification)
        assert len(read.scores) == 0
        return
    assert isinstance(read, Detections)
    assert len(read) == 0
    assert read.xyxy.shape == (0, 4)
    assert (read.masks is not None) == (task == "instance-segmentation")
    assert (read.keypoints is not None) == (task == "keypoint-detection")


BOX = {"x": 10.5, "y": 20.0, "width": 5.0, "height": 6.0, "confidence": 0.9, "class": "cat", "class_id": 0}


def test_the_recorded_answers_of_the_real_server_are_read() -> None:
    size = Size(320, 240)
    image = {"image": {"width": 320, "height": 240}, "inference_id": "e0aa", "time": 0.01}
    read = decode_prediction({**image, "predictions": [BOX | {"detection_id": "be79"}]}, size)
    assert isinstance(read, Detections)
    assert read.xyxy.tolist() == [[8, 17, 13, 23]]
    assert (read.label(0), read.names) == ("cat", ("cat",))

    outline = [{"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 4.0}]
    read = decode_prediction({**image, "predictions": [BOX | {"points": outline, "mask_format": "polygon"}]}, size)
    assert isinstance(read, Detections)
    assert read.masks is not None
    assert np.argwhere(read.masks[0]).tolist() == [[2, 1], [3, 2], [4, 3]]

    nose = {"x": 1.0, "y": 2.0, "confidence": 0.5, "class_id": 0, "class": "nose"}
    read = decode_prediction({**image, "predictions": [BOX | {"keypoints": [nose]}]}, size)
    assert isinstance(read, Detections)
    assert read.keypoints is not None
    assert (read.keypoints.tolist(), read.keypoint_names) == ([[[1, 2, 0.5]]], ("nose",))

    said = {"predictions": [{"class": "cat", "class_id": 0, "confidence": 0.9}], "top": "cat", "confidence": 0.9}
    one = decode_prediction({**image, **said}, size)
    assert isinstance(one, Classification)
    assert (one.names, one.multi_label) == (("cat",), False)

    said = {"predictions": {"cat": {"confidence": 0.9, "class_id": 0}}, "predicted_classes": ["cat"]}
    several = decode_prediction({**image, **said}, size)
    assert isinstance(several, Classification)
    assert several.multi_label


def test_a_class_keeps_its_number_and_a_second_name_gets_one_of_its_own() -> None:
    labels = Labels()
    assert labels.number(2, "car") == 2
    assert labels.names[:] == ("class_0", "class_1", "car")
    assert labels.number(2, "person") == 3  # the second model of a workflow counts from 0 as well
    assert labels.number(2, "person") == 3
    assert labels.number(None, "car") == 2
    assert labels.number(None, "dog") == 4
    assert labels.number(1, None) == 1
    assert labels.number(5_000_000, "person") == 3
    assert labels.names == ("class_0", "class_1", "car", "person", "dog")
    with pytest.raises(ValueError, match="neither"):
        labels.number(None, None)
    with pytest.raises(ValueError, match="beyond"):
        labels.number(5_000_000, None)


def test_a_server_that_makes_up_classes_is_stopped() -> None:
    labels = Labels()
    for index in range(20_000):
        labels.number(None, f"made up {index}")
    with pytest.raises(ValueError, match="beyond the 20000"):
        labels.number(None, "one more")


def test_names_tell_keypoints_apart_unless_they_are_numbers() -> None:
    points = PointLabels()
    points.number(1, "1")
    assert (points.count, points.names) == (2, ())
    points.number(0, "nose")
    assert points.names == ("nose", "1")


def test_a_smaller_mask_is_stretched_over_the_picture() -> None:
    rle = {"size": [8, 12], "counts": [0, 48, 48]}  # the left half
    read = decode_prediction({"predictions": [BOX | {"rle": rle}]}, SIZE)
    assert isinstance(read, Detections)
    assert read.masks is not None
    assert read.masks[0, :, :12].all()
    assert not read.masks[0, :, 12:].any()


def test_a_scores_little_too_much_is_cut_off() -> None:
    read = decode_prediction({"predictions": [BOX | {"confidence": 1.0004}]}, SIZE)
    assert isinstance(read, Detections)
    assert read.confidence.tolist() == [1.0]


BAD: list[tuple[object, str]] = [
    ([], "the answer is no object but a list"),
    (None, "no object but null"),
    ({}, "no predictions"),
    ({"predictions": None}, "predictions is no list"),
    ({"predictions": "x"}, "predictions is no list"),
    ({"predictions": [5]}, "a prediction is no object"),
    (encode_stub("a/1", "object-detection"), "stub"),
    ({"predictions": [BOX], "image": {"width": 25, "height": 16}}, "picture of 25 x 16, not of 24 x 16"),
    ({"predictions": [BOX], "image": {"width": {}, "height": 16}}, "image.width"),
    ({"predictions": [BOX], "image": 5}, "image of the answer"),
    ({"predictions": [BOX | {"x": None}]}, "x of a prediction"),
    ({"predictions": [BOX | {"x": "1"}]}, "x of a prediction"),
    ({"predictions": [BOX | {"x": float("nan")}]}, "x of a prediction"),
    ({"predictions": [BOX | {"x": 1e200}]}, "nowhere near"),
    ({"predictions": [BOX | {"width": -1}]}, "negative size"),
    ({"predictions": [BOX | {"confidence": 7}]}, "goes from 0 to 1"),
    ({"predictions": [BOX | {"confidence": float("inf")}]}, "confidence is no"),
    ({"predictions": [BOX | {"class": 5}]}, "class of a prediction"),
    ({"predictions": [BOX | {"class": "x" * 5000}]}, "more than 1000"),
    ({"predictions": [BOX | {"class_id": "0"}]}, "class_id"),
    ({"predictions": [BOX | {"class_id": -1}]}, "class_id"),
    ({"predictions": [BOX | {"class": None, "class_id": None}]}, "neither class nor class_id"),
    ({"predictions": [BOX | {"tracker_id": "a"}]}, "tracker_id"),
    ({"predictions": [BOX | {"points": 5}]}, "points of a prediction"),
    ({"predictions": [BOX | {"points": [{"x": 1}]}]}, "y of a point"),
    ({"predictions": [BOX | {"rle": {"size": [4], "counts": "0"}}]}, "height and width"),
    ({"predictions": [BOX | {"rle": {"size": [10**9, 10**9], "counts": "0"}}]}, "size of an rle"),
    ({"predictions": [BOX | {"rle": {"size": [4, 4], "counts": 5}}]}, "counts of an rle"),
    ({"predictions": [BOX | {"rle": {"size": [4, 4], "counts": [5]}}]}, "sum up to 5"),
    ({"predictions": [BOX | {"keypoints": 5}]}, "keypoints of a prediction"),
    ({"predictions": [BOX | {"keypoints": [BOX | {"class_id": 10**9}]}]}, "class_id of a keypoint"),
    ({"predictions": [BOX] * 10_001}, "10001 items"),
    ({"predictions": {"cat": 5}}, "a prediction is no object"),
    ({"predictions": {"segmentation_mask": 5, "class_map": {}}}, "segmentation_mask is no base64"),
    ({"predictions": {"segmentation_mask": "aaaa", "class_map": {}}}, "segmentation_mask is no PNG"),
    ({"embeddings": [[]]}, "an embedding is empty"),
    ({"embeddings": [[1], [2]]}, "embeddings has 2 items"),
    ({"embeddings": [["a"]]}, "a value of an embedding"),
    ({"embeddings": [[1e300]]}, "beyond float32"),
    ({"result": None}, "the text of the answer"),
]


@pytest.mark.parametrize(("answer", "why"), BAD, ids=[why for _, why in BAD])
def test_an_answer_that_makes_no_sense_is_a_value_error_that_says_why(answer: object, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised, np.errstate(all="ignore"):
        decode_prediction(answer, SIZE)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("task", ["object-detection", "instance-segmentation", "semantic-segmentation"])
def test_an_answer_to_another_task_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match="is one to multi-label"):
        decode_prediction({"predictions": {"cat": {"confidence": 1, "class_id": 0}}}, SIZE, task=task)


def test_more_masks_than_memory_has_room_for_are_refused_before_they_are_made() -> None:
    with pytest.raises(ValueError, match="more than are kept in memory"):
        decode_prediction({"predictions": [BOX] * 9_999}, Size(4000, 3000), task="instance-segmentation")


KEYS = ("points", "rle", "size", "counts", "keypoints", "predictions", "image", "segmentation_mask", "class_map", "cat")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*BOX, *KEYS, "embeddings", "result"]), inner)
    ),
    max_leaves=30,
)


@settings(deadline=None, max_examples=300)
@given(JSON, JSON, st.sampled_from([None, "object-detection", "instance-segmentation", "keypoint-detection"]))
def test_any_document_is_a_prediction_or_a_value_error(inner: object, item: object, task: Task | None) -> None:
    mixed = BOX | item if isinstance(item, dict) else item
    for answer in (inner, {"predictions": inner}, {"predictions": [mixed, inner]}):
        with contextlib.suppress(ValueError), np.errstate(all="ignore"):
            decode_prediction(answer, SIZE, task=task)


def test_vectors_are_as_many_as_pictures() -> None:
    assert len(decode_embeddings({"embeddings": [[1, 2], [3, 4]]}, 2)) == 2
    with pytest.raises(ValueError, match="1 embeddings, not 2"):
        decode_embeddings({"embeddings": [[1, 2]]}, 2)


@pytest.fixture(scope="module")
def sv() -> types.ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import supervision
    return supervision


def test_supervision_reads_a_polygon_as_the_mask_that_it_was(sv: types.ModuleType) -> None:
    masks = np.zeros((1, 16, 24), bool)
    masks[0, 3:9, 5:14] = True
    response = encode_response(
        Detections(**_fields(detections((5, 3, 14, 9))), masks=masks), SIZE, time_s=0, inference_id="ab"
    )
    np.testing.assert_array_equal(sv.Detections.from_inference(response).mask, masks)


def _fields(of: Detections) -> dict[str, Any]:
    return {"xyxy": of.xyxy, "confidence": of.confidence, "class_id": of.class_id, "names": of.names}


def test_a_response_has_the_keys_of_the_reference_schema() -> None:
    required: list[tuple[Prediction, set[str]]] = [
        (detections((1, 1, 2, 2)), {"image", "predictions"}),
        (Classification(np.array([0.5], np.float32)), {"image", "predictions", "top", "confidence"}),
        (Classification(np.ones(1, np.float32), multi_label=True), {"image", "predictions", "predicted_classes"}),
        (Text("x"), {"result", "response", "image"}),
        (Embedding(np.ones(2, np.float32)), {"embeddings", "image"}),
    ]
    for prediction, keys in required:
        response = encode_response(prediction, SIZE, time_s=0.1, inference_id="ab", visualization="AAAA")
        assert keys | {"inference_id", "time", "visualization"} <= response.keys()
    assert encode_prediction(detections((1, 1, 2, 2)), detection_ids="ab.")["predictions"][0]["detection_id"] == "ab.0"
