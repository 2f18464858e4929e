"""Who waits for room, or for items, and what wakes them."""

import threading
from queue import Queue

from observed import until
from queues import remembering

from pipeline.contracts.clock import SystemClock
from pipeline.runtime.port import Port
from pipeline.runtime.queue import LaneLimits


def test_a_blocked_producer_wakes_when_the_consumer_takes() -> None:
    queue, _ = remembering()
    lane = queue.lane(LaneLimits(max_items=1))
    lane.put(1)
    producer = threading.Thread(target=lane.put, args=(2,))
    producer.start()
    assert queue.get().items == [1]
    producer.join(10)
    assert queue.get().items == [2]


def test_a_producer_blocked_by_the_bytes_of_another_lane_wakes_when_they_are_taken() -> None:
    queue, _ = remembering(max_bytes=10)
    first, second = queue.lane(LaneLimits()), queue.lane(LaneLimits())
    first.put(1, nbytes=9)
    second.put(2, nbytes=1)
    producer = threading.Thread(target=second.put, args=(3, 5))
    producer.start()
    assert [queue.get().items, queue.get().items] == [[1], [2]]
    producer.join(10)
    assert queue.get().items == [3]


def test_a_producer_that_asks_for_room_waits_until_the_last_item_would_fit() -> None:
    queue, _ = remembering(max_bytes=10)
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
    queue, _ = remembering(max_bytes=4)
    lanes = [queue.lane(LaneLimits()) for _ in range(4)]
    for number, lane in enumerate(lanes):
        lane.room = _Counting(queue._lock)
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
    assert [lane.room.told for lane in lanes if isinstance(lane.room, _Counting)] == [1, 1, 1, 1]


class _Counting(threading.Condition):
    """Knows how often somebody was woken."""

    told = 0

    def notify_all(self) -> None:
        self.told += 1
        super().notify_all()


def test_many_producers_that_share_little_room_all_come_to_their_end() -> None:
    queue, _ = remembering(SystemClock(), max_bytes=5)
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
    queue, _ = remembering()
    lane = queue.lane(LaneLimits(max_items=1, when_full="drop_oldest"))
    lane.put(1)
    assert lane.wait_for_room()


def test_a_blocked_producer_wakes_when_the_consumer_dies_and_keeps_its_item() -> None:
    queue, dropped = remembering()
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
    queue, _ = remembering()
    queue.finish()
    lanes = [queue.lane(LaneLimits()), queue.lane(LaneLimits())]
    taken: list[list[int]] = []
    consumer = threading.Thread(target=lambda: taken.append(queue.get().items))
    consumer.start()
    for lane in lanes:
        lane.close()
    consumer.join(10)
    assert taken == [[]]


def test_a_queue_without_lanes_waits_for_one_until_it_is_finished() -> None:
    queue, _ = remembering()
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


def test_a_batch_waits_so_long_for_more_and_no_longer() -> None:
    queue, _ = remembering(SystemClock())
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
    queue, dropped = remembering(SystemClock())
    lane = queue.lane(LaneLimits(max_age_s=0.5))
    lane.put(1)
    assert queue.get(2, max_wait_s=20).items == [1]
    assert dropped == []


def test_a_port_that_is_moved_loses_nothing_of_a_producer_at_work() -> None:
    queues = [remembering() for _ in range(3)]
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
    queue, dropped = remembering()
    lane = queue.lane(LaneLimits(max_items=1))
    lane.put(1)
    assert lane.put(2, wait=False)
    assert dropped == [(2, "full")]
