import base64
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from asking import FakeAsking, detector, found, model, picture_file, serve_dialects
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serving import Answer, Ask

from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.frame import Wishes
from pipeline.contracts.result import Classification, Detections, Embedding, Text
from pipeline.server.inference.huggingface import dialect
from pipeline.server.inference.service import Dialect, InferenceLimits, InferenceRoute, Service, json_answer

PICTURE = picture_file()
BASE64 = base64.b64encode(PICTURE).decode()
BOXES = [
    {"score": 0.875, "label": "person", "box": {"xmin": 10, "ymin": 20, "xmax": 110, "ymax": 120}},
    {"score": 0.5, "label": "bus", "box": {"xmin": 30, "ymin": 40, "xmax": 90, "ymax": 80}},
]
DETECTOR = detector("local", "facebook/detr-resnet-50", "coco/9")
SEGMENTER = model("cutter", "instance-segmentation")
CLIP = model("clip", "embedding", "openai/clip-vit-base-patch32")


def served(asking: FakeAsking, test: Callable[[Ask], Awaitable[None]], **options: Any) -> None:
    serve_dialects(asking, {"/hf": dialect}, test, **options)


def post(asking: FakeAsking, path: str, **options: Any) -> Answer:
    answers = []

    async def test(ask: Ask) -> None:
        answers.append(await ask("POST", path, **options))

    served(asking, test)
    return answers[0]


def get(asking: FakeAsking, path: str) -> Answer:
    answers = []

    async def test(ask: Ask) -> None:
        answers.append(await ask("GET", path))

    served(asking, test)
    return answers[0]


@pytest.mark.parametrize(
    "path",
    [
        "/hf/object-detection",
        "/hf/object_detection",
        "/hf/object_detection/local",
        "/hf/object-detection/facebook/detr-resnet-50",
        "/hf/models/local",
        "/hf/models/coco/9",
        "/hf/models/coco/9/pipeline/object-detection",
        "/hf/pipeline/object-detection/facebook/detr-resnet-50",
        "/hf//models//local",
    ],
)
def test_every_path_leads_to_the_model_and_the_corners_are_whole_pixels(path: str) -> None:
    answer = post(FakeAsking(DETECTOR), path, data=PICTURE)
    assert (answer.status, answer.body) == (200, BOXES)
    assert answer.headers["Content-Type"] == "application/json"  # exactly: the oldest client compares it
    assert answer.headers["x-compute-time"] == "0.012500"
    assert answer.headers["x-compute-images"] == "1"


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "image/png", "text/html", "application/json"])
def test_a_body_is_what_its_first_bytes_say_whatever_its_content_type(kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    skipped = [] if kind else ["Content-Type"]
    asking = FakeAsking(DETECTOR)
    raw = post(asking, "/hf/object-detection", data=PICTURE, headers=headers, skip_auto_headers=skipped)
    text = json.dumps({"inputs": BASE64}).encode()
    listed = post(asking, "/hf/object-detection", data=b" \n" + text, headers=headers, skip_auto_headers=skipped)
    assert (raw.status, raw.body) == (listed.status, listed.body) == (200, BOXES)
    assert [asked.pictures[0].size for asked in asking.asked] == [(320, 240)] * 2


def test_parameters_reach_the_model_as_wishes_for_this_picture_alone() -> None:
    asking = FakeAsking(DETECTOR)
    answer = post(asking, "/hf/object-detection", json={"inputs": BASE64, "parameters": {"threshold": 0.6}})
    assert answer.body == BOXES[:1]  # also where the model itself does not honour it
    wishes = asking.asked[0].wishes
    assert wishes is not None
    assert wishes.confidence == 0.6


def test_a_list_of_pictures_is_answered_by_a_list_even_of_one() -> None:
    assert post(FakeAsking(DETECTOR), "/hf/object-detection", json={"inputs": [BASE64]}).body == [BOXES]
    assert post(FakeAsking(DETECTOR), "/hf/object-detection", json={"inputs": [BASE64] * 3}).body == [BOXES] * 3


def test_nothing_found_is_an_empty_list() -> None:
    asking = FakeAsking(DETECTOR)
    empty = np.zeros(0, np.float32)
    asking.answers["local"] = lambda *_: Detections(np.zeros((0, 4), np.float32), empty, empty.astype(np.int32))
    assert post(asking, "/hf/object-detection", data=PICTURE).body == []


def test_what_is_no_number_is_not_told() -> None:
    asking = FakeAsking(DETECTOR)
    asking.answers["local"] = lambda *_: found(confidence=np.array([np.nan, 0.5], np.float32))
    assert [one["label"] for one in post(asking, "/hf/object-detection", data=PICTURE).body] == ["bus"]


def test_a_segmentation_has_a_mask_of_the_whole_picture_for_each_object() -> None:
    answer = post(FakeAsking(DETECTOR, SEGMENTER), "/hf/image-segmentation", data=PICTURE).body
    assert [(one["label"], one["score"]) for one in answer] == [("person", 0.875), ("bus", 0.5)]
    with Image.open(io.BytesIO(base64.b64decode(answer[0]["mask"]))) as mask:
        assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (320, 240))
        values = np.asarray(mask)
    assert set(np.unique(values)) == {0, 255}
    assert np.flatnonzero(values.any(axis=1))[[0, -1]].tolist() == [20, 119]


