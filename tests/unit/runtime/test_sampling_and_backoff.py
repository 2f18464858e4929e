import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.backoff import Backoff, BugAllowance
from pipeline.runtime.sampling import Sampler
from pipeline.testing import frame


def _taken(sampler: Sampler, pts_s: list[float | None]) -> list[int]:
    base = frame()
    frames = [replace(base, seq=index, pts_s=at, decoded_at=1000.0 + index / 10) for index, at in enumerate(pts_s)]
    return [each.seq for each in frames if sampler.takes(each)]


def test_without_limits_every_frame_is_taken() -> None:
    assert _taken(Sampler(), [index / 25 for index in range(9)]) == list(range(9))


def test_a_stride_takes_every_nth() -> None:
    assert _taken(Sampler(stride=3), [index / 25 for index in range(9)]) == [0, 3, 6]


@pytest.mark.parametrize(("fps", "max_fps"), [(30.0, 25.0), (25.0, 5.0), (30.0, 30.0), (29.97, 10.0), (60.0, 7.0)])
def test_a_rate_is_kept_over_time_and_never_exceeded(fps: float, max_fps: float) -> None:
    pts = [round(index / fps, 3) for index in range(int(fps * 20))]
    taken = _taken(Sampler(max_fps=max_fps), list(pts))
    assert abs(len(taken) - 20 * max_fps) <= 2


def test_a_variable_frame_rate_is_sampled_by_time_and_not_by_count() -> None:
    burst = [index / 100 for index in range(100)]
    slow = [1.0 + index for index in range(5)]
    taken = _taken(Sampler(max_fps=2.0), [*burst, *slow])
    assert taken == [0, 50, 100, 101, 102, 103, 104]


def test_time_stamps_that_jump_back_start_the_grid_anew() -> None:
    assert _taken(Sampler(max_fps=1.0), [100.0, 100.5, 0.0, 0.5, 1.0]) == [0, 2, 4]


def test_frames_without_time_stamps_are_sampled_by_when_they_came() -> None:
    assert _taken(Sampler(max_fps=5.0), [None] * 6) == [0, 2, 4]


@given(st.integers(0, 2**32), st.floats(0.1, 10), st.floats(0.1, 100))
def test_each_delay_is_between_the_base_and_the_growing_ceiling(seed: int, base_s: float, cap_s: float) -> None:
    backoff = Backoff(base_s, cap_s, random.Random(seed))
    for tries in range(1, 12):
        assert min(base_s, cap_s) <= backoff.next_s() <= min(cap_s, base_s * 2**tries)


def test_where_trying_makes_it_worse_the_delay_is_long_at_once() -> None:
    delays = [Backoff(1.0, 30.0, random.Random(seed)).next_s(longest=True) for seed in range(400)]
    assert 15 <= min(delays) < 16
    assert 29 < max(delays) <= 30


def test_the_delays_have_full_jitter() -> None:
    delays = [Backoff(1.0, 30.0, random.Random(seed)).next_s() for seed in range(400)]
    assert 1 <= min(delays) < 1.1
    assert 1.9 < max(delays) <= 2


def test_the_other_sides_wish_is_honoured_and_a_reset_begins_anew() -> None:
    backoff = Backoff(1.0, 30.0, random.Random(1))
    assert backoff.next_s(at_least_s=120.0) == 120.0
    for _ in range(10):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 2.0


def test_the_sixth_bug_in_a_minute_is_one_too_many() -> None:
    allowance = BugAllowance()
    assert [allowance.spend(float(second)) for second in range(6)] == [True] * 5 + [False]
    assert BugAllowance().spend(0.0)
    late = BugAllowance()
    assert all(late.spend(20.0 * index) for index in range(30))
