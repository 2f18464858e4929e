"""The backend against a server that keeps Roboflow's rules, and against one that does not."""

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looped import LoopedContext
from misbehaving_server import Asked, MisbehavingServer, Reply, json_body, status
from PIL import Image
from pydantic import ValidationError

from pipeline.backends._http_backend import HttpBackend
from pipeline.backends.roboflow import RoboflowBackendConfig
from pipeline.contracts.backend import Servable
from pipeline.contracts.errors import BackendErrorCode, ConfigError, TransientError
from pipeline.contracts.frame import Frame, Wishes
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.contracts.secret import secrets_in
from pipeline.testing import detections, frame
from pipeline.wire.roboflow import (
    Gaze,
    RegistryModel,
    encode_gazes,
    encode_prediction,
    encode_registry,
    encode_response,
    encode_workflow_answer,
    encode_workflow_prediction,
    parse_compare_request,
    parse_infer_request,
    parse_legacy_query,
    parse_picture_request,
    parse_workflow_request,
)

KEY = "rf_averysecretkey"
QUICK = {"retries": {"max_attempts": 2, "min_s": 0.001, "max_s": 0.002}, "timeout_s": 5.0}
FOUND = detections((8, 4, 16, 12), names=("cat",))


class Roboflow:
    """The rules of Roboflow's server for one model."""

    def __init__(self, task: str = "object-detection", prediction: Prediction = FOUND, listed: bool = False) -> None:
        self.task = task
        self.prediction = prediction
        self.models = ["det/1"] if listed else []

    def __call__(self, asked: Asked) -> Any:
        if asked.path == "/model/registry":
            return self.registry()
        if asked.path == "/model/add":
            self.models.append(asked.json()["model_id"])
            return self.registry()
        if asked.path.startswith("/infer/"):
            if asked.json()["model_id"] not in self.models:
                return status(404, "no such model")
            image = asked.json()["image"]
            answers = [self.answer(one["value"]) for one in (image if isinstance(image, list) else [image])]
            return answers if isinstance(image, list) else answers[0]
        assert asked.path == "/det/1"
        assert "content-type" in asked.headers
        return self.answer(asked.body)

    def registry(self) -> Any:
        return encode_registry(RegistryModel(model, self.task, 1) for model in self.models)

    def answer(self, text: str | bytes) -> Any:
        size = Image.open(io.BytesIO(base64.b64decode(text, validate=True))).size
        response = encode_response(self.prediction, type(frame().picture.size)(*size), time_s=0.01, inference_id="ab")
        response.pop("image") if isinstance(self.prediction, SemanticMask) else None
        return response


@contextmanager
def remote(
    tmp_path: Path, answer: Any, *, opened: bool = True, **keys: Any
) -> Iterator[tuple[HttpBackend, MisbehavingServer, LoopedContext]]:
    with MisbehavingServer(answer) as server, LoopedContext("cloud", tmp_path) as ctx:
        config = RoboflowBackendConfig.model_validate({"url": server.url, **QUICK, **keys})
        backend = config.build(ctx)
        try:
            if opened:
                backend.open()
            yield backend, server, ctx
        finally:
            backend.close()


def one(backend: HttpBackend, **options: Any) -> Prediction:
    (found,) = backend.infer([frame(**options)])
    return found


def fault(backend: HttpBackend, count: int = 1) -> TransientError:
    with pytest.raises(TransientError) as caught:
        backend.infer([frame(seq) for seq in range(count)])
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    return caught.value


# v0


