"""Two sessions compared: how far apart what they give is, and which of them is faster."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.backends._onnx.rewrite_check import difference, race

CLOCKS = "pipeline.backends._onnx.rewrite_check.time."


class Clock:
    """Time of two kinds that passes only while somebody runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpu_s = self.passed_s = 0.0
        monkeypatch.setattr(CLOCKS + "thread_time", lambda: self.cpu_s)
        monkeypatch.setattr(CLOCKS + "perf_counter", lambda: self.passed_s)


class Answering:
    """A session that always gives the same, and takes as long as it is told, a number for each turn."""

    def __init__(
        self, *outputs: Any, clock: Clock | None = None, cpu_s: Sequence[float] = (0.0,), waits_s: float = 0.0
    ) -> None:
        self._outputs = [np.asarray(output) for output in outputs]
        self._clock, self._cpu_s, self._waits_s = clock, cpu_s, waits_s
        self.runs = 0

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Any]) -> Sequence[Any]:
        if self._clock is not None:
            took_s = self._cpu_s[self.runs % len(self._cpu_s)]
            self._clock.cpu_s += took_s
            self._clock.passed_s += took_s + self._waits_s
        self.runs += 1
        return self._outputs

    def get_providers(self) -> Sequence[str]:
        raise NotImplementedError

    def io_binding(self) -> Any:
        raise NotImplementedError

    def run_with_iobinding(self, iobinding: Any) -> None:
        raise NotImplementedError


def apart(one: Any, other: Any) -> float:
    return difference(Answering(one), Answering(other), ("out",), [{}])


def test_numbers_are_compared_by_their_own_size_and_not_by_the_largest() -> None:
    boxes, scores = [100.0, 640.0], [0.5, 0.001]
    assert apart([*boxes, *scores], [100.0, 640.064, *scores]) == pytest.approx(1e-4)
    assert apart([*boxes, *scores], [*boxes, 0.51, 0.001]) == pytest.approx(0.01), "beside a box it would be nothing"
    assert apart([*boxes, *scores], [*boxes, 0.5, 0.0011]) == pytest.approx(1e-4), "a score of nothing stays that"


def test_where_all_numbers_are_small_they_are_compared_by_the_largest_of_them() -> None:
    assert apart([0.01, 0.002], [0.01, 0.003]) == pytest.approx(0.1)
    assert apart([0.0, 0.0], [0.0, 0.0]) == 0.0
    assert apart([0.0, 0.0], [0.0, 0.1]) == pytest.approx(0.1)
    assert apart(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)) == 0.0


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((1, 3), np.float32),
        np.zeros((2, 2), np.float64),
        np.array([[np.nan, 0], [0, 0]], np.float32),
        np.array([[0, np.inf], [0, 0]], np.float32),
    ],
    ids=["shape", "type", "nan", "inf"],
)
def test_what_is_of_another_kind_is_infinitely_far(other: Any) -> None:
    assert apart(np.zeros((2, 2), np.float32), other) == float("inf")


def test_the_worst_of_all_outputs_and_all_pictures_counts() -> None:
    class Second(Answering):
        def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Any]) -> Sequence[Any]:
            found = super().run(output_names, input_feed)
            return [found[0], found[1] + (0.5 if self.runs == 2 else 0.0)]

    plain = Answering([1.0], [2.0])
    assert difference(plain, Second([1.0], [2.0]), ("a", "b"), [{}, {}, {}]) == pytest.approx(0.25)


def test_the_gain_is_what_most_pairs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    plain = Answering([1.0], clock=clock, cpu_s=(0.01, 0.01, 0.01, 0.5))  # somebody disturbs each fourth run
    other = Answering([1.0], clock=clock, cpu_s=(0.008, 0.008, 0.008))
    found = race(plain, other, ("out",), {}, by_cpu_time=True)
    assert found.gain == pytest.approx(1.25)
    assert found.run_s == {"plain": pytest.approx(0.01), "graph": pytest.approx(0.008)}
    assert found.calm


def test_time_that_others_took_does_not_count_on_a_cpu_but_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    plain = Answering([1.0], clock=clock, cpu_s=(0.01,))
    other = Answering([1.0], clock=clock, cpu_s=(0.01,), waits_s=0.02)
    found = race(plain, other, ("out",), {}, by_cpu_time=True)
    assert found.gain == pytest.approx(1.0)
    assert not found.calm
    assert race(plain, other, ("out",), {}, by_cpu_time=False).gain == pytest.approx(1 / 3)


def test_slow_models_are_run_a_few_times_and_quick_ones_no_longer_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for took_s, runs in ((10.0, 5), (0.05, 10), (0.001, 41)):
        plain, other = (Answering([1.0], clock=clock, cpu_s=(took_s,)) for _ in range(2))
        race(plain, other, ("out",), {}, by_cpu_time=True)
        assert plain.runs == other.runs
        assert runs <= plain.runs - 1 <= runs + 1


def test_real_clocks_go_on() -> None:
    assert race(Answering([1.0]), Answering([1.0]), ("out",), {}, by_cpu_time=True).run_s.keys() == {"plain", "graph"}
    assert time.perf_counter() > 0
