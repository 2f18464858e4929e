"""Answers of the Hugging Face inference protocol that are predictions, from and to documents of JSON.

Boxes are whole pixels, left, top, right, bottom. Segmentations are in `huggingface_masks`.
"""

import threading
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.contracts.result import Classification, Detections, Embedding, Text, label_of
from pipeline.wire.document import items, mapping, number, quoted, text

MAX_OBJECTS = 10_000
"""Objects, classes or texts in one answer, at most."""
MAX_VALUES = 1 << 20
"""Numbers in one embedding, at most, those that are pooled away included."""
MAX_LABEL_CHARS = 1000
Pooling = Literal["none", "first", "mean"]
"""What is made of several vectors for one picture: an error, the first (a class token), or their mean."""


class LabelTable:
    """Gives labels numbers that stay, since answers name classes and do not number them.

    Made by who reads the answers of one model; any thread may use it.

    Args:
        names: the labels that are known from the start, in their order.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._ids = {name: index for index, name in enumerate(dict.fromkeys(names))}
        self._names = tuple(self._ids)

    def ids(self, labels: Sequence[str]) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
        """The number of each label, int32 (K,), and all names that there are by now.

        Raises:
            ValueError: the other side has more labels than any model.
        """
        with self._lock:
            for label in labels:
                self._ids.setdefault(label, len(self._ids))
            if len(self._ids) > MAX_OBJECTS:
                self._ids = {name: index for index, name in enumerate(self._names)}
                raise ValueError(f"the answers name more than {MAX_OBJECTS} different labels")
            if len(self._ids) != len(self._names):
                self._names = tuple(self._ids)
            return np.array([self._ids[label] for label in labels], np.int32), self._names


def encode_detections(found: Detections, threshold: float = 0.0) -> list[dict[str, Any]]:
    """The objects of an object detection, but for those whose box is no number."""
    boxes = _whole(found.xyxy)
    return [
        {
            "score": rounded(found.confidence[index]),
            "label": found.label(index),
            "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), boxes[index], strict=True)),
        }
        for index in kept(found, threshold)
    ]


def decode_detections(document: object, table: LabelTable) -> Detections:
    """The objects, most confident first, in pixels of the picture that was sent.

    Raises:
        ValueError: it is no such answer.
    """
    found = [mapping(item, "an object") for item in items(document, "the answer", MAX_OBJECTS)]
    boxes = [_corners(mapping(item.get("box"), "'box'")) for item in found]
    return ranked(boxes, [a_score(item) for item in found], [a_label(item) for item in found], table)


def encode_classes(prediction: Classification, top_k: int | None = None) -> list[dict[str, Any]]:
    """The classes of an image classification, most likely first."""
    scores = np.nan_to_num(prediction.scores.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0)
    order = np.argsort(-scores, kind="stable")[:top_k].tolist()
    return [{"label": label_of(prediction.names, index), "score": rounded(scores[index])} for index in order]


def decode_classes(document: object, names: Sequence[str] = (), key: str = "label") -> Classification:
    """A score for each class that the answer names, in the order of `names`, if given, else in its own.

    Args:
        document: what came.
        names: the classes that were asked for; the answer must be about exactly these.
        key: what the label is called: "answer" for questions.

    Raises:
        ValueError: it is no such answer.
    """
    found = [mapping(item, "a class") for item in items(document, "the answer", MAX_OBJECTS)]
    scores: dict[str, float] = {}
    for item in found:
        if "box" in item or "mask" in item:  # another task's answer, whose labels would pass for classes
            raise ValueError("the answer is about objects, not classes: this model has another task")
        label = a_label(item, key)
        if label in scores and key == "label":
            raise ValueError(f"the answer scores {quoted(label)} twice")
        scores.setdefault(label, a_score(item))
    if names and set(names) != set(scores):
        raise ValueError("the answer is not about the labels that were asked for")
    order = tuple(names) or tuple(scores)
    return Classification(np.array([scores[name] for name in order], np.float32), order)


def encode_answers(prediction: Classification | Text, top_k: int | None = None) -> list[dict[str, Any]]:
    """The answers to a question about a picture, most likely first; the score of a text is not known: null."""
    if isinstance(prediction, Text):
        return [{"score": None, "answer": prediction.text}]
    return [{"score": one["score"], "answer": one["label"]} for one in encode_classes(prediction, top_k)]


def decode_answers(document: object) -> Classification | Text:
    """The answers to a question about a picture with their scores; a text, where the one that there is has none.

    Raises:
        ValueError: it is no such answer.
    """
    alone = _unscored(document)
    return decode_classes(document, key="answer") if alone is None else Text(alone)


def encode_text(prediction: Text) -> list[dict[str, Any]]:
    """The text of an image to text."""
    return [{"generated_text": prediction.text}]


def decode_text(document: object) -> Text:
    """The first text of an image to text.

    Raises:
        ValueError: it is no such answer.
    """
    found = items(document, "the answer", MAX_OBJECTS)
    if not found:
        raise ValueError("the answer holds no text")
    return Text(text(mapping(found[0], "a text").get("generated_text"), "'generated_text'"))


def decode_extract(document: object) -> Text:
    """What a document says to a question: the answer that is most likely, "" where there is none.

    Raises:
        ValueError: it is no such answer.
    """
    alone = _unscored(document)
    if alone is not None:
        return Text(alone)
    found = [mapping(item, "an answer") for item in items(document, "the answer", MAX_OBJECTS)]
    scored = [(a_score(item), text(item.get("answer"), "'answer'")) for item in found]
    return Text(max(scored, key=lambda pair: pair[0])[1] if scored else "")


def encode_extract(prediction: Text) -> list[dict[str, Any]]:
    """What a document says to a question, "" being nothing; how sure that is and where it stands is not known: null."""
    answer = {"score": None, "answer": prediction.text, "start": None, "end": None}
    return [answer] if prediction.text else []


def _unscored(document: object) -> str | None:
    """The only answer, where it has no score."""
    found = document[0] if isinstance(document, list) and len(document) == 1 else None
    if not isinstance(found, dict) or found.get("score") is not None or "answer" not in found:
        return None
    return text(found["answer"], "'answer'")


def encode_vector(prediction: Embedding) -> list[float]:
    """The numbers of one vector.

    Raises:
        ValueError: some are no numbers.
    """
    if not np.isfinite(prediction.vector).all():
        raise ValueError("the embedding holds what is no number")
    values: list[float] = prediction.vector.astype(np.float64).round(7).tolist()
    return values


def decode_vector(document: object, pooling: Pooling = "none") -> Embedding:
    """The one vector of a feature extraction, however deep it is nested.

    Raises:
        ValueError: it is no such answer, or holds several vectors and `pooling` is "none".
    """
    rows = document
    while isinstance(rows, list) and len(rows) == 1 and isinstance(rows[0], list):
        rows = rows[0]
    listed = items(rows, "the answer", MAX_VALUES)
    if not listed:
        raise ValueError("the answer holds no vector")
    if not isinstance(listed[0], list):
        return Embedding(_vector(listed))
    if pooling == "none":
        raise ValueError(f'the answer holds {len(listed)} vectors for one picture: set pooling = "mean" or "first"')
    if pooling == "first":
        return Embedding(_vector(listed[0]))
    length = len(listed[0])
    if length * len(listed) > MAX_VALUES:
        raise ValueError(f"the answer holds more than {MAX_VALUES} numbers")
    vectors = [_vector(items(row, "a vector", MAX_VALUES)) for row in listed]
    if any(len(vector) != length for vector in vectors):
        raise ValueError("the vectors of the answer are of different lengths")
    mean: npt.NDArray[np.float32] = np.stack(vectors).mean(axis=0, dtype=np.float64).astype(np.float32)
    return Embedding(mean)


def ranked(
    boxes: Sequence[tuple[float, ...]],
    scores: Sequence[float],
    labels: Sequence[str],
    table: LabelTable,
    masks: npt.NDArray[np.bool_] | None = None,
) -> Detections:
    """Objects, most confident first; those of the same confidence in the order in which they came."""
    confidence = np.array(scores, np.float32)
    order = np.argsort(-confidence, kind="stable")
    class_id, names = table.ids(labels)
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(xyxy[order], confidence[order], class_id[order], names, None if masks is None else masks[order])


def _corners(box: Any) -> tuple[float, ...]:
    left, top, right, bottom = (number(box.get(key), repr(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
    if right < left or bottom < top:
        raise ValueError("a box ends before it begins")
    if max(abs(left), abs(top), abs(right), abs(bottom)) > 1e9:
        raise ValueError("a box is nowhere near a picture")
    return left, top, right, bottom


def a_score(item: Any) -> float:
    """The item's `score`, 0..1. Raises ValueError."""
    score = number(item.get("score"), "'score'")
    if not -1e-3 <= score <= 1.001:  # sums of rounded numbers
        raise ValueError("'score' is not from 0 to 1")
    return min(max(score, 0.0), 1.0)


