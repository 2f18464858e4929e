"""The backend against a server as the vendor's endpoints are: it wants to be told what a picture is."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looped import LoopedContext
from misbehaving_server import HTML, LOADING, WELL, Asked, MisbehavingServer, Reply, json_body, status
from PIL import Image
from pydantic import ValidationError

from pipeline.backends._http_backend import HttpBackend
from pipeline.backends.huggingface import HuggingFaceBackendConfig
from pipeline.contracts.backend import Servable
from pipeline.contracts.errors import BackendErrorCode, TransientError, UnavailableError
from pipeline.contracts.frame import Frame, Wishes
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.contracts.secret import secrets_in
from pipeline.testing import frame
from pipeline.wire.huggingface_masks import encode_mask

TOKEN = "hf_averysecrettoken"  # noqa: S105
ACCEPTED = ("image/jpeg", "image/png", "application/json")
QUICK = {"retries": {"max_attempts": 2, "min_s": 0.001, "max_s": 0.002}, "timeout_s": 5.0}
BOX = {"score": 0.9, "label": "cat", "box": {"xmin": 8, "ymin": 4, "xmax": 16, "ymax": 12}}
Answer = Callable[[Image.Image, dict[str, Any]], Any]


def endpoint(answer: Answer) -> Callable[[Asked], Any]:
    """The rules of the endpoints' toolkit: the type is named and one of a list; JSON has `inputs`."""

    def respond(asked: Asked) -> Any:
        kind = asked.headers.get("content-type", "")
        if kind not in ACCEPTED:
            return Reply(400, body=json.dumps({"error": f"Content type {kind!r} not supported"}).encode())
        document: dict[str, Any] = {}
        data = asked.body
        if kind == "application/json":
            document = asked.json()
            inputs = document.get("inputs")
            if inputs is None:
                return Reply(400, body=b'{"error": "Body needs to provide a inputs key"}')
            data = base64.b64decode(inputs["image"] if isinstance(inputs, dict) else inputs)
        elif Image.open(io.BytesIO(data)).get_format_mimetype() != kind:
            return Reply(400, body=b'{"error": "that is something else"}')
        return answer(Image.open(io.BytesIO(data)), document)

    return respond


def _at(server: MisbehavingServer, value: Any) -> Any:
    return value.replace("SERVER", server.url) if isinstance(value, str) else value


@contextmanager
def remote(
    tmp_path: Path, answer: Answer, *, opened: bool = True, **keys: Any
) -> Iterator[tuple[HttpBackend, MisbehavingServer, LoopedContext]]:
    with MisbehavingServer(endpoint(answer)) as server, LoopedContext("cloud", tmp_path) as ctx:
        table = {key: _at(server, value) for key, value in keys.items()}
        if "://" not in str(table.get("model")):
            table.setdefault("url", server.url)
        config = HuggingFaceBackendConfig.model_validate({**QUICK, "task": "object_detection", **table})
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


def fault(backend: HttpBackend) -> TransientError:
    with pytest.raises(TransientError) as caught:
        backend.infer([frame()])
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return caught.value


def boxes(picture: Image.Image, document: dict[str, Any]) -> Any:
    return [BOX] if document.get("parameters", {}).get("threshold", 0) <= 0.9 else []


def test_a_picture_goes_out_raw_with_its_type_and_boxes_come_back(tmp_path: Path) -> None:
    with remote(tmp_path, boxes, model="facebook/detr-resnet-50", token=TOKEN) as (backend, server, _):
        found = one(backend)
        sample, asked = server.asked
    assert isinstance(found, Detections)
    assert found.xyxy.tolist() == [[8, 4, 16, 12]]
    assert found.label(0) == "cat"
    assert (asked.method, asked.path) == ("POST", "/models/facebook/detr-resnet-50")
    assert asked.headers["content-type"] == "image/jpeg"
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert "x-wait-for-model" not in asked.headers  # a frame has no time to wait
    assert sample.headers["x-wait-for-model"] == "1"
    assert Image.open(io.BytesIO(sample.body)).size == (64, 64)
    assert (backend.model, backend.max_batch) == ("facebook/detr-resnet-50", 1)
    assert isinstance(backend, Servable)
    assert backend.info().task == "object-detection"
    assert "object-detection by facebook/detr-resnet-50 at 127.0.0.1" in backend.describe()