def test_a_semantic_segmentation_has_a_mask_for_each_class_and_no_scores() -> None:
    answer = post(FakeAsking(model("roads", "semantic-segmentation")), "/hf/models/roads", data=PICTURE).body
    assert [(one["label"], one["score"]) for one in answer] == [("person", None), ("bus", None)]


def test_a_segmenter_detects_as_well() -> None:
    assert post(FakeAsking(SEGMENTER), "/hf/object-detection/cutter", data=PICTURE).body == BOXES


def test_classes_are_told_the_most_likely_first_and_five_unless_asked_otherwise() -> None:
    asking = FakeAsking(model("kinds", "classification"))
    names = tuple("abcdefg")
    scores = np.array([0.05, 0.3, 0.1, 0.2, 0.15, 0.08, 0.12], np.float32)
    asking.answers["kinds"] = lambda *_: Classification(scores, names)
    plain = post(asking, "/hf/image-classification", data=PICTURE).body
    assert [one["label"] for one in plain] == ["b", "d", "e", "g", "c"]
    assert plain[0]["score"] == 0.3
    top = post(asking, "/hf/image_classification", json={"inputs": BASE64, "parameters": {"top_k": 2}}).body
    assert [one["label"] for one in top] == ["b", "d"]


def test_a_function_that_was_not_applied_is_refused_rather_than_ignored() -> None:
    asking = FakeAsking(model("kinds", "classification"))
    body = {"inputs": BASE64, "parameters": {"function_to_apply": "sigmoid"}}
    answer = post(asking, "/hf/image-classification", json=body)
    assert answer.status == 400
    assert "softmax" in answer.body["error"]
    body["parameters"] = {"function_to_apply": "softmax"}
    assert post(asking, "/hf/image-classification", json=body).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"image": BASE64, "parameters": {"candidate_labels": "a cat,a dog"}},
        {"inputs": BASE64, "parameters": {"candidate_labels": ["a cat", "a dog"]}},
        {"inputs": {"image": BASE64}, "parameters": {"candidate_labels": ["a cat", "a dog"]}},
    ],
)
def test_zero_shot_compares_with_the_labels_of_either_generation(body: dict[str, Any]) -> None:
    asking = FakeAsking(CLIP)
    asking.answers["clip"] = lambda *_: Classification(np.array([0.25, 0.75], np.float32), ("one", "other"))
    answer = post(asking, "/hf/zero-shot-image-classification", json=body)
    assert answer.body == [{"label": "a dog", "score": 0.75}, {"label": "a cat", "score": 0.25}]
    wishes = asking.asked[0].wishes
    assert wishes is not None
    assert wishes.texts == ("This is a photo of a cat.", "This is a photo of a dog.")


