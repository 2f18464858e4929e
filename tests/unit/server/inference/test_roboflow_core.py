"""Roboflow's core models: CLIP, OCR, texts; and what is not offered."""

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from asking import FakeAsking, detector, model, picture_file, serve_dialects
from serving import Ask

from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.frame import Wishes
from pipeline.contracts.result import Embedding
from pipeline.server.inference.roboflow import dialect
from pipeline.wire.roboflow import Gaze, gaze_detections

ASKED = ModelInfo("text", texts="question")
IMAGE = {"type": "base64", "value": base64.b64encode(picture_file()).decode()}


def run(test: Callable[[Ask], Awaitable[None]], *models: Any) -> FakeAsking:
    asking = FakeAsking(*(models or (model("clip", "embedding", "clip/ViT-B-16"),)))
    serve_dialects(asking, {"": dialect}, test)
    return asking


@pytest.mark.parametrize("count", [1, 3])
def test_clip_gives_a_vector_for_each_picture(count: int) -> None:
    async def test(ask: Ask) -> None:
        body = {"api_key": "K", "image": IMAGE if count == 1 else [IMAGE] * count}
        answer = await ask("POST", "/clip/embed_image", json=body)
        assert answer.body["embeddings"] == [[1.0, 0.0, 0.0, 0.0]] * count
        assert answer.body["frame_id"] is None
        assert answer.body["time"] >= 0

    run(test)


@pytest.mark.parametrize("text", ["a fox", ["a fox", "a dogs"]])
def test_clip_gives_a_vector_for_each_text(text: Any) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/clip/embed_text", json={"text": text, "clip_version_id": "ViT-B-16"})
        lengths = [vector[3] for vector in answer.body["embeddings"]]
        assert lengths == [float(len(one)) for one in ([text] if isinstance(text, str) else text)]
        assert "frame_id" in answer.body

    run(test)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"subject": IMAGE, "prompt": ["fox", "dog"]}, [0.0, 0.0]),
        ({"subject": IMAGE, "subject_type": "image", "prompt": IMAGE, "prompt_type": "image"}, [1.0]),
        ({"subject": "fox", "subject_type": "text", "prompt": [IMAGE, IMAGE], "prompt_type": "image"}, [0.0, 0.0]),
        ({"subject": "fox", "subject_type": "text", "prompt": "fox", "prompt_type": "text"}, [1.0]),
        ({"subject": IMAGE, "prompt": {"a": "fox", "b": "dog"}}, {"a": 0.0, "b": 0.0}),
    ],
    ids=["image-texts", "image-image", "text-images", "text-text", "object"],
)
def test_clip_compares(body: Any, expected: Any) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/clip/compare", json=body)
        assert answer.body["similarity"] == expected

    run(test)


def test_a_vector_of_nothing_is_like_nothing() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/clip/compare", json={"subject": IMAGE, "prompt": "fox"})
        assert answer.body["similarity"] == [0.0]

    asking = FakeAsking(model("clip", "embedding"))
    asking.answers["clip"] = lambda _, __: Embedding(np.zeros(4, np.float32))
    serve_dialects(asking, {"": dialect}, test)


def test_a_model_of_another_task_is_no_clip() -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("POST", "/clip/embed_image", json={"image": IMAGE})).status == 200

    asked = run(test, detector("local", texts=True), model("clip", "embedding")).asked
    assert [one.model_id for one in asked] == ["clip"]


def test_of_several_clips_the_one_that_is_named_answers() -> None:
    async def test(ask: Ask) -> None:
        for version, status in ((None, 200), ("RN50", 200), ("ViT-L-14", 404)):
            answer = await ask("POST", "/clip/embed_image", json={"image": IMAGE, "clip_version_id": version})
            assert answer.status == status

    models = (model("one", "embedding", "clip/ViT-B-16"), model("two", "embedding", "clip/RN50"))
    assert [asked.model_id for asked in run(test, *models).asked] == ["one", "two"]


@pytest.mark.parametrize("path", ["/clip/embed_image", "/doctr/ocr", "/ocr/trocr", "/easy_ocr/ocr", "/ocr/pp-ocr"])
def test_a_core_model_that_is_not_configured_is_a_501_that_says_so(path: str) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", path, json={"image": IMAGE})
        assert answer.status == 501
        assert "configured" in answer.body["message"]

    run(test, detector("local"))