def test_with_parameters_the_picture_goes_out_in_json(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"parameters": {"threshold": 0.95}, "format": "png", "model": "m"}
    with remote(tmp_path, boxes, **keys) as (backend, server, _):
        assert len(one(backend)) == 0  # type: ignore[arg-type]
        document = server.asked[-1].json()
    assert document["parameters"] == {"threshold": 0.95}
    assert base64.b64decode(document["inputs"]).startswith(b"\x89PNG")


def test_boxes_of_a_smaller_picture_are_scaled_back(tmp_path: Path) -> None:
    with remote(tmp_path, boxes, model="m", max_size=32) as (backend, server, _):
        found = one(backend, width=64, height=48)
        assert Image.open(io.BytesIO(server.asked[-1].body)).size == (32, 24)
    assert isinstance(found, Detections)
    assert found.xyxy.tolist() == [[16, 8, 32, 24]]


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"model": "SERVER/endpoints/a/b"}, "/endpoints/a/b"),
        ({"url": "SERVER/endpoints/a/b"}, "/endpoints/a/b"),
        ({"url": "SERVER"}, "/"),
        ({"url": "SERVER/hf", "model": "coco/9"}, "/hf/models/coco/9"),
        ({"url": "SERVER", "model": "m", "task": "image-feature-extraction"}, "/models/m"),
        ({"url": "SERVER", "model": "m", "task": "feature_extraction"}, "/pipeline/feature-extraction/m"),
    ],
)
def test_an_id_is_asked_below_the_server_and_a_url_as_it_is(tmp_path: Path, keys: dict[str, Any], path: str) -> None:
    def answer(*_: Any) -> Any:
        return [0.5] if "feature" in keys.get("task", "") else []

    with remote(tmp_path, answer, **keys) as (backend, server, _):
        one(backend)
        assert set(server.paths()) == {path}


def test_a_segmentation_has_masks_in_the_frames_own_pixels(tmp_path: Path) -> None:
    def answer(picture: Image.Image, _: Any) -> Any:
        mask = np.zeros((picture.height, picture.width), np.bool_)
        mask[: picture.height // 2, : picture.width // 4] = True
        return [{"score": 0.75, "label": "cat", "mask": encode_mask(mask)}]

    with remote(tmp_path, answer, task="image_segmentation", model="m", max_size=32) as (backend, _, _):
        found = one(backend, width=64, height=48)
        assert backend.info().task == "instance-segmentation"
    assert isinstance(found, Detections)
    assert found.masks is not None
    assert found.masks.shape == (1, 48, 64)
    assert found.masks.sum() == 24 * 16
    assert found.xyxy.tolist() == [[0, 0, 16, 24]]


def test_a_semantic_segmentation_is_a_class_for_each_pixel(tmp_path: Path) -> None:
    def answer(picture: Image.Image, document: dict[str, Any]) -> Any:
        assert document["parameters"] == {"subtask": "semantic"}
        mask = np.ones((picture.height, picture.width), np.bool_)
        return [{"score": None, "label": "road", "mask": encode_mask(mask)}]

    keys: dict[str, Any] = {"task": "image_segmentation", "model": "m", "parameters": {"subtask": "semantic"}}
    with remote(tmp_path, answer, **keys) as (backend, _, _):
        found = one(backend)
        assert backend.info().task == "semantic-segmentation"
    assert isinstance(found, SemanticMask)
    assert found.class_map.shape == (48, 64)
    assert found.names[found.class_map[0, 0]] == "road"


def test_classes_come_with_their_scores(tmp_path: Path) -> None:
    def answer(*_: Any) -> Any:
        return [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}]

    with remote(tmp_path, answer, task="image_classification", model="m") as (backend, _, _):
        found = one(backend)
    assert isinstance(found, Classification)
    assert (found.names, found.scores.tolist()) == (("cat", "dog"), [0.75, 0.25])


