from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources._live_rest import Rest, Step

FPS, GOP = 10, 20
KEEPALIVE_S = 10.0


@dataclass
class Camera:
    """Plays one group of pictures after the other; the gate looks at every frame that is given."""

    rest: Rest
    fps: float = FPS
    gop: int = GOP
    number: int = 0
    moves: Callable[[float], bool] = lambda _: False
    looked_at_s: list[float] = field(default_factory=list)
    _passed_s: float = 0.0

    def play(self, frames: int, *, size: int = 2000, jump_s: float = 0.0) -> list[Step]:
        """So many packets: what became of each."""
        return [self._packet(size, jump_s) for _ in range(frames)]

    def at_rest(self) -> "Camera":
        """Until it rests, and to the end of a group."""
        self.play(self.gop * 6)
        assert self.rest.resting
        return self

    def _packet(self, size: int, jump_s: float) -> Step:
        at_s, is_key = self.number / self.fps + jump_s, self.number % self.gop == 0
        self.number += 1
        step = self.rest.takes(9 * size if is_key else size, at_s, is_keyframe=is_key)
        if step not in (Step.KEEP, Step.LEAVE_OUT):
            self.looked_at_s.append(at_s)
            if self.moves(at_s) or at_s - self._passed_s >= KEEPALIVE_S - 0.002:
                self._passed_s = at_s
            self.rest.judged(0.0 if self.moves(at_s) else KEEPALIVE_S - (at_s - self._passed_s), at_s)
        return step


def camera(*, keepalive_s: float | None = KEEPALIVE_S, longest_gap_s: float = 2.0, **keys: Any) -> Camera:
    return Camera(Rest(keepalive_s, longest_gap_s), **keys)


def test_it_rests_once_the_rhythm_is_known_and_always_from_a_keyframe_on() -> None:
    of = camera()
    steps = of.play(10 * GOP)
    first = steps.index(Step.ALONE)
    assert first == 4 * GOP
    assert set(steps[:first]) == {Step.DECODE}
    assert steps[first:] == [Step.ALONE, *[Step.KEEP] * (GOP - 1)] * 6


def test_it_does_not_rest_while_something_moves_or_where_nobody_asked_or_nobody_looked() -> None:
    busy = camera()
    busy.moves = lambda _: True
    assert set(busy.play(20 * GOP)) == {Step.DECODE}
    assert set(camera(keepalive_s=None).play(20 * GOP)) == {Step.DECODE}
    unseen = Rest(KEEPALIVE_S, 2.0)
    assert {unseen.takes(100, n / FPS, is_keyframe=n % GOP == 0) for n in range(20 * GOP)} == {Step.DECODE}


def test_what_a_keyframe_shows_wakes_it_and_it_sleeps_when_that_is_over() -> None:
    of = camera().at_rest()
    began_s = of.number / FPS
    of.moves = lambda at_s: at_s < began_s + 3
    steps = of.play(4 * GOP)
    assert steps[:3] == [Step.ALONE, Step.WAKE, Step.DECODE]
    assert set(steps[2 : 2 * GOP]) == {Step.DECODE}
    assert steps[2 * GOP :] == [Step.ALONE, *[Step.KEEP] * (GOP - 1)] * 2


def test_packets_that_grow_wake_it_and_a_false_alarm_costs_one_group() -> None:
    of = camera().at_rest()
    assert set(of.play(5)) == {Step.ALONE, Step.KEEP}
    steps = of.play(GOP - 5, size=6000)
    assert steps == [Step.WAKE, *[Step.DECODE] * (GOP - 6)]
    assert of.play(GOP) == [Step.ALONE, *[Step.KEEP] * (GOP - 1)]


def test_what_woke_it_is_looked_at_for_a_second_at_the_least() -> None:
    of = camera().at_rest()
    of.play(GOP - 2)
    assert of.play(2, size=6000) == [Step.WAKE, Step.DECODE]
    assert set(of.play(GOP)) == {Step.DECODE}
    assert of.play(1) == [Step.ALONE]


def test_a_frame_between_two_keyframes_is_looked_at_when_it_is_time_for_one() -> None:
    of = camera(fps=7)  # keyframes every 20/7 s never meet the ten seconds
    of.rest = Rest(KEEPALIVE_S, 3.0)
    steps = of.at_rest().play(40 * GOP)
    assert Step.LOOK in steps
    assert set(steps) == {Step.ALONE, Step.KEEP, Step.LOOK}
    assert steps.count(Step.LOOK) <= 40 * GOP / 7 / KEEPALIVE_S + 1  # once each time, and it goes on resting


def test_a_look_that_nobody_judges_is_not_repeated_with_every_packet() -> None:
    of = camera().at_rest()
    of.rest.judged(0.55, of.number / FPS - 0.1)
    steps = [of.rest.takes(2000, of.number / FPS + n / FPS, is_keyframe=n == 0) for n in range(GOP)]
    assert steps.count(Step.LOOK) == 1