@pytest.mark.parametrize(
    ("path", "alias"),
    [("/doctr/ocr", "doctr"), ("/ocr/trocr", "trocr"), ("/easy_ocr/ocr", "easy_ocr"), ("/ocr/pp-ocr", "pp_ocr")],
)
def test_a_model_with_the_alias_of_an_ocr_reads(path: str, alias: str) -> None:
    async def test(ask: Ask) -> None:
        one = await ask("POST", path, json={"image": IMAGE})
        assert one.body["result"] == "a bus in a street"
        assert one.body["time"] >= 0
        several = await ask("POST", path, json={"image": [IMAGE, IMAGE], f"{alias}_version_id": "default"})
        assert [item["result"] for item in several.body] == ["a bus in a street"] * 2

    run(test, model("reader", "text", alias))


def test_a_model_that_gives_no_texts_does_not_read() -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("POST", "/doctr/ocr", json={"image": IMAGE})).status == 501

    run(test, detector("local", "doctr"))


def test_a_model_that_takes_no_prompt_is_not_asked_with_one() -> None:
    async def test(ask: Ask) -> None:
        for path, body in (("/infer/lmm", {"model_id": "a/1"}), ("/infer/lmm/a/1", {})):
            answer = await ask("POST", path, json={"image": IMAGE, **body})
            assert answer.body["response"] == "a bus in a street"
            prompted = await ask("POST", path, json={"image": IMAGE, "prompt": "how many?", **body})
            assert prompted.status == 501

    asked = run(test, model("captions", "text", "a/1")).asked
    assert [one.wishes for one in asked] == [None, None]


@pytest.mark.parametrize(("path", "body"), [("/infer/lmm", {"model_id": "a/1"}), ("/infer/lmm/a/1", {})])
def test_a_prompt_is_passed_on_to_a_model_that_takes_it(path: str, body: dict[str, Any]) -> None:
    async def test(ask: Ask) -> None:
        for prompt, response in (("how many?", "how many?: a bus in a street"), ("", "a bus in a street")):
            answer = await ask("POST", path, json={"image": IMAGE, "prompt": prompt, **body})
            assert answer.body["response"] == response

    asked = run(test, model("chat", "text", "a/1", info=ASKED)).asked
    assert [one.wishes for one in asked] == [Wishes(texts=("how many?",)), None]


def test_cogvlm_answers_a_question_and_hears_what_was_said_before() -> None:
    async def test(ask: Ask) -> None:
        body = {"api_key": "K", "model_id": "cogvlm", "prompt": "how many?", "image": IMAGE}
        answer = await ask("POST", "/llm/cogvlm", json=body)
        assert answer.body["response"] == "how many?: a bus in a street"
        assert answer.body["time"] >= 0
        said = {"history": [["what?", "buses"], ["where?", "here"]], "image": [IMAGE, IMAGE]}
        several = await ask("POST", "/llm/cogvlm", json=body | said)
        assert [one["response"] for one in several.body] == ["how many?: a bus in a street"] * 2

    models = (model("reader", "text", info=ASKED), model("chat", "text", "cogvlm", info=ASKED))
    first, second = run(test, *models).asked
    assert (first.model_id, first.wishes) == ("chat", Wishes(texts=("how many?",)))
    assert second.wishes == Wishes(texts=("how many?", "what?", "buses", "where?", "here"))


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([model("chat", "text", info=ModelInfo("text", texts="question"))], "alias 'cogvlm'"),
        ([model("reader", "text", "cogvlm")], "takes no prompt"),
        ([detector("local", "cogvlm")], "takes no prompt"),
    ],
    ids=["no-alias", "no-questions", "no-texts"],
)
def test_without_a_model_for_questions_cogvlm_says_so(models: list[Any], said: str) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/llm/cogvlm", json={"image": IMAGE, "prompt": "what?"})
        assert answer.status == 501
        assert said in answer.body["message"]

    assert run(test, *models).asked == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": None},
        {"prompt": ""},
        {"prompt": ["what?"]},
        {"history": "what?"},
        {"history": [["what?"]]},
        {"history": [["what?", 1]]},
        {"history": ["ab"]},
        {"history": [["a", "b"]] * 101},
    ],
)
def test_a_question_of_a_wrong_form_is_a_422(wrong: dict[str, Any]) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/llm/cogvlm", json={"image": IMAGE, "prompt": "what?"} | wrong)
        assert answer.status == 422
        assert answer.body["detail"][0]["loc"][1] == next(iter(wrong))

    assert run(test, model("chat", "text", "cogvlm", info=ASKED)).asked == []


