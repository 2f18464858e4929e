import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.wire.huggingface_generation import (
    ERROR_TYPES,
    Details,
    Generated,
    Step,
    Token,
    decode_events,
    decode_generated,
    encode_event,
    encode_generated,
    unused_parameters,
)
from pipeline.wire.huggingface_text import decode_answer, encode_answer, tasks
from pipeline.wire.huggingface_types import (
    Answer,
    Conversation,
    Entity,
    Filled,
    Scored,
    Span,
    TableAnswer,
    Transcript,
    ZeroShot,
)

# task -> the answer, and the document as clients were seen to take it.
RECORDED: dict[str, tuple[Answer, Any]] = {
    "audio-classification": ((Scored("hap", 0.5),), [{"label": "hap", "score": 0.5}]),
    "automatic-speech-recognition": (Transcript("hello"), {"text": "hello"}),
    "conversational": (
        Conversation("ho", ("ho",), ("hi",)),
        {
            "generated_text": "ho",
            "conversation": {"generated_responses": ["ho"], "past_user_inputs": ["hi"]},
            "warnings": [],
        },
    ),
    "document-question-answering": (
        (Span("us-001", 0.5, 16, 16),),
        [{"score": 0.5, "start": 16, "end": 16, "answer": "us-001"}],
    ),
    "fill-mask": (
        (Filled("it is happiness", 0.5, 11098, " happiness"),),
        [{"score": 0.5, "token": 11098, "token_str": " happiness", "sequence": "it is happiness"}],
    ),
    "question-answering": (Span("Clara", 0.5, 11, 16), {"score": 0.5, "start": 11, "end": 16, "answer": "Clara"}),
    "sentence-similarity": ((0.5, -0.25), [0.5, -0.25]),
    "summarization": ("short", [{"summary_text": "short"}]),
    "table-question-answering": (
        TableAnswer("36542", ((0, 1),), ("36542",), "AVERAGE"),
        {"answer": "36542", "coordinates": [[0, 1]], "cells": ["36542"], "aggregator": "AVERAGE"},
    ),
    "tabular-classification": (("5", "6"), ["5", "6"]),
    "tabular-regression": ((110.0, 120.0), [110.0, 120.0]),
    "text-classification": ((Scored("POSITIVE", 0.5),), [[{"label": "POSITIVE", "score": 0.5}]]),
    "token-classification": (
        (Entity("PER", 0.5, "Sarah", 0, 5), Entity("B-LOC", 0.5, "London", None, None, grouped=False)),
        [
            {"entity_group": "PER", "score": 0.5, "word": "Sarah", "start": 0, "end": 5},
            {"entity": "B-LOC", "score": 0.5, "word": "London", "start": None, "end": None},
        ],
    ),
    "translation": ("Bonjour", [{"translation_text": "Bonjour"}]),
    "image-to-text": ("a cat", [{"generated_text": "a cat"}]),
    "zero-shot-classification": (
        ZeroShot(("a", "b"), (0.75, 0.25)),
        [{"label": "a", "score": 0.75}, {"label": "b", "score": 0.25}],
    ),
}
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["answer", "text", "score", "label", "conversation", "cells", "chunks", "labels", "details"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
TOKEN = Token(5, " x", -0.5, False)
DETAILS = Details("length", 1, 2**63 + 1, (Token(1, "a", None),), (TOKEN,), (Generated("y", Details("eos_token", 2)),))


def test_every_task_that_answers_with_a_document_is_recorded() -> None:
    assert sorted(RECORDED) == sorted(tasks())


@pytest.mark.parametrize("task", sorted(RECORDED))
def test_answers_are_written_and_read_as_recorded(task: str) -> None:
    answer, document = RECORDED[task]
    assert encode_answer(task, answer) == document
    assert decode_answer(task, document) == answer


def test_zero_shot_answers_differ_by_generation() -> None:
    answer = ZeroShot(("a", "b"), (0.75, 0.25), "the text")
    document = encode_answer("zero-shot-classification", answer, "0.17")
    assert document == {"sequence": "the text", "labels": ["a", "b"], "scores": [0.75, 0.25]}
    assert decode_answer("zero-shot-classification", document) == answer


def test_what_was_said_when_survives_the_wire() -> None:
    answer = Transcript("hello you", (("hello", 0.0, 1.5), ("you", 1.5, None)))
    document = encode_answer("automatic-speech-recognition", answer)
    assert document["chunks"][0] == {"text": "hello", "timestamp": [0.0, 1.5]}
    assert decode_answer("automatic-speech-recognition", document) == answer


def test_tasks_without_a_document_have_none() -> None:
    with pytest.raises(ValueError, match="text-to-image"):
        decode_answer("text-to-image", {})


@settings(deadline=None)
@given(st.sampled_from(sorted(RECORDED)), JSONS)
def test_no_document_does_more_than_make_no_sense(task: str, document: Any) -> None:
    for shape in (document, [document], [[document]], {"score": 0.5, "answer": "x", "start": document}):
        assert "\n" not in fault_of(lambda value: decode_answer(task, value), shape)
        assert "\n" not in fault_of(decode_generated, shape)
        assert "\n" not in fault_of(lambda value: list(decode_events([b"data:" + json.dumps(value).encode()])), shape)


def fault_of(decode: Any, document: Any) -> str:
    try:
        decode(document)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("task", "document"),
    [
        ("question-answering", [RECORDED["question-answering"][1]]),
        ("automatic-speech-recognition", [{"text": "x"}]),
        ("summarization", {"summary_text": "x"}),
        ("summarization", []),
        ("zero-shot-classification", {"sequence": "t", "labels": ["a"], "scores": []}),
        ("table-question-answering", {"answer": "x", "coordinates": [[-1]], "cells": []}),
        ("fill-mask", [{"score": 2.0, "token": 1, "token_str": "x", "sequence": "y"}]),
        ("automatic-speech-recognition", {"text": "x", "chunks": [{"text": "x", "timestamp": [1]}]}),
    ],
)
def test_the_wrong_shape_is_an_error(task: str, document: Any) -> None:
    assert fault_of(lambda value: decode_answer(task, value), document)


