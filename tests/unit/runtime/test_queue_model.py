"""Nothing is lost, nothing twice, and order is kept, whatever is done to a queue."""

import threading

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from queues import remembering

from pipeline.contracts.component import WhenFull
from pipeline.runtime.queue import Lane, LaneLimits
from pipeline.testing import MovableClock


class QueueMachine(RuleBasedStateMachine):
    """Random puts, gets, closes and policies, in one thread: nothing is lost, nothing twice, order kept in a lane."""

    @initialize(
        policies=st.lists(st.sampled_from(["drop_oldest", "drop_newest"]), min_size=1, max_size=4),
        max_items=st.integers(1, 4),
        max_bytes=st.integers(1, 40),
    )
    def make(self, policies: list[WhenFull], max_items: int, max_bytes: int) -> None:
        self.clock = MovableClock()
        self.queue, self.dropped = remembering(self.clock, max_bytes)
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
        return self.clock.monotonic() - lane.entries[-1].since > 5.0

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
        inside = [entry.item for lane in self.lanes for entry in lane.entries]
        ended = self.taken + [item for item, _ in self.dropped] + self.refused
        assert sorted(ended + inside) == self.put_items_sorted()
        assert len(self.queue) == len(inside)
        assert [lane.nbytes for lane in self.lanes] == [sum(e.nbytes for e in lane.entries) for lane in self.lanes]
        assert self.queue.nbytes == sum(lane.nbytes for lane in self.lanes)

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
    queue, dropped = remembering(max_bytes=8)
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
