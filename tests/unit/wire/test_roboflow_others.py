"""Core models, workflows and the stream manager, there and back."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections, Text
from pipeline.testing import detections
from pipeline.wire.document import loads
from pipeline.wire.roboflow import (
    CompareRequest,
    Gaze,
    ImageValue,
    InitialisePipeline,
    InvalidRequestError,
    PictureRequest,
    PipelineSource,
    TextRequest,
    WorkflowRequest,
    decode_embeddings,
    decode_gazes,
    decode_prediction,
    decode_similarity,
    decode_workflow_output,
    encode_embeddings,
    encode_gazes,
    encode_ocr,
    encode_pipeline_answer,
    encode_report,
    encode_similarity,
    encode_workflow_answer,
    encode_workflow_error,
    encode_workflow_image,
    encode_workflow_prediction,
    find_output,
    gaze_detections,
    parse_compare_request,
    parse_initialise,
    parse_picture_request,
    parse_pipeline_answer,
    parse_pipelines,
    parse_question_request,
    parse_text_request,
    parse_workflow_answer,
    parse_workflow_request,
)

SIZE = Size(64, 48)
PICTURE = ImageValue.of(b"picture")


def wire(document: Any) -> Any:
    """As it goes over the wire."""
    return loads(json.dumps(document, allow_nan=False).encode())


@pytest.mark.parametrize(
    "request_",
    [
        PictureRequest((PICTURE,), api_key="key"),
        PictureRequest((PICTURE, PICTURE), many=True, version_id="ViT-B-16"),
        PictureRequest((PICTURE,), prompt="what?", model_id="florence"),
    ],
)
def test_requests_with_pictures_come_back(request_: PictureRequest) -> None:
    assert parse_picture_request(wire(request_.to_json())) == request_


def test_a_question_with_what_was_said_before_comes_back() -> None:
    request_ = PictureRequest((PICTURE,), prompt="what?", history=(("who?", "a fox"), ("", "")), api_key="key")
    assert parse_question_request(wire(request_.to_json())) == request_


@pytest.mark.parametrize("request_", [TextRequest(("fox",)), TextRequest(("fox", "dog"), many=True, version_id="v")])
def test_requests_with_texts_come_back(request_: TextRequest) -> None:
    assert parse_text_request(wire(request_.to_json())) == request_


@pytest.mark.parametrize(
    "request_",
    [
        CompareRequest(PICTURE, ("fox", "dog"), api_key="key"),
        CompareRequest("fox", (PICTURE, PICTURE)),
        CompareRequest("fox", ("dog",), version_id="v"),
        CompareRequest(PICTURE, (PICTURE,), keys=("mine",)),
        CompareRequest(PICTURE, ("fox", "dog"), keys=("a", "type")),
    ],
)
def test_comparisons_come_back(request_: CompareRequest) -> None:
    assert parse_compare_request(wire(request_.to_json())) == request_


def test_the_recorded_comparison_of_the_real_client_is_read() -> None:
    body = {"api_key": "K", "subject": {"type": "base64", "value": "AA=="}, "prompt": "fox"}
    request = parse_compare_request(body)
    assert (request.subject, request.prompts) == (ImageValue("base64", "AA=="), ("fox",))


@pytest.mark.parametrize(
    ("parse", "body", "loc"),
    [
        (parse_picture_request, {}, ["body", "image"]),
        (parse_question_request, {"image": PICTURE.to_json()}, ["body", "prompt"]),
        (
            parse_question_request,
            {"image": PICTURE.to_json(), "prompt": "a", "history": [["b"]]},
            ["body", "history", 0],
        ),
        (parse_text_request, {}, ["body", "text"]),
        (parse_text_request, {"text": []}, ["body", "text"]),
        (parse_text_request, {"text": [5]}, ["body", "text"]),
        (parse_compare_request, {"prompt": "a"}, ["body", "subject"]),
        (parse_compare_request, {"subject": "a", "prompt": "a"}, ["body", "subject"]),
        (parse_compare_request, {"subject": PICTURE.to_json(), "prompt": {}}, ["body", "prompt"]),
        (parse_compare_request, {"subject_type": "video"}, ["body", "subject_type"]),
        (parse_workflow_request, {}, ["body", "specification"]),
        (parse_workflow_request, {"specification": 5}, ["body", "specification"]),
        (parse_workflow_request, {"specification": {}}, ["body", "inputs"]),
        (parse_workflow_request, {"specification": {}, "inputs": []}, ["body", "inputs"]),
        (
            parse_workflow_request,
            {"specification": {}, "inputs": {}, "excluded_fields": [5]},
            ["body", "excluded_fields"],
        ),
        (parse_initialise, {}, ["body", "video_configuration"]),
        (
            parse_initialise,
            {"video_configuration": {}, "processing_configuration": {}},
            ["body", "video_configuration", "video_reference"],
        ),
        (
            parse_initialise,
            {"video_configuration": {"video_reference": "a", "max_fps": -1}, "processing_configuration": {}},
            ["body", "video_configuration", "max_fps"],
        ),
    ],
)
def test_what_breaks_the_schema_is_named(parse: Callable[[object], object], body: object, loc: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse(body)
    assert raised.value.body()["detail"][0]["loc"] == loc


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "image",
                    "type",
                    "value",
                    "text",
                    "subject",
                    "prompt",
                    "inputs",
                    "specification",
                    "video_configuration",
                ]
            ),
            inner,
        )
    ),
    max_leaves=15,
)


@settings(deadline=None, max_examples=200)
@given(JSON)
def test_any_document_is_read_or_refused(document: object) -> None:
    parsers: list[Callable[[object], object]] = [
        *(
            parse_picture_request,
            parse_question_request,
            parse_text_request,
            parse_compare_request,
            parse_workflow_request,
            parse_initialise,
        ),
        *(decode_gazes, parse_pipelines, parse_pipeline_answer),
        lambda found: decode_embeddings(found, 1),
        lambda found: decode_similarity(found, 1),
        lambda found: parse_workflow_answer(found, 1),
        lambda found: decode_workflow_output(found, SIZE),
    ]
    for parse in parsers:
        with contextlib.suppress(ValueError):
            parse(document)


def test_vectors_similarities_and_texts_come_back() -> None:
    vectors = [np.array([0.25, -1], np.float32), np.array([0.5, 1], np.float32)]
    answer = wire(encode_embeddings(vectors, 0.1))
    assert "frame_id" in answer  # Roboflow's client looks for it
    assert [vector.tolist() for vector in decode_embeddings(answer, 2)] == [[0.25, -1], [0.5, 1]]
    assert decode_similarity(wire(encode_similarity([0.25, -0.5], 0.1)), 2).tolist() == [0.25, -0.5]
    assert wire(encode_similarity([0.25], 0.1, ["fox"]))["similarity"] == {"fox": 0.25}
    read = decode_prediction(wire(encode_ocr("EXIT", 0.1)), SIZE)
    assert isinstance(read, Text)
    assert read.text == "EXIT"


LOOK = Gaze((10.0, 10.0, 30.0, 34.0), 0.9, ((14.0, 16.0), (26.0, 16.5)), yaw=0.5, pitch=-0.25)


def test_gazes_come_back() -> None:
    assert decode_gazes(wire(encode_gazes([LOOK, LOOK], 0.1))) == [LOOK, LOOK]
    assert len(gaze_detections([], SIZE)) == 0


@settings(deadline=None)
@given(st.floats(-4, 4), st.floats(-2, 2), st.floats(0, 64), st.floats(0, 48), st.floats(0, 100))
def test_a_look_never_ends_outside_of_the_picture(yaw: float, pitch: float, x: float, y: float, side: float) -> None:
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    found = gaze_detections([Gaze(box, 0.5, (), yaw, pitch)], SIZE)
    assert found.keypoints is not None
    end = found.keypoints[0, -1]
    assert -1e-3 <= end[0] <= 64 + 1e-3
    assert -1e-3 <= end[1] <= 48 + 1e-3


@pytest.mark.parametrize(
    "request_",
    [
        WorkflowRequest({"image": PICTURE.to_json(), "limit": 5}, {"steps": []}, api_key="key"),
        WorkflowRequest({"image": []}, {"steps": []}, excluded_fields=("a",), use_cache=False, enable_profiling=True),
    ],
)
def test_a_workflow_with_its_text_comes_back(request_: WorkflowRequest) -> None:
    assert request_.path == "/workflows/run"
    assert parse_workflow_request(wire(request_.to_json())) == request_


def test_a_workflow_by_its_place_comes_back() -> None:
    request = WorkflowRequest({"image": 1}, None, "ws", "gate", "3")
    assert request.path == "/ws/workflows/gate"
    assert parse_workflow_request(wire(request.to_json()), workspace="ws", workflow_id="gate") == request


def test_outputs_of_a_workflow_come_back() -> None:
    found = detections((8, 4, 16, 12), names=("cat",))
    classes = Classification(np.array([0.25, 0.75], np.float32), ("a", "b"))
    output = {
        "found": encode_workflow_prediction(found, SIZE),
        "classes": encode_workflow_prediction(classes, SIZE),
        "count": 3,
        "drawn": encode_workflow_image(b"jpeg"),
    }
    (back,) = parse_workflow_answer(wire(encode_workflow_answer([output], [{"name": "a"}])), 1)
    read = decode_workflow_output(find_output(back, "found"), SIZE)
    assert isinstance(read, Detections)
    assert read.xyxy.tolist() == found.xyxy.tolist()
    assert isinstance(decode_workflow_output(find_output(back, "classes"), SIZE), Classification)
    said = decode_workflow_output(find_output(back, "count"), SIZE)
    assert isinstance(said, Text)
    assert said.text == "3"
    with pytest.raises(ValueError, match=r"which output .* must be said: it has 'classes', 'found'"):
        find_output(back, None)
    with pytest.raises(ValueError, match="no predictions, where object-detection belongs"):
        decode_workflow_output(3, SIZE, task="object-detection")
    with pytest.raises(ValueError, match="answers for 1 pictures, not for 2"):
        parse_workflow_answer(encode_workflow_answer([output]), 2)


def test_an_empty_answer_of_the_real_workflow_engine_has_no_size() -> None:
    read = decode_workflow_output({"image": {"width": None, "height": None}, "predictions": []}, SIZE)
    assert len(read) == 0  # type: ignore[arg-type]


def test_masks_of_the_workflow_engine_have_a_key_of_their_own() -> None:
    item = {"x": 2, "y": 2, "width": 4, "height": 4, "confidence": 1, "class": "a", "class_id": 0}
    item |= {"rle_mask": {"size": [48, 64], "counts": [0, 48, 48 * 63]}}
    read = decode_workflow_output({"predictions": [item]}, SIZE)
    assert isinstance(read, Detections)
    assert read.masks is not None
    assert read.masks[0].sum() == 48


def test_an_error_of_a_workflow_has_all_the_keys_that_clients_look_for() -> None:
    body = encode_workflow_error("no", "WorkflowDefinitionError", context="workflow_compilation")
    assert set(body) == {
        *("message", "error_type", "context", "inner_error_type", "inner_error_message", "blocks_errors"),
    }


def test_an_order_for_a_pipeline_comes_back() -> None:
    order = InitialisePipeline(
        ("rtsp://a/b", 0),
        max_fps=5.0,
        filling="DROP_OLDEST",
        consumption="EAGER",
        specification={"steps": []},
        parameters={"limit": 5},
        buffer_results=7,
        api_key="key",
    )
    assert parse_initialise(wire(order.to_json())) == order
    one = InitialisePipeline(("a.mp4",), workspace="ws", workflow_id="gate", filling="WAIT", consumption="LAZY")
    assert parse_initialise(wire(one.to_json())) == one


def test_answers_of_the_stream_manager_come_back() -> None:
    assert parse_pipelines(wire(encode_pipeline_answer("r", None, pipelines=["a", "b"]))) == ["a", "b"]
    source = PipelineSource(0, "rtsp://a", "RUNNING", 640, 480, 25.0)
    report = encode_report([source], throughput_fps=12.5, latencies_s=[(0, 0.01, 0.02, 0.03)])
    answer = parse_pipeline_answer(wire(encode_pipeline_answer("r", "a", report=report)))
    assert answer["context"] == {"request_id": "r", "pipeline_id": "a"}
    assert answer["report"]["latency_reports"][0]["e2e_latency"] == 0.03
    assert answer["report"]["sources_metadata"][0]["source_properties"]["fps"] == 25.0
    with pytest.raises(ValueError, match="did not succeed"):
        parse_pipeline_answer({"status": "failure"})
