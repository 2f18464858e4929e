import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contracts.result import Classification, Detections, Embedding, Text
from pipeline.wire.huggingface_answers import (
    LabelTable,
    decode_classes,
    decode_detections,
    decode_extract,
    decode_text,
    decode_vector,
    encode_classes,
    encode_detections,
    encode_text,
    encode_vector,
)

GOLDEN = [{"score": 0.9, "label": "cat", "box": {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}}]
NAMES = ("cat", "dog", "bird")
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.none(), st.booleans(), st.text(max_size=3))


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 8))
    corners = st.tuples(*[st.floats(0, 2000, width=32)] * 4)
    raw = np.array(draw(st.lists(corners, min_size=count, max_size=count)), np.float32).reshape(-1, 4)
    xyxy = np.hstack([np.minimum(raw[:, :2], raw[:, 2:]), np.maximum(raw[:, :2], raw[:, 2:])])
    scores = np.array(draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count)), np.float32)
    ids = np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)), np.int32)
    order = np.argsort(-scores, kind="stable")
    return Detections(xyxy[order], scores[order], ids[order], NAMES)


def over_the_wire(document: Any) -> Any:
    return json.loads(json.dumps(document, allow_nan=False))


@settings(deadline=None)
@given(detections())
def test_detections_survive_the_wire_within_half_a_pixel(found: Detections) -> None:
    read = decode_detections(over_the_wire(encode_detections(found)), LabelTable(NAMES))
    assert np.abs(read.xyxy - found.xyxy).max(initial=0) <= 0.5
    assert np.abs(read.confidence - found.confidence).max(initial=0) <= 1e-6
    ties = np.unique(np.round(found.confidence, 6)).size == len(found)
    assert not ties or read.class_id.tolist() == found.class_id.tolist()
    assert sorted(read.class_id.tolist()) == sorted(found.class_id.tolist())
    assert read.names == NAMES


def test_a_detection_is_exactly_what_was_recorded() -> None:
    xyxy = np.array([[1.2, 1.8, 3.4, 3.6]], np.float32)
    found = Detections(xyxy, np.array([0.9], np.float32), np.array([0], np.int32), ("cat",))
    assert encode_detections(found) == GOLDEN
    read = decode_detections(GOLDEN, LabelTable())
    assert read.xyxy.tolist() == [[1, 2, 3, 4]]
    assert (read.names, read.class_id.tolist(), read.confidence.tolist()) == (("cat",), [0], [pytest.approx(0.9)])


def test_the_most_confident_comes_first_whatever_the_servers_order() -> None:
    document = [{**GOLDEN[0], "score": score, "label": label} for score, label in ((0.2, "a"), (0.7, "b"), (0.5, "c"))]
    read = decode_detections(document, LabelTable())
    assert [read.label(index) for index in range(3)] == ["b", "c", "a"]


def test_a_label_keeps_its_number_from_answer_to_answer() -> None:
    table = LabelTable(["person"])
    first = decode_detections([{**GOLDEN[0], "label": "dog"}], table)
    second = decode_detections([GOLDEN[0], {**GOLDEN[0], "label": "dog"}], table)
    assert (first.class_id.tolist(), first.names) == ([1], ("person", "dog"))
    assert (second.class_id.tolist(), second.names) == ([2, 1], ("person", "dog", "cat"))


def test_a_server_that_makes_up_labels_is_stopped_and_the_table_stays_as_it_was() -> None:
    table = LabelTable(["person"])
    with pytest.raises(ValueError, match="10000"):
        table.ids([str(number) for number in range(10_001)])
    assert table.ids(["person"])[1] == ("person",)


def test_an_empty_answer_is_no_objects() -> None:
    read = decode_detections([], LabelTable())
    assert (len(read), read.xyxy.shape) == (0, (0, 4))


def item(**changes: Any) -> dict[str, Any]:
    return {**GOLDEN[0], **changes}