def test_zero_shot_scores_stand_under_the_labels_of_the_config(tmp_path: Path) -> None:
    def answer(_: Any, document: dict[str, Any]) -> Any:
        assert document["parameters"]["candidate_labels"] == ["a cat", "a dog"]
        return [{"label": "a dog", "score": 0.75}, {"label": "a cat", "score": 0.25}]

    labels = {"candidate_labels": ["a cat", "a dog"]}
    with remote(tmp_path, answer, task="zero_shot_image_classification", model="m", parameters=labels) as (
        backend,
        _,
        _,
    ):
        found = one(backend)
        assert backend.info().labels == ("a cat", "a dog")
    assert isinstance(found, Classification)
    assert (found.names, found.scores.tolist()) == (("a cat", "a dog"), [0.25, 0.75])


def test_a_question_goes_out_beside_the_picture(tmp_path: Path) -> None:
    question = {"question": "how many?", "top_k": 2}

    def visual(_: Any, document: dict[str, Any]) -> Any:
        assert document["question"] == "how many?"
        assert document["parameters"] == {"top_k": 2}
        return [{"score": 0.75, "answer": "two"}, {"score": 0.25, "answer": "3"}]

    with remote(tmp_path, visual, task="visual_question_answering", model="m", parameters=question) as (backend, _, _):
        found = one(backend)
    assert isinstance(found, Classification)
    assert found.names == ("two", "3")

    def printed(_: Any, document: dict[str, Any]) -> Any:
        assert document["inputs"]["question"] == "how many?"
        return [{"score": 0.75, "answer": "us-001", "start": 1, "end": 1}]

    with remote(tmp_path, printed, task="document_question_answering", model="m", parameters=question) as (
        backend,
        _,
        _,
    ):
        found = one(backend)
    assert isinstance(found, Text)
    assert found.text == "us-001"


def wished(*texts: str) -> Frame:
    return replace(frame(), wishes=Wishes(texts=texts))


@pytest.mark.parametrize("task", ["visual_question_answering", "document_question_answering"])
def test_a_pictures_own_question_goes_before_the_configs(tmp_path: Path, task: str) -> None:
    def answer(_: Any, document: dict[str, Any]) -> Any:
        question = document.get("question") or document["inputs"]["question"]
        return [{"score": 0.75, "answer": f"to {question}", "start": 1, "end": 1}]

    with remote(tmp_path, answer, task=task, model="m", parameters={"question": "how many?"}) as (backend, _, _):
        assert backend.info().texts == "question"
        found = [said(backend.infer([one])[0]) for one in (wished("where?"), frame(), wished())]
        with pytest.raises(TransientError, match="not what was said before") as caught:
            backend.infer([wished("where?", "what?", "a bus")])
    assert found == ["to where?", "to how many?", "to how many?"]
    assert caught.value.code is BackendErrorCode.REJECTED


def said(found: Prediction) -> str:
    assert isinstance(found, Text | Classification)
    return found.text if isinstance(found, Text) else found.names[0]


@pytest.mark.parametrize("score", [{}, {"score": None}])
@pytest.mark.parametrize("task", ["visual_question_answering", "document_question_answering"])
def test_an_answer_without_a_score_is_a_text(tmp_path: Path, task: str, score: dict[str, Any]) -> None:
    keys: dict[str, Any] = {"task": task, "model": "m", "parameters": {"question": "how many?"}}
    with remote(tmp_path, lambda *_: [{"answer": "two", **score}], **keys) as (backend, _, _):
        found = one(backend)
        assert backend.info().task == "text"
    assert isinstance(found, Text)
    assert found.text == "two"
    several = remote(tmp_path, lambda *_: [{"answer": "two", **score}] * 2, opened=False, **keys)
    with several as (backend, _, _), pytest.raises(TransientError, match="score"):
        backend.open()


