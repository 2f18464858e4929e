import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.runtime.reorder import InOrder


@given(st.permutations(range(12)))
def test_what_comes_in_any_order_leaves_in_order(numbers: list[int]) -> None:
    out: list[int] = []
    in_order: InOrder[int] = InOrder(out.append, window=12)
    for number in numbers:
        in_order.put(number, number)
    assert out == list(range(12))


@given(threads=st.integers(1, 4), count=st.integers(1, 60), window=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_threads_that_take_numbers_in_turn_deliver_all_in_order_one_at_a_time(
    threads: int, count: int, window: int
) -> None:
    out: list[int] = []
    inside = threading.Semaphore(1)

    def deliver(item: int) -> None:
        assert inside.acquire(blocking=False), "two threads deliver at once"
        out.append(item)
        inside.release()

    in_order: InOrder[int] = InOrder(deliver, window)
    numbers = iter(range(count))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            in_order.put(number, number)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()
    assert out == list(range(count))


def test_a_thread_that_is_too_far_ahead_waits_for_the_oldest() -> None:
    out: list[int] = []
    in_order: InOrder[int] = InOrder(out.append, window=2)
    in_order.put(1, 1)
    ahead = threading.Thread(target=in_order.put, args=(2, 2))
    ahead.start()
    ahead.join(0.2)
    assert ahead.is_alive()
    assert out == []
    in_order.put(0, 0)
    ahead.join(10)
    assert out == [0, 1, 2]
