"""Answers of the Hugging Face inference protocol on texts, tables and sound, from and to documents of JSON.

Each answer has a type in `huggingface_types`; `decode_answer` reads it and `encode_answer` writes it. Text generation
is in `huggingface_generation`; answers that are a picture or sound are the bytes of a file, and need no reading.

Format: huggingface_hub 0.17.3 and 2.4.0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pipeline.wire.document import integer, items, mapping, number, text
from pipeline.wire.huggingface_requests import Generation
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

MAX_ITEMS = 100_000
"""Items in one list of an answer, at most."""
MAX_POSITION = 1 << 53


def decode_answer(task: str, document: object) -> Answer:
    """The answer of a task that is not about pictures.

    Raises:
        ValueError: it is no such answer; or the task has none of this kind.
    """
    reader = _READERS.get(task)
    if reader is None:
        raise ValueError(f"{task} has no answer that is a document of its own")
    return reader(document)


def encode_answer(task: str, answer: Any, generation: Generation = "current") -> Any:
    """The document that clients of this generation expect; they differ in `zero-shot-classification` alone."""
    if task in _TEXT_KEYS:
        return [{_TEXT_KEYS[task]: answer}]
    if isinstance(answer, ZeroShot):
        return _zero_shot_document(answer, generation)
    if isinstance(answer, tuple):
        found = [_item_document(item) for item in answer]
        return [found] if task == "text-classification" else found
    return _item_document(answer)


def _item_document(item: Any) -> Any:
    match item:
        case Scored():
            return {"label": item.label, "score": item.score}
        case Span():
            return _span_document(item)
        case Filled():
            return {
                "score": item.score,
                "token": item.token,
                "token_str": item.token_str,
                "sequence": item.sequence,
            }
        case Entity():
            key = "entity_group" if item.grouped else "entity"
            return {key: item.label, "score": item.score, "word": item.word, "start": item.start, "end": item.end}
        case TableAnswer() | Transcript() | Conversation():
            return _object_document(item)
        case _:
            return item


def _object_document(answer: TableAnswer | Transcript | Conversation) -> dict[str, Any]:
    match answer:
        case TableAnswer():
            document: dict[str, Any] = {
                "answer": answer.answer,
                "coordinates": [list(cell) for cell in answer.coordinates],
                "cells": list(answer.cells),
            }
            return document if answer.aggregator is None else document | {"aggregator": answer.aggregator}
        case Transcript():
            document = {"text": answer.text}
            if answer.chunks is not None:
                document["chunks"] = [{"text": said, "timestamp": [start, end]} for said, start, end in answer.chunks]
            return document
        case Conversation():
            return {
                "generated_text": answer.generated_text,
                "conversation": {
                    "generated_responses": list(answer.generated_responses),
                    "past_user_inputs": list(answer.past_user_inputs),
                },
                "warnings": list(answer.warnings),
            }


def _span_document(span: Span) -> dict[str, Any]:
    return {"score": span.score, "start": span.start, "end": span.end, "answer": span.answer}


def _zero_shot_document(answer: ZeroShot, generation: Generation) -> Any:
    if generation == "0.17":
        return {"sequence": answer.sequence or "", "labels": list(answer.labels), "scores": list(answer.scores)}
    return [{"label": label, "score": score} for label, score in zip(answer.labels, answer.scores, strict=True)]


def _list(document: object) -> list[Any]:
    return items(document, "the answer", MAX_ITEMS)


def _texts(value: object, what: str) -> tuple[str, ...]:
    return tuple(text(item, f"an item of {what}") for item in items(value, what, MAX_ITEMS))


def _a_score(item: Mapping[str, Any]) -> float:
    score = number(item.get("score"), "'score'")
    if not -1e-3 <= score <= 1.001:
        raise ValueError("'score' is not from 0 to 1")
    return score


def _position(item: Mapping[str, Any], key: str) -> int:
    return integer(item.get(key), repr(key), 0, MAX_POSITION)


def _scored(document: object) -> tuple[Scored, ...]:
    found = (mapping(item, "an item") for item in _list(document))
    return tuple(Scored(text(item.get("label"), "'label'"), _a_score(item)) for item in found)


def _text_classes(document: object) -> tuple[Scored, ...]:
    rows = _list(document)
    return _scored(rows[0] if rows and isinstance(rows[0], list) else rows)


def _span(document: object) -> Span:
    item = mapping(document, "the answer")
    return Span(text(item.get("answer"), "'answer'"), _a_score(item), _position(item, "start"), _position(item, "end"))


def _spans(document: object) -> tuple[Span, ...]:
    return tuple(_span(item) for item in _list(document))


def _filled(document: object) -> tuple[Filled, ...]:
    found = (mapping(item, "an item") for item in _list(document))
    return tuple(
        Filled(
            text(item.get("sequence"), "'sequence'"),
            _a_score(item),
            _position(item, "token"),
            text(item.get("token_str"), "'token_str'"),
        )
        for item in found
    )


def _entities(document: object) -> tuple[Entity, ...]:
    def entity(item: Mapping[str, Any]) -> Entity:
        grouped = "entity_group" in item
        start, end = (None if item.get(key) is None else _position(item, key) for key in ("start", "end"))
        label = text(item.get("entity_group" if grouped else "entity"), "'entity_group'")
        return Entity(label, _a_score(item), text(item.get("word"), "'word'"), start, end, grouped)

    return tuple(entity(mapping(item, "an item")) for item in _list(document))


def _table_answer(document: object) -> TableAnswer:
    item = mapping(document, "the answer")
    rows = items(item.get("coordinates"), "'coordinates'", MAX_ITEMS)
    coordinates = tuple(
        tuple(integer(value, "a coordinate", 0, MAX_POSITION) for value in items(row, "a coordinate", 16))
        for row in rows
    )
    aggregator = item.get("aggregator")
    return TableAnswer(
        text(item.get("answer"), "'answer'"),
        coordinates,
        _texts(item.get("cells"), "'cells'"),
        None if aggregator is None else text(aggregator, "'aggregator'"),
    )


def _transcript(document: object) -> Transcript:
    item = mapping(document, "the answer")
    said = text(item.get("text"), "'text'")
    return Transcript(said, None if item.get("chunks") is None else _chunks(item["chunks"]))


def _chunks(document: object) -> tuple[tuple[str, float | None, float | None], ...]:
    def chunk(item: Mapping[str, Any]) -> tuple[str, float | None, float | None]:
        times = items(item.get("timestamp"), "'timestamp'", 2)
        if len(times) != 2:
            raise ValueError("'timestamp' is no pair")
        start, end = (None if value is None else number(value, "a time") for value in times)
        return text(item.get("text"), "'text'"), start, end

    return tuple(chunk(mapping(item, "a chunk")) for item in items(document, "'chunks'", MAX_ITEMS))


def _conversation(document: object) -> Conversation:
    item = mapping(document, "the answer")
    said = mapping(item.get("conversation"), "'conversation'")
    return Conversation(
        text(item.get("generated_text"), "'generated_text'"),
        _texts(said.get("generated_responses"), "'generated_responses'"),
        _texts(said.get("past_user_inputs"), "'past_user_inputs'"),
        _texts([] if item.get("warnings") is None else item["warnings"], "'warnings'"),
    )


def _zero_shot(document: object) -> ZeroShot:
    if isinstance(document, list):
        scored = _scored(document)
        return ZeroShot(tuple(item.label for item in scored), tuple(item.score for item in scored))
    item = mapping(document, "the answer")
    labels = _texts(item.get("labels"), "'labels'")
    scores = tuple(number(score, "a score") for score in items(item.get("scores"), "'scores'", MAX_ITEMS))
    if len(labels) != len(scores):
        raise ValueError("'labels' and 'scores' are of different lengths")
    return ZeroShot(labels, scores, text(item.get("sequence"), "'sequence'"))


def _numbers(document: object) -> tuple[float, ...]:
    return tuple(number(value, "an item of the answer") for value in _list(document))


def _labels(document: object) -> tuple[str, ...]:
    return _texts(document, "the answer")


def _one_text(key: str) -> Callable[[object], str]:
    def read(document: object) -> str:
        found = _list(document)
        if not found:
            raise ValueError("the answer holds no text")
        return text(mapping(found[0], "an item").get(key), repr(key))

    return read


_TEXT_KEYS: Mapping[str, Literal["summary_text", "translation_text", "generated_text"]] = {
    "summarization": "summary_text",
    "translation": "translation_text",
    "image-to-text": "generated_text",
}
_READERS: Mapping[str, Callable[[object], Answer]] = {
    "audio-classification": _scored,
    "automatic-speech-recognition": _transcript,
    "conversational": _conversation,
    "document-question-answering": _spans,
    "fill-mask": _filled,
    "question-answering": _span,
    "sentence-similarity": _numbers,
    "table-question-answering": _table_answer,
    "tabular-classification": _labels,
    "tabular-regression": _numbers,
    "text-classification": _text_classes,
    "token-classification": _entities,
    "zero-shot-classification": _zero_shot,
    **{task: _one_text(key) for task, key in _TEXT_KEYS.items()},
}


def tasks() -> Sequence[str]:
    """The tasks that `decode_answer` knows."""
    return tuple(_READERS)
