"""A feed takes the place of another one under load: nothing is lost, nothing is closed under a run."""

import threading
from concurrent.futures import ThreadPoolExecutor

from fake_feeds import PLACE, FakeFeed, seqs

from pipeline.backends._onnx.exchange import ExchangeFeed
from pipeline.testing import frame

RUNS = 400


def test_an_exchange_under_the_load_of_four_threads_loses_no_frame() -> None:
    feeds = [FakeFeed() for _ in range(20)]
    feed = ExchangeFeed(feeds[0])
    begun = threading.Barrier(5)

    def work(worker: int) -> list[int]:
        begun.wait(10)
        return [seqs(feed.run([frame(worker * RUNS + n)], [PLACE]))[0] for n in range(RUNS)]

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, index) for index in range(4)]
        begun.wait(10)
        for successor in feeds[1:]:
            assert feed.exchange(successor)
        answers = [answer for worker in workers for answer in worker.result(30)]
    feed.close()
    assert answers == list(range(4 * RUNS))
    assert sorted(seq for each in feeds for batch in each.batches for seq in batch) == list(range(4 * RUNS))
    assert [each.closed for each in feeds] == [1] * len(feeds)


def test_the_feed_before_is_closed_by_its_last_run_and_not_earlier() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(_: object) -> None:
        entered.set()
        assert leave.wait(10)

    before, after = FakeFeed(slow), FakeFeed()
    feed = ExchangeFeed(before)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(feed.run, [frame(1)], [PLACE])
        assert entered.wait(10)
        assert feed.exchange(after)
        assert before.closed == 0
        assert seqs(feed.run([frame(2)], [PLACE])) == [2]
        leave.set()
        assert seqs(running.result(10)) == [1]
    assert before.closed == 1
    feed.close()
    assert (before.closed, after.closed) == (1, 1)


def test_an_exchange_that_comes_too_late_is_refused() -> None:
    first, late = FakeFeed(), FakeFeed()
    feed = ExchangeFeed(first)
    stopped: list[int] = []
    feed.before_close(lambda: stopped.append(first.closed))
    feed.close()
    assert stopped == [0]  # before anything is let go
    assert not feed.exchange(late)
    assert (first.closed, late.closed) == (1, 0)
