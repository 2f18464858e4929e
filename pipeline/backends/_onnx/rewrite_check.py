"""Whether a rewritten model says the same as the plain one, and how many times as fast it is; tried once, with both."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.backends._onnx.session import Session

BUDGET_S = 1.0
"""About so long is measured, for models whose runs are short enough."""

NEAR = 1e-4
"""Of each number, or of 1 where that is less (of the output's largest one where all are less than 1): sums in another
order differ by a tenth of it. A box may be off by less than a tenth of a pixel, a score by 0.0001."""
NEAR_HALF = 1e-2
"""Where numbers have 11 bits."""
NEAR_CUDA = 2e-3
"""Where products are rounded to 11 bits (TensorFloat-32)."""

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 41
_CALM = 0.85  # of the time; a thread that had a core for less shared it, as in tuning

Array = npt.NDArray[Any]
Feeds = dict[str, Array]


class Race(NamedTuple):
    """What came of measuring two sessions in turns.

    Attributes:
        run_s: seconds of a run, by way: "plain", "graph"; on a CPU seconds of CPU time.
        gain: how many times as fast the second one is: the median of what the pairs say, or what the medians say if
            that is less.
        calm: whether the thread had a core for itself; what was found meanwhile is worth keeping.
    """

    run_s: dict[str, float]
    gain: float
    calm: bool


def difference(plain: Session, other: Session, names: Sequence[str], fed: Iterable[Feeds]) -> float:
    """The largest difference of any number that the two give, as a part of it (see `NEAR`); infinite where they give
    something of another shape."""
    return max(
        _apart(np.asarray(one), np.asarray(two))
        for feeds in fed
        for one, two in zip(plain.run(names, feeds), other.run(names, feeds), strict=True)
    )


def race(plain: Session, other: Session, names: Sequence[str], feeds: Feeds, *, by_cpu_time: bool) -> Race:
    """Run both in turns, who comes first in turns as well; the first runs of each are not counted.

    Args:
        plain: the one.
        other: the other.
        names: outputs to ask for.
        feeds: what both are fed.
        by_cpu_time: whether all work is done by this thread: its CPU time tells more than the time that passes.
    """
    clock: Callable[[], float] = time.thread_time if by_cpu_time else time.perf_counter
    taken: dict[str, list[float]] = {"plain": [], "graph": []}
    pair = [("plain", plain), ("graph", other)]
    for _, session in pair:
        session.run(names, feeds)
    began_s, cpu_began_s = time.perf_counter(), time.thread_time()
    for turn in range(_MOST_ROUNDS):
        if turn >= _LEAST_ROUNDS and time.perf_counter() - began_s > BUDGET_S:
            break
        for name, session in pair:
            run_began_s = clock()
            session.run(names, feeds)
            taken[name].append(clock() - run_began_s)
        pair.reverse()
    passed_s = time.perf_counter() - began_s
    share = (time.thread_time() - cpu_began_s) / passed_s if by_cpu_time and passed_s > 0 else 1.0
    pairs = statistics.median(one / max(two, 1e-9) for one, two in zip(taken["plain"], taken["graph"], strict=True))
    run_s = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return Race(run_s, min(pairs, run_s["plain"] / max(run_s["graph"], 1e-9)), share >= _CALM)


def _apart(one: Array, other: Array) -> float:
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    a, b = one.astype(np.float64), other.astype(np.float64)
    known = np.isfinite(a)
    if not np.array_equal(known, np.isfinite(b)):
        return float("inf")
    a, b = a[known], b[known]
    if a.size == 0:
        return 0.0
    size = np.abs(a)
    least = min(1.0, float(size.max())) or 1.0
    return float((np.abs(a - b) / np.maximum(size, least)).max())
