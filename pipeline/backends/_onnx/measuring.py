"""`Stopwatch`: runs a model as a plan says, for a moment, and tells how fast that was; `alone`: one at a time."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.backends._onnx.session import Session
from pipeline.backends._onnx.tuning import BUDGET_S, Plan, Sample

SAMPLE_S = 0.06
"""So long each plan is tried at a time: many slices of the scheduler (4 ms)."""
_RUNS = 2  # at least so many runs of each worker are timed
_STUCK_S = 60.0  # nobody waits longer for workers that do not come back from their first run

_one_at_a_time = threading.Lock()  # several backends open at once: measured together they would all look slow
_MOST_WAIT_S = 10 * BUDGET_S

Feeds = Callable[[int], dict[str, npt.NDArray[Any]]]


@contextlib.contextmanager
def alone() -> Iterator[bool]:
    """For as long as a model is measured; False: others were for too long, and nothing may be measured now."""
    is_alone = _one_at_a_time.acquire(timeout=_MOST_WAIT_S)
    try:
        yield is_alone
    finally:
        if is_alone:
            _one_at_a_time.release()


class _Ran(NamedTuple):
    """One worker's part: runs, seconds, and seconds of CPU time of its own thread."""

    runs: int
    took_s: float
    cpu_s: float


class Stopwatch:
    """Made when a backend opens, for its tuning; used by its thread.

    Args:
        session: makes a session for so many threads, spinning or not; None where it cannot be had.
        outputs: what to ask the model for.
        feeds: the model's inputs for so many frames.
        errors: what a session raises.
    """

    def __init__(
        self,
        session: Callable[[int, bool], Session | None],
        outputs: tuple[str, ...],
        feeds: Feeds,
        errors: tuple[type[Exception], ...],
    ) -> None:
        self._session_of = session
        self._outputs = outputs
        self._feeds = feeds
        self._errors = errors
        self._sessions: dict[tuple[int, bool], Session | None] = {}

    def session(self, plan: Plan) -> Session | None:
        """The session that the plan's runs share, made when it is first asked for."""
        key = (plan.intra_op_threads, plan.allow_spinning)
        if key not in self._sessions:
            self._sessions[key] = self._session_of(*key)
        return self._sessions[key]

    def measure(self, plan: Plan) -> Sample | None:
        """Try the plan; None where the model cannot be run like that."""
        session = self.session(plan)
        if session is None:
            return None
        feeds = self._feeds(plan.max_batch)
        ready = threading.Barrier(plan.workers + 1)
        parts: list[_Ran] = []
        failed: tuple[type[Exception], ...] = (*self._errors, threading.BrokenBarrierError)

        def run() -> Sequence[npt.NDArray[Any]]:
            return session.run(self._outputs, feeds)

        def work() -> None:
            try:
                if any(np.shape(output)[:1] != (plan.max_batch,) for output in run()):  # asks for its memory now
                    ready.abort()
                ready.wait(_STUCK_S)
                parts.append(_timed(run))
            except failed:
                ready.abort()

        workers = [threading.Thread(target=work, name=f"tune-{i}", daemon=True) for i in range(plan.workers)]
        for worker in workers:
            worker.start()
        with contextlib.suppress(threading.BrokenBarrierError):
            ready.wait(_STUCK_S)
        cpu_began_s = time.process_time()
        for worker in workers:
            worker.join()
        cpu_s = time.process_time() - cpu_began_s
        if len(parts) < plan.workers:
            return None
        frames = sum(part.runs for part in parts) * plan.max_batch
        alone = plan.intra_op_threads == 1  # else most of the time is that of threads of the session's own
        share = sum(part.cpu_s for part in parts) / sum(part.took_s for part in parts) if alone else 1.0
        fps = sum(part.runs / part.took_s for part in parts) * plan.max_batch
        return Sample(fps, cpu_s / frames, share)


def _timed(run: Callable[[], Any]) -> _Ran:
    runs, began_s, cpu_began_s = 0, time.perf_counter(), time.thread_time()
    while True:
        run()
        runs += 1
        took_s = time.perf_counter() - began_s
        if runs >= _RUNS and took_s >= SAMPLE_S:
            return _Ran(runs, took_s, time.thread_time() - cpu_began_s)
