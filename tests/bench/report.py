"""From the samples of a benchmark run to its figures, its targets and its table in Markdown. Pure."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

Sample = Mapping[str, Any]
MAIN_JOBS = ("A", "A720", "F", "B", "C")
MAX_OTHERS = 0.1
"""With more cores than this at work for others, frames a second are not Penstock's doing."""
MANY_TARGET = "720"
"""The size of clip that the promise about 16 files is about: 16 decoders of 1080p alone hold more than that."""


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


def own_in_run_ms(sample: Sample) -> float:
    """Penstock's CPU per frame less decode, shrink, run and NMS as they cost inside the limit's run of that round.

    The limit's run is all that, and its JSON and its hand-overs, which its threads measured themselves.
    """
    stages = sample["limit"]["in_run_cpu_ms"]
    needed: float = sample["limit"]["cpu_ms"] - stages["json"] - stages["own"]
    return float(sample["penstock"]["cpu_ms"] - needed)


def own_alone_ms(sample: Sample) -> float:
    """The same, less the four stages as they cost one at a time on an otherwise idle process."""
    stages = sample["alone_cpu_ms"]
    return float(sample["penstock"]["cpu_ms"] - sum(stages[name] for name in ("decode", "shrink", "infer", "suppress")))


def bound_fps(sample: Sample, cores: int) -> float:
    """Frames a second if every core did nothing but the limit's work."""
    return 1000 * cores / float(sample["limit"]["cpu_ms"])


def spread(report: Sample, job: str, figure: Callable[[Sample], float]) -> Spread:
    """A figure of each round of a job."""
    return Spread.of([figure(sample) for sample in report["jobs"][job]["rounds"]])


def ratio(report: Sample, job: str, rival: str) -> Spread:
    """Penstock's frames a second over the rival's, paired by round."""
    return spread(report, job, lambda sample: sample["penstock"]["fps"] / sample[rival]["fps"])


def cpu_ratio(report: Sample, job: str, rival: str) -> Spread:
    """The rival's CPU per frame over Penstock's, paired by round: what it comes to on a full machine."""
    return spread(report, job, lambda sample: sample[rival]["cpu_ms"] / sample["penstock"]["cpu_ms"])


def markdown(report: Sample) -> str:
    """The whole page."""
    first = next(iter(report["jobs"].values()))["rounds"][0]
    parts = [_head(report), _throughput(report), _stages(report), _memory(report)]
    if {"penstock", "limit"} <= first.keys():
        parts += [_own(report), _targets(report)]
    return "\n\n".join(parts) + "\n"


def _head(report: Sample) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    rounds = len(next(iter(report["jobs"].values()))["rounds"])
    busy = [
        sample[name]["others_cores"]
        for job in report["jobs"].values()
        for sample in job["rounds"]
        for name in ("penstock", "limit", "naive")
        if name in sample
    ]
    return (
        f"# Benchmark\n\nMeasured {report['measured_at']} in {report['took_s']:.0f} s, {rounds} interleaved "
        f"rounds; figures are medians (least..most).\n\n{facts}\n\n"
        f"Other programs kept {median(busy):.2f} (at the most {max(busy):.2f}) cores busy meanwhile"
        f"{'; frames a second are worth little then, CPU per frame more' if median(busy) > MAX_OTHERS else ''}.\n\n"
        "Method: every subject is a whole process; each job runs on a short clip (60 frames) and a long one, and "
        "frames a second and CPU per frame are those of the difference, so that start-up, model loading, filling and "
        "draining fall out for all alike. Ratios are of pairs within one round. Peak memory is the kernel's, of the "
        "long run. See `tests/bench/README.md`."
    )