def test_labels_wished_for_a_picture_go_before_the_configs(tmp_path: Path) -> None:
    def zero_shot(_: Any, document: dict[str, Any]) -> Any:
        asked.append(document["parameters"])
        return [{"label": label, "score": 1 / (n + 2)} for n, label in enumerate(asked[-1]["candidate_labels"])]

    asked: list[dict[str, Any]] = []
    parameters = {"candidate_labels": ["cat", "dog"], "hypothesis_template": "see {}"}
    keys: dict[str, Any] = {"task": "zero_shot_image_classification", "model": "m", "parameters": parameters}
    with remote(tmp_path, zero_shot, **keys) as (backend, _, _):
        assert backend.info().texts == "labels"
        found = [backend.infer([each])[0] for each in (wished("a fox, red", "a fax"), frame())]
    assert asked[1] == {"candidate_labels": ["a fox, red", "a fax"], "hypothesis_template": "{}"}
    assert asked[0] == asked[2] == parameters
    first, second = found
    assert isinstance(first, Classification)
    assert isinstance(second, Classification)
    assert (first.names, second.names) == (("a fox, red", "a fax"), ("cat", "dog"))


def test_a_caption_is_a_text_and_features_are_a_vector(tmp_path: Path) -> None:
    with remote(tmp_path, lambda *_: [{"generated_text": "a cat"}], task="image_to_text", model="m") as (backend, _, _):
        found = one(backend)
    assert isinstance(found, Text)
    assert found.text == "a cat"
    vectors = [[[1.0, 2.0], [3.0, 6.0]]]
    keys: dict[str, Any] = {"task": "image_feature_extraction", "model": "m", "pooling": "mean"}
    with remote(tmp_path, lambda *_: vectors, **keys) as (backend, _, _):
        found = one(backend)
    assert isinstance(found, Embedding)
    assert found.vector.tolist() == [2, 4]


def test_a_label_keeps_its_number_from_frame_to_frame(tmp_path: Path) -> None:
    answers = [[], [{**BOX, "label": "dog"}], [BOX, {**BOX, "label": "dog"}]]
    with remote(tmp_path, lambda *_: answers.pop(0), model="m", labels=["person"]) as (backend, _, _):
        first, second = one(backend), one(backend)
    assert isinstance(first, Detections)
    assert isinstance(second, Detections)
    assert first.class_id.tolist() == [1]
    assert second.class_id.tolist() == [2, 1]
    assert second.names == ("person", "dog", "cat")


@pytest.mark.parametrize(
    "reply",
    [
        HTML,
        json_body({"objects": []}),
        json_body({"error": "CUDA out of memory"}),
        json_body([{"score": 0.9, "label": "cat"}]),
        json_body([{**BOX, "score": 9}]),
        json_body([{**BOX, "box": {"xmin": 1000, "ymin": 0, "xmax": 1010, "ymax": 10}}]),
        Reply(body=b'[{"score": NaN}]'),
        Reply(body=b"[" * 100_000),
        Reply(body=b""),
    ],
)
def test_an_answer_that_makes_no_sense_fails_this_frame_alone(tmp_path: Path, reply: Reply) -> None:
    with remote(tmp_path, boxes, model="m") as (backend, server, _):
        server.then(reply)
        assert fault(backend).code is BackendErrorCode.BAD_ANSWER
        assert len(one(backend)) == 1  # type: ignore[arg-type]


def test_what_the_server_says_about_a_request_is_told(tmp_path: Path) -> None:
    with remote(tmp_path, boxes, model="m", token=TOKEN) as (backend, server, _):
        server.then(Reply(400, body=b'{"error": ["too blue", "too small"]}'))
        error = fault(backend)
        assert error.code is BackendErrorCode.REJECTED
        assert "too blue" in str(error)
        server.then(Reply(401, body=b'{"error": "Authorization header is invalid"}'))
        assert fault(backend).code is BackendErrorCode.AUTH


def test_a_model_that_is_loading_is_told_apart_from_one_that_is_broken(tmp_path: Path) -> None:
    with remote(tmp_path, boxes, model="m", timeout_s=0.3) as (backend, server, _):
        server.always(LOADING)
        error = fault(backend)
        assert isinstance(error, UnavailableError)
        assert error.code is BackendErrorCode.LOADING


