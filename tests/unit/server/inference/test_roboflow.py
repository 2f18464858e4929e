"""The Roboflow dialect on the real server: registry, `/infer/...`, the legacy route and its many bodies, errors."""

import base64
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from asking import FakeAsking, detector, found, model, picture_file, serve_dialects
from jsonschema import Draft202012Validator
from PIL import Image
from serving import Ask

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Wishes
from pipeline.runtime.asking import AskError
from pipeline.server.access import Access, Token
from pipeline.server.inference.roboflow import dialect
from pipeline.server.inference.service import InferenceLimits

Test = Callable[[Ask], Awaitable[None]]

FILE = picture_file()
BASE64 = base64.b64encode(FILE).decode()
IMAGE = {"type": "base64", "value": BASE64}
JSON = {"Content-Type": "application/json"}
PERSON = {"x": 60.0, "y": 70.0, "width": 100.0, "height": 100.0, "confidence": 0.875, "class": "person", "class_id": 0}


def run(test: Test, asking: FakeAsking | None = None, **options: Any) -> FakeAsking:
    asking = asking or FakeAsking(detector("local", "coco/9"))
    serve_dialects(asking, {"": dialect}, test, **options)
    return asking


@pytest.fixture(scope="session")
def roboflow_schemas(shared_data: Path) -> Any:
    """The schemas of the vendor's own OpenAPI document, which stands in a line of the reference."""
    text = (shared_data.parent / "reference" / "roboflow_serverless_openapi.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith('{"openapi"'))
    return json.loads(line)["components"]


def infer(**changes: Any) -> dict[str, Any]:
    return {"api_key": "K", "model_id": "coco/9", "image": IMAGE, **changes}


def without_id(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "detection_id"}


# /infer


def test_one_picture_is_answered_with_one_object() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/infer/object_detection", json=infer())
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Model-Id"] == "coco/9"
        assert answer.headers["x-request-id"]
        assert float(answer.headers["x-processing-time"]) >= 0
        assert answer.body["image"] == {"width": 320, "height": 240}
        assert answer.body["time"] == 0.0125
        first, second = answer.body["predictions"]
        assert without_id(first) == PERSON
        assert first["detection_id"] != second["detection_id"]
        assert "visualization" not in answer.body

    asking = run(test)
    assert asking.asked[0].wishes == Wishes()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_array_of_pictures_is_answered_with_an_array_in_their_order(count: int) -> None:
    files = [base64.b64encode(picture_file(100 + 10 * n, 50)).decode() for n in range(count)]

    async def test(ask: Ask) -> None:
        images = [{"type": "base64", "value": file} for file in files]
        answer = await ask("POST", "/infer/object_detection", json=infer(image=images))
        assert [item["image"]["width"] for item in answer.body] == [100 + 10 * n for n in range(count)]
        assert len({item["inference_id"] for item in answer.body}) == 1

    assert len(run(test).asked[0].pictures) == count


def test_what_is_asked_of_the_model_reaches_it() -> None:
    async def test(ask: Ask) -> None:
        body = infer(
            confidence=0.5,
            iou_threshold=0.6,
            max_detections=7,
            class_agnostic_nms=True,
            class_filter=["bus"],
            max_candidates=10,
            disable_preproc_auto_orient=True,
            active_learning_target_dataset="x",
            source="y",
            unheard_of=1,
        )
        assert (
            await ask("POST", "/infer/object_detection?countinference=False&service_secret=s", json=body)
        ).status == 200

    (asked,) = run(test).asked
    assert asked.wishes == Wishes(
        confidence=0.5, iou_threshold=0.6, max_detections=7, class_agnostic_nms=True, classes=("bus",)
    )


SHAPES: list[tuple[Task, str, str]] = [
    ("object-detection", "/infer/object_detection", "ObjectDetectionInferenceResponse"),
    ("instance-segmentation", "/infer/instance_segmentation", "InstanceSegmentationInferenceResponse"),
    ("keypoint-detection", "/infer/keypoints_detection", "KeypointsDetectionInferenceResponse"),
    ("classification", "/infer/classification", "ClassificationInferenceResponse"),
    ("multi-label-classification", "/infer/classification", "MultiLabelClassificationInferenceResponse"),
    ("semantic-segmentation", "/infer/semantic_segmentation", "SemanticSegmentationInferenceResponse"),
]


@pytest.mark.parametrize(("task", "path", "schema"), SHAPES)
def test_the_answer_of_every_task_has_roboflows_shape(
    task: Task, path: str, schema: str, roboflow_schemas: Any
) -> None:
    validator = Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": roboflow_schemas})

    async def test(ask: Ask) -> None:
        new = await ask("POST", path, json=infer(model_id="m/1"))
        old = await ask("POST", "/m/1", data=BASE64, headers=JSON)
        for answer in (new, old):
            assert answer.status == 200, answer.text
            validator.validate(answer.body)
            assert answer.body["predictions"]

    run(test, FakeAsking(model("m", task, "m/1")))


def test_masks_are_polygons_or_run_lengths_as_asked() -> None:
    async def test(ask: Ask) -> None:
        path = "/infer/instance_segmentation"
        polygon = (await ask("POST", path, json=infer(model_id="m"))).body["predictions"][0]
        assert polygon["mask_format"] == "polygon"
        assert len(polygon["points"]) >= 4
        rle = (await ask("POST", path, json=infer(model_id="m", response_mask_format="rle"))).body["predictions"][0]
        assert rle["rle"]["size"] == [240, 320]
        assert "points" not in rle

    run(test, FakeAsking(model("m", "instance-segmentation")))


def test_objects_with_masks_are_plain_boxes_where_boxes_are_asked_for() -> None:
    async def test(ask: Ask) -> None:
        first = (await ask("POST", "/infer/object_detection", json=infer(model_id="m"))).body["predictions"][0]
        assert without_id(first) == PERSON

    run(test, FakeAsking(model("m", "instance-segmentation")))


def test_a_model_of_another_task_is_refused_with_the_path_that_is_right() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/infer/classification", json=infer())
        assert answer.status == 400
        assert "/infer/object_detection" in answer.body["message"]

    assert run(test).asked == []


def test_a_picture_with_boxes_on_it_comes_along_when_asked_for() -> None:
    async def test(ask: Ask) -> None:
        body = infer(visualize_predictions=True, visualization_stroke_width=5, visualization_labels=True)
        answer = await ask("POST", "/infer/object_detection", json=body)
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.body["visualization"]))))
        assert drawn.shape == (240, 320, 3)
        original = np.asarray(Image.open(io.BytesIO(FILE)))
        edge = drawn[22, 30:100].astype(int) - original[22, 30:100].astype(int)
        assert np.abs(edge).max(axis=1).min() > 40, "the upper side of the person's box is not drawn"

    run(test)


