"""What a lane may hold, what is dropped, and how lanes come, close and go."""

import pytest
from queues import remembering

from pipeline.contracts.component import WhenFull
from pipeline.runtime.queue import LaneLimits
from pipeline.testing import MovableClock


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
def test_what_is_forced_in_finds_room_behind_what_is_there_and_drives_nothing_out(policy: WhenFull) -> None:
    queue, dropped = remembering()
    lane = queue.lane(LaneLimits(max_items=1, when_full=policy))
    assert lane.put(1)
    assert lane.put(2, force=True)
    assert queue.get(9).items == [1, 2]
    lane.close()
    assert not lane.put(3, force=True)
    assert dropped == []


def test_drop_oldest_keeps_the_newest_and_drop_newest_the_oldest() -> None:
    for when_full, kept, lost in (("drop_oldest", [2, 3], 1), ("drop_newest", [1, 2], 3)):
        queue, dropped = remembering()
        lane = queue.lane(LaneLimits(max_items=2, when_full=when_full))  # type: ignore[arg-type]
        for item in (1, 2, 3):
            assert lane.put(item)
        assert queue.get(5).items == kept
        assert dropped == [(lost, "full")]


def test_a_stale_item_is_dropped_at_the_moment_of_taking() -> None:
    clock = MovableClock()
    queue, dropped = remembering(clock)
    lane = queue.lane(LaneLimits(max_age_s=1.0))
    lane.put(1)
    clock.advance(0.8)
    lane.put(2)
    clock.advance(0.3)
    assert queue.get().items == [2]
    assert dropped == [(1, "stale")]


def test_an_item_larger_than_every_limit_moves_on_alone() -> None:
    queue, dropped = remembering(max_bytes=10)
    lane = queue.lane(LaneLimits(max_bytes=10))
    assert lane.put(1, nbytes=1000)
    assert queue.nbytes == 1000
    assert queue.get().items == [1]
    assert queue.nbytes == 0
    assert not dropped


def test_a_lane_with_bytes_of_its_own_does_not_live_off_the_others() -> None:
    queue, dropped = remembering(max_bytes=10)
    lane = queue.lane(LaneLimits(max_bytes=30, when_full="drop_newest", own_bytes=30))
    for item in range(4):
        lane.put(item, nbytes=10)
    assert [item for item, _ in dropped] == [3]
    assert queue.get(5).items == [0, 1, 2]


def test_what_is_in_a_closed_lane_is_still_taken() -> None:
    queue, _ = remembering()
    lane = queue.lane(LaneLimits())
    lane.put(1)
    lane.close()
    queue.finish()
    assert queue.get().items == [1]
    assert queue.get().items == []
    assert lane.put(2) is False


def test_lanes_that_come_and_go_leave_nothing_behind() -> None:
    queue, _ = remembering(max_bytes=10)
    for item in range(50):
        lane = queue.lane(LaneLimits(own_bytes=100))
        lane.put(item)
        lane.close()
        queue.get()
    assert queue._lanes == []
    assert queue._max_bytes == 10


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
def test_after_close_nothing_blocks(policy: WhenFull) -> None:
    queue, dropped = remembering()
    lane = queue.lane(LaneLimits(max_items=1, when_full=policy))
    queue.close("dead")
    assert lane.put(1) is False
    assert not dropped
    assert queue.get().items == []
