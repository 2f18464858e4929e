"""One model on several GPUs: who gets which picture, and what is left when a device is lost."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fake_feeds import PLACE, FakeFeed, seqs

from pipeline.backends._onnx.feed import Feed
from pipeline.backends._onnx.session import DeviceLostError
from pipeline.backends._onnx.spread import SpreadFeed
from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.frame import Frame, Picture, Size
from pipeline.contracts.surface import DevicePlane, Surface
from pipeline.testing import PluginContext, frame


class Lying:
    """A picture that lies on a GPU, for who only asks where."""

    def __init__(self, device: int, of: Picture) -> None:
        plane = DevicePlane(0, 64, 48)
        size = Size(64, 48)
        self.size = of.size
        self.surface = Surface(device, "nv12", size, plane, plane, "bt709", False, 0, None)


def on_gpu(device: int, seq: int) -> Frame:
    host = frame(seq)
    return replace(host, picture=Lying(device, host.picture))  # type: ignore[arg-type]


def lost(_: Sequence[Frame]) -> None:
    raise DeviceLostError("the model failed: CUDA failure 719: unspecified launch failure")


def spread(*feeds: FakeFeed, last_resort: Callable[[], Feed] | None = None) -> tuple[SpreadFeed, PluginContext]:
    ctx = PluginContext()
    named = {f"cuda:{index}": feed for index, feed in enumerate(feeds)}
    return SpreadFeed(named, last_resort=last_resort, ctx=ctx), ctx


def test_a_picture_is_inferred_on_the_gpu_where_it_lies() -> None:
    first, second = FakeFeed(), FakeFeed()
    feed, _ = spread(first, second)
    for device, seq in ((1, 0), (1, 1), (0, 2)):
        feed.run([on_gpu(device, seq)], [PLACE])
    assert (first.batches, second.batches) == ([[2]], [[0], [1]])
    assert feed.device == "cuda:0,cuda:1"


def test_a_picture_of_the_host_goes_where_there_is_least_to_do() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(_: Sequence[Frame]) -> None:
        entered.set()
        assert leave.wait(10)

    first, second = FakeFeed(slow), FakeFeed()
    feed, _ = spread(first, second)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(feed.run, [frame(0)], [PLACE])
        assert entered.wait(10)
        for seq in (1, 2, 3):
            feed.run([frame(seq)], [PLACE])
        leave.set()
        running.result(10)
    assert (first.batches, second.batches) == ([[0]], [[1], [2], [3]])


def test_a_gpu_that_is_lost_is_left_out_aloud_and_its_batch_is_inferred_elsewhere() -> None:
    broken, good = FakeFeed(lost), FakeFeed()
    feed, ctx = spread(broken, good)
    assert seqs(feed.run([on_gpu(0, 5), on_gpu(0, 6)], [PLACE] * 2)) == [5, 6]
    feed.run([on_gpu(0, 7)], [PLACE])
    assert good.batches == [[5, 6], [7]]
    ((wanted, got, reason),) = ctx.fallbacks
    assert (wanted, got) == ("cuda:0", "cuda:1")
    assert "CUDA failure 719" in reason
    assert feed.device == "cuda:1"
    assert broken.closed == 0  # to let go of memory on a dead device can end the process
    feed.close()
    assert (broken.closed, good.closed) == (1, 1)


def test_after_the_last_gpu_comes_the_cpu_once_however_many_workers_met_the_loss() -> None:
    together, made = threading.Barrier(4), []

    def all_lost(batch: Sequence[Frame]) -> None:
        together.wait(10)
        lost(batch)

    cpu = FakeFeed()

    def last_resort() -> Feed:
        made.append(1)
        return cpu

    feed, ctx = spread(FakeFeed(all_lost), last_resort=last_resort)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seq: seqs(feed.run([frame(seq)], [PLACE])), range(4)))
    assert answers == [[0], [1], [2], [3]]
    assert made == [1]
    assert [(wanted, got) for wanted, got, _ in ctx.fallbacks] == [("cuda:0", "cpu")]
    assert feed.device == "cpu"


def test_where_nothing_may_take_its_place_the_backend_ends_with_its_gpu() -> None:
    feed, ctx = spread(FakeFeed(lost))
    for _ in range(2):
        with pytest.raises(FatalError, match="CUDA failure 719"):
            feed.run([frame()], [PLACE])
    assert ctx.fallbacks == []


def test_a_cpu_that_cannot_be_had_either_is_said_with_it() -> None:
    def last_resort() -> Feed:
        raise FatalError("onnxruntime could not start the CPU")

    feed, _ = spread(FakeFeed(lost), last_resort=last_resort)
    with pytest.raises(FatalError, match=r"719.*and on the CPU: onnxruntime could not start the CPU"):
        feed.run([frame()], [PLACE])


@pytest.mark.parametrize("error", [TransientError("no memory"), FatalError("the model takes no such input")])
def test_what_is_not_the_devices_fault_costs_no_device(error: Exception) -> None:
    def before(_: Sequence[Frame]) -> None:
        raise error

    other = FakeFeed()
    feed, ctx = spread(FakeFeed(before), other)
    with pytest.raises(type(error)):
        feed.run([on_gpu(0, 0)], [PLACE])
    assert ctx.fallbacks == []
    assert feed.device == "cuda:0,cuda:1"