def test_v0_sends_one_picture_as_base64_with_all_that_is_asked_in_the_query(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "confidence": 0.25,
        "keypoint_confidence": 0.1,
        "iou_threshold": 0.5,
        "max_detections": 7,
        "class_filter": ["cat", "dog"],
        "mask_decode_mode": "tradeoff",
        "tradeoff_factor": 0.5,
        "response_mask_format": "rle",
        "disable_preproc_auto_orient": True,
        "disable_preproc_contrast": True,
        "disable_preproc_grayscale": False,
        "disable_preproc_static_crop": True,
        "disable_active_learning": True,
        "active_learning_target_dataset": "other",
        "source": "here",
        "source_info": "gate 1",
        "count_inference": False,
        "service_secret": "s3cret-s3cret",
    }
    with remote(tmp_path, Roboflow(), api_version="v0", model_id="det/1", api_key=KEY, probe=False, **keys) as (
        backend,
        server,
        _,
    ):
        found = one(backend)
        (asked,) = server.asked
    assert isinstance(found, Detections)
    assert found.xyxy.tolist() == [[8, 4, 16, 12]]
    assert found.label(0) == "cat"
    assert (asked.method, asked.path) == ("POST", "/det/1")
    assert asked.headers["content-type"] == "application/json"
    assert base64.b64decode(asked.body).startswith(b"\xff\xd8")
    assert asked.query == {
        "api_key": KEY,
        "confidence": "0.25",
        "keypoint_confidence": "0.1",
        "overlap": "0.5",
        "max_detections": "7",
        "class_filter": "cat,dog",
        "mask_decode_mode": "tradeoff",
        "tradeoff_factor": "0.5",
        "response_mask_format": "rle",
        "disable_preproc_auto_orient": "True",
        "disable_preproc_contrast": "True",
        "disable_preproc_grayscale": "False",
        "disable_preproc_static_crop": "True",
        "disable_active_learning": "True",
        "active_learning_target_dataset": "other",
        "source": "here",
        "source_info": "gate 1",
        "countinference": "False",
        "service_secret": "s3cret-s3cret",
    }
    assert (backend.model, backend.max_batch) == ("det/1", 1)
    assert backend.describe() == f"det/1 at 127.0.0.1:{server.port} (v0)"


def test_v0_tries_the_model_with_a_grey_picture_that_is_not_kept(tmp_path: Path) -> None:
    with remote(tmp_path, Roboflow(), api_version="v0", model_id="det/1", api_key=KEY) as (_, server, _):
        (probe,) = server.asked
    assert parse_legacy_query(probe.query.items()).options.disable_active_learning is True
    assert Image.open(io.BytesIO(base64.b64decode(probe.body))).size == (64, 64)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (status(401, "no such key"), BackendErrorCode.AUTH),
        (status(404, "no such model"), BackendErrorCode.NOT_FOUND),
        (
            json_body({"is_stub": True, "model_id": "det/1", "task_type": "object-detection"}),
            BackendErrorCode.BAD_ANSWER,
        ),
        (json_body({"message": "the licence ran out"}), BackendErrorCode.BAD_ANSWER),
    ],
)
def test_a_model_that_cannot_be_used_is_found_out_at_the_start(
    tmp_path: Path, reply: Reply, code: BackendErrorCode
) -> None:
    with remote(tmp_path, Roboflow(), opened=False, api_version="v0", model_id="det/1", api_key=KEY) as (
        backend,
        server,
        _,
    ):
        server.always(reply)
        with pytest.raises(TransientError) as caught:
            backend.open()
        assert caught.value.code is code
        server.always()
        backend.open()
        assert len(one(backend)) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", ["query", "header", None])
def test_v0_has_the_key_in_the_query_or_in_a_header(tmp_path: Path, transport: str | None) -> None:
    with remote(tmp_path, Roboflow(), api_version="v0", model_id="det/1", api_key=KEY, api_key_transport=transport) as (
        backend,
        server,
        _,
    ):
        one(backend)
    for asked in server.asked:
        assert (asked.query.get("api_key") == KEY) == (transport != "header")
        assert (asked.headers.get("authorization") == f"Bearer {KEY}") == (transport == "header")


# v1


def test_v1_looks_the_model_up_once_has_it_added_and_asks(tmp_path: Path) -> None:
    with remote(tmp_path, Roboflow(), model_id="det/1", api_key=KEY) as (backend, server, _):
        for _ in range(3):
            found = one(backend)
        assert isinstance(backend, Servable)
        assert backend.info().task == "object-detection"
        assert backend.info().input_size is None
        paths = server.paths()
        listed, added, asked = server.asked[:3]
    assert isinstance(found, Detections)
    assert found.xyxy.tolist() == [[8, 4, 16, 12]]
    assert paths == ["/model/registry", "/model/add", *["/infer/object_detection"] * 3]
    assert (listed.method, listed.query) == ("GET", {"api_key": KEY})
    assert (added.json(), added.query) == ({"model_id": "det/1", "api_key": KEY}, {})
    document = asked.json()
    assert document.pop("image")["type"] == "base64"
    assert document == {"api_key": KEY, "model_id": "det/1"}


