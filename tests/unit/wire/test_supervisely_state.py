"""What a request to a Supervisely model asks for, in every spelling, and what a model answers around annotations."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.frame import Wishes
from pipeline.wire.supervisely import (
    Progress,
    decode_error,
    decode_popped,
    decode_result,
    decode_results,
    decode_session_info,
    decode_start,
    encode_error,
    encode_progress,
    encode_session_info,
    encode_start,
    encode_status,
    result_item,
)
from pipeline.wire.supervisely_settings import parse_settings
from pipeline.wire.supervisely_state import (
    SETTINGS,
    FrameWindow,
    State,
    decode_body,
    decode_form,
    encode_body,
    encode_state,
)

ANNOTATION = {"size": {"height": 1, "width": 1}, "tags": [], "objects": []}


@pytest.mark.parametrize(
    ("written", "wishes"),
    [
        ({}, None),
        (dict(SETTINGS), None),
        ({"conf": 0.5, "show_progress": True, "recursive": False}, Wishes(confidence=0.5)),
        ({"confidence_thresh": 0.5, "nms_iou_thresh": 0.25}, Wishes(confidence=0.5, iou_threshold=0.25)),
        ({"confidence_threshold": 1, "iou_threshold": 0}, Wishes(confidence=1.0, iou_threshold=0.0)),
        ({"max_det": 7, "agnostic_nms": False}, Wishes(max_detections=7, class_agnostic_nms=False)),
        ({"classes": ["a", "b"]}, Wishes(classes=("a", "b"))),
        ({"classes": "a, b"}, Wishes(classes=("a", "b"))),
        ({"classes": []}, Wishes(classes=())),
    ],
)
def test_settings_have_many_names(written: dict[str, Any], wishes: Wishes | None) -> None:
    assert decode_body({"state": {"settings": written}}).wishes() == wishes


@pytest.mark.parametrize(
    "written",
    [
        {"conf": "high"},
        {"conf": True},
        {"conf": 1.01},
        {"iou": -1},
        {"iou": float("nan")},
        {"max_det": 0},
        {"max_det": 1.5},
        {"agnostic_nms": "yes"},
        {"classes": [1]},
        {"classes": {"a": 1}},
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_a_value_error(written: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        State({}, written).wishes()


def test_the_state_may_stand_in_the_body_or_be_it() -> None:
    assert decode_body({"state": {"inference_request_uuid": "a"}, "context": {}}).uuid() == "a"
    assert decode_body({"inference_request_uuid": "a"}).uuid() == "a"
    assert decode_body({"state": {"settings": None}}).settings == {}


@pytest.mark.parametrize(
    "parts",
    [
        {"state": '{"settings": {"conf": 0.5}}'},
        {"settings": '{"settings": {"conf": 0.5}}'},
        {"state": "{}", "settings": '{"settings": {"conf": 0.5}}'},
        {"state": "", "settings": '{"conf": 0.5}'},
        {"settings": "conf: 0.5"},
        {"state": '{"settings": "conf: 0.5"}'},
    ],
    ids=str,
)
def test_a_form_has_its_settings_in_one_of_two_parts(parts: dict[str, str]) -> None:
    assert decode_form(parts).wishes() == Wishes(confidence=0.5)


def test_a_form_without_settings_asks_for_nothing() -> None:
    assert decode_form({}).wishes() is None
    assert decode_form({"state": "{}"}).window() == FrameWindow()


def test_what_stands_in_the_state_of_a_form_is_found_beside_its_settings() -> None:
    state = decode_form({"state": '{"batch_size": 4, "start_frame": 3, "settings": {"conf": 0.5}}'})
    assert (state.batch_size(), state.window().start, state.wishes()) == (4, 3, Wishes(confidence=0.5))


_VALUES = (
    st.booleans()
    | st.none()
    | st.integers(-(10**6), 10**6)
    | st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 4))
    | st.text("abcxyz_. ", min_size=1, max_size=12).map(str.strip).filter(bool)
)
_KEYS = st.text("abcxyz_", min_size=1, max_size=10).filter(lambda key: key not in ("y", "n"))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(_KEYS, _VALUES | st.lists(_VALUES, max_size=4), max_size=5), st.booleans())
def test_flat_yaml_is_read_as_a_real_reader_does(written: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(written, default_flow_style=False) if not flow else json.dumps(written)
    assert parse_settings(text) == yaml.safe_load(text)


def test_yaml_of_a_serving_app_is_read() -> None:
    text = """
    """.join(
        ["", "# Confidence threshold\nconf: 0.25   # or more\n\niou: 0.7\nhalf: False\nname: 'a # b'\nlist: [1, two]"]
    )
    text = text.strip() + "\nitems:\n  - 1\n  - two\nnested:\n  deep: 1\nlast: yes\n"
    assert parse_settings(text) == {
        "conf": 0.25,
        "iou": 0.7,
        "half": False,
        "name": "a # b",
        "list": [1, "two"],
        "items": [1, "two"],
        "nested": None,
        "last": True,
    }


@pytest.mark.parametrize("text", ["- 1", "a: 1\n- 2", "just words", "[1]", "{", "{" * 100_000, "[" * 100_000, "a:1"])
def test_what_is_no_settings_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_settings(text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_whatever_text_the_settings_are_only_a_value_error_comes_of_it(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_settings(text)


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
_READERS: dict[str, Callable[[Any], Any]] = {
    "pending_results": decode_popped,
    "finished": decode_popped,
    "exception": decode_popped,
    "annotation": decode_result,
    "objects": decode_result,
    "inference_request_uuid": decode_start,
    "max_batch_size": decode_session_info,
    "task type": decode_session_info,
    "app_name": decode_session_info,
    "detail": decode_error,
    "message": decode_error,
    "settings": lambda state: (decode_body(state).wishes(), decode_body(state).window()),
    "start_frame": lambda state: decode_body(state).window(),
    "duration": lambda state: decode_body(state).window().indexes(10, 25.0),
    "stride": lambda state: decode_body(state).window(),
    "direction": lambda state: decode_body(state).window(),
    "conf": lambda state: decode_body({"settings": state}).wishes(),
    "classes": lambda state: decode_body({"settings": state}).wishes(),
    "batch_size": lambda state: decode_body(state).batch_size(),
    "tracker": lambda state: decode_body(state).tracks(),
    "image_url": lambda state: decode_body(state).image_url(),
}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(_READERS)), _JSON)
def test_whatever_stands_in_a_document_only_a_value_error_comes_of_it(key: str, value: Any) -> None:
    popped = {"pending_results": [], "finished": True, "exception": None}
    for document in (value, {key: value}, popped | {key: value}, {"state": {key: value}}):
        with contextlib.suppress(ValueError):
            _READERS[key](document)


def test_a_duration_without_end_is_cut_at_the_end_of_the_video() -> None:
    assert list(FrameWindow(duration_s=1e300).indexes(5, 1e4)) == [0, 1, 2, 3, 4]


def test_a_state_is_written_and_read() -> None:
    body = encode_body(encode_state({"conf": 0.5}, inference_request_uuid="a", batch_size=None))
    assert body == {"state": {"inference_request_uuid": "a", "settings": {"conf": 0.5}}, "context": {}}
    state = decode_body(body)
    assert (state.uuid(), state.wishes()) == ("a", Wishes(confidence=0.5))


@pytest.mark.parametrize(
    "task",
    ["object-detection", "instance-segmentation", "keypoint-detection", "semantic-segmentation", "classification"],
)
def test_a_session_info_says_which_task_it_is(task: Task) -> None:
    info = decode_session_info(encode_session_info("local", ModelInfo(task, ("a",)), 8))
    assert (info.app_name, info.task, info.batches, info.max_batch) == ("Penstock local", task, True, 8)


def test_a_session_info_may_say_next_to_nothing() -> None:
    assert decode_session_info({"max_batch_size": None}).max_batch is None
    assert decode_session_info({"task type": "tracking"}).task is None


def test_results_are_read_with_and_without_their_wrapping() -> None:
    for document in (result_item(ANNOTATION), {"annotation_json": ANNOTATION}, ANNOTATION):
        assert decode_result(document) == ANNOTATION
    assert decode_results([result_item(ANNOTATION)] * 2, 2) == [ANNOTATION] * 2
    with pytest.raises(ValueError, match="1 results for 2 pictures"):
        decode_results([ANNOTATION], 2)


PROGRESS = Progress("a", "Running inference...", 3, 7, 2, finished=False)


def test_a_session_is_started_and_asked_for() -> None:
    assert decode_start(encode_start("a")) == "a"
    progress = encode_progress(PROGRESS)
    assert progress["pending_results"] == 2
    assert progress["progress"] == {
        "message": "Running inference...",
        "status": "Running inference...",
        "current": 3,
        "total": 7,
        "is_size": False,
    }
    status = encode_status(PROGRESS, {"ram_memory": {}})
    assert not {"pending_results", "final_result", "created_at", "updated_at"} & set(status)


def test_fetched_results_say_whether_more_will_come() -> None:
    popped = encode_progress(PROGRESS) | {"pending_results": [result_item(ANNOTATION)]}
    assert decode_popped(popped).finished is False
    assert decode_popped(popped).annotations == [ANNOTATION]
    assert decode_popped(popped | {"finished": True}).finished is True
    assert decode_popped({"pending_results": [], "is_inferring": False}).finished is True
    failed = decode_popped(popped | {"exception": {"type": "E", "message": "m", "traceback": "long"}})
    assert failed.error == "E: m"
    assert decode_popped(popped | {"exception": {}}).error


def test_an_error_is_written_and_read() -> None:
    assert decode_error(encode_error("no")) == "no"
    assert decode_error({"detail": "no", "success": False}) == "no"
    assert decode_error({"detail": {"title": "t", "message": "no"}}) == "no"
    assert decode_error("no") == decode_error({"detail": [1]}) == ""
