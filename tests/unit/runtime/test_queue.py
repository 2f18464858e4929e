import threading
from queue import Queue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from observed import until

from pipeline.contracts.clock import Clock, SystemClock
from pipeline.contracts.component import WhenFull
from pipeline.runtime.port import Port
from pipeline.runtime.queue import Drops, Lane, LaneLimits, LaneQueue
from pipeline.testing import MovableClock

DROPS = Drops("full", "stale", "closed")


def _queue(clock: Clock | None = None, max_bytes: int = 1 << 20) -> tuple[LaneQueue[int], list[tuple[int, str]]]:
    dropped: list[tuple[int, str]] = []
    queue: LaneQueue[int] = LaneQueue(
        on_drop=lambda item, reason: dropped.append((item, reason)),
        drops=DROPS,
        clock=clock or MovableClock(),
        max_bytes=max_bytes,
    )
    return queue, dropped


def test_lanes_are_served_in_turn_however_fast_one_fills() -> None:
    queue, _ = _queue()
    fast, slow = queue.lane(LaneLimits()), queue.lane(LaneLimits())
    for item in (1, 2, 3, 4):
        fast.put(item)
    slow.put(100)
    assert [queue.get().items[0] for _ in range(3)] == [1, 100, 2]


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
def test_what_is_forced_in_finds_room_behind_what_is_there_and_drives_nothing_out(policy: WhenFull) -> None:
    queue, dropped = _queue()
    lane = queue.lane(LaneLimits(max_items=1, when_full=policy))
    assert lane.put(1)
    assert lane.put(2, force=True)
    assert queue.get(9).items == [1, 2]
    lane.close()
    assert not lane.put(3, force=True)
    assert dropped == []


def test_a_batch_is_filled_across_lanes() -> None:
    queue, _ = _queue()
    lanes = [queue.lane(LaneLimits()) for _ in range(3)]
    for index, lane in enumerate(lanes):
        lane.put(index)
        lane.put(10 + index)
    assert queue.get(4).items == [0, 1, 2, 10]


def test_a_batch_is_of_the_kind_of_the_item_whose_turn_it_is_and_the_others_keep_their_turn() -> None:
    queue, _ = _queue()
    lanes = [queue.lane(LaneLimits()) for _ in range(4)]
    for lane, items in zip(lanes, ((10, 11), (21, 20), (30, 31), (41,)), strict=True):
        for item in items:
            lane.put(item)
    assert [queue.get(8, kind=_last_digit).items for _ in range(3)] == [[10, 30], [21, 41, 11, 31], [20]]


def test_without_room_for_a_second_item_nobody_asks_for_its_kind() -> None:
    queue, _ = _queue()
    queue.lane(LaneLimits()).put(1)
    assert queue.get(1, kind=lambda _: pytest.fail("asked")).items == [1]


def test_a_batch_waits_for_items_of_its_own_kind_only() -> None:
    queue, _ = _queue(SystemClock())
    first, second = queue.lane(LaneLimits()), queue.lane(LaneLimits())
    first.put(10)
    second.put(21)
    taken: list[list[int]] = []
    consumer = threading.Thread(target=lambda: taken.append(queue.get(2, max_wait_s=20, kind=_last_digit).items))
    consumer.start()
    second.put(31)  # two of the other kind do not fill it
    consumer.join(0.2)
    assert consumer.is_alive()
    first.put(20)
    consumer.join(10)
    assert taken == [[10, 20]]
    assert queue.get(2, kind=_last_digit).items == [21, 31]


