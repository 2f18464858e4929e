"""How many frames go into one run on a GPU: found by measuring, corrected while serving, halved without memory."""

import statistics
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.backends._onnx.feed import Feed, Placed, Ran
from pipeline.backends._onnx.session import OutOfMemoryError
from pipeline.contracts.component import Context
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame

MOST_FRAMES = 32
"""No run is larger, unless the config says so: one frame of each of as many cameras as a box is measured with."""

_WORTH = 0.05
"""A larger batch must save this share of the time of a frame: less is the noise of three runs, and each step doubles
the memory of a run."""
_TIMED_RUNS = 3
_NEWEST = 1 / 8  # weight of the newest run in what is known of its size
_FORGET_S = 60.0
"""So long what serving has told against a size is believed: then it gets another chance, of two or three runs."""


def sizes_up_to(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `most`: a device's kernels are chosen once for each size, so there are few of them; pure."""
    return tuple(sorted({*(1 << step for step in range(most.bit_length()) if 1 << step <= most), most}))


def best_size(run_s: Mapping[int, float], max_run_s: float) -> int:
    """The size with the most frames a second whose run takes no longer than it may; pure.

    Args:
        run_s: seconds of a run of each size that is known; the smallest is taken where none is good.
        max_run_s: how long a run may take.
    """
    best, *larger = sorted(run_s)
    for size in larger:
        if run_s[size] <= max_run_s and run_s[size] / size < run_s[best] / best * (1 - _WORTH):
            best = size
    return best


class _Size:
    """What is known of one size: seconds of its run before the first frame, lately, and since when."""

    def __init__(self, run_s: float, now: float) -> None:
        self.first_s = self.run_s = run_s
        self.seen_at = now


class BatchSize:
    """How many frames one run should take just now. Made when a backend opens; any thread.

    Args:
        run_s: seconds of a run, as measured before the first frame, for each size that is worth a thought.
        max_run_s: how long a run may take.
        now_s: a monotonic clock.
    """

    def __init__(self, run_s: Mapping[int, float], *, max_run_s: float, now_s: Callable[[], float]) -> None:
        self._max_run_s = max_run_s
        self._now_s = now_s
        self._lock = threading.Lock()
        self.most = best_size(run_s, max_run_s)
        """It will never be more: buffers may be made for so many."""
        self._sizes = {size: _Size(took_s, now_s()) for size, took_s in run_s.items() if size <= self.most}
        self._limit = self.most

    @property
    def limit(self) -> int:
        """At most so many frames should be taken for the next run."""
        return self._limit

    def observe(self, rows: int, run_s: float) -> None:
        """A run of so many frames took so long."""
        with self._lock:
            now = self._now_s()
            known = self._sizes.get(rows)
            if known is not None:
                known.run_s += (run_s - known.run_s) * _NEWEST
                known.seen_at = now
            for size, each in self._sizes.items():
                if size > self._limit and now - each.seen_at > _FORGET_S:
                    each.run_s, each.seen_at = each.first_s, now
            self._choose()

    def ran_out(self, rows: int) -> int:
        """A run of so many frames needed more memory than there is: half as many from now on.

        Returns:
            The new limit.
        """
        with self._lock:
            most = (rows + 1) // 2
            if rows <= self.most and most < self.most:  # else it was taken before the last halving
                next_larger = min(size for size in self._sizes if size >= most)
                self._sizes.setdefault(most, _Size(self._sizes[next_larger].run_s, self._now_s()))
                self._sizes = {size: known for size, known in self._sizes.items() if size <= most}
                self.most = most
                self._choose()
            return self._limit

    def _choose(self) -> None:
        self._limit = best_size({size: known.run_s for size, known in self._sizes.items()}, self._max_run_s)


def given_size(rows: int, now_s: Callable[[], float]) -> BatchSize:
    """A size that is not searched for: the config's, or a fixed model's. Only a lack of memory changes it."""
    return BatchSize({rows: 0.0}, max_run_s=float("inf"), now_s=now_s)


def find_batch(
    run_rows: Callable[[int], object], now_s: Callable[[], float], *, max_run_s: float, most: int = MOST_FRAMES
) -> BatchSize:
    """Run larger and larger batches until they are too slow, gain nothing or do not fit; warms up, too.

    Args:
        run_rows: runs so many empty frames.
        now_s: a monotonic clock.
        max_run_s: how long a run may take.
        most: the largest batch that is tried.

    Raises:
        OutOfMemoryError: not even one frame fits.
        FatalError: as `run_rows`.
    """
    run_s: dict[int, float] = {}
    in_vain = 0
    for size in sizes_up_to(most):
        try:
            run_s[size] = _timed(run_rows, size, now_s)
        except OutOfMemoryError:
            if not run_s:
                raise
            break
        in_vain = 0 if best_size(run_s, max_run_s) == size else in_vain + 1
        if run_s[size] > max_run_s or in_vain == 2:  # one step may be unlucky
            break
    return BatchSize(run_s, max_run_s=max_run_s, now_s=now_s)


class BatchedFeed:
    """A feed whose runs are measured, and cut in halves where they do not fit into the device's memory. Made when a
    backend opens; used by its workers.

    Args:
        feed: what runs them.
        batch: is told how long they take.
        fixed: the model takes no smaller batch.
        ctx: of the backend.
    """

    def __init__(self, feed: Feed, batch: BatchSize, ctx: Context, *, fixed: bool = False) -> None:
        self._feed = feed
        self._batch = batch
        self._ctx = ctx
        self._fixed = fixed

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        """See `Feed`."""
        try:
            ran = self._feed.run(batch, places)
        except OutOfMemoryError as error:
            if len(batch) == 1 or self._fixed:
                raise
            reason = str(error)
        else:
            self._batch.observe(len(batch), ran.infer_s)
            return ran
        before = self._batch.limit
        now = self._batch.ran_out(len(batch))
        if now < before:  # of several workers that ran out together, the first one tells
            self._ctx.warn(
                f"a run of {len(batch)} frames does not fit into the GPU's memory ({reason}): {now} from now on"
            )
        half = (len(batch) + 1) // 2
        first = self.run(batch[:half], places[:half])
        kept = [np.array(output) for output in first.outputs]  # the next run may write where these are
        second = self.run(batch[half:], places[half:])
        if first.reader is not second.reader:  # in between the device was lost
            raise TransientError("the halves of a batch ran on different devices")
        outputs = [np.concatenate(pair) for pair in zip(kept, second.outputs, strict=True)]
        return Ran(outputs, first.preprocess_s + second.preprocess_s, first.infer_s + second.infer_s, first.reader)

    def close(self) -> None:
        """See `Feed`."""
        self._feed.close()


def _timed(run_rows: Callable[[int], object], size: int, now_s: Callable[[], float]) -> float:
    run_rows(size)  # kernels are chosen and memory is taken now
    taken = []
    for _ in range(_TIMED_RUNS):
        began = now_s()
        run_rows(size)
        taken.append(now_s() - began)
    return statistics.median(taken)