# The legacy route


def multipart(name: str) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field(name, FILE, filename="a.jpg", content_type="image/jpeg")
    return form


@pytest.mark.parametrize(
    "options",
    [
        {"data": BASE64, "headers": JSON},
        {"data": BASE64, "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"data": BASE64, "headers": {"Content-Type": "image/jpeg"}},
        {"data": BASE64, "headers": {"Content-Type": "text/plain"}},
        {"data": "data:image/jpeg;base64," + BASE64, "headers": JSON},
        {"data": BASE64 + "\n", "headers": JSON},
        {"data": multipart("file")},
    ],
    ids=["json", "form", "jpeg", "text", "data-url", "newline", "multipart"],
)
def test_the_legacy_route_takes_a_picture_in_every_disguise(options: dict[str, Any]) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/coco/9?api_key=K", **options)
        assert answer.status == 200, answer.text
        assert without_id(answer.body["predictions"][0]) == PERSON

    run(test)


@pytest.mark.parametrize(
    "options",
    [
        {"data": BASE64, "skip_auto_headers": ["Content-Type"]},
        {"data": FILE, "headers": {"Content-Type": "image/jpeg"}},
        {"data": b"", "headers": JSON},
        {"data": b"!!!!", "headers": JSON},
        {"data": multipart("picture")},
        {"params": {"image_type": "numpy"}, "data": BASE64, "headers": JSON},
        {"params": {"image": "http://127.0.0.1:1/a.jpg"}},
        {"params": {"mask_decode_mode": "slow"}, "data": BASE64, "headers": JSON},
        {"params": {"tradeoff_factor": "3"}, "data": BASE64, "headers": JSON},
    ],
    ids=["no-type", "raw", "empty", "junk", "other-part", "pickle", "url", "mode", "factor"],
)
def test_the_legacy_route_refuses_what_is_no_picture(options: dict[str, Any]) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/coco/9", **options)
        assert answer.status == 400
        assert list(answer.body) == ["message"]

    assert run(test).asked == []


def test_raw_bytes_are_told_that_base64_is_wanted() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/coco/9", data=FILE, headers={"Content-Type": "image/jpeg"})
        assert "base64" in answer.body["message"]

    run(test)


@pytest.mark.parametrize(
    ("query", "wishes"),
    [
        ("", Wishes()),
        ("confidence=40&overlap=30", Wishes(confidence=0.4, iou_threshold=0.3)),
        ("confidence=0.4&overlap=0.3", Wishes(confidence=0.4, iou_threshold=0.3)),
        ("confidence=1", Wishes(confidence=0.01)),
        ("confidence=best", Wishes()),
        ("confidence=", Wishes()),
        ("keypoint_confidence=0.5&max_detections=3", Wishes(keypoint_confidence=0.5, max_detections=3)),
        ("class_filter=bus,dog", Wishes(classes=("bus", "dog"))),
        ("labels=True&stroke=3&disable_active_learning=False&disable_preproc_contrast=yes&api_key=K", Wishes()),
        ("allow_reduced_mask_resolution=False&source=x&source_info=y&countinference=on&nothing=1", Wishes()),
    ],
)
def test_the_legacy_query_is_understood_in_every_spelling(query: str, wishes: Wishes) -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("POST", f"/coco/9?{query}", data=BASE64, headers=JSON)).status == 200

    assert run(test).asked[0].wishes == wishes