def test_v1_does_not_add_what_is_there(tmp_path: Path) -> None:
    with remote(tmp_path, Roboflow(listed=True), model_id="det/1") as (backend, server, _):
        one(backend)
        assert server.paths() == ["/model/registry", "/infer/object_detection"]
        assert "api_key" not in server.asked[-1].json()


@pytest.mark.parametrize("transport", ["query", "body", "header", None])
def test_v1_has_the_key_where_it_is_wanted_and_nowhere_else(tmp_path: Path, transport: str | None) -> None:
    with remote(tmp_path, Roboflow(), model_id="det/1", api_key=KEY, api_key_transport=transport) as (
        backend,
        server,
        _,
    ):
        one(backend)
    listed, *others = server.asked
    assert (listed.query.get("api_key") == KEY) == (transport != "header")
    for asked in others:
        assert (asked.query.get("api_key") == KEY) == (transport == "query")
        assert (asked.json().get("api_key") == KEY) == (transport in ("body", None))
    for asked in server.asked:
        assert (asked.headers.get("authorization") == f"Bearer {KEY}") == (transport == "header")


def test_v1_sends_what_is_asked_in_the_body_and_the_metering_in_the_query(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "confidence": 0.25,
        "iou_threshold": 0.5,
        "max_detections": 7,
        "max_candidates": 50,
        "class_filter": ["cat"],
        "class_agnostic_nms": True,
        "fix_batch_size": True,
        "disable_preproc_contrast": True,
        "disable_active_learning": False,
        "source": "here",
        "count_inference": False,
        "service_secret": "s3cret-s3cret",
    }
    with remote(tmp_path, Roboflow(), model_id="det/1", task="object-detection", **keys) as (backend, server, _):
        one(backend)
        asked = server.asked[-1]
    assert asked.query == {"countinference": "False", "service_secret": "s3cret-s3cret"}
    document = asked.json()
    del document["image"]
    assert document == {
        "model_id": "det/1",
        **{name: value for name, value in keys.items() if name not in ("count_inference", "service_secret")},
    }


@pytest.mark.parametrize(
    ("task", "path", "prediction"),
    [
        ("object-detection", "/infer/object_detection", FOUND),
        (
            "instance-segmentation",
            "/infer/instance_segmentation",
            Detections(
                FOUND.xyxy, FOUND.confidence, FOUND.class_id, FOUND.names, masks=np.eye(48, 64, dtype=bool)[None]
            ),
        ),
        (
            "keypoint-detection",
            "/infer/keypoints_detection",
            Detections(
                FOUND.xyxy,
                FOUND.confidence,
                FOUND.class_id,
                FOUND.names,
                keypoints=np.array([[[np.nan] * 3, [9, 5, 0.5]]], np.float32),
                keypoint_names=("nose", "tail"),
            ),
        ),
        ("classification", "/infer/classification", Classification(np.array([0.25, 0.75], np.float32), ("a", "b"))),
        (
            "classification",
            "/infer/classification",
            Classification(np.array([0.25, 0.75], np.float32), ("a", "b"), multi_label=True),
        ),
        (
            "semantic-segmentation",
            "/infer/semantic_segmentation",
            SemanticMask(np.eye(48, 64, dtype=np.int32), ("sky", "road"), np.full((48, 64), 200, np.uint8)),
        ),
    ],
)
def test_v1_asks_where_the_registry_says_and_reads_every_kind_of_answer(
    tmp_path: Path, task: str, path: str, prediction: Prediction
) -> None:
    with remote(tmp_path, Roboflow(task, prediction), model_id="det/1") as (backend, server, _):
        found = one(backend)
        assert server.paths()[-1] == path
        assert backend.info().task == task
    assert encode_prediction(found) == encode_prediction(prediction)


