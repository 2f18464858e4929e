"""How large a run is: the search, what serving teaches, and a device without memory."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_feeds import PLACE, FakeFeed, seqs
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backends._onnx.batching import BatchedFeed, BatchSize, best_size, find_batch, given_size, sizes_up_to
from pipeline.backends._onnx.session import OutOfMemoryError
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame
from pipeline.testing import MovableClock, PluginContext, frame


class Device:
    """Runs take `base_s` and `each_s` for each frame; more frames than `memory` do not fit."""

    def __init__(self, clock: MovableClock, base_s: float, each_s: float, memory: int = 1000) -> None:
        self.clock, self.base_s, self.each_s, self.memory = clock, base_s, each_s, memory
        self.tried: list[int] = []

    def run(self, rows: int) -> None:
        self.tried.append(rows)
        if rows > self.memory:
            raise OutOfMemoryError(f"no memory for {rows}")
        self.clock.advance(self.base_s + rows * self.each_s)


def found(base_s: float, each_s: float, memory: int = 1000, max_run_s: float = 0.033) -> tuple[BatchSize, Device]:
    clock = MovableClock()
    device = Device(clock, base_s, each_s, memory)
    return find_batch(device.run, clock.monotonic, max_run_s=max_run_s), device


def test_a_batch_grows_as_long_as_it_gains_and_is_quick_enough() -> None:
    batch, _ = found(base_s=0.004, each_s=0.001)
    assert batch.limit == batch.most == 16  # a run of 32 takes 36 ms


def test_a_device_that_is_full_with_one_frame_is_given_one() -> None:
    batch, device = found(base_s=0.0, each_s=0.005)
    assert batch.limit == 1
    assert max(device.tried) == 4  # one step may be unlucky, two are not


def test_a_run_that_is_too_slow_alone_is_still_a_run() -> None:
    batch, _ = found(base_s=0.5, each_s=0.0)
    assert batch.limit == 1


def test_the_search_ends_where_the_memory_does() -> None:
    batch, device = found(base_s=0.004, each_s=0.0001, memory=8)
    assert (batch.limit, max(device.tried)) == (8, 16)


def test_a_device_without_memory_for_one_frame_is_an_error() -> None:
    with pytest.raises(OutOfMemoryError):
        found(base_s=0.004, each_s=0.001, memory=0)


@given(st.integers(1, 128))
def test_sizes_are_powers_of_two_and_the_last_one(most: int) -> None:
    sizes = sizes_up_to(most)
    assert sizes == tuple(sorted(set(sizes)))
    assert (sizes[0], sizes[-1]) == (1, most)
    assert all(size & (size - 1) == 0 for size in sizes[:-1])


@given(st.dictionaries(st.integers(1, 64), st.floats(1e-4, 1.0), min_size=1), st.floats(1e-3, 1.0))
def test_no_size_is_chosen_that_is_slower_than_a_smaller_one_or_takes_too_long(
    run_s: dict[int, float], max_run_s: float
) -> None:
    best = best_size(run_s, max_run_s)
    assert best == min(run_s) or run_s[best] <= max_run_s
    assert all(run_s[best] / best <= run_s[size] / size for size in run_s if size < best)


def test_runs_that_are_slower_in_earnest_make_batches_smaller_and_quick_ones_larger_again() -> None:
    clock = MovableClock()
    batch = BatchSize({1: 0.005, 2: 0.006, 4: 0.008, 8: 0.012}, max_run_s=0.033, now_s=clock.monotonic)
    for _ in range(20):
        batch.observe(8, 0.05)
    assert batch.limit == 4
    clock.advance(61)
    batch.observe(4, 0.008)
    assert batch.limit == 8  # it gets another chance
    batch.observe(8, 0.2)
    assert batch.limit == 4


def test_sizes_that_were_not_looked_at_teach_nothing() -> None:
    batch = BatchSize({1: 0.005, 2: 0.006}, max_run_s=0.033, now_s=MovableClock().monotonic)
    for rows in (3, 7, 100):
        batch.observe(rows, 9.0)
    assert batch.limit == 2


def test_a_size_that_the_config_gives_is_kept_however_slow_it_is() -> None:
    batch = given_size(6, MovableClock().monotonic)
    for _ in range(50):
        batch.observe(6, 9.0)
    assert (batch.limit, batch.most) == (6, 6)


@given(st.integers(1, 64), st.lists(st.integers(1, 64), max_size=10))
def test_what_ran_out_of_memory_is_never_asked_for_again(most: int, failed: list[int]) -> None:
    batch = given_size(most, MovableClock().monotonic)
    least = most
    for rows in failed:
        least = (rows + 1) // 2 if rows <= least else least
        assert batch.ran_out(rows) == batch.limit == least
        batch.observe(least, 0.01)
    assert batch.most == least


def _no_memory_for(rows: int) -> Callable[[Sequence[Frame]], None]:
    def before(batch: Sequence[Frame]) -> None:
        if len(batch) > rows:
            raise OutOfMemoryError("BFCArena: failed to allocate")

    return before


def test_a_batch_without_memory_is_halved_until_it_fits_and_no_frame_is_lost() -> None:
    ctx, feed = PluginContext(), FakeFeed(_no_memory_for(2))
    batch = given_size(8, ctx.clock.monotonic)
    ran = BatchedFeed(feed, batch, ctx).run([frame(seq) for seq in range(7)], [PLACE] * 7)
    assert seqs(ran) == list(range(7))
    assert max(len(each) for each in feed.batches) == 2
    assert batch.limit == 2
    assert ran.infer_s == pytest.approx(0.001 * len(feed.batches))


def test_a_lack_of_memory_is_told_once_for_each_step_however_many_workers_met_it() -> None:
    ctx, together = PluginContext(), threading.Barrier(4)

    def before(batch: Sequence[Frame]) -> None:
        if len(batch) == 8:
            together.wait(10)
        _no_memory_for(4)(batch)

    feed = BatchedFeed(FakeFeed(before), given_size(8, ctx.clock.monotonic), ctx)
    with ThreadPoolExecutor(4) as pool:
        frames = [frame(seq) for seq in range(8)]
        answers = list(pool.map(lambda _: len(feed.run(frames, [PLACE] * 8).outputs[0]), range(4)))
    assert answers == [8] * 4
    (line,) = ctx.warnings
    assert "8 frames does not fit into the GPU's memory (BFCArena: failed to allocate): 4 from now on" in line


@pytest.mark.parametrize(("rows", "fixed"), [(1, False), (4, True)])
def test_what_cannot_be_halved_fails(rows: int, fixed: bool) -> None:
    ctx = PluginContext()
    feed = BatchedFeed(FakeFeed(_no_memory_for(0)), given_size(4, ctx.clock.monotonic), ctx, fixed=fixed)
    with pytest.raises(OutOfMemoryError):
        feed.run([frame(seq) for seq in range(rows)], [PLACE] * rows)
    assert ctx.warnings == []


def test_other_troubles_are_not_taken_for_a_lack_of_memory() -> None:
    def before(_: Sequence[Frame]) -> None:
        raise TransientError("frame 1 cannot be converted")

    ctx = PluginContext()
    batch = given_size(4, ctx.clock.monotonic)
    with pytest.raises(TransientError, match="cannot be converted"):
        BatchedFeed(FakeFeed(before), batch, ctx).run([frame(), frame(1)], [PLACE] * 2)
    assert batch.limit == 4
