"""Roboflow workflows: what is run, how crops are followed, which faults are named; and the query language."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import FakeAsking, detector, found, model, picture_file, serve_dialects
from PIL import Image
from serving import Ask

from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Classification
from pipeline.server.inference._roboflow_operations import Found, QueryError
from pipeline.server.inference._roboflow_query import apply
from pipeline.server.inference.roboflow import dialect
from pipeline.server.inference.service import InferenceLimits

IMAGE = {"type": "base64", "value": base64.b64encode(picture_file()).decode()}
SMALL = {"type": "base64", "value": base64.b64encode(picture_file(130, 130)).decode()}
MODEL = {
    "type": "roboflow_core/roboflow_object_detection_model@v1",
    "name": "model",
    "images": "$inputs.image",
    "model_id": "det/1",
}
CROP = {"type": "DynamicCrop", "name": "crop", "image": "$inputs.image", "detections": "$steps.model.predictions"}
COUNT = {
    "type": "roboflow_core/property_definition@v1",
    "name": "count",
    "data": "$steps.model.predictions",
    "operations": [{"type": "SequenceLength"}],
}


def workflow(*steps: Mapping[str, Any], outputs: Mapping[str, str], **changes: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "inputs": [{"type": "WorkflowImage", "name": "image"}],
        "steps": [dict(step) for step in steps],
        "outputs": [{"type": "JsonField", "name": name, "selector": selector} for name, selector in outputs.items()],
        **changes,
    }


def filter_of(comparator: str, property_name: str, right: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "type": "DetectionsFilter",
        "filter_operation": {
            "type": "StatementGroup",
            "operator": "and",
            "statements": [
                {
                    "type": "BinaryStatement",
                    "left_operand": {
                        "type": "DynamicOperand",
                        "operand_name": "_",
                        "operations": [{"type": "ExtractDetectionProperty", "property_name": property_name}],
                    },
                    "comparator": {"type": comparator},
                    "right_operand": right,
                    **changes,
                }
            ],
        },
    }


def static(value: Any) -> dict[str, Any]:
    return {"type": "StaticOperand", "value": value}


def asking() -> FakeAsking:
    return FakeAsking(detector("boxes", "det/1"), model("tags", "classification", "cls/1"))


def run(specification: Any, inputs: Any = None, models: FakeAsking | None = None, **body: Any) -> Any:
    answers = []

    async def test(ask: Ask) -> None:
        whole = {"api_key": "K", "specification": specification, "inputs": inputs or {"image": IMAGE}, **body}
        answers.append(await ask("POST", "/workflows/run", json=whole))

    serve_dialects(models or asking(), {"": dialect}, test)
    return answers[0]


def outputs(specification: Any, inputs: Any = None, **options: Any) -> list[dict[str, Any]]:
    answer = run(specification, inputs, **options)
    assert answer.status == 200, answer.text
    found: list[dict[str, Any]] = answer.body["outputs"]
    return found


def opened(image: Mapping[str, Any]) -> Image.Image:
    assert image["type"] == "base64"
    return Image.open(io.BytesIO(base64.b64decode(image["value"])))


# What runs


def test_a_model_and_a_count_about_every_picture_of_a_batch() -> None:
    steps = workflow(COUNT, MODEL, outputs={"said": "$steps.model.predictions", "count": "$steps.count.output"})
    first, second = outputs(steps, {"image": [IMAGE, SMALL]})
    assert (first["count"], second["count"]) == (2, 2)
    assert first["said"]["image"] == {"width": 320, "height": 240}
    assert second["said"]["image"] == {"width": 130, "height": 130}
    person = first["said"]["predictions"][0]
    assert (person["x"], person["class"], person["parent_id"]) == (60.0, "person", "image.[0]")


def test_all_pictures_of_a_batch_are_one_question_with_the_steps_wishes() -> None:
    models = asking()
    step = {**MODEL, "confidence": "$inputs.least", "class_filter": ["bus"], "max_detections": 5, "iou_threshold": 0.5}
    inputs = [{"type": "WorkflowImage", "name": "image"}, {"type": "WorkflowParameter", "name": "least"}]
    steps = workflow(step, outputs={"said": "$steps.model.*"}, inputs=inputs)
    (first, _) = outputs(steps, {"image": [IMAGE, IMAGE], "least": 0.25}, models=models)
    assert set(first["said"]) == {"predictions", "inference_id", "model_id"}
    (asked,) = models.asked
    assert len(asked.pictures) == 2
    assert asked.wishes == Wishes(confidence=0.25, classes=("bus",), max_detections=5, iou_threshold=0.5)


def test_crops_are_cut_out_and_asked_about() -> None:
    models = asking()
    tags = {"type": "ClassificationModel", "name": "tags", "image": "$steps.crop.crops", "model_id": "cls/1"}
    steps = workflow(MODEL, CROP, tags, outputs={"crops": "$steps.crop.crops", "tags": "$steps.tags.predictions"})
    (answer,) = outputs(steps, models=models)
    assert [opened(crop).size for crop in answer["crops"]] == [(100, 100), (60, 40)]
    assert [tag["top"] for tag in answer["tags"]] == ["bus", "bus"]
    assert [len(asked.pictures) for asked in models.asked] == [1, 2]
    pixels = np.asarray(opened(answer["crops"][0]))[50]
    assert pixels[90].mean() > pixels[10].mean(), "it is not the left part of the picture"


def test_many_crops_are_asked_about_in_bunches() -> None:
    models = asking()
    many = found(
        xyxy=np.tile(np.array([[10, 10, 40, 40]], np.float32), (40, 1)),
        confidence=np.full(40, 0.9, np.float32),
        class_id=np.zeros(40, np.int32),
    )
    models.answers["boxes"] = lambda _, __: many
    tags = {"type": "ClassificationModel", "name": "tags", "image": "$steps.crop.crops", "model_id": "cls/1"}
    (answer,) = outputs(workflow(MODEL, CROP, tags, outputs={"tags": "$steps.tags.predictions"}), models=models)
    assert len(answer["tags"]) == 40
    assert [len(asked.pictures) for asked in models.asked] == [1, 16, 16, 8]


def test_what_is_found_in_a_crop_is_told_where_it_is_in_the_picture() -> None:
    again = {**MODEL, "name": "again", "images": "$steps.crop.crops"}
    both = workflow(MODEL, CROP, again, outputs={})
    both["outputs"] = [
        {"type": "JsonField", "name": system, "selector": "$steps.again.predictions", "coordinates_system": system}
        for system in ("own", "parent")
    ]
    (answer,) = outputs(both)
    own, parent = answer["own"][0], answer["parent"][0]
    assert (own["image"], parent["image"]) == ({"width": 100, "height": 100}, {"width": 320, "height": 240})
    assert (own["predictions"][0]["x"], own["predictions"][0]["y"]) == (60, 70)
    assert (parent["predictions"][0]["x"], parent["predictions"][0]["y"]) == (70, 90)


def test_masks_and_keypoints_move_with_their_crop() -> None:
    for task, block in (
        ("instance-segmentation", "instance_segmentation"),
        ("keypoint-detection", "keypoint_detection"),
    ):
        step = {**MODEL, "type": f"roboflow_core/roboflow_{block}_model@v1", "model_id": "m"}
        both = workflow(step, CROP, outputs={})
        both["outputs"] = [
            {"type": "JsonField", "name": system, "selector": "$steps.crop.predictions", "coordinates_system": system}
            for system in ("own", "parent")
        ]
        (answer,) = outputs(both, models=FakeAsking(model("m", task)))  # type: ignore[arg-type]
        own, parent = (answer[system][0]["predictions"][0] for system in ("own", "parent"))
        assert (own["x"], own["y"], parent["x"], parent["y"]) == (50, 50, 60, 70)
        points = "points" if task == "instance-segmentation" else "keypoints"
        moved = [parent[points][0][axis] - own[points][0][axis] for axis in "xy"]
        assert moved == [pytest.approx(10, abs=1), pytest.approx(20, abs=1)]


def test_boxes_and_names_are_drawn_on_a_copy() -> None:
    draw = {
        "type": "roboflow_core/bounding_box_visualization@v1",
        "name": "draw",
        "image": "$inputs.image",
        "predictions": "$steps.model.predictions",
        "thickness": 3,
    }
    label = {**draw, "type": "roboflow_core/label_visualization@v1", "name": "label", "image": "$steps.draw.image"}
    del label["thickness"]
    steps = workflow(
        MODEL,
        draw,
        label,
        outputs={"drawn": "$steps.label.image", "plain": "$inputs.image", "boxes": "$steps.draw.image"},
    )
    (answer,) = outputs(steps)
    drawn, plain, boxes = (np.asarray(opened(answer[name])).astype(int) for name in ("drawn", "plain", "boxes"))
    assert np.abs(drawn - plain)[21, 30:100].max(axis=1).min() > 40
    assert np.abs(drawn - boxes)[8:18, 12:40].max() > 100, "no name above the person"
    assert np.abs(boxes - plain)[8:16, 12:40].max() < 30


@pytest.mark.parametrize(
    ("operation", "kept"),
    [
        (filter_of("(Number) >=", "confidence", static(0.8)), ["person"]),
        (filter_of("(Number) >=", "confidence", static(0.8), negate=True), ["bus"]),
        (filter_of("in (Sequence)", "class_name", static(["bus", "dog"])), ["bus"]),
        (filter_of("in (Sequence)", "class_name", {"type": "DynamicOperand", "operand_name": "wanted"}), ["person"]),
        (filter_of("(String) contains", "class_name", static("s")), ["person", "bus"]),
        (filter_of("(Number) <", "size", static(5000)), ["bus"]),
        (filter_of("==", "class_id", static(7)), []),
    ],
)
def test_a_filter_keeps_what_its_statements_hold_for(operation: Any, kept: list[str]) -> None:
    step = {
        "type": "roboflow_core/detections_filter@v1",
        "name": "filter",
        "predictions": "$steps.model.predictions",
        "operations": [operation],
        "operations_parameters": {"wanted": "$inputs.wanted"},
    }
    inputs = [
        {"type": "WorkflowImage", "name": "image"},
        {"type": "WorkflowParameter", "name": "wanted", "default_value": ["person"]},
    ]
    (answer,) = outputs(workflow(MODEL, step, outputs={"kept": "$steps.filter.predictions"}, inputs=inputs))
    assert [item["class"] for item in answer["kept"]["predictions"]] == kept


def test_nothing_found_is_an_empty_answer() -> None:
    models = asking()
    nothing = found(
        xyxy=np.zeros((0, 4), np.float32), confidence=np.zeros(0, np.float32), class_id=np.zeros(0, np.int32)
    )
    models.answers["boxes"] = lambda _, __: nothing
    tags = {"type": "ClassificationModel", "name": "tags", "images": "$steps.crop.crops", "model_id": "cls/1"}
    steps = workflow(
        MODEL, CROP, tags, COUNT, outputs={"tags": "$steps.tags.predictions", "count": "$steps.count.output"}
    )
    assert outputs(steps, models=models) == [{"tags": [], "count": 0}]


def test_outputs_that_nobody_wants_are_left_out_and_profiling_tells_of_every_step() -> None:
    steps = workflow(MODEL, COUNT, outputs={"said": "$steps.model.predictions", "count": "$steps.count.output"})
    answer = run(steps, excluded_fields=["said"], enable_profiling=True)
    assert answer.body["outputs"] == [{"count": 2}]
    assert [event["name"] for event in answer.body["profiler_trace"]] == ["model", "count"]
    assert run(steps).body["profiler_trace"] == []


# By name


def test_stored_workflows_and_models_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    counting = workflow(MODEL, COUNT, outputs={"count": "$steps.count.output"})
    (tmp_path / "shop" / "count.json").write_text(json.dumps({"specification": counting}))
    (tmp_path / "shop" / "broken.json").write_text("{")
    (tmp_path / "secret.json").write_text(json.dumps(counting))
    (tmp_path / "shop" / "inner").mkdir()
    (tmp_path / "shop" / "inner" / "hidden.json").write_text(json.dumps(counting))

    async def test(ask: Ask) -> None:
        async def post(path: str) -> Any:
            return await ask("POST", path, json={"inputs": {"image": IMAGE}})

        for path in ("/shop/workflows/count", "/infer/workflows/shop/count"):
            answer = await post(path)
            assert answer.body["outputs"] == [{"count": 2}]
            assert answer.headers["X-Workflow-Id"] == "count"
        assert (await post("/any/workflows/boxes")).body["outputs"][0]["predictions"]["predictions"]
        for path in (
            "/shop/workflows/none",
            "/..%2f/workflows/secret",
            "/shop/workflows/..%2f..%2fsecret",
            "/shop/workflows/inner%2fhidden",
        ):
            answer = await post(path)
            assert answer.status == 404, path
        assert (await post("/shop/workflows/broken")).status == 500
        told = await ask("POST", "/shop/workflows/count/describe_interface", json={})
        assert list(told.body["inputs"]) == ["image"]

    serve_dialects(asking(), {"": lambda service: dialect(service, workflows=tmp_path)}, test)


def test_a_workflow_is_described_and_checked_without_being_run() -> None:
    models = asking()
    steps = workflow(MODEL, outputs={"said": "$steps.model.predictions"})

    async def test(ask: Ask) -> None:
        assert (await ask("POST", "/workflows/validate", json={"specification": steps})).body == {"status": "ok"}
        assert (await ask("POST", "/workflows/validate", json={"specification": {}})).status == 400
        told = await ask("POST", "/workflows/describe_interface", json={"specification": steps})
        assert told.body["outputs"] == {"said": ["*"]}
        for method in ("GET", "POST"):
            blocks = (await ask(method, "/workflows/blocks/describe")).body["blocks"]
            assert "roboflow_core/dynamic_crop@v1" in [block["manifest_type_identifier"] for block in blocks]
        assert (await ask("GET", "/workflows/execution_engine/versions")).body["versions"]

    serve_dialects(models, {"": dialect}, test)
    assert models.asked == []


# Faults


def test_an_unknown_step_is_named_as_roboflow_does() -> None:
    odd = {"type": "roboflow_core/stitch_images@v1", "name": "odd"}
    answer = run(workflow(MODEL, odd, outputs={"said": "$steps.model.predictions"}))
    assert answer.status == 400
    assert answer.body["error_type"] == "WorkflowSyntaxError"
    assert answer.body["context"] == "workflow_compilation | workflow_definition_parsing"
    assert {"message", "inner_error_type", "inner_error_message"} <= set(answer.body)
    (blame,) = answer.body["blocks_errors"]
    assert (blame["block_id"], blame["block_type"]) == ("odd", "roboflow_core/stitch_images@v1")


def chain(length: int) -> list[dict[str, Any]]:
    return [{**MODEL, "name": f"m{index}"} for index in range(length)]


SAID = {"said": "$steps.model.predictions"}
WRONG: list[tuple[str, Any, str]] = [
    ("list", [], "422"),
    ("empty", {}, "WorkflowSyntaxError"),
    ("version", workflow(MODEL, outputs=SAID, version="2.0"), "WorkflowSyntaxError"),
    ("steps", workflow(MODEL, outputs=SAID, steps="x"), "WorkflowSyntaxError"),
    ("too many", workflow(MODEL, outputs=SAID, steps=chain(200)), "WorkflowSyntaxError"),
    ("twice", workflow(MODEL, MODEL, outputs=SAID), "WorkflowSyntaxError"),
    ("nameless", workflow({"type": MODEL["type"]}, outputs=SAID), "WorkflowSyntaxError"),
    ("dotted", workflow({**MODEL, "name": "a.b"}, outputs=SAID), "WorkflowSyntaxError"),
    ("fields", workflow({"type": MODEL["type"], "name": "model"}, outputs=SAID), "WorkflowSyntaxError"),
    ("typeless", workflow({**MODEL, "type": 5}, outputs=SAID), "WorkflowSyntaxError"),
    ("input", workflow(MODEL, outputs=SAID, inputs=[{"type": "Tensor", "name": "x"}]), "WorkflowSyntaxError"),
    ("output", workflow(MODEL, outputs={"said": "predictions"}), "WorkflowSyntaxError"),
    ("reference", workflow(MODEL, outputs={"said": "$steps.none.predictions"}), "InvalidReferenceTargetError"),
    ("no such output", workflow(MODEL, outputs={"said": "$steps.model.masks"}), "InvalidReferenceTargetError"),
    ("no such input", workflow({**MODEL, "images": "$inputs.x"}, outputs=SAID), "InvalidReferenceTargetError"),
    (
        "circle",
        workflow(
            {**CROP, "name": "a", "image": "$steps.b.crops"},
            {**CROP, "name": "b", "image": "$steps.a.crops"},
            MODEL,
            outputs=SAID,
        ),
        "ExecutionGraphStructureError",
    ),
    ("confidence", workflow({**MODEL, "confidence": "high"}, outputs=SAID), "RuntimeInputError"),
    ("classes", workflow({**MODEL, "class_filter": [1]}, outputs=SAID), "RuntimeInputError"),
    ("most", workflow({**MODEL, "max_detections": -1}, outputs=SAID), "RuntimeInputError"),
    ("unknown model", workflow({**MODEL, "model_id": "no/1"}, outputs=SAID), "ClientCausedStepExecutionError"),
    ("model is a list", workflow({**MODEL, "model_id": ["a"]}, outputs=SAID), "RuntimeInputError"),
    (
        "image is a count",
        workflow(MODEL, {**CROP, "image": "$steps.model.inference_id"}, outputs=SAID),
        "RuntimeInputError",
    ),
    ("operation", workflow(MODEL, {**COUNT, "operations": [{"type": "Guess"}]}, outputs=SAID), "StepExecutionError"),
]


@pytest.mark.parametrize(
    ("specification", "kind"), [(spec, kind) for _, spec, kind in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_wrong_definition_is_named(specification: Any, kind: str) -> None:
    answer = run(specification)
    if kind == "422":
        assert answer.status == 422
        return
    assert answer.status == (404 if kind == "ClientCausedStepExecutionError" else 400), answer.text
    assert answer.body["error_type"] == kind
    assert len(answer.body["message"]) < 500


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        ({"picture": IMAGE}, "RuntimeInputError"),
        ({"image": []}, "RuntimeInputError"),
        ({"image": "text"}, "RuntimeInputError"),
        ({"image": {"type": "base64"}}, "RuntimeInputError"),
        ({"image": [[[[[[IMAGE]]]]]]}, None),
        ({"image": {"type": "numpy", "value": "gAS="}}, None),
        ({"image": {"type": "base64", "value": "bm9uZQ=="}}, None),
    ],
)
def test_wrong_inputs_are_named(inputs: Any, kind: str | None) -> None:
    answer = run(workflow(MODEL, outputs=SAID), inputs)
    assert answer.status == 400
    assert answer.body.get("error_type") == kind
    assert answer.body["message"]


def test_too_many_pictures_are_refused_before_they_are_decoded() -> None:
    async def test(ask: Ask) -> None:
        body = {"specification": workflow(MODEL, outputs=SAID), "inputs": {"image": [IMAGE] * 5}}
        assert (await ask("POST", "/workflows/run", json=body)).status == 413

    serve_dialects(asking(), {"": dialect}, test, limits=InferenceLimits(timeout_s=10, max_pictures=4))


def test_steps_cannot_make_pictures_without_end() -> None:
    models = asking()
    many = 60
    whole = found(
        xyxy=np.tile(np.array([[0, 0, 2000, 1000]], np.float32), (many, 1)),
        confidence=np.full(many, 0.9, np.float32),
        class_id=np.zeros(many, np.int32),
    )
    models.answers["boxes"] = lambda _, __: whole
    large = {"type": "base64", "value": base64.b64encode(picture_file(2000, 1000)).decode()}
    answer = run(workflow(MODEL, CROP, outputs={"crops": "$steps.crop.crops"}), {"image": large}, models)
    assert answer.status == 413


def test_a_parameter_that_is_nested_deep_is_no_bug() -> None:
    inputs = [{"type": "WorkflowImage", "name": "image"}, {"type": "WorkflowParameter", "name": "deep"}]
    steps = workflow(MODEL, outputs={"deep": "$inputs.deep"}, inputs=inputs)
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    answer = run(steps, {"image": IMAGE, "deep": deep})
    assert answer.status in (200, 400), answer.text


def test_a_workspace_is_any_text_and_never_a_header() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/a%0d%0aX-Evil:%201/workflows/boxes", json={"inputs": {"image": IMAGE}})
        assert answer.status == 200
        assert "X-Evil" not in answer.headers

    serve_dialects(asking(), {"": dialect}, test)


# The query language by itself


def people() -> Found:
    return Found(found(), ("a", "b"), Size(320, 240), "i", (0, 0), Size(320, 240), "image")


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([{"type": "DetectionsPropertyExtract", "property_name": "class_name"}], ["person", "bus"]),
        ([{"type": "DetectionsPropertyExtract", "property_name": "count"}], 2),
        ([{"type": "DetectionsPropertyExtract", "property_name": "center"}], [[60, 70], [60.5, 60.5]]),
        (
            [{"type": "DetectionsPropertyExtract", "property_name": "class_name"}, {"type": "SequenceElementsCount"}],
            {"person": 1, "bus": 1},
        ),
        (
            [
                {"type": "DetectionsPropertyExtract", "property_name": "confidence"},
                {"type": "NumericSequenceAggregate", "function": "max"},
            ],
            0.875,
        ),
        (
            [
                {"type": "SortDetections", "mode": "confidence", "ascending": True},
                {"type": "DetectionsSelection", "mode": "first"},
                {"type": "DetectionsPropertyExtract", "property_name": "detection_id"},
            ],
            ["b"],
        ),
        ([{"type": "SequenceLength"}, {"type": "ToString"}], "2"),
        ([{"type": "SequenceLength"}, {"type": "Divide", "other": 4}], 0.5),
    ],
)
def test_operations(operations: Any, expected: Any) -> None:
    assert apply(people(), operations, {}) == expected


def test_the_top_class_is_taken_from_a_classification() -> None:
    said = Classification(np.array([0.25, 0.75], np.float32), ("a", "b"))
    value = Found(said, (), Size(1, 1), "i", (0, 0), Size(1, 1), "image")
    assert apply(value, [{"type": "ClassificationPropertyExtract", "property_name": "top_class"}], {}) == "b"


NESTED: Any = {"type": "StatementGroup", "statements": []}
for _ in range(500):
    NESTED = {"type": "StatementGroup", "statements": [NESTED]}


@pytest.mark.parametrize(
    "operations",
    [
        None,
        "x",
        [1],
        [{}],
        [{"type": 5}],
        [{"type": "Unheard"}],
        [{"type": "SequenceLength"}] * 100,
        [{"type": "ToNumber"}],
        [{"type": "SequenceLength"}, {"type": "Divide", "other": 0}],
        [{"type": "SequenceLength"}, {"type": "SequenceLength"}],
        [{"type": "DetectionsPropertyExtract", "property_name": "shoe size"}],
        [{"type": "DetectionsPropertyExtract", "property_name": ["x"]}],
        [{"type": "DetectionsSelection", "mode": "all"}],
        [{"type": "SortDetections", "mode": {}}],
        [{"type": "DetectionsFilter"}],
        [{"type": "DetectionsFilter", "filter_operation": NESTED}],
        [filter_of("(Number) >=", "class_name", static(1))],
        [filter_of("(Number) about", "confidence", static(1))],
        [filter_of("==", "confidence", {"type": "DynamicOperand", "operand_name": "nobody"})],
        [filter_of("in (Sequence)", "class_name", static(5))],
        [filter_of("in (Sequence)", "class_name", static(["x"] * 10_000))],
        [{"type": "ToString"}],
    ],
)
def test_operations_that_make_no_sense_are_told_in_one_line(operations: Any) -> None:
    with pytest.raises(QueryError) as told:
        apply(people(), operations, {})
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500