def test_a_generated_text_survives_the_wire() -> None:
    for generated in (Generated("x"), Generated("x", DETAILS)):
        document = json.loads(json.dumps(encode_generated(generated)))
        assert decode_generated(document) == decode_generated(document[0]) == generated


def test_a_stream_is_read_token_by_token() -> None:
    steps = [Step(TOKEN), Step(TOKEN, "the whole", Details("stop_sequence", 2, 7))]
    lines = b"\n:comment\nevent: x\n\n".join(encode_event(step) for step in steps).split(b"\n")
    assert list(decode_events(lines)) == steps
    assert list(decode_events([b'data: {"token":{"id":5,"text":" x","logprob":-0.5,"special":false}}'])) == steps[:1]
    assert list(decode_events([encode_event(steps[0]), b"data: [DONE]", b"data: junk"])) == steps[:1]


def test_an_error_within_a_stream_ends_it() -> None:
    with pytest.raises(ValueError, match="out of memory"):
        list(decode_events([b'data:{"error":"out of memory","error_type":"generation"}']))


def test_a_finish_reason_that_is_unknown_is_an_error() -> None:
    with pytest.raises(ValueError, match="finish_reason"):
        decode_generated([{"generated_text": "x", "details": {"finish_reason": "boredom", "generated_tokens": 1}}])


def test_parameters_that_a_server_does_not_know_are_found_in_its_words() -> None:
    said = "The following `model_kwargs` are not used by the model: ['watermark', 'stop'] (note: typos)"
    assert unused_parameters(said) == ("watermark", "stop")
    assert unused_parameters("bad request") == ()
    assert set(ERROR_TYPES.values()) == {422, 424, 429, 500}
