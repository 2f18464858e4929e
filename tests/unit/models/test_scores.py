"""One row of numbers: what they mean is told by the graph, or by themselves."""

import numpy as np
import pytest

from pipeline.contracts.result import NO_TIMINGS, Classification
from pipeline.models.scores import Meaning, Values, classification, embedding


def found(numbers: object, values: Values) -> Classification:
    return classification(np.asarray(numbers), values, ("a", "b", "c"), lambda: NO_TIMINGS)


THIRDS = np.log(np.array([0.5, 0.25, 0.25], np.float32))
ODDS = np.log(np.array([0.9 / 0.1, 1.0, 0.2 / 0.8], np.float32))


@pytest.mark.parametrize(
    ("numbers", "meaning", "scores"),
    [
        (THIRDS + 3, "logits", [0.5, 0.25, 0.25]),
        (np.array([1000, 0, 0], np.float32), "logits", [1, 0, 0]),
        (np.array([0.5, 0.25, 0.25], np.float32), "probabilities", [0.5, 0.25, 0.25]),
        (np.array([0.5, 0.25, 0.25], np.float32), "unknown", [0.5, 0.25, 0.25]),
        (THIRDS + 3, "unknown", [0.5, 0.25, 0.25]),
        (ODDS, "independent-logits", [0.9, 0.5, 0.2]),
        (np.array([0.9, 0.5, 0.2], np.float32), "independent", [0.9, 0.5, 0.2]),
        (np.array([0.9, 0.5, 0.2], np.float32), "independent-unknown", [0.9, 0.5, 0.2]),
        (ODDS, "independent-unknown", [0.9, 0.5, 0.2]),
        (np.array([[[0.5]], [[0.25]], [[0.25]]], np.float32), "probabilities", [0.5, 0.25, 0.25]),
        (np.array([0.5, 0.25, 0.25], np.float16), "probabilities", [0.5, 0.25, 0.25]),
    ],
)
def test_numbers_become_scores(numbers: object, meaning: Meaning, scores: list[float]) -> None:
    answer = found(numbers, Values(meaning))
    np.testing.assert_allclose(answer.scores, scores, atol=1e-3)
    assert answer.scores.dtype == np.float32
    assert answer.multi_label is meaning.startswith("independent")
    assert answer.names == ("a", "b", "c")


def test_quantised_numbers_are_read_by_their_scale_and_never_blown_up_to_a_sum_of_one() -> None:
    assert found(np.array([64, 32, 0], np.uint8), Values("probabilities", 1 / 256)).scores.tolist() == [0.25, 0.125, 0]
    assert found(np.array([-64, -128, -128], np.int8), Values("probabilities", 1 / 256, -128)).scores.tolist() == [
        0.25,
        0,
        0,
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("meaning", ["logits", "probabilities", "independent-logits", "independent", "unknown"])
def test_what_is_no_number_counts_as_nothing(value: float, meaning: Meaning) -> None:
    scores = found(np.array([value, 0.5, 0.25], np.float32), Values(meaning)).scores
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_vector_is_made_one_long() -> None:
    answer = embedding(np.array([[3, 4]], np.float32), lambda: NO_TIMINGS)
    np.testing.assert_allclose(answer.vector, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("vector", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_what_is_no_vector_is_an_error(vector: list[float]) -> None:
    with pytest.raises(ValueError, match="no vector"):
        embedding(np.array(vector, np.float32), lambda: NO_TIMINGS)
