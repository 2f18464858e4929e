"""Histograms that grow with the data, and what is cut out of them."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quantize.ranges import BINS, Histogram, Method


def of(*arrays: npt.ArrayLike) -> Histogram:
    histogram = Histogram()
    for values in arrays:
        histogram.add(np.asarray(values, np.float32))
    return histogram


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), min_size=1, max_size=6))
def test_every_value_is_counted_once_however_the_range_grew(batches: list[list[float]]) -> None:
    histogram = of([1.0], *batches)
    assert histogram.counts.sum() == 1 + sum(map(len, batches))
    assert histogram.low == min(0.0, *(np.float32(v) for b in batches for v in b))
    assert histogram.high == max(1.0, *(np.float32(v) for b in batches for v in b))


def test_a_histogram_that_grew_is_one_that_knew_the_range_before() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(0, 1, 5000), rng.normal(0, 40, 5000)
    grown, known = of(small, large), of(large, small)
    assert grown.top == known.top
    # Bins that were merged hold the same values: no more than the edge of a bin moves.
    assert np.abs(np.cumsum(grown.counts) - np.cumsum(known.counts)).max() <= 20


def test_minmax_is_exact() -> None:
    cut = of([-0.3, 7.25, 1.0], [12.5]).range("minmax")
    assert (cut.low, cut.high) == (float(np.float32(-0.3)), 12.5)


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_one_outlier_in_a_million_does_not_cost_all_others_their_steps(method: Method) -> None:
    values = np.random.default_rng(1).normal(0, 1, 200_000).astype(np.float32)
    values[7] = 900.0
    # Such a value is met by every counting step: the tensor is smaller than what is sampled of it.
    cut = of(values).range(method)
    assert cut.high < 200
    assert cut.high > 2.5
    assert -8 < cut.low < -2.5


@pytest.mark.parametrize("method", ["entropy", "percentile", "minmax"])
def test_a_range_holds_zero_and_never_more_than_was_seen(method: Method) -> None:
    for values in ([3.0, 4.0, 5.0], [-5.0, -4.0], [0.0, 0.0], np.linspace(-0.28, 9, 9999)):
        histogram = of(values)
        cut = histogram.range(method)
        assert cut.low <= 0 <= cut.high
        assert histogram.low <= cut.low
        assert cut.high <= histogram.high


def test_what_is_no_number_is_left_out() -> None:
    histogram = of([np.nan, 1.0, np.inf, -2.0], [np.nan])
    assert (histogram.low, histogram.high) == (-2.0, 1.0)
    assert histogram.counts.sum() == 2


def test_memory_does_not_grow_with_what_is_counted() -> None:
    histogram = Histogram()
    for scale in (1e-6, 1.0, 1e6, 1e12):
        histogram.add(np.full(3_000_000, scale, np.float32))
    assert len(histogram.counts) == BINS
