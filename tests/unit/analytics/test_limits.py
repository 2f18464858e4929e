"""How often something may be told."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipeline.analytics.limits import Limits
from pipeline.contracts.sink import LimitConfig


def _told(config: LimitConfig, *at_s: float, key: str = "person") -> list[float]:
    limits = Limits(config)
    return [now_s for now_s in at_s if limits.allow(key, now_s)]


def test_without_a_limit_everything_is_told() -> None:
    assert not Limits(LimitConfig()).active
    assert _told(LimitConfig(), 0, 0, 0) == [0, 0, 0]


def test_a_cooldown_begins_with_what_was_told_not_with_what_was_held_back() -> None:
    assert _told(LimitConfig(cooldown_s=10), 0, 9, 10, 19.9, 20) == [0, 10, 20]


def test_ten_a_minute_are_ten_in_any_minute() -> None:
    told = _told(LimitConfig(per_minute=10), *range(121))
    assert told == [*range(10), *range(60, 70), 120]


def test_less_than_one_a_minute_is_one_in_so_many() -> None:
    assert _told(LimitConfig(per_minute=0.5), *range(0, 300, 30)) == [0, 120, 240]


def test_both_limits_hold_together() -> None:
    assert _told(LimitConfig(cooldown_s=5, per_minute=3), *range(70)) == [0, 5, 10, 60, 65]


def test_each_class_counts_by_itself() -> None:
    limits = Limits(LimitConfig(cooldown_s=10))
    assert [limits.allow(key, 0) for key in ("person", "car", "person")] == [True, True, False]


def test_names_without_end_take_no_memory_without_end() -> None:
    limits = Limits(LimitConfig(cooldown_s=10))
    for number in range(5_000):
        assert limits.allow(number, 0)
    assert len(limits._told) <= 1_000


@given(
    st.lists(st.floats(0, 10), max_size=200),
    st.floats(0, 30),
    st.one_of(st.none(), st.floats(0.1, 200)),
)
def test_no_limit_is_ever_exceeded(steps: list[float], cooldown_s: float, per_minute: float | None) -> None:
    at_s = 0.0
    times = [at_s := at_s + step for step in steps]
    told = _told(LimitConfig(cooldown_s=cooldown_s, per_minute=per_minute), *times)
    assert not times or told[0] == times[0]
    assert all(later - earlier >= cooldown_s for earlier, later in itertools.pairwise(told))
    if per_minute is not None:
        most = max(1, int(per_minute))
        window_s = 60 * most / per_minute
        assert all(later - earlier >= window_s for earlier, later in zip(told, told[most:], strict=False))


def test_a_clock_that_stands_still_is_no_division_by_zero() -> None:
    assert _told(LimitConfig(per_minute=2), 0, 0, 0) == [0, 0]
    assert _told(LimitConfig(per_minute=1.5), 0, 39, 40) == [0, 40]
