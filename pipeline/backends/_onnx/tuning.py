"""How many runs at once, of how many threads and frames, are fastest on this CPU: what is tried, and what wins."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

BUDGET_S = 1.0
"""About so long may a first start take longer."""

WORTH_S = 0.001
"""A model whose run takes less is not tuned: decoding a frame takes longer (1.2 to 5 ms), and that decides."""

_CLEARLY = 1.1
"""A plan must be better than the usual one by this, each time, three times: judgement, well above the noise of a calm
machine."""
_HOPELESS = 0.8
"""A way that is slower than this is not followed further: speed rises and falls steadily along it."""
_CALM = 0.85
"""Threads that got less of their cores shared them with somebody: nothing that is measured then is kept."""
_MOST_BATCH = 8  # each row of a batch is memory in every worker
_ROUNDS = 2  # in which a plan must win again before it is believed


class Plan(NamedTuple):
    """How a model is run.

    Attributes:
        workers: how many runs may overlap.
        intra_op_threads: threads inside one run.
        allow_spinning: whether these spin while they wait.
        max_batch: frames in one run.
    """

    workers: int
    intra_op_threads: int
    allow_spinning: bool
    max_batch: int

    def __str__(self) -> str:
        workers, threads = self.workers, self.intra_op_threads
        text = f"{workers} worker{'s' * (workers != 1)} x {threads} thread{'s' * (threads != 1)}"
        text += f", batches of {self.max_batch}" if self.max_batch > 1 else ""
        return text + (", spinning" if self.allow_spinning else "")


class Sample(NamedTuple):
    """What one try of a plan gave.

    Attributes:
        fps: frames a second.
        cpu_s: seconds of CPU time of the whole process for each frame.
        share: part of the time that the workers had a core, 0..1; 1 where that cannot be told.
    """

    fps: float
    cpu_s: float
    share: float = 1.0


class Freedom(NamedTuple):
    """What the config leaves open.

    Attributes:
        split: workers and threads.
        spinning: whether threads spin.
        batch: frames in a run.
    """

    split: bool
    spinning: bool
    batch: bool


class Verdict(NamedTuple):
    """What came of it.

    Attributes:
        plan: what to do.
        tried: all that was measured, frames a second, the best of each plan.
        calm: False: the machine was busy, the plan is the usual one and is not worth keeping.
    """

    plan: Plan
    tried: Mapping[Plan, float]
    calm: bool

    def __str__(self) -> str:
        others = {plan: fps for plan, fps in self.tried.items() if plan != self.plan}
        if not others or self.plan not in self.tried:
            return str(self.plan)
        second = max(others, key=others.__getitem__)
        lead = self.tried[self.plan] / others[second]
        if lead < _CLEARLY:
            return f"{self.plan}, no other was clearly faster"
        return f"{self.plan}, {lead:.2f} times the runner-up's speed ({second})"


def splits(cores: int) -> Sequence[tuple[int, int]]:
    """Ways to keep so many cores busy: `(workers, threads in each)`, from many workers to one; pure."""
    threads = [1 << step for step in range(cores.bit_length()) if 1 << step < cores]
    return [*((cores // each, each) for each in threads), (1, cores)] if cores > 1 else [(1, 1)]


@dataclass
class _Trials:
    """What has been measured so far, and whether there is time for more."""

    measure: Callable[[Plan], Sample | None]
    has_time: Callable[[], bool]
    samples: dict[Plan, list[Sample]] = field(default_factory=dict)

    def fps(self, plan: Plan) -> float:
        """Of a plan that is tried now if there is time and it was not tried before; 0 if it cannot be had."""
        if plan not in self.samples and self.has_time():
            self.again(plan)
        return self.best(plan)

    def again(self, plan: Plan) -> Sample | None:
        sample = self.measure(plan)
        if sample is not None:
            self.samples.setdefault(plan, []).append(sample)
        return sample

    def calm(self, plan: Plan) -> bool:
        return all(sample.share >= _CALM for sample in self.samples[plan])

    def best(self, plan: Plan) -> float:
        return max((sample.fps for sample in self.samples.get(plan, ())), default=0.0)


def choose(
    usual: Plan,
    free: Freedom,
    cores: int,
    measure: Callable[[Plan], Sample | None],
    has_time: Callable[[], bool],
) -> Verdict:
    """Try what may be better than the usual plan; it stays unless another is clearly faster and takes no more CPU time.

    CPU time counts because the cores are shared with decoders: what is faster by spinning is so only as long as it has
    the machine for itself.

    Args:
        usual: what is done without measuring.
        free: what else may be tried.
        cores: that may be kept busy.
        measure: tries a plan; None where it cannot be had.
        has_time: whether there is time for another try.
    """
    trials = _Trials(measure, has_time)
    if trials.fps(usual) == 0.0 or not trials.calm(usual):
        return Verdict(usual, {}, calm=False)
    if free.split:
        _follow(trials, [usual._replace(workers=w, intra_op_threads=t) for w, t in splits(cores)])
    threaded = max((p for p in trials.samples if p.intra_op_threads > 1), key=trials.best, default=None)
    if free.spinning and threaded is not None and trials.best(threaded) >= _HOPELESS * trials.best(usual):
        trials.fps(threaded._replace(allow_spinning=True))
    if free.batch:
        start = max(trials.samples, key=trials.best)
        _follow(trials, [start._replace(max_batch=1 << step) for step in range(_MOST_BATCH.bit_length())], rising=True)
    winner = _confirmed(trials, usual)
    calm = trials.calm(usual)
    return Verdict(winner if calm else usual, {plan: trials.best(plan) for plan in trials.samples}, calm)


def _follow(trials: _Trials, plans: Sequence[Plan], *, rising: bool = False) -> None:
    """Try one after another until it gets no better; `rising`: until it gets no better than the one before."""
    for before, plan in itertools.pairwise(plans):
        least = trials.best(before) if rising else _HOPELESS * max(map(trials.best, trials.samples))
        if trials.fps(plan) < least:
            return


def _confirmed(trials: _Trials, usual: Plan) -> Plan:
    """The fastest plan if it beats the usual one each time, else the usual one."""
    winner = max(trials.samples, key=trials.best)
    if winner == usual or not _beats(trials.samples[winner][0], trials.samples[usual][0]):
        return usual
    for _ in range(_ROUNDS):
        ours, theirs = trials.again(usual), trials.again(winner)
        if ours is None or theirs is None or not _beats(theirs, ours):
            return usual
    return winner


def _beats(one: Sample, other: Sample) -> bool:
    return one.fps >= _CLEARLY * other.fps and one.cpu_s <= other.cpu_s * _CLEARLY