@given(
    kinds=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=2, max_size=6),
    batch=st.integers(1, 5),
)
@settings(max_examples=100, deadline=None)
def test_no_lane_waits_longer_than_all_others_took_a_turn_whatever_kinds_there_are(
    kinds: list[list[int]], batch: int
) -> None:
    queue, _ = _queue()
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
        got = {item // 100 for item in queue.get(batch, kind=_last_digit).items}
        for index in range(len(lanes)):
            served[index] += index in got
            waited[index] = 0 if index in got else waited[index] + 1
            assert waited[index] < len(lanes)


def _last_digit(item: int) -> int:
    return item % 10


def test_drop_oldest_keeps_the_newest_and_drop_newest_the_oldest() -> None:
    for when_full, kept, lost in (("drop_oldest", [2, 3], 1), ("drop_newest", [1, 2], 3)):
        queue, dropped = _queue()
        lane = queue.lane(LaneLimits(max_items=2, when_full=when_full))  # type: ignore[arg-type]
        for item in (1, 2, 3):
            assert lane.put(item)
        assert queue.get(5).items == kept
        assert dropped == [(lost, "full")]


def test_a_stale_item_is_dropped_at_the_moment_of_taking() -> None:
    clock = MovableClock()
    queue, dropped = _queue(clock)
    lane = queue.lane(LaneLimits(max_age_s=1.0))
    lane.put(1)
    clock.advance(0.8)
    lane.put(2)
    clock.advance(0.3)
    assert queue.get().items == [2]
    assert dropped == [(1, "stale")]


def test_an_item_larger_than_every_limit_moves_on_alone() -> None:
    queue, dropped = _queue(max_bytes=10)
    lane = queue.lane(LaneLimits(max_bytes=10))
    assert lane.put(1, nbytes=1000)
    assert queue.nbytes == 1000
    assert queue.get().items == [1]
    assert queue.nbytes == 0
    assert not dropped


def test_a_lane_with_bytes_of_its_own_does_not_live_off_the_others() -> None:
    queue, dropped = _queue(max_bytes=10)
    lane = queue.lane(LaneLimits(max_bytes=30, when_full="drop_newest", own_bytes=30))
    for item in range(4):
        lane.put(item, nbytes=10)
    assert [item for item, _ in dropped] == [3]
    assert queue.get(5).items == [0, 1, 2]


def test_a_blocked_producer_wakes_when_the_consumer_takes() -> None:
    queue, _ = _queue()
    lane = queue.lane(LaneLimits(max_items=1))
    lane.put(1)
    producer = threading.Thread(target=lane.put, args=(2,))
    producer.start()
    assert queue.get().items == [1]
    producer.join(10)
    assert queue.get().items == [2]


def test_a_producer_blocked_by_the_bytes_of_another_lane_wakes_when_they_are_taken() -> None:
    queue, _ = _queue(max_bytes=10)
    first, second = queue.lane(LaneLimits()), queue.lane(LaneLimits())
    first.put(1, nbytes=9)
    second.put(2, nbytes=1)
    producer = threading.Thread(target=second.put, args=(3, 5))
    producer.start()
    assert [queue.get().items, queue.get().items] == [[1], [2]]
    producer.join(10)
    assert queue.get().items == [3]


def test_a_producer_that_asks_for_room_waits_until_the_last_item_would_fit() -> None:
    queue, _ = _queue(max_bytes=10)
    lane = queue.lane(LaneLimits())
    assert lane.wait_for_room()
    lane.put(1, nbytes=6)
    answers: list[bool] = []
    producer = threading.Thread(target=lambda: answers.append(lane.wait_for_room()))
    producer.start()
    producer.join(0.2)
    assert producer.is_alive()
    assert queue.get().items == [1]
    producer.join(10)
    assert answers == [True]
    queue.close("dead")
    assert lane.wait_for_room() is False


def test_only_those_are_woken_for_whom_there_is_room() -> None:
    queue, _ = _queue(max_bytes=4)
    lanes = [queue.lane(LaneLimits()) for _ in range(4)]
    for number, lane in enumerate(lanes):
        lane._room = _Counting(queue._lock)
        lane.put(number, 1)
    woken: Queue[int] = Queue()

    def produce(number: int) -> None:
        lanes[number].wait_for_room()
        lanes[number].put(10 + number, 1)
        woken.put(number)

    producers = [threading.Thread(target=produce, args=(number,), daemon=True) for number in range(4)]
    for producer in producers:
        producer.start()
    until("all wait", lambda: len(queue._waiting) == 4 or None, 10)
    for number in range(4):
        assert queue.get().items == [number]
        assert woken.get(timeout=10) == number
        assert len(queue._waiting) == 3 - number  # what was given back is one item's room
    for producer in producers:
        producer.join(10)
    assert [lane._room.told for lane in lanes if isinstance(lane._room, _Counting)] == [1, 1, 1, 1]


class _Counting(threading.Condition):
    """Knows how often somebody was woken."""

    told = 0

    def notify_all(self) -> None:
        self.told += 1
        super().notify_all()


def test_many_producers_that_share_little_room_all_come_to_their_end() -> None:
    queue, _ = _queue(SystemClock(), max_bytes=5)
    lanes = [queue.lane(LaneLimits(max_items=3)) for _ in range(12)]
    each = 60

    def produce(number: int) -> None:
        for item in range(each):
            assert lanes[number].wait_for_room()
            assert lanes[number].put(100 * number + item, 1 + (number + item) % 3)
        lanes[number].close()

    taken: list[int] = []

    def consume() -> None:
        while items := queue.get(2).items:
            taken.extend(items)

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(12)]
    threads += [threading.Thread(target=consume) for _ in range(2)]
    for thread in threads:
        thread.start()
    queue.finish()
    for thread in threads:
        thread.join(20)
    assert sorted(taken) == [100 * number + item for number in range(12) for item in range(each)]
    assert queue.nbytes == 0


