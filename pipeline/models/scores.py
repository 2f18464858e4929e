"""One row of numbers for a picture: scores of classes, or a vector."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.contracts.result import Classification, Embedding, Timings

Meaning = Literal[
    "logits", "probabilities", "unknown", "independent-logits", "independent", "independent-unknown", "ids"
]
"""What numbers are: logits that a softmax (or, where classes are independent, a sigmoid) makes probabilities of; such
probabilities; unknown, then the numbers themselves tell; or class numbers."""


class Values(NamedTuple):
    """How to read the numbers of an output that has no boxes.

    Attributes:
        meaning: what they are.
        scale: quantised outputs: value = scale * (number - zero_point).
        zero_point: of quantised outputs.
    """

    meaning: Meaning = "probabilities"
    scale: float = 1.0
    zero_point: int = 0

    def real(self, numbers: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The numbers as float32, quantisation taken back."""
        values = numbers.astype(np.float32)
        if (self.scale, self.zero_point) != (1.0, 0):
            values -= np.float32(self.zero_point)
            values *= np.float32(self.scale)
        return values


def classification(
    output: npt.NDArray[Any], values: Values, labels: tuple[str, ...], timings: Callable[[], Timings]
) -> Classification:
    """One score per class, 0..1; they sum to 1 where only one class can be right.

    What is no number (a broken model's NaN) counts as 0.
    """
    numbers = values.real(output.reshape(-1))
    meaning = values.meaning
    with np.errstate(over="ignore", invalid="ignore"):
        if meaning == "logits" or (meaning == "unknown" and not _are_shares(numbers)):
            numbers = softmax(numbers)
        elif meaning == "independent-logits" or (meaning == "independent-unknown" and not _are_parts(numbers)):
            numbers = sigmoid(numbers)
        scores = np.clip(np.nan_to_num(numbers, nan=0.0), 0, 1).astype(np.float32)
    return Classification(scores, labels, meaning.startswith("independent"), timings())


def embedding(output: npt.NDArray[Any], timings: Callable[[], Timings]) -> Embedding:
    """The vector, made one long.

    Raises:
        ValueError: it is no vector: zero, or not all numbers.
    """
    vector = output.reshape(-1).astype(np.float32)
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not 0 < length < float("inf"):
        raise ValueError("the model gave no vector, but zeros or what is no number")
    return Embedding((vector / length).astype(np.float32), timings())


def _are_parts(numbers: npt.NDArray[np.float32]) -> bool:
    return bool((numbers >= 0).all() and (numbers <= 1).all())


def _are_shares(numbers: npt.NDArray[np.float32]) -> bool:
    """Whether they can have come out of a softmax: half floats and quantisation cost a little of the sum."""
    return _are_parts(numbers) and bool(abs(float(numbers.sum()) - 1) < 0.02)


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Along the first axis."""
    powers: npt.NDArray[np.float32] = np.exp(logits - logits.max(axis=0))
    powers /= powers.sum(axis=0)
    return powers


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """1 / (1 + exp(-x))."""
    found: npt.NDArray[np.float32] = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return found