def _throughput(report: Sample) -> str:
    rows = [
        "## Throughput\n",
        (
            "| job | subject | frames/s | CPU ms/frame | peak MiB | start s | detections | Penstock's frames/s over it "
            "| its CPU over Penstock's |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, job in report["jobs"].items():
        title = f"{name}: {job['model']['label']}, {job['size']}p, {job['frames']} frames"
        for subject in ("penstock", "limit", "naive"):
            if subject not in job["rounds"][0]:
                continue
            compared = subject != "penstock" and "penstock" in job["rounds"][0]
            figures = [
                _of(report, name, subject, "fps").text(1),
                _of(report, name, subject, "cpu_ms").text(2),
                f"{_of(report, name, subject, 'rss_mib').middle:.0f}",
                f"{_of(report, name, subject, 'start_s').middle:.2f}",
                str(job["rounds"][-1][subject]["detections"]),
                ratio(report, name, subject).text() if compared else "",
                cpu_ratio(report, name, subject).text() if compared else "",
            ]
            rows.append(f"| {title} | {subject} | " + " | ".join(figures) + " |")
            title = ""
    return "\n".join(rows)


def _stages(report: Sample) -> str:
    cores = int(report["machine"]["cores"])
    rows = [
        "## The limit's stages\n",
        "CPU ms per frame, alone / while the whole loop runs (decoding there: what is left of the total).",
        f"The bound is what {cores} cores could do with that CPU time.\n",
        "| job | decode | shrink | infer | NMS | JSON | hand-over | bound, frames/s | the limit reaches |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, job in report["jobs"].items():
        if "limit" not in job["rounds"][0]:
            continue
        cells = []
        rest = spread(report, name, lambda s: s["limit"]["cpu_ms"] - sum(s["limit"]["in_run_cpu_ms"].values()))
        cells.append(f"{spread(report, name, lambda s: s['alone_cpu_ms']['decode']).middle:.2f} / {rest.middle:.2f}")
        for stage in ("shrink", "infer", "suppress", "json"):
            single = _stage(report, name, "alone_cpu_ms", stage)
            cells.append(f"{single:.2f} / {_stage(report, name, 'in_run_cpu_ms', stage):.2f}")
        cells.append(f"- / {_stage(report, name, 'in_run_cpu_ms', 'own'):.2f}")
        bound = spread(report, name, lambda s: bound_fps(s, cores))
        reached = spread(report, name, lambda s: s["limit"]["fps"] / bound_fps(s, cores))
        rows.append(f"| {name} | " + " | ".join(cells) + f" | {bound.middle:.1f} | {reached.middle:.2f} |")
    return "\n".join(rows)


def _memory(report: Sample) -> str:
    rows = ["## Memory\n", "| what | MiB |", "|---|---|"]
    for name, job in report["jobs"].items():
        bare = median(report["bare_rss_mib"][name])
        rows.append(f"| {name}: a bare session | {bare:.0f} |")
        for subject in ("penstock", "limit", "naive"):
            if subject in job["rounds"][0]:
                peak = _of(report, name, subject, "rss_mib")
                rows.append(f"| {name}: {subject}, peak over the bare session | {peak.middle - bare:.0f} |")
    for size, subjects in report["many"].items():
        rows += [
            f"| 16 files of {size}p, light model: {who}, peak ({c['whole_fps']:.0f} frames/s, start included) "
            f"| {c['rss_mib']:.0f} |"
            for who, c in subjects.items()
        ]
    return "\n".join(rows)


def _own(report: Sample) -> str:
    rows = [
        "## Penstock's own time\n",
        "CPU ms per frame of Penstock less decode, shrink, run and NMS of the limit in the same round: as they cost",
        "inside the limit's run, and alone. The difference of two large numbers: job T, with next to nothing to infer,",
        "says it best.\n",
        "| job | less the stages inside the limit's run | less the stages alone |",
        "|---|---|---|",
    ]
    for name in report["jobs"]:
        inside, alone = spread(report, name, own_in_run_ms), spread(report, name, own_alone_ms)
        rows.append(f"| {name} | {inside.text()} | {alone.text()} |")
    return "\n".join(rows)


def targets(report: Sample) -> list[tuple[str, float, str, bool]]:
    """What was promised: (what, measured, promised, reached)."""
    rows: list[tuple[str, float, str, bool]] = []

    def at_least(what: str, value: float, promised: float) -> None:
        rows.append((what, value, f">= {promised:g}", round(value, 3) >= promised))

    def at_most(what: str, value: float, promised: float) -> None:
        rows.append((what, value, f"<= {promised:g}", round(value, 3) <= promised))

    jobs = report["jobs"]
    for name in MAIN_JOBS:
        if name in jobs:
            at_least(f"{name}: throughput over the limit's", ratio(report, name, "limit").middle, 0.95)
    if "B" in jobs and "naive" in jobs["B"]["rounds"][0]:
        at_least("B: throughput over the naive loop's", ratio(report, "B", "naive").middle, 1.4)
    if "T" in jobs:
        at_most("T: Penstock's own time, ms a frame", spread(report, "T", own_in_run_ms).middle, 0.3)
    for name in MAIN_JOBS:
        if name in jobs:
            over = _of(report, name, "penstock", "rss_mib").middle - median(report["bare_rss_mib"][name])
            at_most(f"{name}: peak memory over a bare session, MiB", over, 150)
    many_mib = report["many"][MANY_TARGET]["penstock"]["rss_mib"]
    at_most(f"16 files of {MANY_TARGET}p: peak memory in all, MiB", many_mib, 350)
    for command, taken in report["start_up_s"].items():
        at_most(f"penstock {'--help' if command == 'help' else command}, s", median(taken), 0.7)
    for name, job in jobs.items():
        apart = max(abs(s["penstock"]["detections"] - s["limit"]["detections"]) for s in job["rounds"])
        at_most(f"{name}: detections more or less than the limit", apart, 0)
    return rows


def _targets(report: Sample) -> str:
    rows = ["## Targets\n", "| what | measured | target | reached |", "|---|---|---|---|"]
    rows += [
        f"| {what} | {value:.2f} | {goal} | {'yes' if ok else '**no**'} |" for what, value, goal, ok in targets(report)
    ]
    return "\n".join(rows)


def _of(report: Sample, job: str, subject: str, figure: str) -> Spread:
    return spread(report, job, lambda sample: sample[subject][figure])


def _stage(report: Sample, job: str, where: str, stage: str) -> float:
    def cost(sample: Sample) -> float:
        return float((sample["limit"] if where == "in_run_cpu_ms" else sample)[where][stage])

    return spread(report, job, cost).middle