def a_label(item: Any, key: str = "label") -> str:
    """The item's label, of a bearable length. Raises ValueError."""
    label = text(item.get(key), repr(key))
    if len(label) > MAX_LABEL_CHARS:
        raise ValueError(f"{key!r} is longer than {MAX_LABEL_CHARS} characters")
    return label


def _vector(values: Sequence[object]) -> npt.NDArray[np.float32]:
    found = np.array([number(value, "a number of the vector") for value in values], np.float64)
    if not len(found) or (np.abs(found) > np.finfo(np.float32).max).any():
        raise ValueError("the vector holds no numbers, or too large ones")
    return found.astype(np.float32)


def kept(found: Detections, threshold: float) -> list[int]:
    """Which objects are written: those that are confident enough, and whose box and score are numbers."""
    finite = np.isfinite(found.xyxy).all(axis=1) & np.isfinite(found.confidence)
    indices: list[int] = np.flatnonzero(finite & (found.confidence >= threshold)).tolist()
    return indices


def _whole(xyxy: npt.NDArray[np.float32]) -> list[list[int]]:
    whole: list[list[int]] = np.nan_to_num(np.rint(xyxy.astype(np.float64))).astype(np.int64).tolist()
    return whole


def rounded(value: Any) -> float:
    """A score as it is written: with more digits than any model knows, without those of float32."""
    return round(float(value), 6)
