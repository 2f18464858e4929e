import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.wire.huggingface import (
    SPECS,
    canonical,
    decode_body,
    error_document,
    error_text,
    loading_document,
    loading_s,
    sniff,
)
from pipeline.wire.huggingface_requests import (
    Ask,
    Body,
    candidate_labels,
    decode_ask,
    encode_ask,
    is_true,
    vision_parameters,
)

JPEG = b"\xff\xd8\xff\xe0 a picture"
FLAC = b"fLaC a sound"
FILES = {"image": JPEG, "audio": FLAC}
FIELDS: dict[str, Any] = {
    "text": "hello",
    "question": "what?",
    "context": "this",
    "source_sentence": "a",
    "sentences": ["b", "c"],
    "query": "how many?",
    "table": {"rows": ["1", "2"]},
    "generated_responses": ["hi"],
    "past_user_inputs": ["ho"],
}
PARAMETERS = st.dictionaries(
    st.text("abcdefgh_", min_size=1, max_size=8).filter(lambda key: key != "stream"),
    st.one_of(st.integers(-9, 9), st.booleans(), st.text(max_size=5), st.lists(st.integers(0, 3), max_size=3)),
    max_size=3,
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def fault_of(task: str, body: bytes) -> str:
    """What is wrong with a request; "" where nothing is. Anything but a ValueError goes through."""
    try:
        vision_parameters(decode_ask(task, body).parameters)
    except ValueError as error:
        return str(error)
    return ""


def to_bytes(body: Body) -> bytes:
    return body.data if body.data is not None else json.dumps(body.document).encode()


def inputs_of(task: str) -> dict[str, Any]:
    spec = SPECS[task]
    return ({spec.binary: FILES[spec.binary]} if spec.binary else {}) | {name: FIELDS[name] for name in spec.fields}


def plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """With files as base64: raw and wrapped are the same file."""
    return {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in inputs.items()}


# What the two clients were seen to send: (task, generation, inputs, parameters, the body).
B64 = base64.b64encode(JPEG).decode()
RECORDED: list[tuple[str, str, dict[str, Any], dict[str, Any], Any]] = [
    ("object-detection", "0.17", {"image": JPEG}, {}, JPEG),
    ("object-detection", "current", {"image": JPEG}, {}, JPEG),
    (
        "object-detection",
        "current",
        {"image": JPEG},
        {"threshold": 0.5},
        {"inputs": B64, "parameters": {"threshold": 0.5}},
    ),
    ("image-classification", "current", {"image": JPEG}, {"top_k": 3}, {"inputs": B64, "parameters": {"top_k": 3}}),
    ("image-to-image", "0.17", {"image": JPEG}, {"prompt": "x"}, {"inputs": B64, "parameters": {"prompt": "x"}}),
    ("audio-classification", "0.17", {"audio": FLAC}, {}, FLAC),
    ("document-question-answering", "0.17", {"image": JPEG, "question": "q"}, {}, {"question": "q", "image": B64}),
    (
        "document-question-answering",
        "current",
        {"image": JPEG, "question": "q"},
        {},
        {"inputs": {"question": "q", "image": B64}, "parameters": {}},
    ),
    ("visual-question-answering", "0.17", {"image": JPEG, "question": "q"}, {}, {"question": "q", "image": B64}),
    (
        "visual-question-answering",
        "current",
        {"image": JPEG, "question": "q"},
        {},
        {"inputs": B64, "parameters": {}, "question": "q", "image": B64},
    ),
    (
        "zero-shot-image-classification",
        "0.17",
        {"image": JPEG},
        {"candidate_labels": ["a", "b"]},
        {"image": B64, "parameters": {"candidate_labels": "a,b"}},
    ),
    (
        "zero-shot-image-classification",
        "current",
        {"image": JPEG},
        {"candidate_labels": ["a", "b"]},
        {"inputs": B64, "parameters": {"candidate_labels": ["a", "b"]}},
    ),
    (
        "zero-shot-classification",
        "0.17",
        {"text": "t"},
        {"candidate_labels": ["a", "b"], "multi_label": False},
        {"inputs": "t", "parameters": {"candidate_labels": "a,b", "multi_label": False}},
    ),
    ("feature-extraction", "0.17", {"text": "t"}, {}, {"inputs": "t"}),
    ("feature-extraction", "current", {"text": "t"}, {"normalize": True}, {"inputs": "t", "normalize": True}),
    ("question-answering", "0.17", {"question": "q", "context": "c"}, {}, {"question": "q", "context": "c"}),
    (
        "question-answering",
        "current",
        {"question": "q", "context": "c"},
        {},
        {"inputs": {"question": "q", "context": "c"}, "parameters": {}},
    ),
    (
        "sentence-similarity",
        "0.17",
        {"source_sentence": "a", "sentences": ["b"]},
        {},
        {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    ),
    ("table-question-answering", "0.17", {"query": "q", "table": {}}, {}, {"query": "q", "table": {}}),
    (
        "table-question-answering",
        "current",
        {"query": "q", "table": {}},
        {"model": "m"},
        {"inputs": {"query": "q", "table": {}}, "parameters": {"model": "m"}},
    ),
    ("tabular-classification", "0.17", {"table": {}}, {}, {"table": {}}),
    ("tabular-classification", "current", {"table": {}}, {}, {"table": {}, "parameters": {}}),
    (
        "conversational",
        "0.17",
        {"text": "t", "past_user_inputs": ["p"]},
        {},
        {"inputs": {"text": "t", "past_user_inputs": ["p"]}},
    ),
    ("summarization", "current", {"text": "t"}, {}, {"inputs": "t"}),
    ("fill-mask", "0.17", {"text": "t"}, {}, {"inputs": "t"}),
    ("fill-mask", "current", {"text": "t"}, {}, {"inputs": "t", "parameters": {}}),
    (
        "text-generation",
        "current",
        {"text": "t"},
        {"max_new_tokens": 5, "stream": True},
        {"inputs": "t", "parameters": {"max_new_tokens": 5}, "stream": True},
    ),
]


@pytest.mark.parametrize(("task", "generation", "inputs", "parameters", "body"), RECORDED)
def test_requests_are_written_as_each_generation_writes_them(
    task: str, generation: Any, inputs: dict[str, Any], parameters: dict[str, Any], body: Any
) -> None:
    written = encode_ask(task, Ask(inputs, parameters, generation=generation), "image/jpeg")
    assert (written.data if isinstance(body, bytes) else written.document) == body
    assert written.media_type == ("image/jpeg" if isinstance(body, bytes) else "application/json")


@pytest.mark.parametrize(("task", "generation", "inputs", "parameters", "body"), RECORDED)
def test_requests_of_each_generation_are_read(
    task: str, generation: Any, inputs: dict[str, Any], parameters: dict[str, Any], body: Any
) -> None:
    read = decode_ask(task, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert plain(dict(read.inputs)) == plain(inputs)
    labels = candidate_labels(parameters)
    assert candidate_labels(read.parameters) == labels
    if labels:
        assert read.generation == generation
    else:
        assert dict(read.parameters) == parameters


@settings(deadline=None)
@given(st.sampled_from(sorted(SPECS)), st.sampled_from(["0.17", "current"]), PARAMETERS, st.booleans())
def test_what_is_written_is_read_again(task: str, generation: Any, parameters: dict[str, Any], wait: bool) -> None:
    ask = Ask(inputs_of(task), parameters, wait_for_model=wait, generation=generation)
    read = decode_ask(task, to_bytes(encode_ask(task, ask)))
    assert plain(dict(read.inputs)) == plain(dict(ask.inputs))
    assert dict(read.parameters) == parameters
    assert read.wait_for_model == wait


@settings(deadline=None)
@given(st.sampled_from(sorted(SPECS)), JSONS)
def test_no_document_does_more_than_make_no_sense(task: str, document: Any) -> None:
    for shape in (document, {"inputs": document}, {"inputs": "x", "parameters": document, "options": document}):
        assert "\n" not in fault_of(task, json.dumps(shape).encode())


@settings(deadline=None)
@given(st.sampled_from(sorted(SPECS)), st.binary(max_size=64))
def test_no_bytes_do_more_than_make_no_sense(task: str, body: bytes) -> None:
    assert "\n" not in fault_of(task, body)


@pytest.mark.parametrize(
    "body",
    [b'{"a":' * 100_000, b'{"inputs": NaN}', b'{"inputs": ' + b"9" * 10_000 + b"}", b"{\xff}", b'{"inputs": "a"'],
)
def test_json_that_is_none_is_a_value_error(body: bytes) -> None:
    assert fault_of("text-generation", body)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"RIFF\0\0\0\0WEBP", "image/webp"),
        (b"BM", "image/bmp"),
        (b"II*\0", "image/tiff"),
        (b"RIFF\0\0\0\0WAVE", "audio/wav"),
        (b"fLaC", "audio/flac"),
        (b"OggS", "audio/ogg"),
        (b"ID3", "audio/mpeg"),
        (b' \n {"inputs"', "application/json"),
        (b"[", "application/json"),
        (b"hello", None),
        (b"", None),
    ],
)
def test_a_body_is_known_by_its_first_bytes(start: bytes, kind: str | None) -> None:
    assert sniff(start) == kind