def test_several_pictures_are_one_request_and_several_answers_in_their_order(tmp_path: Path) -> None:
    class Bright(Roboflow):
        def answer(self, text: str | bytes) -> Any:
            grey = float(np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).mean())
            self.prediction = detections((0, 0, round(grey / 4), 10))
            return super().answer(text)

    with remote(tmp_path, Bright(), model_id="det/1", max_batch_size=4) as (backend, server, _):
        assert backend.max_batch == 4
        greys = [200, 40, 120]
        found = backend.infer([frame(index, grey=grey) for index, grey in enumerate(greys)])
        request = parse_infer_request("object-detection", server.asked[-1].json())
    assert [round(float(one.xyxy[0, 2])) for one in found] == [50, 10, 30]  # type: ignore[union-attr]
    assert (len(request.images), request.many) == (3, True)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([{"predictions": []}], "1 results for 2 pictures"),
        ([{"predictions": []}] * 3, "3 items, more than 2"),
        ({"predictions": []}, "no list but an object"),
        ({"message": "no"}, "no list but an object"),
        ([{"predictions": []}, {"predictions": [{"x": 1}]}], "y of a prediction"),
        ([{"predictions": []}, None], "no object but null"),
    ],
)
def test_a_batch_of_the_wrong_shape_is_a_bad_answer(tmp_path: Path, answer: Any, why: str) -> None:
    with remote(tmp_path, Roboflow(listed=True), model_id="det/1", max_batch_size=4) as (backend, server, _):
        server.then(json_body(answer))
        error = fault(backend, 2)
        assert error.code is BackendErrorCode.BAD_ANSWER
        assert why in str(error)
        assert backend.read().requests["bad_answer"] == 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([{"predictions": []}], "no object but a list"),
        ({"predictions": {}}, "is one to multi-label"),
        ({"predictions": [], "image": {"width": 65, "height": 48}}, "picture of 65 x 48"),
        ({"detail": "over quota"}, "it says 'over quota'"),
        ({"predictions": [{"x": 900, "y": 4, "width": 2, "height": 2, "confidence": 1, "class": "a"}]}, "outside"),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_named_error_of_that_frame(tmp_path: Path, answer: Any, why: str) -> None:
    with remote(tmp_path, Roboflow(listed=True), model_id="det/1") as (backend, server, _):
        server.then(json_body(answer))
        error = fault(backend)
        assert error.code is BackendErrorCode.BAD_ANSWER
        assert why in str(error)
        assert len(one(backend)) == 1  # type: ignore[arg-type]


def test_a_model_that_was_taken_out_is_brought_back(tmp_path: Path) -> None:
    rules = Roboflow(listed=True)
    with remote(tmp_path, rules, model_id="det/1") as (backend, server, _):
        one(backend)
        rules.models.clear()
        assert fault(backend).code is BackendErrorCode.NOT_FOUND
        assert len(one(backend)) == 1  # type: ignore[arg-type]
        assert server.paths()[-3:] == ["/model/registry", "/model/add", "/infer/object_detection"]


def test_a_server_without_a_registry_needs_to_be_told_the_task(tmp_path: Path) -> None:
    def rules(asked: Asked) -> Any:
        return status(404) if asked.path == "/model/registry" else {"predictions": []}

    with remote(tmp_path, rules, model_id="det/1", opened=False) as (backend, _, _), pytest.raises(TransientError):
        backend.open()
    with remote(tmp_path, rules, model_id="det/1", task="object-detection") as (backend, _, _):
        assert len(one(backend)) == 0  # type: ignore[arg-type]


def test_a_model_that_does_something_else_is_a_mistake_in_the_config(tmp_path: Path) -> None:
    with remote(tmp_path, Roboflow("action-recognition"), model_id="det/1", opened=False) as (backend, _, _):
        with pytest.raises(ConfigError, match="action-recognition") as caught:
            backend.open()
        assert caught.value.key == "model_id"


def test_options_that_the_model_does_not_know_are_named_once(tmp_path: Path) -> None:
    classes = Classification(np.array([1.0], np.float32), ("a",))
    with remote(tmp_path, Roboflow("classification", classes), model_id="det/1", iou_threshold=0.5) as (
        backend,
        _,
        ctx,
    ):
        one(backend)
        assert ctx.warnings == ["iou_threshold: nothing that a model for classification can be asked, and not sent"]


def test_boxes_of_a_smaller_picture_are_scaled_back(tmp_path: Path) -> None:
    with remote(tmp_path, Roboflow(), model_id="det/1", max_size=32) as (backend, server, _):
        found = one(backend, width=64, height=48)
        sent = server.asked[-1].json()["image"]["value"]
    assert Image.open(io.BytesIO(base64.b64decode(sent))).size == (32, 24)
    assert isinstance(found, Detections)
    assert found.xyxy.tolist() == [[16, 8, 32, 24]]