def test_a_lane_that_drops_never_makes_its_producer_wait_for_room() -> None:
    queue, _ = _queue()
    lane = queue.lane(LaneLimits(max_items=1, when_full="drop_oldest"))
    lane.put(1)
    assert lane.wait_for_room()


def test_a_blocked_producer_wakes_when_the_consumer_dies_and_keeps_its_item() -> None:
    queue, dropped = _queue()
    lane = queue.lane(LaneLimits(max_items=1))
    lane.put(1)
    answers: list[bool] = []
    producer = threading.Thread(target=lambda: answers.append(lane.put(2)))
    producer.start()
    queue.close("dead")
    producer.join(10)
    assert answers == [False]
    assert dropped == [(1, "dead")]
    assert lane.closed_reason == "dead"
    assert queue.get().items == []


def test_a_waiting_consumer_wakes_when_the_last_lane_closes() -> None:
    queue, _ = _queue()
    queue.finish()
    lanes = [queue.lane(LaneLimits()), queue.lane(LaneLimits())]
    taken: list[list[int]] = []
    consumer = threading.Thread(target=lambda: taken.append(queue.get().items))
    consumer.start()
    for lane in lanes:
        lane.close()
    consumer.join(10)
    assert taken == [[]]


def test_what_is_in_a_closed_lane_is_still_taken() -> None:
    queue, _ = _queue()
    lane = queue.lane(LaneLimits())
    lane.put(1)
    lane.close()
    queue.finish()
    assert queue.get().items == [1]
    assert queue.get().items == []
    assert lane.put(2) is False


def test_a_queue_without_lanes_waits_for_one_until_it_is_finished() -> None:
    queue, _ = _queue()
    queue.lane(LaneLimits()).close()
    taken: list[list[int]] = []
    consumer = threading.Thread(target=lambda: taken.extend((queue.get().items, queue.get().items)))
    consumer.start()
    late = queue.lane(LaneLimits())
    late.put(1)
    late.close()
    queue.finish()
    consumer.join(10)
    assert taken == [[1], []]


def test_a_lane_that_takes_over_gives_what_the_old_one_had_first_and_in_its_turn() -> None:
    queue, _ = _queue()
    old, other = queue.lane(LaneLimits()), queue.lane(LaneLimits())
    old.put(1)
    other.put(100)
    old.put(2)
    new = queue.lane(LaneLimits(max_items=3), taking_over=old)
    assert old.put(9) is False
    new.put(3)
    assert queue.get(10).items == [1, 100, 2, 3]


def test_lanes_that_come_and_go_leave_nothing_behind() -> None:
    queue, _ = _queue(max_bytes=10)
    for item in range(50):
        lane = queue.lane(LaneLimits(own_bytes=100))
        lane.put(item)
        lane.close()
        queue.get()
    assert queue._lanes == []
    assert queue._max_bytes == 10


def test_under_load_the_lower_priority_is_shed_and_equals_take_turns() -> None:
    queue, dropped = _queue()
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