@pytest.mark.parametrize("query", ["confidence=abc", "labels=perhaps", "stroke=x", "max_detections=1.5", "overlap=-1"])
def test_a_wrong_legacy_query_is_a_422_with_its_place(query: str, roboflow_schemas: Any) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", f"/coco/9?{query}", data=BASE64, headers=JSON)
        assert answer.status == 422
        assert answer.body["detail"][0]["loc"] == ["query", query.partition("=")[0]]
        schema = {"$ref": "#/components/schemas/HTTPValidationError", "components": roboflow_schemas}
        Draft202012Validator(schema).validate(answer.body)

    assert run(test).asked == []


@pytest.mark.parametrize("kind", ["image", "image_and_json", "json", "unheard-of"])
def test_the_legacy_answer_has_the_format_that_was_asked_for(kind: str) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", f"/coco/9?format={kind}", data=BASE64, headers=JSON)
        headers, raw = answer.headers, answer.data
        if kind == "image":
            assert headers["Content-Type"] == "image/jpeg"
            assert Image.open(io.BytesIO(raw)).size == (320, 240)
        else:
            assert headers["Content-Type"] == "application/json"
            assert ("visualization" in json.loads(raw)) == (kind == "image_and_json")

    run(test)


def test_a_get_of_an_inference_path_says_that_there_is_no_picture() -> None:
    async def test(ask: Ask) -> None:
        for path in ("/infer/object_detection", "/some/thing"):
            answer = await ask("GET", path)
            assert answer.status == 400
            assert "message" in answer.body

    run(test)


def test_a_picture_by_url_wins_over_the_body_and_works_with_get() -> None:
    async def test(ask: Ask) -> None:
        for method, options in (("GET", {}), ("POST", {}), ("POST", {"data": b"junk", "headers": JSON})):
            answer = await ask(method, "/coco/9", params={"image": "http://pictures.test/a.jpg"}, **options)
            assert answer.status == 200, answer.text

    asking = FakeAsking(detector("local", "coco/9"))
    limits = InferenceLimits(timeout_s=10, allow_urls=True)
    serve_dialects(asking, {"": dialect}, test, limits=limits, pictures=pictures_with_fetch(limits))
    assert len(asking.asked) == 3


