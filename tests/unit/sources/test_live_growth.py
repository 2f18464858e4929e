import random

from hypothesis import given
from hypothesis import strategies as st

from sources._live_growth import Growth

STILL = [20_000, *([4000, 300, 200, 300] * 5)]


def of_still_groups(groups: int = 4) -> Growth:
    """One that has learnt from so many groups in which nothing moved."""
    growth = Growth()
    growth.window = 5
    for _ in range(groups + 1):
        play(growth, STILL)
        growth.judged(moves=False)
    return growth


def play(growth: Growth, sizes: list[int]) -> list[int]:
    """One group of pictures: at which places it has grown."""
    return [place for place, size in enumerate(sizes) if growth.takes(size, is_keyframe=place == 0)]


def heavier(by: float, first: int = 9, last: int = 99) -> list[int]:
    return [round(size * by) if first <= place <= last else size for place, size in enumerate(STILL)]


def test_nothing_grows_before_it_is_known_what_is_usual() -> None:
    growth = of_still_groups(2)
    assert not growth.is_learnt
    assert play(growth, heavier(3)) == []
    assert of_still_groups(3).is_learnt


def test_a_frame_that_others_build_on_weighs_more_than_they_do_without_having_grown() -> None:
    growth = of_still_groups()
    assert [play(growth, STILL) for _ in range(10)] == [[]] * 10


def test_what_begins_to_move_is_told_by_the_first_packet_that_it_makes_heavy() -> None:
    assert play(of_still_groups(), heavier(2))[0] == 9
    assert play(of_still_groups(), heavier(1.3))[0] in range(9, 14)


def test_a_keyframe_tells_nothing_by_its_weight() -> None:
    assert play(of_still_groups(), heavier(5, 0, 0)) == []


def test_what_grew_though_nothing_moved_wakes_it_twice_and_no_more_but_what_is_heavier_does() -> None:
    growth = of_still_groups()
    assert play(growth, heavier(1.5))
    growth.judged(moves=False)
    play(growth, STILL)
    growth.judged(moves=False)
    assert play(growth, heavier(1.5))  # one strange group does not make it deaf
    play(growth, STILL)
    growth.judged(moves=False)
    assert play(growth, heavier(1.5)) == []
    play(growth, STILL)
    growth.judged(moves=False)
    assert play(growth, heavier(4))
    for _ in range(20):
        play(growth, STILL)
        growth.judged(moves=False)
    assert play(growth, heavier(1.5))  # that was long ago


def test_what_moved_is_not_learnt() -> None:
    growth = of_still_groups()
    for _ in range(10):
        play(growth, heavier(3))
        growth.judged(moves=True)
    play(growth, STILL)
    growth.judged(moves=False)
    assert play(growth, heavier(1.5))


def test_what_moved_for_a_part_of_a_group_or_at_its_end_is_not_learnt_either() -> None:
    in_its_middle, at_its_end = of_still_groups(), of_still_groups()
    for _ in range(10):
        play(in_its_middle, heavier(3))
        in_its_middle.judged(moves=True)
        play(in_its_middle, STILL)
        in_its_middle.judged(moves=False)
        play(at_its_end, heavier(3))
        play(at_its_end, STILL)
        at_its_end.judged(moves=True)
    assert play(in_its_middle, heavier(1.5))
    assert play(at_its_end, heavier(1.5))


def test_what_is_usual_follows_the_scene() -> None:
    growth = of_still_groups()
    for step in range(60):  # dusk: the noise grows
        assert play(growth, heavier(1.02**step, 0)) == []
        growth.judged(moves=False)
    assert play(growth, heavier(1.02**60 * 1.5, 0))


def test_of_next_to_nothing_twice_as_much_is_nothing() -> None:
    growth = Growth()
    for _ in range(5):
        play(growth, [900] + [12] * 20)
        growth.judged(moves=False)
    assert play(growth, [900] + [30] * 20) == []
    assert play(growth, [900] + [400] * 20)


def test_a_group_that_is_longer_than_all_before_it_has_nothing_to_be_compared_with() -> None:
    assert play(of_still_groups(), [*STILL, *[9000] * 2000]) == []


def test_a_group_in_which_packets_are_missing_is_forgotten() -> None:
    growth = of_still_groups()
    growth.takes(STILL[0], is_keyframe=True)
    growth.forget_group()
    assert not any(growth.takes(50_000, is_keyframe=False) for _ in range(10))
    assert play(growth, STILL) == []


@given(st.integers(0, 2**32 - 1))
def test_with_a_constant_bit_rate_nothing_grows(seed: int) -> None:
    chance, growth = random.Random(seed), Growth()
    growth.window = 6
    for _ in range(12):
        sizes = [4000] + [round(chance.gauss(4000, 60)) for _ in range(19)]
        assert play(growth, sizes) == []
        growth.judged(moves=False)