def test_what_is_wished_for_one_picture_goes_before_the_config(tmp_path: Path) -> None:
    wishes = Wishes(confidence=0.75, iou_threshold=0.1, max_detections=3, class_agnostic_nms=True, classes=("cat",))
    plain = frame()
    with remote(tmp_path, Roboflow(listed=True), model_id="det/1", confidence=0.1, max_batch_size=3) as (
        backend,
        server,
        _,
    ):
        backend.infer([plain, replace(plain, wishes=wishes), replace(plain, wishes=wishes)])
        first, second = (asked.json() for asked in server.asked[-2:])
    assert (first["confidence"], "iou_threshold" in first, isinstance(first["image"], dict)) == (0.1, False, True)
    asked = parse_infer_request("object-detection", second)
    assert len(asked.images) == 2
    assert asked.options.wishes() == wishes


# Core models


def test_clip_gives_a_vector_for_each_picture(tmp_path: Path) -> None:
    def rules(asked: Asked) -> Any:
        assert asked.path == "/clip/embed_image"
        request = parse_picture_request(asked.json())
        assert request.version_id == "ViT-B-16"
        return {"frame_id": None, "time": 0.1, "embeddings": [[0.5, index] for index, _ in enumerate(request.images)]}

    keys: dict[str, Any] = {
        "task": "clip",
        "clip_version_id": "ViT-B-16",
        "max_batch_size": 4,
        "api_key": KEY,
        "source": "here",
    }
    with remote(tmp_path, rules, **keys) as (backend, server, _):
        first, second = backend.infer([frame(0), frame(1)])
        assert backend.info().task == "embedding"
        assert server.asked[-1].json()["source"] == "here"
        assert server.asked[-1].json()["api_key"] == KEY
    assert isinstance(first, Embedding)
    assert isinstance(second, Embedding)
    assert (first.vector.tolist(), second.vector.tolist()) == ([0.5, 0], [0.5, 1])


@pytest.mark.parametrize(
    ("keys", "scores", "multi"),
    [
        ({}, [0.731, 0.269], False),
        ({"clip_scores": "similarity"}, [0.25, 0.24], True),
    ],
)
def test_clip_compares_the_picture_with_prompts(
    tmp_path: Path, keys: dict[str, Any], scores: list[float], multi: bool
) -> None:
    def rules(asked: Asked) -> Any:
        assert asked.path == "/clip/compare"
        assert parse_compare_request(asked.json()).prompts == ("a fox", "a dog")
        return {"frame_id": None, "time": 0.1, "similarity": [0.25, 0.24]}

    with remote(tmp_path, rules, task="clip_compare", prompt=["a fox", "a dog"], **keys) as (backend, _, _):
        found = one(backend)
        assert backend.info().labels == ("a fox", "a dog")
    assert isinstance(found, Classification)
    assert found.scores.tolist() == pytest.approx(scores, abs=0.001)
    assert (found.names, found.multi_label) == (("a fox", "a dog"), multi)


@pytest.mark.parametrize(("similarity", "why"), [([0.1], "1 similarities, not 2"), ([0.1, 7], "not from -1 to 1")])
def test_a_comparison_that_does_not_fit_the_prompts_is_a_bad_answer(
    tmp_path: Path, similarity: list[float], why: str
) -> None:
    keys: dict[str, Any] = {"task": "clip_compare", "prompt": ["a", "b"], "probe": False}
    with remote(tmp_path, lambda _: {"similarity": similarity}, **keys) as (backend, _, _):
        assert why in str(fault(backend))


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"task": "ocr"}, "/doctr/ocr"),
        ({"task": "ocr", "ocr_model": "easy_ocr"}, "/easy_ocr/ocr"),
        ({"task": "lmm", "model_id": "florence-2-base", "prompt": "what is this?"}, "/infer/lmm"),
    ],
)
def test_what_is_read_is_a_text(tmp_path: Path, keys: dict[str, Any], path: str) -> None:
    answer = {"response": "EXIT", "image": {"width": 64, "height": 48}} if path == "/infer/lmm" else {"result": "EXIT"}
    with remote(tmp_path, lambda _: answer, probe=False, **keys) as (backend, server, _):
        found = one(backend)
        assert server.paths() == [path]
        assert backend.info().task == "text"
        if path == "/infer/lmm":
            request = parse_picture_request(server.asked[-1].json())
            assert (request.model_id, request.prompt) == ("florence-2-base", "what is this?")
    assert isinstance(found, Text)
    assert found.text == "EXIT"