def pictures_with_fetch(limits: InferenceLimits) -> Any:
    from pipeline.server.inference.pictures import PictureReader

    class Reader(PictureReader):
        async def fetch(self, url: str) -> bytes:
            assert url == "http://pictures.test/a.jpg"
            return FILE

    return Reader(limits)


def test_a_name_without_a_version_takes_any_version() -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("POST", "/local/3", data=BASE64, headers=JSON)).status == 200
        assert (await ask("POST", "/local/latest", data=BASE64, headers=JSON)).status == 404

    run(test)


def test_version_zero_is_a_project_without_a_model(roboflow_schemas: Any) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/coco/0", data=BASE64, headers=JSON)
        schema = {"$ref": "#/components/schemas/StubResponse", "components": roboflow_schemas}
        Draft202012Validator(schema).validate(answer.body)
        assert answer.body["is_stub"] is True
        assert (answer.body["model_id"], answer.body["task_type"]) == ("coco/0", "object-detection")

    assert run(test).asked == []


# Registry and service


def test_the_registry_lists_every_name_of_every_model_that_is_ready() -> None:
    async def test(ask: Ask) -> None:
        models = (await ask("GET", "/model/registry?api_key=None")).body["models"]
        assert [(item["model_id"], item["task_type"]) for item in models] == [
            ("coco/9", "object-detection"),
            ("local", "object-detection"),
            ("pose", "keypoint-detection"),
            ("tags", "classification"),
        ]
        assert (models[0]["input_width"], models[0]["input_height"], models[0]["batch_size"]) == (640, 480, 4)

    run(
        test,
        FakeAsking(
            detector("local", "coco/9"),
            model("pose", "keypoint-detection"),
            model("tags", "multi-label-classification"),
            detector("gone", state="unloaded"),
        ),
    )


def test_models_are_unloaded_and_loaded_again() -> None:
    async def test(ask: Ask) -> None:
        async def ids(path: str, body: Any = None) -> list[str]:
            answer = await ask("POST", path, **({} if body is None else {"json": body}))
            assert answer.status == 200, answer.text
            return [item["model_id"] for item in answer.body["models"]]

        assert await ids("/model/remove", {"model_id": "a"}) == ["b", "held"]
        assert await ids("/model/remove", {"model_id": "never-heard-of"}) == ["b", "held"]
        assert await ids("/model/clear") == ["held"]
        assert await ids("/model/add", {"model_id": "b", "api_key": "K"}) == ["b", "held"]
        assert (await ask("GET", "/start/a/1")).status == 404
        held = await ask("POST", "/model/remove", json={"model_id": "held"})
        assert held.status == 501
        assert "message" in held.body

    run(test, FakeAsking(detector("a"), detector("b"), detector("held", removable=False)))


def test_a_model_that_was_taken_out_comes_back_when_it_is_asked() -> None:
    async def test(ask: Ask) -> None:
        for path, options in (
            ("/infer/object_detection", {"json": infer()}),
            ("/coco/9", {"data": BASE64, "headers": JSON}),
        ):
            assert (await ask("POST", "/model/clear")).body == {"models": []}
            assert (await ask("POST", path, **options)).status == 200

    run(test)


@pytest.mark.parametrize("path", ["/model/add", "/infer/object_detection"])
def test_a_model_that_is_not_there_is_a_404_with_a_message(path: str) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", path, json=infer(model_id="no/1"))
        assert answer.status == 404
        assert "no/1" in answer.body["message"]

    run(test)


def test_info_and_health() -> None:
    async def test(ask: Ask) -> None:
        info = (await ask("GET", "/info")).body
        assert set(info) == {"name", "version", "uuid"}
        assert (await ask("GET", "/info")).body == info
        assert (await ask("GET", "//info")).body == info
        assert (await ask("GET", "/healthz")).body == {"status": "healthy"}
        assert (await ask("GET", "/readiness")).body == {"status": "ready"}

    run(test)