def test_tasks_go_by_the_hubs_names_and_by_the_clients() -> None:
    assert canonical("object_detection") == canonical("object-detection") == "object-detection"
    assert canonical("make-coffee") is None
    assert len(SPECS) >= 26


def test_labels_are_a_list_or_one_text_with_commas() -> None:
    assert candidate_labels({"candidate_labels": "a cat, a dog"}) == ("a cat", "a dog")
    assert candidate_labels({"candidate_labels": ["a, b", "c"]}) == ("a, b", "c")
    assert candidate_labels({}) == ()
    for wrong in (
        "",
        [],
        [""],
        "a,,b",
        [1],
        {"a": 1},
        5,
        ["x" * 1001],
        ["a"] * 0,
        [str(n) for n in range(1001)],
        "a," * 2000,
    ):
        with pytest.raises(ValueError, match="candidate_labels"):
            candidate_labels({"candidate_labels": wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": -0.1},
        {"threshold": "high"},
        {"threshold": True},
        {"threshold": 10**400},
        {"top_k": 0},
        {"top_k": 2.5},
        {"top_k": True},
        {"subtask": "panorama"},
        {"subtask": []},
        {"function_to_apply": {}},
        {"hypothesis_template": "no place for it"},
    ],
)
def test_parameters_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        vision_parameters(wrong)


