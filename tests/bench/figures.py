"""From the samples of a benchmark run to its figures: medians, ratios of pairs, the best rival, the targets. Pure."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from tests.bench.subjects import LIMIT, OURS, RIVALS

Sample = Mapping[str, Any]

GOALS: Mapping[str, tuple[float, float]] = {"A": (0.95, 1.8), "B": (0.95, 1.5), "C": (0.90, 1.4), "D": (0.90, 1.5)}
"""By job: of the limit's frames a second, and of the best rival's."""
SERVED = 0.97
"""Of the frames that are due, so many are there: at the ends of the span it is a frame more or less of each camera."""


class Spread(NamedTuple):
    """The median over the rounds, and the least and the most."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """`0.98 (0.96..0.99)`."""
        return f"{self.middle:.{digits}f} ({self.least:.{digits}f}..{self.most:.{digits}f})"


class Target(NamedTuple):
    """What was to be reached: what, how much it is, how much it should be."""

    what: str
    measured: float
    goal: str
    reached: bool

    @classmethod
    def at_least(cls, what: str, measured: float, goal: float) -> "Target":
        """More is better."""
        return cls(what, measured, f">= {goal:g}", round(measured, 2) >= goal)

    @classmethod
    def at_most(cls, what: str, measured: float, goal: float) -> "Target":
        """Less is better."""
        return cls(what, measured, f"<= {goal:g}", round(measured, 2) <= goal)


def spread(job: Sample, figure: Callable[[Sample], float], *needed: str) -> Spread | None:
    """A figure of each round of a job in which all of `needed` ran; None where they never did."""
    values = [figure(sample) for sample in job["rounds"] if all(name in sample for name in needed)]
    return Spread.of(values) if values else None


def of(job: Sample, subject: str, name: str) -> Spread | None:
    """One subject's figure, of the rounds that told it."""
    told = [sample[subject].get(name) for sample in job["rounds"] if subject in sample]
    values = [float(value) for value in told if value is not None]
    return Spread.of(values) if values else None


def ratio(job: Sample, other: str) -> Spread | None:
    """Penstock's frames a second over the other's, paired by round."""
    return spread(job, lambda sample: float(sample[OURS]["fps"] / sample[other]["fps"]), OURS, other)


def cpu_ratio(job: Sample, other: str) -> Spread | None:
    """The other's CPU per frame over Penstock's, paired by round: what it comes to on a full machine."""
    return spread(job, lambda sample: float(sample[other]["cpu_ms"] / sample[OURS]["cpu_ms"]), OURS, other)


def best_rival(job: Sample) -> str | None:
    """Who of them has the most frames a second."""
    fastest = {name: found.middle for name in RIVALS if (found := of(job, name, "fps"))}
    return max(fastest, key=lambda name: fastest[name]) if fastest else None


def own_ms(sample: Sample) -> float:
    """Penstock's CPU per frame less decode, shrink, run and NMS as they cost inside the limit's run of that round.

    The limit's run is all that, and its JSON and its hand-overs, which its threads measured themselves.
    """
    stages = sample[LIMIT]["in_run_cpu_ms"]
    needed = float(sample[LIMIT]["cpu_ms"] - stages["json"] - stages["own"])
    return float(sample[OURS]["cpu_ms"]) - needed


def bound_fps(sample: Sample, cores: int) -> float:
    """Frames a second if every core did nothing but the limit's work."""
    return 1000 * cores / float(sample[LIMIT]["cpu_ms"])


def thriftiest_rival(found: Sample) -> str | None:
    """Who of them needs the least CPU for a frame that it serves."""
    costs = {name: found[name]["cpu_ms"] for name in RIVALS if found.get(name, {}).get("cpu_ms")}
    return min(costs, key=lambda name: costs[name]) if costs else None


def dropped(sample: Sample) -> int:
    """Frames that Penstock's queues let go while it was watched."""
    return sum(count for outcome, count in sample["outcomes"].items() if outcome.startswith("dropped"))


def targets(report: Sample) -> list[Target]:
    """What was promised, of the parts that were measured."""
    rows: list[Target] = []
    if "jobs" in report:
        rows += _of_jobs(report["jobs"]["jobs"])
    if "cameras" in report:
        rows += _of_cameras(report["cameras"])
    if "memory" in report:
        rows += _of_memory(report)
    if "curve" in report:
        rows += _of_curve(report["curve"])
    return rows


def _of_jobs(jobs: Sample) -> list[Target]:
    rows = []
    for name, (limit_goal, rival_goal) in GOALS.items():
        job = jobs.get(name)
        if job is None:
            continue
        if over := ratio(job, LIMIT):
            rows.append(Target.at_least(f"{name}: frames a second over the limit's", over.middle, limit_goal))
        rival = best_rival(job)
        if rival and (over := ratio(job, rival)):
            rows.append(Target.at_least(f"{name}: over those of the best rival ({rival})", over.middle, rival_goal))
    return rows


def _of_cameras(found: Sample) -> list[Target]:
    rows = []
    for kind, title in (("moving", "E"), ("plain", "E, no B-frames")):
        ours = found[kind].get(OURS)
        if ours is None:
            continue
        rows.append(
            Target.at_least(
                f"{title}: share of its frames that the least served camera gets", ours["least_served"], SERVED
            )
        )
        rows.append(Target.at_most(f"{title}: frames dropped by queues", dropped(ours), 0))
        rival = thriftiest_rival(found[kind])
        if rival:
            share = ours["cpu_ms"] / found[kind][rival]["cpu_ms"]
            rows.append(Target.at_most(f"{title}: CPU a frame over that of the best rival ({rival})", share, 0.5))
    still = found["still"]
    if still:
        told = "E, still scene: CPU with the motion gate over without"
        share = still["with"]["cores"] / still["without"]["cores"]
        if "keyframes" in still:
            rows.append(Target.at_most(f"{told}, all decoded (for comparison)", share, 0.35))
            share, told = still["keyframes"]["cores"] / still["without"]["cores"], f'{told}, decode = "keyframes"'
        rows.append(Target.at_most(told, share, 0.35))
    return rows


def _of_memory(report: Sample) -> list[Target]:
    rows = []
    job = report.get("jobs", {}).get("jobs", {}).get("B")
    if job and (ours := of(job, OURS, "rss_mib")) and (theirs := of(job, "streamvision", "rss_mib")):
        share = ours.middle / theirs.middle
        rows.append(Target.at_most("B: peak memory over InferencePipeline's", share, 0.5))
    many = report["memory"]["many"]
    if {OURS, "streamvision"} <= many.keys():
        share = many[OURS]["rss_mib"] / many["streamvision"]["rss_mib"]
        rows.append(Target.at_most("16 files: peak memory over InferencePipeline's", share, 0.15))
    return rows


def _of_curve(found: Sample) -> list[Target]:
    rows = []
    for kind, title in (("cameras", "cameras in real time"), ("files", "files at full speed")):
        key = kind
        costs = {point[key]: point["cpu_ms"] for point in found[kind]}
        if {1, 16} <= costs.keys():
            rows.append(Target.at_most(f"CPU a frame with 16 {title} over that with 1", costs[16] / costs[1], 1.1))
    return rows