def test_an_ocr_is_not_asked_questions() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/doctr/ocr", json={"image": IMAGE, "prompt": "what?"})
        assert answer.body["result"] == "a bus in a street"

    assert run(test, model("reader", "text", "doctr")).asked[0].wishes is None


@pytest.mark.parametrize("texts", [["x"] * 1001, ["x" * 10_001]], ids=["too-many", "too-long"])
def test_more_text_than_clip_takes_never_reaches_it(texts: list[str]) -> None:
    async def test(ask: Ask) -> None:
        for path, body in (
            ("/clip/embed_text", {"text": texts}),
            ("/clip/compare", {"subject": IMAGE, "prompt": texts}),
            ("/llm/cogvlm", {"image": IMAGE, "prompt": "".join(texts) * 10}),
        ):
            assert (await ask("POST", path, json=body)).status in {413, 422}

    asking = run(test, model("clip", "embedding"), model("chat", "text", "cogvlm", info=ASKED))
    assert (asking.asked, asking.texts) == ([], [])


def test_any_model_of_vectors_gives_them() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/infer/embeddings", json={"image": IMAGE, "model_id": "clip"})
        assert answer.body["embeddings"] == [[1.0, 0.0, 0.0, 0.0]]
        assert (await ask("POST", "/infer/embeddings", json={"image": IMAGE})).status == 404

    run(test)


def test_gaze_is_gone_as_in_roboflows_own_server() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/gaze/gaze_detection", json={"image": IMAGE})
        assert answer.status == 410
        assert answer.body["error_type"] == "FeatureDeprecatedError"
        assert {"message", "feature", "removal_release", "replacement", "reason"} <= set(answer.body)

    run(test)


@pytest.mark.parametrize("count", [1, 2])
def test_a_model_with_the_alias_gaze_tells_where_faces_look(count: int) -> None:
    faces = [
        Gaze((100, 80, 140, 130), 0.9, ((110, 95), (130, 95)), yaw=0.3, pitch=-0.2),
        Gaze((0, 0, 60, 60), 0.5, ((10, 10), (20, 10)), yaw=1.2, pitch=0.1),  # its arrow leaves the picture
    ]

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/gaze/gaze_detection", json={"image": IMAGE if count == 1 else [IMAGE] * count})
        for body in [answer.body] if count == 1 else answer.body:
            first, second = body["predictions"]
            assert (first["yaw"], first["pitch"]) == (pytest.approx(0.3, abs=1e-4), pytest.approx(-0.2, abs=1e-4))
            assert first["face"]["landmarks"] == [{"x": 110.0, "y": 95.0}, {"x": 130.0, "y": 95.0}]
            assert (first["face"]["x"], first["face"]["width"]) == (120, 40)
            assert (second["yaw"], second["pitch"]) == (None, None)
            assert {"time", "time_face_det", "time_gaze_det"} <= set(body)

    asking = FakeAsking(model("faces", "keypoint-detection", "gaze"))
    asking.answers["faces"] = lambda picture, _: gaze_detections(faces, picture.size)
    serve_dialects(asking, {"": dialect}, test)


def test_a_model_without_arrows_finds_no_gazes() -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("POST", "/gaze/gaze_detection", json={"image": IMAGE})).status == 501

    run(test, model("faces", "keypoint-detection", "gaze"))


@pytest.mark.parametrize("path", ["/sam2/segment_image", "/yolo_world/infer", "/infer/depth-estimation/a/b"])
def test_what_is_not_offered_says_so(path: str) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", path, json={"image": IMAGE})
        assert (answer.status, list(answer.body)) == (501, ["message"])

    run(test)


@pytest.mark.parametrize(
    "body", [{}, {"text": []}, {"text": 1}, {"text": [1]}, {"text": None}, [], {"text": "x", "clip_version_id": 1}]
)
def test_a_wrong_body_is_a_422(body: Any) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/clip/embed_text", json=body)
        assert answer.status == 422
        assert answer.body["detail"]

    run(test)
