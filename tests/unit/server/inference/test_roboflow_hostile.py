"""Whatever a stranger sends to a Roboflow route is answered, and never with a fault of our own."""

import base64
import copy
import random
from collections.abc import Iterator
from typing import Any

from asking import FakeAsking, detector, model, picture_file, serve_dialects
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Ask, FakeControl

from pipeline.contracts.backend import ModelInfo
from pipeline.runtime.tapping import ResultBuffer
from pipeline.server.inference.roboflow import dialect
from pipeline.server.inference.streams import Streams

IMAGE = {"type": "base64", "value": base64.b64encode(picture_file(40, 30)).decode()}
WORKFLOW = {
    "version": "1.0",
    "inputs": [
        {"type": "WorkflowImage", "name": "image"},
        {"type": "WorkflowParameter", "name": "p", "default_value": 1},
    ],
    "steps": [
        {
            "type": "ObjectDetectionModel",
            "name": "model",
            "image": "$inputs.image",
            "model_id": "det/1",
            "confidence": 0.1,
        },
        {"type": "Crop", "name": "crop", "image": "$inputs.image", "predictions": "$steps.model.predictions"},
        {
            "type": "DetectionsFilter",
            "name": "filter",
            "predictions": "$steps.model.predictions",
            "operations_parameters": {"least": "$inputs.p"},
            "operations": [
                {
                    "type": "DetectionsFilter",
                    "filter_operation": {
                        "type": "StatementGroup",
                        "statements": [
                            {
                                "type": "BinaryStatement",
                                "comparator": {"type": "(Number) <"},
                                "left_operand": {
                                    "type": "DynamicOperand",
                                    "operations": [{"type": "ExtractDetectionProperty", "property_name": "confidence"}],
                                },
                                "right_operand": {"type": "DynamicOperand", "operand_name": "least"},
                            }
                        ],
                    },
                }
            ],
        },
        {
            "type": "LabelVisualization",
            "name": "draw",
            "image": "$inputs.image",
            "predictions": "$steps.filter.predictions",
            "text": "Class",
        },
        {
            "type": "PropertyDefinition",
            "name": "count",
            "data": "$steps.filter.predictions",
            "operations": [{"type": "SequenceLength"}, {"type": "Divide", "other": 3}],
        },
    ],
    "outputs": [
        {"type": "JsonField", "name": "all", "selector": "$steps.count.output"},
        {"type": "JsonField", "name": "image", "selector": "$steps.draw.image"},
        {"type": "JsonField", "name": "crops", "selector": "$steps.crop.*"},
    ],
}
INFER = {
    "model_id": "det/1",
    "image": [IMAGE, IMAGE],
    "confidence": 0.5,
    "iou_threshold": 0.4,
    "max_detections": 5,
    "class_filter": ["bus"],
    "visualize_predictions": True,
    "visualization_stroke_width": 2,
    "response_mask_format": "rle",
}
VALID: dict[str, Any] = {
    "/infer/object_detection": INFER,
    "/infer/instance_segmentation": {**INFER, "model_id": "seg/1"},
    "/infer/classification": {**INFER, "model_id": "cls/1"},
    "/infer/embeddings": {"model_id": "clip", "image": IMAGE},
    "/infer/lmm": {"model_id": "reader", "image": IMAGE},
    "/llm/cogvlm": {"image": IMAGE, "prompt": "what?", "history": [["a", "b"]]},
    "/model/add": {"model_id": "det/1"},
    "/clip/embed_image": {"image": [IMAGE]},
    "/clip/embed_text": {"text": ["a", "b"]},
    "/clip/compare": {"subject": IMAGE, "subject_type": "image", "prompt": {"a": "b"}, "prompt_type": "text"},
    "/doctr/ocr": {"image": IMAGE, "doctr_version_id": "x"},
    "/workflows/run": {"specification": WORKFLOW, "inputs": {"image": [IMAGE], "p": 0.7}, "excluded_fields": ["x"]},
    "/workflows/describe_interface": {"specification": WORKFLOW},
    "/any/workflows/boxes": {"inputs": {"image": IMAGE}},
    "/inference_pipelines/initialise": {
        "video_configuration": {"video_reference": "rtsp://h/a", "max_fps": 3},
        "processing_configuration": {
            "workflow_specification": {
                **WORKFLOW,
                "steps": WORKFLOW["steps"][:1],
                "outputs": [{"type": "JsonField", "name": "a", "selector": "$steps.model.*"}],
            },
            "image_input_name": "image",
            "workflows_parameters": {},
        },
        "sink_configuration": {"results_buffer_size": 3},
    },
    "/inference_pipelines/gate/consume": {"excluded_fields": ["x"]},
}
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.sampled_from(
        ["$inputs.image", "$steps.model.predictions", "$inputs.", "$steps.x", "det/1", "base64", "url", IMAGE]
    ),
)
JUNK = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something could stand in place of what is there."""
    yield path
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield from places(value, (*path, key))


def spoiled(document: Any, junk: Any, chance: random.Random) -> Any:
    """The document with junk somewhere, or something missing."""
    whole = copy.deepcopy({"root": document})
    place = ("root", *chance.choice(list(places(document))))
    inner: Any = whole
    for key in place[:-1]:
        inner = inner[key]
    if chance.random() < 0.2 and len(place) > 1:
        del inner[place[-1]]
    else:
        inner[place[-1]] = junk
    return whole["root"]


class Taps:
    def tap(self, source: str, *, size: int, pictures: bool) -> ResultBuffer | None:
        return ResultBuffer(size, pictures=pictures)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(junk=st.lists(JUNK, min_size=len(VALID), max_size=len(VALID)), chance=st.randoms(use_true_random=False))
def test_a_spoiled_body_is_refused_or_answered(junk: list[Any], chance: random.Random) -> None:
    bodies = {path: spoiled(body, one, chance) for (path, body), one in zip(VALID.items(), junk, strict=True)}

    async def test(ask: Ask) -> None:
        for path, body in bodies.items():
            method = "GET" if path.endswith("consume") else "POST"
            answer = await ask(method, path, json=body)
            assert answer.status in (200, 400, 404, 413, 422, 429, 501), (
                f"{path} {body} {answer.status} {answer.text[:500]}"
            )
            assert answer.body, path

    run(test)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    query=st.dictionaries(
        st.sampled_from(
            [
                *("confidence", "overlap", "format", "labels", "stroke", "max_detections", "tradeoff_factor"),
                *("class_filter", "image_type", "mask_decode_mode", "keypoint_confidence", "response_mask_format"),
                *("api_key", "x"),
            ]
        ),
        st.one_of(st.text(max_size=10), st.sampled_from(["nan", "inf", "-1", "1e400", "0", "True", "image", "٣"])),
    ),
    body=st.one_of(st.binary(max_size=50), st.just(IMAGE["value"].encode())),
)
def test_any_query_and_body_of_the_legacy_route_are_refused_or_answered(query: dict[str, str], body: bytes) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/det/1", params=query, data=body, headers={"Content-Type": "application/json"})
        assert answer.status in (200, 400, 413, 422), f"{query} {answer.status} {answer.text[:500]}"

    run(test)


def test_what_is_valid_is_answered() -> None:
    async def test(ask: Ask) -> None:
        for path, body in VALID.items():
            answer = await ask("GET" if path.endswith("consume") else "POST", path, json=body)
            assert answer.status == 200, f"{path}: {answer.text[:300]}"

    run(test)


def run(test: Any) -> None:
    asking = FakeAsking(
        detector("boxes", "det/1"),
        model("cut", "instance-segmentation", "seg/1"),
        model("tags", "classification", "cls/1"),
        model("clip", "embedding"),
        model("reader", "text", "doctr"),
        model("chat", "text", "cogvlm", info=ModelInfo("text", texts="question")),
        detector("local"),
    )
    control = FakeControl()
    streams = Streams(control, control.status, Taps(), sources_by_api=True)
    serve_dialects(asking, {"": lambda service: dialect(service, streams)}, test)