def test_a_model_that_is_ready_soon_costs_no_frame(tmp_path: Path) -> None:
    with remote(tmp_path, boxes, model="m") as (backend, server, _):
        server.then(Reply(503, body=b'{"error": "Model m is currently loading", "estimated_time": 0.01}'))
        assert len(one(backend)) == 1  # type: ignore[arg-type]


def test_at_the_start_the_model_is_waited_for(tmp_path: Path) -> None:
    with remote(tmp_path, boxes, opened=False, model="m", timeout_s=0.1) as (backend, server, _):
        server.always(LOADING)
        with pytest.raises(UnavailableError) as caught:
            backend.open()
        assert caught.value.code is BackendErrorCode.LOADING
        server.always(WELL)
        backend.open()
        assert len(one(backend)) == 1  # type: ignore[arg-type]


def test_a_server_that_answers_something_else_is_noticed_at_the_start(tmp_path: Path) -> None:
    with remote(tmp_path, lambda *_: [{"label": "cat", "score": 1.0}], opened=False, model="m") as (backend, _, _):
        with pytest.raises(TransientError, match="object-detection") as caught:
            backend.open()
        assert caught.value.code is BackendErrorCode.BAD_ANSWER


def test_without_waiting_nothing_is_sent_at_the_start(tmp_path: Path) -> None:
    with remote(tmp_path, boxes, model="m", wait_for_model=False) as (_, server, _):
        assert server.asked == []


def test_other_failures_have_their_codes(tmp_path: Path) -> None:
    with remote(tmp_path, boxes, model="m") as (backend, server, _):
        for code, expected in ((404, BackendErrorCode.NOT_FOUND), (500, BackendErrorCode.SERVER_ERROR)):
            server.then(status(code))
            assert fault(backend).code is expected


def test_the_token_is_a_secret(tmp_path: Path) -> None:
    config = HuggingFaceBackendConfig.model_validate({"task": "object_detection", "model": "m", "token": TOKEN})
    assert TOKEN not in repr(config) + str(config.model_dump())
    assert TOKEN in list(secrets_in(config))


def test_a_url_with_a_password_does_not_show_it() -> None:
    url = "https://me:swordfish@models.lan/endpoint"
    config = HuggingFaceBackendConfig.model_validate({"task": "object_detection", "model": url})
    assert "swordfish" not in repr(config) + str(config.model_dump(mode="json"))
    assert "swordfish" in list(secrets_in(config))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"task": "object_detection"}, "model is missing"),
        ({"task": "object_detection", "model": "http://a/b", "url": "http://c"}, "give one of them"),
        ({"task": "audio_classification", "model": "m"}, "not about the pictures"),
        ({"task": "text-generation", "model": "m"}, "not about the pictures"),
        ({"task": "make_coffee", "model": "m"}, "object-detection"),
        ({"task": 5, "model": "m"}, "object-detection"),
        ({"task": "zero_shot_image_classification", "model": "m"}, "candidate_labels"),
        ({"task": "visual_question_answering", "model": "m"}, "question"),
        ({"task": "visual_question_answering", "model": "m", "parameters": {"question": 5}}, "question"),
        ({"task": "object_detection", "model": "m", "parameters": {"threshold": 5}}, "threshold"),
        ({"task": "object_detection", "model": "m", "parameters": {"x": float("nan")}}, "cannot be sent"),
        ({"task": "object_detection", "model": "m", "parameters": {"x": {1}}}, "cannot be sent"),
        ({"task": "object_detection", "model": "../secret"}, "model"),
        ({"task": "object_detection", "model": "ftp://a/b"}, "http"),
        ({"task": "object_detection", "model": "m", "threshold": 0.5}, "threshold"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HuggingFaceBackendConfig.model_validate(keys)


def test_the_hosted_service_is_asked_as_its_own_client_asks_it() -> None:
    config = HuggingFaceBackendConfig.model_validate({"task": "feature_extraction", "model": "a/b"})
    assert config.url.reveal() == "https://router.huggingface.co/hf-inference"
    assert config.model_validate(config.model_dump()) == config
    linked = HuggingFaceBackendConfig.model_validate({"task": "object_detection", "model": "http://a/b"})
    assert linked.model_validate(linked.model_dump()) == linked