def test_the_template_of_zero_shot_labels_is_the_clients() -> None:
    asking = FakeAsking(CLIP)
    parameters = {"candidate_labels": ["{}", "dog"], "hypothesis_template": "{} outside"}
    answer = post(asking, "/hf/models/clip", json={"inputs": BASE64, "parameters": parameters})
    assert answer.status == 200
    wishes = asking.asked[0].wishes
    assert wishes is not None
    assert wishes.texts == ("{} outside", "dog outside")


def test_zero_shot_without_labels_is_refused() -> None:
    answer = post(FakeAsking(CLIP), "/hf/zero-shot-image-classification", data=PICTURE)
    assert (answer.status, answer.body) == (400, {"error": "'candidate_labels' is missing in 'parameters'"})


def test_a_text_gives_one_vector_and_a_list_of_texts_a_list() -> None:
    asking = FakeAsking(CLIP)
    one = post(asking, "/hf/pipeline/feature-extraction/openai/clip-vit-base-patch32", json={"inputs": "fox"})
    assert one.body == [0.0, 1.0, 0.0, 3.0]
    assert one.headers["x-compute-characters"] == "3"
    two = post(asking, "/hf/feature-extraction", json={"inputs": ["fox", "hound"], "normalize": True})
    assert two.body == [[0.0, 1.0, 0.0, 3.0], [0.0, 1.0, 0.0, 5.0]]
    assert asking.texts == ["fox", "fox", "hound"]


def test_a_picture_gives_a_vector_of_the_same_space() -> None:
    asking = FakeAsking(CLIP)
    for path in ("/hf/feature-extraction", "/hf/image-feature-extraction"):
        assert post(asking, path, data=PICTURE).body == [1.0, 0.0, 0.0, 0.0]
    assert post(asking, "/hf/image_feature_extraction", json={"inputs": BASE64}).body == [1.0, 0.0, 0.0, 0.0]


def test_sentences_are_compared_with_the_first() -> None:
    body = {"inputs": {"source_sentence": "ox", "sentences": ["ox", "dog"]}}
    answer = post(FakeAsking(CLIP), "/hf/sentence-similarity", json=body)
    expected = (1 + 2 * 3) / np.sqrt((1 + 4) * (1 + 9))
    assert answer.body == [1.0, pytest.approx(expected, abs=1e-6)]


def test_a_vector_that_is_no_number_is_an_error_not_a_null() -> None:
    asking = FakeAsking(CLIP)
    asking.answers["clip"] = lambda *_: Embedding(np.array([1, np.inf], np.float32))
    answer = post(asking, "/hf/image-feature-extraction", data=PICTURE)
    assert answer.status == 500
    assert "no number" in answer.body["error"]


def test_a_caption_is_a_list_of_one() -> None:
    answer = post(FakeAsking(model("caption", "text")), "/hf/image-to-text", data=PICTURE)
    assert answer.body == [{"generated_text": "a bus in a street"}]


CHAT = model("chat", "text", "cog/vlm", info=ModelInfo("text", texts="question"))
READER = model("reader", "text")
VISUAL, PRINTED = "visual-question-answering", "document-question-answering"
OF_BOTH_CLIENTS = [
    {"question": "how many?", "image": BASE64},
    {"inputs": BASE64, "parameters": {}, "question": "how many?", "image": BASE64},
    {"inputs": {"question": "how many?", "image": BASE64}, "parameters": {}},
]


@pytest.mark.parametrize("body", OF_BOTH_CLIENTS, ids=["0.17", "visual", "document"])
def test_a_question_is_answered_with_a_text_whose_score_nobody_knows(body: dict[str, Any]) -> None:
    asking = FakeAsking(READER, CHAT)
    said = "how many?: a bus in a street"
    for path in (f"/hf/{VISUAL}", "/hf/visual_question_answering/cog/vlm", "/hf/models/chat"):
        assert post(asking, path, json=body).body == [{"score": None, "answer": said}]
    for path in (f"/hf/{PRINTED}", f"/hf/pipeline/{PRINTED}/chat"):
        assert post(asking, path, json=body).body == [{"score": None, "answer": said, "start": None, "end": None}]
    assert {one.model_id for one in asking.asked} == {"chat"}
    assert all(one.wishes == Wishes(texts=("how many?",)) for one in asking.asked)