def test_a_pictures_own_question_goes_before_the_configs(tmp_path: Path) -> None:
    def rules(asked: Asked) -> Any:
        return {"response": f"to {parse_picture_request(asked.json()).prompt}"}

    keys: dict[str, Any] = {"task": "lmm", "model_id": "florence-2-base", "prompt": "how many?"}
    with remote(tmp_path, rules, **keys) as (backend, _, _):
        assert backend.info().texts == "question"
        found = [backend.infer([each])[0] for each in (wished("where?"), frame())]
        with pytest.raises(TransientError, match="not what was said before") as caught:
            backend.infer([wished("where?", "what?", "a bus")])
    assert [one.text for one in found if isinstance(one, Text)] == ["to where?", "to how many?"]
    assert caught.value.code is BackendErrorCode.REJECTED


def test_texts_wished_for_a_picture_are_compared_with_it(tmp_path: Path) -> None:
    def rules(asked: Asked) -> Any:
        return {"similarity": [0.25] * len(parse_compare_request(asked.json()).prompts)}

    with remote(tmp_path, rules, task="clip_compare", prompt=["a fox", "a dog"]) as (backend, _, _):
        assert backend.info().texts == "labels"
        found = [backend.infer([each])[0] for each in (wished("a", "b", "c"), frame())]
    assert [one.names for one in found if isinstance(one, Classification)] == [("a", "b", "c"), ("a fox", "a dog")]


def wished(*texts: str) -> Frame:
    return replace(frame(), wishes=Wishes(texts=texts))


@pytest.mark.parametrize("in_a_list", [False, True])
def test_gaze_gives_faces_with_landmarks_and_where_they_look(tmp_path: Path, in_a_list: bool) -> None:
    look = Gaze((10, 10, 30, 34), 0.9, ((14.0, 16.0), (26.0, 16.0)), yaw=np.pi / 2, pitch=0.0)
    answer = encode_gazes([look], 0.1)
    with remote(tmp_path, lambda _: [answer] if in_a_list else answer, task="gaze") as (backend, _, _):
        found = one(backend)
        assert backend.info().keypoints[-1] == "gaze"
    assert isinstance(found, Detections)
    assert found.xyxy.tolist() == [[10, 10, 30, 34]]
    assert found.label(0) == "face"
    assert found.keypoint_names == ("right_eye", "left_eye", "gaze")
    assert found.keypoints is not None
    np.testing.assert_allclose(found.keypoints[0], [[14, 16, 0.9], [26, 16, 0.9], [0, 22, 0.9]], atol=1e-5)


# Workflows

WORKFLOW: dict[str, Any] = {"version": "1.0", "inputs": [], "steps": [], "outputs": []}


def workflow_rules(asked: Asked) -> Any:
    request = parse_workflow_request(
        asked.json(), workflow_id=None if asked.path == "/workflows/run" else asked.path.split("/")[-1]
    )
    images = request.inputs["image"]
    size = type(frame().picture.size)(64, 48)
    said = encode_workflow_prediction(FOUND, size)
    outputs = [{"found": said, "count": 1} for _ in (images if isinstance(images, list) else [images])]
    return encode_workflow_answer(outputs)


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"workspace": "ws", "workflow_id": "gate-2"}, "/ws/workflows/gate-2"),
        ({"specification": WORKFLOW}, "/workflows/run"),
    ],
)
def test_a_workflow_is_asked_by_its_place_or_by_its_text(tmp_path: Path, keys: dict[str, Any], path: str) -> None:
    keys |= {"parameters": {"limit": 5}, "api_key": KEY, "max_batch_size": 2}
    with remote(tmp_path, workflow_rules, **keys) as (backend, server, _):
        assert server.asked == []  # it may do things
        first, _ = backend.infer([frame(0), frame(1)])
        (asked,) = server.asked
    assert isinstance(first, Detections)
    assert first.xyxy.tolist() == [[8, 4, 16, 12]]
    assert asked.path == path
    document = asked.json()
    assert [one["type"] for one in document["inputs"].pop("image")] == ["base64", "base64"]
    assert document.pop("specification", None) == keys.get("specification")
    assert document == {"api_key": KEY, "use_cache": True, "enable_profiling": False, "inputs": {"limit": 5}}