def box(**changes: Any) -> dict[str, Any]:
    return item(box={"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4, **changes})


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"objects": []}, "no list"),
        (None, "no list"),
        ([None], "no object"),
        ([[]], "no object"),
        ([item(score=None)], "'score'"),
        ([item(score="0.5")], "'score'"),
        ([item(score=True)], "'score'"),
        ([item(score=float("nan"))], "'score'"),
        ([item(score=1.5)], "'score'"),
        ([item(score=-0.5)], "'score'"),
        ([item(label=None)], "'label'"),
        ([item(label=7)], "'label'"),
        ([item(label="x" * 1001)], "'label'"),
        ([item(label="\ud800")], "'label'"),
        ([item(box=None)], "'box'"),
        ([item(box=[1, 2, 3, 4])], "'box'"),
        ([box(xmax=None)], "'xmax'"),
        ([box(xmax=float("inf"))], "'xmax'"),
        ([box(xmax=10**400)], "'xmax'"),
        ([box(xmax=1e12)], "nowhere near"),
        ([box(xmax=0)], "ends before"),
        ([box(ymax=0)], "ends before"),
        ([item()] * 10_001, "10000"),
    ],
)
def test_a_detection_that_makes_no_sense_is_an_error(document: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode_detections(document, LabelTable())


@settings(deadline=None)
@given(st.lists(st.fixed_dictionaries({"score": NUMBERS, "label": st.text(max_size=3), "box": JSONS}), max_size=3))
def test_no_answer_does_more_than_make_no_sense(document: Any) -> None:
    for decode in (
        lambda value: decode_detections(value, LabelTable()),
        decode_classes,
        decode_text,
        decode_extract,
        lambda value: decode_vector(value, "mean"),
    ):
        assert "\n" not in fault_of(decode, document)


@settings(deadline=None)
@given(JSONS)
def test_no_document_does_more_than_make_no_sense(document: Any) -> None:
    for decode in (decode_classes, decode_text, decode_extract, decode_vector):
        assert "\n" not in fault_of(decode, document)
    for pooling in ("first", "mean"):
        assert "\n" not in fault_of(lambda value, how=pooling: decode_vector(value, how), document)


def fault_of(decode: Any, document: Any) -> str:
    """What is wrong with it; "" where nothing is. Anything but a ValueError goes through."""
    try:
        decode(document)
    except ValueError as error:
        return str(error)
    return ""


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), max_size=6))
def test_classes_survive_the_wire(scores: list[float]) -> None:
    names = tuple(f"n{index}" for index in range(len(scores)))
    written = over_the_wire(encode_classes(Classification(np.array(scores, np.float32), names)))
    assert [one["score"] for one in written] == sorted((one["score"] for one in written), reverse=True)
    read = decode_classes(written, names)
    assert read.names == names
    assert np.allclose(read.scores, np.array(scores, np.float32), atol=1e-6)


def test_classes_come_in_the_order_of_the_labels_that_were_asked_for() -> None:
    document = [{"label": "b", "score": 0.9}, {"label": "a", "score": 0.1}]
    assert decode_classes(document, ("a", "b")).scores.tolist() == [pytest.approx(0.1), pytest.approx(0.9)]
    assert decode_classes(document).names == ("b", "a")
    with pytest.raises(ValueError, match="labels that were asked for"):
        decode_classes(document, ("a", "c"))
    with pytest.raises(ValueError, match="labels that were asked for"):
        decode_classes(document, ("a", "b", "c"))
    with pytest.raises(ValueError, match="twice"):
        decode_classes(document + document)


@pytest.mark.parametrize("what", ["box", "mask"])
def test_objects_do_not_pass_for_classes(what: str) -> None:
    with pytest.raises(ValueError, match="about objects, not classes"):
        decode_classes([{"score": 0.9, "label": "bus", what: None}])


def test_the_top_classes_alone_are_written_where_that_is_asked() -> None:
    written = encode_classes(Classification(np.array([0.1, 0.7, 0.2], np.float32), ("a", "b", "c")), 2)
    assert [one["label"] for one in written] == ["b", "c"]


def test_answers_to_a_question_are_classes_by_another_key() -> None:
    document = [{"score": 0.9, "answer": "two"}, {"score": 0.1, "answer": "three"}]
    read = decode_classes(document, key="answer")
    assert read.names == ("two", "three")


def test_the_most_likely_answer_of_a_document_is_its_text() -> None:
    answers = [{"score": s, "answer": a, "start": 1, "end": 2} for s, a in ((0.2, "no"), (0.8, "us-001"))]
    assert decode_extract(answers).text == "us-001"
    assert decode_extract([]).text == ""


@settings(deadline=None)
@given(st.text(max_size=20))
def test_a_text_survives_the_wire(said: str) -> None:
    assert decode_text(over_the_wire(encode_text(Text(said)))).text == said


@pytest.mark.parametrize("document", [[], {"generated_text": "x"}, [{"text": "x"}], [{"generated_text": 5}], ["x"]])
def test_a_text_that_is_none_is_an_error(document: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_text(document)


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=8), st.integers(0, 3))
def test_a_vector_survives_the_wire_however_deep_it_lies(values: list[float], depth: int) -> None:
    document: Any = encode_vector(Embedding(np.array(values, np.float32)))
    for _ in range(depth):
        document = [document]
    assert np.allclose(decode_vector(over_the_wire(document)).vector, np.array(values, np.float32), atol=1e-5)


def test_several_vectors_are_pooled_only_if_that_is_asked() -> None:
    document = [[[1.0, 2.0], [3.0, 6.0]]]
    with pytest.raises(ValueError, match="pooling"):
        decode_vector(document)
    assert decode_vector(document, "first").vector.tolist() == [1, 2]
    assert decode_vector(document, "mean").vector.tolist() == [2, 4]
    with pytest.raises(ValueError, match="different lengths"):
        decode_vector([[1.0], [1.0, 2.0]], "mean")


@pytest.mark.parametrize("document", [[], [[]], [None], [1, [2]], [1e300], {"a": 1}, 5, [[1], 2]])
def test_a_vector_that_is_none_is_an_error(document: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_vector(document, "mean")


def test_a_vector_that_is_no_number_is_not_written() -> None:
    with pytest.raises(ValueError, match="no number"):
        encode_vector(Embedding(np.array([np.nan], np.float32)))


def test_deep_nesting_of_a_vector_is_an_error_not_a_crash() -> None:
    document: Any = []
    for _ in range(100_000):
        document = [document]
    with pytest.raises(ValueError, match=r"."):
        decode_vector(document)