def test_a_document_that_says_nothing_has_no_answer() -> None:
    asking = FakeAsking(CHAT)
    asking.answers["chat"] = lambda *_: Text("")
    assert post(asking, f"/hf/{PRINTED}", json=OF_BOTH_CLIENTS[0]).body == []


def test_answers_with_scores_keep_them() -> None:
    asking = FakeAsking(model("far", "classification", info=ModelInfo("classification", texts="question")))
    asking.answers["far"] = lambda *_: Classification(np.array([0.25, 0.75], np.float32), ("two", "3"))
    best, other = {"score": 0.75, "answer": "3"}, {"score": 0.25, "answer": "two"}
    assert post(asking, f"/hf/{VISUAL}", json=OF_BOTH_CLIENTS[0]).body == [best, other]
    assert post(asking, f"/hf/{VISUAL}", json={"inputs": BASE64, "question": "?", "parameters": {"top_k": 1}}).body == [
        best
    ]
    assert asking.asked[0].wishes == Wishes(texts=("how many?",))


def test_a_model_that_takes_no_questions_is_not_asked_any() -> None:
    asking = FakeAsking(READER)
    for task in (VISUAL, PRINTED):
        assert post(asking, f"/hf/{task}", json=OF_BOTH_CLIENTS[0]).status == 501
        assert post(asking, f"/hf/{task}/reader", json=OF_BOTH_CLIENTS[0]).status == 400
    assert asking.asked == []


@pytest.mark.parametrize("question", ["", 5, ["what?"], None, "x" * 10_001])
def test_a_question_that_is_none_is_refused(question: Any) -> None:
    asking = FakeAsking(CHAT)
    assert post(asking, f"/hf/{VISUAL}", json={"question": question, "image": BASE64}).status in {400, 413}
    assert post(asking, f"/hf/{VISUAL}", data=PICTURE).status == 400
    assert asking.asked == []


def test_a_model_elsewhere_that_chooses_among_labels_does_zero_shot() -> None:
    asking = FakeAsking(model("far", "classification", info=ModelInfo("classification", ("a", "b"), texts="labels")))
    asking.answers["far"] = _clip_scores
    body = {"inputs": BASE64, "parameters": {"candidate_labels": ["cat", "dog"]}}
    answer = post(asking, "/hf/zero-shot-image-classification", json=body)
    assert [one["label"] for one in answer.body] == ["cat", "dog"]
    assert asking.asked[0].wishes == Wishes(texts=("This is a photo of cat.", "This is a photo of dog."))


def _clip_scores(_: Any, wishes: Wishes | None) -> Classification:
    assert wishes is not None
    return Classification(np.linspace(0.75, 0.25, len(wishes.texts)).astype(np.float32), wishes.texts)


@pytest.mark.parametrize("texts", [[str(n) for n in range(1001)], ["x" * 10_001]], ids=["too-many", "too-long"])
def test_more_text_than_clip_takes_never_reaches_it(texts: list[str]) -> None:
    asking = FakeAsking(CLIP)
    for path, body in (
        ("feature-extraction", {"inputs": texts}),
        ("sentence-similarity", {"inputs": {"source_sentence": "x", "sentences": texts}}),
        ("zero-shot-image-classification", {"inputs": BASE64, "parameters": {"candidate_labels": texts}}),
    ):
        assert post(asking, f"/hf/{path}", json=body).status in {400, 413}
    assert (asking.asked, asking.texts) == ([], [])


def test_a_template_has_one_place_for_the_label() -> None:
    for template in ("{}" * 500, "a photo"):
        parameters = {"candidate_labels": ["a"], "hypothesis_template": template}
        answer = post(
            FakeAsking(CLIP), "/hf/zero-shot-image-classification", json={"inputs": BASE64} | {"parameters": parameters}
        )
        assert answer.status == 400


