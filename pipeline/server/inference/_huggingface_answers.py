"""Predictions as the answers that Hugging Face's clients expect of a task."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.server.inference.service import RefusedError
from pipeline.wire.huggingface_answers import (
    encode_answers,
    encode_classes,
    encode_detections,
    encode_extract,
    encode_text,
    encode_vector,
)
from pipeline.wire.huggingface_masks import encode_segmentation
from pipeline.wire.huggingface_requests import VisionParameters

DEFAULT_TOP_K = 5
"""So many classes are told where the client does not say how many."""


def picture_document(task: str, prediction: Prediction, asked: VisionParameters) -> Any:
    """The answer about one picture.

    Raises:
        RefusedError: 501: the model said something that is no answer to this task.
    """
    document: Any
    try:
        match task, prediction:
            case "object-detection", Detections():
                document = encode_detections(prediction, asked.threshold or 0.0)
            case "image-segmentation", Detections() | SemanticMask():
                document = encode_segmentation(prediction, asked.threshold or 0.0)
            case "image-classification", Classification():
                document = encode_classes(prediction, asked.top_k or DEFAULT_TOP_K)
            case "zero-shot-image-classification", Classification():
                document = encode_classes(_under_labels(prediction, asked.candidate_labels))
            case "visual-question-answering", Classification() | Text():
                document = encode_answers(prediction, asked.top_k or DEFAULT_TOP_K)
            case "document-question-answering", Text():
                document = encode_extract(prediction)
            case "image-to-text", Text():
                document = encode_text(prediction)
            case "feature-extraction" | "image-feature-extraction", Embedding():
                document = encode_vector(prediction)
            case _:
                raise RefusedError(501, f"the model's answers are none to {task}")
    except ValueError as error:
        raise RefusedError(500, f"the model's answer cannot be written: {error}") from error
    return document


def vectors_document(vectors: Sequence[Embedding]) -> list[list[float]]:
    """A vector for each text."""
    try:
        return [encode_vector(vector) for vector in vectors]
    except ValueError as error:
        raise RefusedError(500, f"the model's answer cannot be written: {error}") from error


def similarities(vectors: Sequence[Embedding]) -> list[float]:
    """The cosine between the first vector and each of the others; 0 where one has no length."""
    rows = np.array([vector.vector for vector in vectors], np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    products = lengths[1:] * lengths[0]
    cosines = np.divide(rows[1:] @ rows[0], products, out=np.zeros_like(products), where=products > 0)
    if not np.isfinite(cosines).all():
        raise RefusedError(500, "the model's answer cannot be written: an embedding holds what is no number")
    found: list[float] = cosines.round(6).tolist()
    return found


def check_function(asked: VisionParameters, prediction: Prediction) -> None:
    """Scores are what the model made of them: another function cannot be applied afterwards.

    Raises:
        RefusedError: 400.
    """
    if asked.function_to_apply is None or not isinstance(prediction, Classification):
        return
    applied = "sigmoid" if prediction.multi_label else "softmax"
    if asked.function_to_apply != applied:
        raise RefusedError(400, f"'function_to_apply' is {applied} for this model and cannot be changed")


def _under_labels(prediction: Classification, labels: Sequence[str]) -> Classification:
    """The scores under the labels themselves: the model was asked about texts that hold them."""
    if len(prediction.scores) != len(labels):
        raise RefusedError(501, "the model does not compare pictures with texts")
    return replace(prediction, names=tuple(labels))