def test_any_output_of_a_workflow_can_be_the_one_that_counts(tmp_path: Path) -> None:
    with remote(tmp_path, workflow_rules, specification=WORKFLOW, output="count") as (backend, _, _):
        found = one(backend)
    assert isinstance(found, Text)
    assert found.text == "1"
    with remote(tmp_path, workflow_rules, specification=WORKFLOW, output="other") as (backend, _, _):
        assert "no output 'other'; it has 'count', 'found'" in str(fault(backend))


def test_a_workflow_that_says_nothing_is_a_bad_answer(tmp_path: Path) -> None:
    answers: list[Any] = [{"outputs": []}, {"outputs": [5]}, {"outputs": [{"count": 1}]}, {}]
    for answer in answers:
        with remote(tmp_path, lambda _, answer=answer: answer, specification=WORKFLOW) as (backend, _, _):
            assert fault(backend).code is BackendErrorCode.BAD_ANSWER


def test_a_workflow_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "flow.json"
    path.write_text(json.dumps({"specification": WORKFLOW}))
    with remote(tmp_path, workflow_rules, specification=str(path)) as (backend, server, _):
        one(backend)
        assert server.asked[-1].json()["specification"] == WORKFLOW
    for content, why in (("[]", "holds no workflow"), ("{", "no JSON"), (None, "No such file")):
        path.unlink() if content is None else path.write_text(content)
        config = RoboflowBackendConfig.model_validate({"url": "http://127.0.0.1:1", "specification": str(path)})
        with pytest.raises(ConfigError, match=why) as caught:
            config.check()
        assert caught.value.key == "specification"


# The config


@pytest.mark.parametrize(
    ("url", "version"),
    [
        ("https://detect.roboflow.com", "v0"),
        ("https://serverless.roboflow.com/", "v0"),
        ("https://serverless.roboflow.eu", "v0"),
        ("http://detect.roboflow.com", "v1"),
        ("https://foo.roboflow.com", "v1"),
        ("https://detect.roboflow.com.evil.example", "v1"),
        ("http://127.0.0.1:9001", "v1"),
    ],
)
def test_auto_means_v0_on_roboflows_own_hosts_alone(url: str, version: str) -> None:
    config = RoboflowBackendConfig.model_validate({"url": url, "model_id": "det/1"})
    assert config.version == version


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({}, "model_id is missing"),
        ({"model_id": "../../etc"}, "pattern"),
        ({"model_id": "det", "api_version": "v0"}, "project/version"),
        ({"model_id": "a/b/c", "api_version": "v0"}, "project/version"),
        ({"model_id": "det/1", "api_version": "v0", "api_key_transport": "body"}, "no place for a key in the body"),
        ({"model_id": "det/1", "api_version": "v0", "max_candidates": 5}, "max_candidates is nothing that v0"),
        ({"model_id": "det/1", "task": "classification", "iou_threshold": 0.5}, "iou_threshold is nothing that"),
        ({"workspace": "ws"}, "go together"),
        ({"specification": {}, "workspace": "ws", "workflow_id": "x"}, "not both"),
        ({"specification": {}, "model_id": "det/1"}, "model_id is nothing"),
        ({"specification": {}, "confidence": 0.5}, "confidence is nothing that a workflow"),
        ({"specification": {}, "task": "clip"}, "leave task out"),
        ({"specification": {"a": float("nan")}}, "JSON has no word"),
        ({"model_id": "det/1", "output": "x"}, "output is something of workflows"),
        ({"task": "clip_compare"}, "needs a prompt"),
        ({"task": "clip_compare", "prompt": "fox"}, "several"),
        ({"task": "clip_compare", "prompt": ["fox", "fox"]}, "two prompts are the same"),
        ({"task": "clip", "prompt": "fox"}, "prompt is something of"),
        ({"task": "lmm"}, "model_id is missing"),
        ({"task": "clip", "max_detections": 5}, "max_detections is nothing that clip"),
        ({"model_id": "det/1", "confidence": 40}, "less than or equal to 1"),
    ],
)
def test_what_does_not_go_together_is_found_out_before_the_start(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        RoboflowBackendConfig.model_validate({"url": "http://127.0.0.1:9001", **keys})


def test_the_key_and_the_secret_are_known_as_secrets() -> None:
    config = RoboflowBackendConfig.model_validate(
        {"url": "http://127.0.0.1", "model_id": "det/1", "api_key": KEY, "service_secret": "s3cret-s3cret"}
    )
    assert {KEY, "s3cret-s3cret"} <= set(secrets_in(config))
    assert KEY not in repr(config)
