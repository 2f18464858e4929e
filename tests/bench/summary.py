"""The README's table out of a benchmark run: `python -m tests.bench.summary results/bench.json` prints it."""

import argparse
import json
from pathlib import Path

from tests.bench.figures import Sample, best_rival, dropped, of, ratio, thriftiest_rival
from tests.bench.subjects import LIMIT, OURS, TITLES

JOBS = {
    "A": "yolo11n at 640, 1080p",
    "B": "yolox_nano at 416, 1080p",
    "C": "yolox_nano at 416, 720p",
    "D": "the second one, annotated and encoded",
    "F": "a model elsewhere that takes 50 ms",
}


def rows(report: Sample) -> list[str]:
    """Lines of Markdown, of the parts that were measured."""
    told = [
        "| job | frames/s | of the hand-written limit | over the best rival | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    jobs = report.get("jobs", {}).get("jobs", {})
    for name, title in JOBS.items():
        job = jobs.get(name)
        if job is None:
            continue
        fps, memory, limit, rival = of(job, OURS, "fps"), of(job, OURS, "rss_mib"), ratio(job, LIMIT), best_rival(job)
        over = ratio(job, rival) if rival else None
        if fps is None or memory is None:
            continue
        best = f"{over.middle:.2f} ({TITLES[rival]})" if over and rival else "not measured"
        of_limit = f"{limit.middle:.2f}" if limit else "not measured"
        told.append(f"| {title} | {fps.middle:.0f} | {of_limit} | {best} | {memory.middle:.0f} |")
    return told + _cameras(report.get("cameras", {})) + _memory(report.get("memory", {}))


def _cameras(found: Sample) -> list[str]:
    told = []
    for kind, title in (("moving", "with B-frames"), ("plain", "without B-frames")):
        sample = found.get(kind, {}).get(OURS)
        if sample is None:
            continue
        rival = thriftiest_rival(found[kind])
        text = (
            f"\n16 cameras of 720p at 30 frames a second, {title}, five of each second looked at (yolo11n at 256): "
            f"{100 * min(1.0, sample['served']):.0f} % served, {dropped(sample)} frames dropped, "
            f"{sample['cores']:.2f} cores, age {sample['age_p50_ms']:.0f} ms in the median and "
            f"{sample['age_p99_ms']:.0f} at the 99th percentile"
        )
        if rival:
            other = found[kind][rival]
            text += (
                f"; {TITLES[rival]}, the thriftiest rival, serves {100 * min(1.0, other['served']):.0f} % at "
                f"{other['cpu_ms'] / sample['cpu_ms']:.1f} times the CPU a frame"
            )
        told.append(text + ".")
    still = found.get("still")
    if still:
        share = still["with"]["cores"] / still["without"]["cores"]
        text = f"\nIn a still scene the motion gate leaves {share:.2f} of the CPU time"
        if "keyframes" in still:
            text += f', and {still["keyframes"]["cores"] / still["without"]["cores"]:.2f} with `decode = "keyframes"`'
        told.append(f"{text}.")
    return told


def _memory(part: Sample) -> list[str]:
    many = part.get("many", {})
    if OURS not in many:
        return []
    others = ", ".join(f"{TITLES[name]} {one['rss_mib']:.0f}" for name, one in many.items() if name != OURS)
    return [f"\n16 files of 720p at once: {many[OURS]['rss_mib']:.0f} MiB at the peak ({others})."]


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    print("\n".join(rows(json.loads(parser.parse_args().results.read_text()))))


if __name__ == "__main__":
    main()
