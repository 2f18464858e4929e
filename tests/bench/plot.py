"""The picture of a benchmark run, for the README: `python -m tests.bench.plot results/bench.json` writes bench.png."""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from tests.bench.figures import of, thriftiest_rival
from tests.bench.subjects import LIMIT, OURS, RIVALS, SUBJECTS, TITLES

INK = "#767676"
"""Reads on white and on black."""
COLORS = {
    OURS: "#1f8a70",
    LIMIT: "#a8a8a8",
    "naive": "#d98c3f",
    "streamvision": "#8a6fbf",
    "ultralytics": "#c75d7a",
}
JOBS = {
    "A": "A\nyolo11n 640\n1080p",
    "B": "B\nyolox nano\n1080p",
    "C": "C\nyolox nano\n720p",
    "D": "D\nB and annotated\nvideo",
}


def throughput(axes: Any, jobs: dict[str, Any]) -> None:
    """Bars: frames a second over Penstock's, so that all jobs share an axis."""
    names = [name for name in JOBS if name in jobs]
    width = 0.16
    for place, name in enumerate(names):
        ours = of(jobs[name], OURS, "fps")
        present = [subject for subject in SUBJECTS if of(jobs[name], subject, "fps")]
        for index, subject in enumerate(present):
            found = of(jobs[name], subject, "fps")
            if found is None or ours is None:
                continue
            x = place + (index - (len(present) - 1) / 2) * width
            axes.bar(x, found.middle / ours.middle, width * 0.92, color=COLORS[subject])
            axes.annotate(
                f"{found.middle:.0f}",
                (x, found.middle / ours.middle),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=INK,
            )
    axes.set_xticks(range(len(names)), [JOBS[name] for name in names], fontsize=8)
    axes.set_yticks([0, 0.5, 1.0])
    axes.set_ylim(0, 1.25)
    axes.set_title("frames a second (Penstock = 1)", fontsize=9, loc="left", color=INK)


def sixteen(axes: Any, cameras: dict[str, Any]) -> None:
    """Bars: CPU that 16 cameras take, per frame that is served."""
    found = cameras["moving"]
    present = [name for name in SUBJECTS if found.get(name, {}).get("cpu_ms")]
    for place, name in enumerate(present):
        cost = found[name]["cpu_ms"]
        axes.bar(place, cost, 0.7, color=COLORS[name])
        served = 100 * min(1.0, found[name]["served"])
        axes.annotate(
            f"{cost:.0f} ms\n{served:.0f} %",
            (place, cost),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=INK,
        )
    axes.set_xticks([])
    axes.set_ylim(0, 1.25 * max((found[name]["cpu_ms"] for name in present), default=1))
    best = thriftiest_rival(found)
    title = "16 cameras: CPU a frame, and frames served"
    axes.set_title(title if best else title + " (no rival here)", fontsize=9, loc="left", color=INK)


def memory(axes: Any, report: dict[str, Any]) -> None:
    """Bars: peak memory with 1 and with 16 files."""
    many = report["memory"]["many"]
    jobs = report.get("jobs", {}).get("jobs", {})
    columns = [("1 file", {name: of(jobs["C"], name, "rss_mib") for name in SUBJECTS} if "C" in jobs else {})]
    place = 0.0
    ticks = []
    for title, found in columns:
        start = place
        for name, figure in found.items():
            if figure is not None:
                _bar(axes, place, figure.middle, COLORS[name])
                place += 1
        ticks.append(((start + place - 1) / 2, title))
        place += 0.6
    start = place
    for name in SUBJECTS:
        if name in many:
            _bar(axes, place, many[name]["rss_mib"], COLORS[name])
            place += 1
    ticks.append(((start + place - 1) / 2, "16 files"))
    axes.set_xticks([x for x, _ in ticks], [title for _, title in ticks], fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(50, 8000)
    axes.minorticks_off()
    axes.set_yticks([100, 1000], ["100", "1000"])
    axes.set_title("peak memory, MiB (720p)", fontsize=9, loc="left", color=INK)


def _bar(axes: Any, x: float, value: float, color: str) -> None:
    axes.bar(x, value, 0.85, color=color)
    axes.annotate(f"{value:.0f}", (x, value), (0, 2), textcoords="offset points", ha="center", fontsize=7, color=INK)


def curve(axes: Any, found: dict[str, Any]) -> None:
    """Lines: what a frame costs with more and more cameras and files."""
    for kind, style, title in (
        ("cameras", "o-", "cameras at 5 a second, decoding included"),
        ("files", "s--", "files at full speed"),
    ):
        points = [point for point in found[kind] if point["cpu_ms"]]
        axes.plot(
            [point[kind] for point in points],
            [point["cpu_ms"] for point in points],
            style,
            color=COLORS[OURS],
            markersize=4,
            linewidth=1.2,
            label=title,
        )
    late = [point for point in found["cameras"] if point["served"] < 0.97]
    for point in late:
        axes.annotate(
            f"{100 * point['served']:.0f} % served",
            (point["cameras"], point["cpu_ms"]),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=INK,
        )
    axes.set_xscale("log", base=2)
    ticks = [point["cameras"] for point in found["cameras"]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    highest = max((point["cpu_ms"] or 0 for kind in ("cameras", "files") for point in found[kind]), default=1)
    axes.set_ylim(0, 1.2 * highest)
    axes.legend(fontsize=7, frameon=False, labelcolor=INK, loc="lower left")
    axes.set_title("Penstock: CPU ms a frame by number of sources", fontsize=9, loc="left", color=INK)


def main() -> None:
    """Draw what the file has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    report = json.loads(options.results.read_text())
    figure, ((first, second), (third, fourth)) = plt.subplots(
        2, 2, figsize=(9, 5.6), width_ratios=(3, 2), layout="constrained"
    )
    if "jobs" in report:
        throughput(first, report["jobs"]["jobs"])
    if "cameras" in report:
        sixteen(second, report["cameras"])
    if "curve" in report:
        curve(third, report["curve"])
    if "memory" in report:
        memory(fourth, report)
    for axes in (first, second, third, fourth):
        axes.set_facecolor("none")
        axes.tick_params(colors=INK, labelsize=8)
        for name, spine in axes.spines.items():
            spine.set_visible(name in {"left", "bottom"})
            spine.set_color(INK)
    handles = [Rectangle((0, 0), 1, 1, color=COLORS[name]) for name in (OURS, LIMIT, *RIVALS)]
    labels = [TITLES[name] for name in (OURS, LIMIT, *RIVALS)]
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8, frameon=False, labelcolor=INK
    )
    figure.savefig(options.results.with_suffix(".png"), dpi=150, transparent=True)


if __name__ == "__main__":
    main()