def test_parameters_that_are_unknown_or_null_do_not_matter() -> None:
    read = decode_ask("object-detection", b'{"inputs": "x", "parameters": {"threshold": null, "new": 1}}')
    assert vision_parameters(read.parameters).threshold is None


def test_options_are_true_in_many_spellings() -> None:
    assert all(is_true(value) for value in (True, 1, "1", "true", "True", " on ", "YES"))
    others: tuple[object, ...] = (False, 0, None, "", "0", "false", [], {}, 2)
    assert not any(is_true(value) for value in others)


def test_errors_are_told_and_read() -> None:
    assert error_document("no") == {"error": "no"}
    assert error_text(json.dumps(error_document(["one", "two"])).encode()) == "one; two"
    assert error_text(b'{"error": {"deep": 1}}') is None
    assert error_text(b"<html>") is None
    assert len(error_text(json.dumps({"error": "x" * 5000}).encode()) or "") == 200


def test_a_model_that_is_loading_tells_for_how_long() -> None:
    body = json.dumps(loading_document("m", 20.0)).encode()
    assert json.loads(body) == {"error": "Model m is currently loading", "estimated_time": 20.0}
    assert loading_s(body) == 20.0
    assert loading_s(b'{"error": "Model m is currently loading"}') == 0.0
    assert loading_s(b'{"error": "out of memory"}') is None
    assert loading_s(b'{"estimated_time": 1e300}') == 3600.0
    assert loading_s(b'{"estimated_time": -1}') == 0.0
    assert loading_s(b"busy") is None


def test_an_error_with_the_status_of_success_is_an_error() -> None:
    with pytest.raises(ValueError, match="out of memory"):
        decode_body(b'{"error": "out of memory"}')
    with pytest.raises(ValueError, match="JSON"):
        decode_body(b"<html>")
    assert decode_body(b"[]") == []