def test_a_batch_waits_so_long_for_more_and_no_longer() -> None:
    queue, _ = _queue(SystemClock())
    lane = queue.lane(LaneLimits())
    lane.put(1)
    taken: list[list[int]] = []
    consumer = threading.Thread(target=lambda: taken.append(queue.get(2, max_wait_s=20).items))
    consumer.start()
    lane.put(2)
    consumer.join(10)
    assert taken == [[1, 2]]
    lane.put(3)
    assert queue.get(2, max_wait_s=0.02).items == [3]


def test_no_item_is_made_stale_by_waiting_for_a_batch_to_fill() -> None:
    queue, dropped = _queue(SystemClock())
    lane = queue.lane(LaneLimits(max_age_s=0.5))
    lane.put(1)
    assert queue.get(2, max_wait_s=20).items == [1]
    assert dropped == []


def test_a_port_that_is_moved_loses_nothing_of_a_producer_at_work() -> None:
    queues = [_queue() for _ in range(3)]
    port = Port(queues[0][0].lane(LaneLimits(max_items=1)))
    refused: list[str] = []

    def produce() -> None:
        for item in range(3000):
            assert port.wait_for_room()
            if (reason := port.put(item)) is not None:
                refused.append(reason)

    taken: list[list[int]] = [[], [], []]

    def consume(index: int) -> None:
        while items := queues[index][0].get(4).items:
            taken[index] += items

    threads = [threading.Thread(target=produce), *(threading.Thread(target=consume, args=(n,)) for n in range(3))]
    for thread in threads:
        thread.start()
    for queue, _ in queues[1:]:
        while not taken[0]:
            threading.Event().wait(0.001)
        port.move(queue.lane(LaneLimits(max_items=1)))
    threads[0].join(20)
    port.close()
    for queue, _ in queues:
        queue.finish()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert refused == []
    assert [item for items in taken for item in items] == list(range(3000))


def test_an_event_does_not_wait_for_room() -> None:
    queue, dropped = _queue()
    lane = queue.lane(LaneLimits(max_items=1))
    lane.put(1)
    assert lane.put(2, wait=False)
    assert dropped == [(2, "full")]


