"""Which lane is served next, and what is taken together."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from queues import last_digit, remembering

from pipeline.contracts.clock import SystemClock
from pipeline.runtime.queue import LaneLimits


def test_lanes_are_served_in_turn_however_fast_one_fills() -> None:
    queue, _ = remembering()
    fast, slow = queue.lane(LaneLimits()), queue.lane(LaneLimits())
    for item in (1, 2, 3, 4):
        fast.put(item)
    slow.put(100)
    assert [queue.get().items[0] for _ in range(3)] == [1, 100, 2]


def test_a_batch_is_filled_across_lanes() -> None:
    queue, _ = remembering()
    lanes = [queue.lane(LaneLimits()) for _ in range(3)]
    for index, lane in enumerate(lanes):
        lane.put(index)
        lane.put(10 + index)
    assert queue.get(4).items == [0, 1, 2, 10]


def test_a_batch_is_of_the_kind_of_the_item_whose_turn_it_is_and_the_others_keep_their_turn() -> None:
    queue, _ = remembering()
    lanes = [queue.lane(LaneLimits()) for _ in range(4)]
    for lane, items in zip(lanes, ((10, 11), (21, 20), (30, 31), (41,)), strict=True):
        for item in items:
            lane.put(item)
    assert [queue.get(8, kind=last_digit).items for _ in range(3)] == [[10, 30], [21, 41, 11, 31], [20]]


def test_without_room_for_a_second_item_nobody_asks_for_its_kind() -> None:
    queue, _ = remembering()
    queue.lane(LaneLimits()).put(1)
    assert queue.get(1, kind=lambda _: pytest.fail("asked")).items == [1]


def test_a_batch_waits_for_items_of_its_own_kind_only() -> None:
    queue, _ = remembering(SystemClock())
    first, second = queue.lane(LaneLimits()), queue.lane(LaneLimits())
    first.put(10)
    second.put(21)
    taken: list[list[int]] = []
    consumer = threading.Thread(target=lambda: taken.append(queue.get(2, max_wait_s=20, kind=last_digit).items))
    consumer.start()
    second.put(31)  # two of the other kind do not fill it
    consumer.join(0.2)
    assert consumer.is_alive()
    first.put(20)
    consumer.join(10)
    assert taken == [[10, 20]]
    assert queue.get(2, kind=last_digit).items == [21, 31]


@given(
    kinds=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=2, max_size=6),
    batch=st.integers(1, 5),
)
@settings(max_examples=100, deadline=None)
def test_no_lane_waits_longer_than_all_others_took_a_turn_whatever_kinds_there_are(
    kinds: list[list[int]], batch: int
) -> None:
    queue, _ = remembering()
    lanes = [queue.lane(LaneLimits()) for _ in kinds]
    served = [0] * len(lanes)

    def fill() -> None:
        for index, lane in enumerate(lanes):
            while len(lane) < 3:
                number = served[index] + len(lane)
                lane.put(100 * index + kinds[index][number % len(kinds[index])])

    waited = [0] * len(lanes)
    for _ in range(40):
        fill()
        got = {item // 100 for item in queue.get(batch, kind=last_digit).items}
        for index in range(len(lanes)):
            served[index] += index in got
            waited[index] = 0 if index in got else waited[index] + 1
            assert waited[index] < len(lanes)


def test_a_lane_that_takes_over_gives_what_the_old_one_had_first_and_in_its_turn() -> None:
    queue, _ = remembering()
    old, other = queue.lane(LaneLimits()), queue.lane(LaneLimits())
    old.put(1)
    other.put(100)
    old.put(2)
    new = queue.lane(LaneLimits(max_items=3), taking_over=old)
    assert old.put(9) is False
    new.put(3)
    assert queue.get(10).items == [1, 100, 2, 3]


def test_under_load_the_lower_priority_is_shed_and_equals_take_turns() -> None:
    queue, dropped = remembering()
    low = queue.lane(LaneLimits(max_items=1, when_full="drop_oldest", priority=-1))
    first, second = queue.lane(LaneLimits(max_items=1)), queue.lane(LaneLimits(max_items=1))
    low.put(1)
    first.put(10)
    second.put(20)
    assert queue.get(2).items == [10, 20]
    low.put(2)
    first.put(11)
    assert queue.get(2).items == [11, 2]
    assert dropped == [(1, "full")]
