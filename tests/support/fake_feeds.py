"""Feeds without a model: what they were given and how often, how long a run takes, and what goes wrong when."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.backends._onnx.feed import Placed, Ran
from pipeline.contracts.frame import Frame, Size
from pipeline.models.letterbox import place

PLACE = Placed(Size(64, 64), place(Size(64, 48), Size(64, 64), centred=True))


class FakeFeed:
    """Answers each frame with its number. `before` is called in each run, with the batch, and may raise.

    The answers lie in an array that the thread's next run writes over, as a device's buffers do.
    """

    def __init__(self, before: Callable[[Sequence[Frame]], None] = lambda _: None, run_s: float = 0.001) -> None:
        self.before = before
        self.run_s = run_s
        self.batches: list[list[int]] = []
        self.closed = 0
        self.inside = 0
        self._lock = threading.Lock()
        self._of_thread = threading.local()

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        assert not self.closed
        assert len(batch) == len(places)
        with self._lock:
            self.inside += 1
        try:
            self.before(batch)
            numbers = [frame.seq for frame in batch]
            with self._lock:
                self.batches.append(numbers)
            answers = self._of_thread.__dict__.setdefault("answers", np.zeros((128, 1), np.int64))
            answers[: len(batch), 0] = numbers
            return Ran([answers[: len(batch)]], 0.0, self.run_s)
        finally:
            with self._lock:
                self.inside -= 1

    def close(self) -> None:
        assert self.inside == 0, "closed in the middle of a run"
        self.closed += 1


def seqs(ran: Ran) -> list[int]:
    return [int(number) for number in ran.outputs[0][:, 0]]