@pytest.mark.parametrize(
    ("state", "health", "ready"), [("loading", 200, 503), ("failed", 503, 503), ("unloaded", 200, 200)]
)
def test_health_follows_the_models(state: str, health: int, ready: int) -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("GET", "/healthz")).status == health
        assert (await ask("GET", "/readiness")).status == ready

    run(test, FakeAsking(detector("a", state=state)))


# Errors


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        ([1], 422, ["body"]),
        ({}, 422, ["body", "image"]),
        (infer(model_id=None), 422, ["body", "model_id"]),
        (infer(image=[]), 422, ["body", "image"]),
        (infer(image="abc"), 422, ["body", "image"]),
        (infer(image={"type": "base64"}), 422, ["body", "image", "value"]),
        (infer(confidence="high"), 422, ["body", "confidence"]),
        (infer(image={"type": "numpy", "value": "gASVAAAA"}), 400, None),
        (infer(image={"type": "url", "value": "http://127.0.0.1/"}), 400, None),
        (infer(image={"type": "base64", "value": "bm8gcGljdHVyZQ=="}), 400, None),
    ],
)
def test_a_wrong_body_is_named(body: Any, status: int, place: list[str] | None) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/infer/object_detection", json=body)
        assert answer.status == status, answer.text
        if place is None:
            assert "message" in answer.body
        else:
            assert answer.body["detail"][0]["loc"] == place

    assert run(test).asked == []


def test_what_is_no_json_is_a_400() -> None:
    async def test(ask: Ask) -> None:
        for data in (b"", b"{", b'{"a": NaN}', b"[" * 100_000):
            answer = await ask("POST", "/infer/object_detection", data=data, headers=JSON)
            assert (answer.status, list(answer.body)) == (400, ["message"])

    run(test)


@pytest.mark.parametrize(
    ("fault", "status"),
    [(AskError("busy", "busy"), 503), (AskError("late", "late"), 504), (AskError("failed", "failed"), 500)],
)
def test_a_model_without_an_answer_is_told_with_a_message(fault: AskError, status: int) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/infer/object_detection", json=infer())
        assert (answer.status, list(answer.body)) == (status, ["message"])
        assert ("Retry-After" in answer.headers) == (status == 503)

    asking = FakeAsking(detector("local", "coco/9"))
    asking.fault = fault
    run(test, asking)


def test_what_is_no_route_is_answered_as_fastapi_does() -> None:
    async def test(ask: Ask) -> None:
        missing = await ask("GET", "/model/no/such")
        assert (missing.status, missing.body) == (404, {"detail": "Not Found"})
        wrong = await ask("GET", "/inference_pipelines/gate/pause")
        assert (wrong.status, wrong.body) == (405, {"detail": "Method Not Allowed"})

    run(test)


TOKENS = [
    Token.of("client", "client-token-0123456789", ["infer"]),
    Token.of("boss", "boss-token-0123456789ab", ["control"]),
]


def test_the_token_is_found_wherever_a_client_puts_it() -> None:
    token = "client-token-0123456789"  # noqa: S105

    async def test(ask: Ask) -> None:
        path, legacy = "/infer/object_detection", "/coco/9"
        for body, query, headers in (
            (infer(api_key=token), "", {}),
            (infer(), f"?api_key={token}", {}),
            (infer(), "", {"Authorization": f"Bearer {token}"}),
        ):
            assert (await ask("POST", path + query, json=body, headers=headers)).status == 200
        assert (await ask("POST", f"{legacy}?api_key={token}", data=BASE64, headers=JSON)).status == 200
        refused = await ask("POST", path, json=infer(api_key="wrong"))
        assert refused.status == 401
        assert refused.body["status"] == 401
        assert (await ask("POST", "/model/clear", params={"api_key": token})).status == 403
        assert (await ask("GET", "/healthz")).status == 200

    run(test, access=Access(TOKENS))


def test_no_result_is_an_empty_list() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/infer/object_detection", json=infer())
        assert answer.body["predictions"] == []

    asking = FakeAsking(detector("local", "coco/9"))
    empty = found(xyxy=np.zeros((0, 4), np.float32), confidence=np.zeros(0, np.float32), class_id=np.zeros(0, np.int32))
    asking.answers["local"] = lambda _, __: empty
    run(test, asking)