def test_a_task_that_no_model_does_says_what_is_served() -> None:
    answer = post(FakeAsking(DETECTOR), "/hf/automatic-speech-recognition", data=b"RIFF\0\0\0\0WAVE")
    assert answer.status == 501
    assert answer.body == {"error": "no model here does automatic-speech-recognition; served are: object-detection"}


def test_a_task_that_this_model_does_not_do_says_what_it_does() -> None:
    answer = post(FakeAsking(DETECTOR, CLIP), "/hf/image-to-text/local", data=PICTURE)
    assert (answer.status, answer.body) == (
        400,
        {"error": "Model facebook/detr-resnet-50 does not do image-to-text; it does object-detection"},
    )


def test_an_unknown_model_and_an_unknown_path_are_404_in_the_dialects_form() -> None:
    for path in ("/hf/models/nobody/knows", "/hf/object-detection/nobody", "/hf/no-such-task"):
        answer = post(FakeAsking(DETECTOR), path, data=PICTURE)
        assert answer.status == 404
        assert isinstance(answer.body["error"], str)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no body"),
        (b"{", "JSON"),
        (b'{"inputs": null}', "'inputs' is missing"),
        (b'{"inputs": 5}', "base64"),
        (b'{"inputs": []}', "empty list"),
        (b'{"inputs": [5]}', "base64"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"inputs": "aaaa", "parameters": {"threshold": 7}}', "'threshold'"),
        (b'{"inputs": "aaaa", "parameters": []}', "'parameters'"),
        (b"\xff\xd8\xff garbage", ""),
    ],
)
def test_what_makes_no_sense_is_a_400_that_says_so(body: bytes, said: str) -> None:
    answer = post(FakeAsking(DETECTOR), "/hf/object-detection", data=body)
    assert answer.status == 400
    assert said in answer.body["error"]


def test_too_many_pictures_are_refused_before_they_are_decoded() -> None:
    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/hf/object-detection", json={"inputs": ["junk"] * 3})
        assert answer.status == 413

    served(FakeAsking(DETECTOR), test, limits=InferenceLimits(max_pictures=2))


def test_a_url_is_refused_unless_the_operator_allows_it() -> None:
    answer = post(FakeAsking(DETECTOR), "/hf/object-detection", json={"inputs": "http://127.0.0.1:9/a.jpg"})
    assert answer.status == 400
    assert "127.0.0.1" not in answer.body["error"]


def test_a_model_that_is_loading_says_for_how_long() -> None:
    asking = FakeAsking(detector(state="loading"))
    answer = post(asking, "/hf/models/local", data=PICTURE)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert answer.body == {"error": "Model local is currently loading", "estimated_time": 2.0}


def test_a_model_that_was_never_ready_is_loading_by_any_path() -> None:
    asking = FakeAsking(detector(state="loading", info=None))
    for path in ("/hf/models/local", "/hf/object-detection", "/hf/object-detection/local"):
        answer = post(asking, path, data=PICTURE)
        assert (answer.status, answer.body["error"]) == (503, "Model local is currently loading")
        assert answer.body["estimated_time"] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"json": {"inputs": BASE64, "options": {"wait_for_model": True}}},
        {"data": PICTURE, "headers": {"X-wait-for-model": "1"}},
    ],
)
def test_who_waits_for_the_model_is_held_until_it_is_there(options: dict[str, Any]) -> None:
    answer = post(FakeAsking(detector(state="loading")), "/hf/models/local", **options)
    assert (answer.status, answer.body) == (200, BOXES)


def test_a_model_that_was_taken_out_is_not_brought_back_by_waiting_for_it() -> None:
    asking = FakeAsking(detector(state="unloaded"))
    answer = post(asking, "/hf/models/local", data=PICTURE, headers={"X-wait-for-model": "1"})
    assert answer.status == 503
    assert asking.models["local"].state == "unloaded"