class QueueMachine(RuleBasedStateMachine):
    """Random puts, gets, closes and policies, in one thread: nothing is lost, nothing twice, order kept in a lane."""

    @initialize(
        policies=st.lists(st.sampled_from(["drop_oldest", "drop_newest"]), min_size=1, max_size=4),
        max_items=st.integers(1, 4),
        max_bytes=st.integers(1, 40),
    )
    def make(self, policies: list[WhenFull], max_items: int, max_bytes: int) -> None:
        self.clock = MovableClock()
        self.queue, self.dropped = _queue(self.clock, max_bytes)
        self.lanes: list[Lane[int]] = [
            self.queue.lane(LaneLimits(max_items, max_bytes, policy, 5.0)) for policy in policies
        ]
        self.put_items: list[int] = []
        self.taken: list[int] = []
        self.numbers: list[int] = []
        self.closed: set[int] = set()
        self.refused: list[int] = []
        self.dead = False
        self.queue.finish()

    @rule(lane=st.integers(0, 3), nbytes=st.integers(0, 30))
    def put(self, lane: int, nbytes: int) -> None:
        lane %= len(self.lanes)
        item = lane * 1_000_000 + len(self.put_items)
        self.put_items.append(item)
        taken = self.lanes[lane].put(item, nbytes)
        assert taken == (lane not in self.closed and not self.dead)
        if not taken:
            self.refused.append(item)

    @precondition(lambda self: any(len(lane) for lane in self.lanes))
    @rule(count=st.integers(1, 5), kinds=st.sampled_from([None, 1, 2, 3]))
    def get(self, count: int, kinds: int | None) -> None:
        if all(self._stale(lane) for lane in self.lanes if len(lane)) and not self._all_closed():
            return  # would rightly wait for ever
        taken = self.queue.get(count, kind=None if kinds is None else lambda item: item % kinds)
        assert len(taken.items) <= count
        assert len({item % (kinds or 1) for item in taken.items}) <= 1
        if taken.items:
            self.numbers.append(taken.number)
        self.taken += taken.items

    def _stale(self, lane: Lane[int]) -> bool:
        return self.clock.monotonic() - lane._entries[-1].since > 5.0

    def _all_closed(self) -> bool:
        return self.dead or len(self.closed) == len(self.lanes)

    @rule(seconds=st.floats(0.1, 4.0))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(lane=st.integers(0, 3))
    def take_over(self, lane: int) -> None:
        lane %= len(self.lanes)
        if lane not in self.closed:
            self.lanes[lane] = self.queue.lane(self.lanes[lane].limits, taking_over=self.lanes[lane])

    @rule(lane=st.integers(0, 3))
    def close_lane(self, lane: int) -> None:
        lane %= len(self.lanes)
        self.lanes[lane].close()
        self.closed.add(lane)

    @precondition(lambda self: len(self.put_items) > 10)
    @rule()
    def die(self) -> None:
        self.queue.close("dead")
        self.dead = True

    @invariant()
    def nothing_is_lost_and_nothing_twice(self) -> None:
        if not hasattr(self, "queue"):
            return
        inside = [entry.item for lane in self.lanes for entry in lane._entries]
        ended = self.taken + [item for item, _ in self.dropped] + self.refused
        assert sorted(ended + inside) == self.put_items_sorted()
        assert len(self.queue) == len(inside)
        assert self.queue.nbytes == sum(entry.nbytes for lane in self.lanes for entry in lane._entries)

    def put_items_sorted(self) -> list[int]:
        return sorted(self.put_items)

    @invariant()
    def order_is_kept_within_a_lane(self) -> None:
        if not hasattr(self, "queue"):
            return
        for lane in range(len(self.lanes)):
            mine = [item for item in self.taken if item // 1_000_000 == lane]
            assert mine == sorted(mine)
        assert self.numbers == list(range(len(self.numbers)))


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(
    lanes=st.lists(
        st.tuples(st.sampled_from(["block", "drop_oldest", "drop_newest"]), st.integers(1, 3), st.integers(1, 60)),
        min_size=1,
        max_size=4,
    ),
    consumers=st.integers(1, 3),
    batch=st.integers(1, 4),
    die_after=st.none() | st.integers(0, 30),
)
@settings(max_examples=40, deadline=None)
def test_conservation_holds_with_threads_at_both_ends(
    lanes: list[tuple[WhenFull, int, int]], consumers: int, batch: int, die_after: int | None
) -> None:
    queue, dropped = _queue(max_bytes=8)
    ends = [(queue.lane(LaneLimits(max_items, 100, policy)), count) for policy, max_items, count in lanes]
    queue.finish()
    refused: list[int] = []
    taken: list[tuple[int, list[int]]] = []
    lock = threading.Lock()

    def produce(index: int) -> None:
        lane, count = ends[index]
        for item in range(count):
            number = index * 1000 + item
            refused.extend([] if lane.put(number, nbytes=item % 4) else [number])
        lane.close()

    def consume() -> None:
        while (got := queue.get(batch)).items:
            with lock:
                taken.append((got.number, got.items))
                if die_after is not None and len(taken) > die_after:
                    queue.close("dead")

    threads = [threading.Thread(target=produce, args=(index,)) for index in range(len(ends))]
    threads += [threading.Thread(target=consume) for _ in range(consumers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()

    in_order = [item for _, items in sorted(taken) for item in items]
    everything = sorted(index * 1000 + item for index, (_, count) in enumerate(ends) for item in range(count))
    assert sorted(in_order + refused + [item for item, _ in dropped]) == everything
    for index in range(len(ends)):
        mine = [item for item in in_order if item // 1000 == index]
        assert mine == sorted(mine)
    if die_after is None and all(policy == "block" for policy, _, _ in lanes):
        assert not dropped


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
def test_after_close_nothing_blocks(policy: WhenFull) -> None:
    queue, dropped = _queue()
    lane = queue.lane(LaneLimits(max_items=1, when_full=policy))
    queue.close("dead")
    assert lane.put(1) is False
    assert not dropped
    assert queue.get().items == []
