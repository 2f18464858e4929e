"""Questions and labels that a client gives to one box, whose models are another box's, come to the model there."""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from answering import install
from asking import picture_file
from daemon import Daemon

INNER = """
    [models.chat]
    type = "answering"
    task = "text"
    questions = true
    aliases = ["cogvlm"]
    asked = "chat.jsonl"

    [models.clip]
    type = "answering"
    task = "embedding"
    asked = "clip.jsonl"
"""
OUTER = """
    [models.visual]
    type = "huggingface"
    url = "URL/hf"
    model = "chat"
    task = "visual_question_answering"
    parameters = { question = "who?" }

    [models.document]
    type = "huggingface"
    url = "URL/hf/document-question-answering/chat"
    task = "document_question_answering"
    parameters = { question = "who?" }

    [models.lmm]
    type = "roboflow"
    url = "URL"
    task = "lmm"
    model_id = "chat"
    prompt = "who?"
    aliases = ["cogvlm"]

    [models.kserve]
    type = "kserve"
    url = "URL"
    model_name = "chat"

    [models.labels]
    type = "huggingface"
    url = "URL/hf/zero-shot-image-classification/clip"
    task = "zero_shot_image_classification"
    parameters = { candidate_labels = ["cat", "dog"] }
"""
PICTURE = base64.b64encode(picture_file()).decode()
QUESTION = "how many, all in all?"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    """The box that clients ask, and the one whose models it has."""
    folders = tmp_path_factory.mktemp("outer"), tmp_path_factory.mktemp("inner")
    install(folders[1])
    with ExitStack() as stack:
        inner = stack.enter_context(Daemon(folders[1], INNER, command="serve"))
        inner.ready()
        outer = stack.enter_context(Daemon(folders[0], OUTER.replace("URL", inner.url), command="serve"))
        yield outer.ready(), inner


def asked(outer: Daemon, path: str, document: dict[str, Any]) -> Any:
    status, body = outer.request(path, "POST", document)
    assert status == 200, body
    outer.scrape()
    return json.loads(body)


@pytest.mark.parametrize("name", ["visual", "document", "lmm", "kserve"])
def test_a_question_goes_through_both_boxes(boxes: tuple[Daemon, Daemon], name: str) -> None:
    outer, inner = boxes
    document = {"question": QUESTION, "image": PICTURE}
    (answer,) = asked(outer, f"/hf/visual-question-answering/{name}", document)
    assert answer == {"score": None, "answer": f"{QUESTION}: a bus in a street"}
    assert inner.lines("chat.jsonl")[-1]["wishes"]["texts"] == [QUESTION]
    body = {"model_id": name, "prompt": QUESTION, "image": {"type": "base64", "value": PICTURE}}
    assert asked(outer, "/infer/lmm", body)["response"] == f"{QUESTION}: a bus in a street"
    inner.scrape()


def test_what_was_said_before_is_refused_by_a_protocol_without_a_place_for_it(boxes: tuple[Daemon, Daemon]) -> None:
    outer, inner = boxes
    before = len(inner.lines("chat.jsonl"))
    body = {"prompt": QUESTION, "history": [["a", "b"]], "image": {"type": "base64", "value": PICTURE}}
    assert inner.request("/llm/cogvlm", "POST", body)[0] == 200
    status, said = outer.request("/llm/cogvlm", "POST", body)
    assert status == 500, said
    assert len(inner.lines("chat.jsonl")) == before + 1  # the direct question's


def test_labels_go_through_both_boxes_and_into_one_template(boxes: tuple[Daemon, Daemon]) -> None:
    outer, inner = boxes
    parameters = {"candidate_labels": ["fox", "ox", "dog"], "hypothesis_template": "see {}"}
    found = asked(outer, "/hf/zero-shot-image-classification", {"inputs": PICTURE, "parameters": parameters})
    assert sorted(one["label"] for one in found) == ["dog", "fox", "ox"]
    assert inner.lines("clip.jsonl")[-1]["wishes"]["texts"] == ["see fox", "see ox", "see dog"]