def test_what_packets_weigh_while_nothing_moves_must_be_known_first() -> None:
    of = camera()
    of.moves = lambda at_s: at_s < 13
    steps = of.play(14 * GOP)
    assert steps.index(Step.ALONE) == 11 * GOP  # three groups from 14 s on, and the look behind them


def test_where_a_keyframe_comes_in_time_no_other_frame_is_looked_at() -> None:
    assert Step.LOOK not in camera().at_rest().play(40 * GOP)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"longest_gap_s": 1.5}, "its keyframes are more than 1.6 s apart"),
        ({"keepalive_s": 1.0}, "its keyframes are more than 1.1 s apart"),
        ({"gop": 1}, "every frame is a keyframe"),
    ],
    ids=str,
)
def test_where_keyframes_will_not_do_everything_is_decoded_and_it_is_said_why(keys: dict[str, Any], why: str) -> None:
    of = camera(**keys)
    assert set(of.play(20 * of.gop)) == {Step.DECODE}
    assert of.rest.why_not == why


def test_a_keyframe_every_two_seconds_will_do_for_a_limit_of_four_also_at_2997() -> None:
    of = camera(fps=30_000 / 1001, gop=60)
    assert Step.ALONE in of.play(10 * 60)


def test_packets_without_a_time_stamp_are_decoded_and_end_the_rest() -> None:
    of = camera().at_rest()
    of.play(3)
    assert of.rest.takes(2000, None, is_keyframe=False) is Step.WAKE
    assert of.rest.why_not is None  # those of RTSP have some after a while
    assert {of.rest.takes(2000, None, is_keyframe=n % GOP == 0) for n in range(100)} == {Step.DECODE}
    assert of.rest.why_not == "it has no time stamps"


def test_a_keyframe_that_does_not_come_ends_the_rest_before_the_stream_seems_to_stall() -> None:
    of = camera().at_rest()
    of.gop = 10_000
    steps = of.play(60)
    assert steps.index(Step.WAKE) <= 2  # 2 s are the limit, and so long ago the last one was
    assert set(steps[steps.index(Step.WAKE) + 1 :]) == {Step.DECODE}


@pytest.mark.parametrize("jump_s", [-5000.0, 5000.0])
def test_time_stamps_that_jump_end_the_rest_until_the_rhythm_is_known_again(jump_s: float) -> None:
    of = camera().at_rest()
    of.play(5)
    steps = of.play(4 * GOP, jump_s=jump_s)
    assert steps == [Step.WAKE, *[Step.DECODE] * (4 * GOP - 1)]
    of._passed_s += jump_s
    assert Step.ALONE in of.play(2 * GOP, jump_s=jump_s)


def test_a_small_jump_back_ends_the_rest_too_and_what_is_shown_before_its_keyframe_does_not() -> None:
    of = camera().at_rest()
    assert of.play(1) == [Step.ALONE]
    key_s = (of.number - 1) / FPS
    assert [of.rest.takes(500, key_s - ago_s, is_keyframe=False) for ago_s in (0.2, 0.1)] == [Step.KEEP] * 2
    of.play(5)
    assert of.rest.takes(2000, key_s - 0.1, is_keyframe=False) is Step.WAKE  # what it builds on is not "before" it
    assert of.rest.why_not == "its time stamps jump"


def test_keyframes_with_the_same_time_stamp_begin_the_rhythm_anew() -> None:
    of = camera().at_rest()
    of.number -= GOP
    assert set(of.play(4 * GOP)) == {Step.DECODE}


def test_who_gave_up_never_rests_again_and_says_why() -> None:
    of = camera().at_rest()
    of.rest.give_up("why not")
    assert set(of.play(20 * GOP)) == {Step.DECODE}
    assert of.rest.why_not == "why not"


packets = st.lists(
    st.tuples(st.integers(1, 50_000), st.sampled_from([0.0, 0.04, 0.1, 3.0, -9.0]), st.booleans(), st.booleans()),
    max_size=60,
)


@given(packets, st.booleans())
def test_nothing_is_kept_but_behind_a_keyframe_that_was_decoded_by_itself(
    more: list[tuple[int, float, bool, bool]], at_rest: bool
) -> None:
    of = camera()
    if at_rest:
        of.at_rest()
    at_s, behind = of.number / FPS, of.rest.resting
    for size, step_s, is_key, moves in more:
        at_s += step_s
        step = of.rest.takes(size, at_s, is_keyframe=is_key)
        if is_key:
            assert step in (Step.ALONE, Step.DECODE)
            behind = step is Step.ALONE
        else:
            assert step is not Step.ALONE
            assert behind == (step is not Step.DECODE)
            behind = behind and step is not Step.WAKE
        assert of.rest.resting == behind
        if step not in (Step.KEEP, Step.LEAVE_OUT):
            of.rest.judged(0.0 if moves else 0.5, at_s)