def test_the_status_of_a_model() -> None:
    asking = FakeAsking(DETECTOR, detector("slow", state="loading"))
    assert get(asking, "/hf/status/facebook/detr-resnet-50").body == {
        "loaded": True,
        "state": "Loaded",
        "compute_type": None,
        "framework": "transformers",
    }
    assert get(asking, "/hf/status/slow").body["loaded"] is False
    assert get(asking, "/hf/status/nobody").status == 404


def test_models_are_listed_under_the_framework_by_which_clients_look_for_them() -> None:
    asking = FakeAsking(DETECTOR, CLIP)
    pictures = get(asking, "/hf/framework/transformers").body
    assert {"model_id": "coco/9", "task": "object-detection"} in pictures
    assert {"model_id": "clip", "task": "zero-shot-image-classification"} in pictures
    texts = get(asking, "/hf/framework/sentence-transformers").body
    assert {"model_id": "clip", "task": "feature-extraction"} in texts
    assert get(asking, "/hf/framework/diffusers").body == []


def test_the_hub_knows_tasks_and_models() -> None:
    asking = FakeAsking(detector("slow", state="failed"), DETECTOR)
    tasks = get(asking, "/hf/api/tasks").body
    assert tasks["object-detection"]["widgetModels"] == ["facebook/detr-resnet-50", "slow"]
    about = get(asking, "/hf/api/models/facebook/detr-resnet-50").body
    assert (about["id"], about["pipeline_tag"]) == ("facebook/detr-resnet-50", "object-detection")
    assert get(asking, "/hf/api/models/nobody").status == 404


def test_a_url_used_as_a_model_can_be_asked_for_its_health() -> None:
    asking = FakeAsking(DETECTOR, detector("slow", state="loading"))
    assert get(asking, "/hf/object-detection/coco/9/health").status == 200
    assert get(asking, "/hf/models/coco/9/health").status == 200
    assert get(asking, "/hf/models/slow/health").status == 503
    assert get(asking, "/hf/models/coco/9/info").body["pipeline_tag"] == "object-detection"


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([BASE64, "http://127.0.0.1/"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["image", "text", "source_sentence", "sentences", "candidate_labels", "top_k"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
PATHS = ("/hf/object-detection", "/hf/models/clip", "/hf/feature-extraction", "/hf/sentence-similarity", "/hf/models/x")


def test_no_request_breaks_the_server() -> None:
    """Many requests over one connection: whatever they hold, the answer is one, or says what is wrong with them."""

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.sampled_from(PATHS), JSONS, JSONS, st.booleans())
    def collect(path: str, inputs: Any, parameters: Any, wait: bool) -> None:
        body = {"inputs": inputs, "parameters": parameters, "options": {"wait_for_model": wait}}
        requests.append((path, json.dumps(body if len(requests) % 5 else inputs)))

    requests: list[tuple[str, str]] = []
    collect()

    async def test(ask: Ask) -> None:
        for path, text in requests:
            answer = await ask("POST", path, data=text)
            assert answer.status in {200, 400, 404, 413}, (path, text)
            assert answer.status == 200 or isinstance(answer.body["error"], str)

    served(FakeAsking(DETECTOR, CLIP), test)


def test_mounted_at_the_root_it_takes_no_other_paths() -> None:
    async def answered(_: web.Request) -> web.StreamResponse:
        return json_answer("by the other")

    def other(_: Service) -> Dialect:
        routes = (InferenceRoute("POST", "/{dataset}/{version}", answered, "another", last=True),)
        return Dialect("roboflow", routes, lambda _, error: json_answer(error.message, error.status))

    async def test(ask: Ask) -> None:
        assert (await ask("POST", "/object-detection", data=PICTURE)).body == BOXES
        assert (await ask("GET", "/livez")).status == 200
        assert (await ask("POST", "/coco/9", data=PICTURE)).body == "by the other"

    serve_dialects(FakeAsking(DETECTOR), {"": [dialect, other]}, test)
