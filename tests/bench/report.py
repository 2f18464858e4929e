"""From the samples of a benchmark run to its page in Markdown. Pure."""

from statistics import median
from typing import Any

from tests.bench.equality import LEAST_AGREEMENT, MOST_SHIFT_PX, SAME_IOU
from tests.bench.figures import (
    SERVED,
    Sample,
    bound_fps,
    cpu_ratio,
    dropped,
    of,
    own_ms,
    ratio,
    spread,
    targets,
)
from tests.bench.subjects import LIMIT, OURS, SUBJECTS, TITLES

MAX_OTHERS = 0.1
"""With more cores than this at work for others, frames a second are nobody's own doing."""
DOES = {"lines": "", "video": ", boxes drawn, H.264 encoded", "remote": ", asked of a server that takes 50 ms"}
METHOD = (
    "Every subject is a whole process: Penstock as `penstock run bench.toml`, the rivals in environments of their own.",
    "Each job runs on a short clip (60 frames) and a long one, and frames a second and CPU per frame are those of the",
    "difference: start-up, model loading, filling and draining fall out for all alike. Subjects take turns; ratios are",
    "of pairs within one round; figures are medians (least..most). Same model file, clip and thresholds for all.",
    "Peak memory is the kernel's, of the long run. See `tests/bench/README.md`.",
)


def markdown(report: Sample) -> str:
    """The whole page, of the parts that were measured."""
    parts = [_head(report), _targets(report)]
    if "jobs" in report:
        jobs = report["jobs"]["jobs"]
        parts += [_throughput(jobs), _equality(jobs), _stages(report["jobs"])]
    if "cameras" in report:
        parts.append(_cameras(report["cameras"]))
    if "memory" in report:
        parts.append(_memory(report["memory"]))
    if "curve" in report:
        parts.append(_curve(report["curve"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: Sample) -> str:
    parts = {name: part for name, part in report.items() if isinstance(part, dict) and "took_s" in part}
    machine = next(iter(parts.values()))["machine"] if parts else {}
    rows = ["# Benchmark", "", "![figures](bench.png)", "", *METHOD, ""]
    rows.append(", ".join(f"{name} {value}" for name, value in machine.items() if name != "commit") + ".")
    rows.append("")
    for name, part in parts.items():
        rows.append(f"* {name}: {part['measured_at']}, {part['took_s']:.0f} s, commit {part['machine']['commit']}")
    rows += [f"* {title}: {told}" for title, told in report["rivals"].items()]
    rows.append(f"* energy: {'see the table' if report['energy'] else 'not told by this machine (no RAPL)'}")
    busy = [
        sample[name]["others_cores"]
        for job in report.get("jobs", {}).get("jobs", {}).values()
        for sample in job["rounds"]
        for name in SUBJECTS
        if name in sample
    ]
    if busy:
        rows.append(
            f"* other programs kept {median(busy):.2f} (at the most {max(busy):.2f}) cores busy meanwhile"
            f"{'; frames a second are worth little then, CPU per frame more' if median(busy) > MAX_OTHERS else ''}"
        )
    return "\n".join(rows)


def _targets(report: Sample) -> str:
    rows = ["## Targets\n", "| what | measured | target | reached |", "|---|---|---|---|"]
    rows += [
        f"| {row.what} | {row.measured:.2f} | {row.goal} | {'yes' if row.reached else '**no**'} |"
        for row in targets(report)
    ]
    return "\n".join(rows)


def _throughput(jobs: Sample) -> str:
    energy = any(sample.get("joules") for job in jobs.values() for r in job["rounds"] for sample in r.values())
    rows = [
        "## Throughput\n",
        "| job | subject | frames/s | CPU ms/frame | peak MiB | start s | our frames/s over its | its CPU over ours |"
        + (" J/frame |" if energy else ""),
        "|---|---|---|---|---|---|---|---|" + ("---|" if energy else ""),
    ]
    for name, job in jobs.items():
        title = f"{name}: {job['model']['label']}, {job['size']}p{DOES[job['does']]}"
        for subject in SUBJECTS:
            cells = _subject(job, subject, energy)
            if cells:
                rows.append(f"| {title} | {TITLES[subject]} | " + " | ".join(cells) + " |")
                title = ""
    return "\n".join(rows)


def _subject(job: Sample, subject: str, energy: bool) -> list[str]:
    fps, cpu_ms = of(job, subject, "fps"), of(job, subject, "cpu_ms")
    rss, start = of(job, subject, "rss_mib"), of(job, subject, "start_s")
    columns = 6 + energy
    if fps is None or cpu_ms is None or rss is None or start is None:
        reason = job["why_not"].get(subject) if job["compared"] else None
        return [reason, *[""] * (columns - 1)] if reason else []
    cells = [fps.text(1), cpu_ms.text(2), f"{rss.middle:.0f}", f"{start.middle:.1f}"]
    for figure in (ratio, cpu_ratio):
        over = None if subject == OURS else figure(job, subject)
        cells.append(over.text() if over else "")
    if energy:
        joules = of(job, subject, "joules")
        cells.append(joules.text() if joules else "")
    return cells


def _equality(jobs: Sample) -> str:
    rows = [
        "## What was found\n",
        f"First, on the short clip: boxes of one class with an IoU of {SAME_IOU} or more are alike;",
        f"{LEAST_AGREEMENT:g} of all boxes must have their like, half of the pairs within {MOST_SHIFT_PX:g} px.\n",
        "| job | subject | boxes | the limit's | share alike | median shift, px | equal |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, job in jobs.items():
        for subject in SUBJECTS:
            found = job["rounds"][0].get(subject, {}).get("agreement")
            if found:
                rows.append(
                    f"| {name} | {TITLES[subject]} | {found['theirs']} | {found['ours']} | {found['share']:.3f} "
                    f"| {found['shift_px']:.2f} | {'yes' if found['holds'] else '**no**'} |"
                )
    for name, job in jobs.items():
        films = [f"{TITLES[who]} {size.middle:.0f}" for who in SUBJECTS if (size := of(job, who, "film_kib"))]
        if films:
            rows.append(f"\nThe films of job {name}, KiB: {', '.join(films)}.")
    return "\n".join(rows)


def _stages(part: Sample) -> str:
    cores = int(part["machine"]["cores"])
    rows = [
        "## The limit's stages, and Penstock's own time\n",
        "CPU ms per frame, alone / while the whole loop runs (decoding there: what is left of the total). The bound is",
        f"what {cores} cores could do with that CPU time. Penstock's own is its CPU per frame less decode, shrink,",
        "run and NMS inside the limit's run of the same round: a difference of large numbers, so job T says it best.\n",
        "| job | decode | shrink | infer | NMS | JSON | hand-over | bound, fps | reached | Penstock's own |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, job in part["jobs"].items():
        if job["does"] != "lines" or not any("alone_cpu_ms" in sample for sample in job["rounds"]):
            continue

        def told(figure: Any, *needed: str, job: Sample = job) -> str:
            found = spread(job, figure, *needed)
            return "" if found is None else f"{found.middle:.2f}"

        rest = told(lambda s: s[LIMIT]["cpu_ms"] - sum(s[LIMIT]["in_run_cpu_ms"].values()), LIMIT)
        cells = [told(lambda s: s["alone_cpu_ms"]["decode"], LIMIT) + f" / {rest}"]
        for stage in ("shrink", "infer", "suppress", "json"):
            alone = told(lambda s, stage=stage: s["alone_cpu_ms"][stage], LIMIT)
            cells.append(alone + " / " + told(lambda s, stage=stage: s[LIMIT]["in_run_cpu_ms"][stage], LIMIT))
        cells.append("- / " + told(lambda s: s[LIMIT]["in_run_cpu_ms"]["own"], LIMIT))
        cells.append(told(lambda s: bound_fps(s, cores), LIMIT))
        cells.append(told(lambda s: s[LIMIT]["fps"] / bound_fps(s, cores), LIMIT))
        cells.append(told(own_ms, OURS, LIMIT))
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    taken = part["start_up_s"]
    rows.append(
        f"\n`penstock --help` takes {median(taken['help']):.2f} s, `penstock check` {median(taken['check']):.2f} s."
    )
    return "\n".join(rows)


def _cameras(found: Sample) -> str:
    rows = [
        "## 16 cameras (job E)\n",
        "yolo11n at 256; 720p at 30 frames a second over RTSP, sampled at 5, in real time. The cameras' server runs",
        "on the same cores and is not counted. Age: from the decoded picture to its line, as each program tells it;",
        "ultralytics does not.\n",
        "| cameras | subject | served | worst served | cores | CPU ms/frame | age p50 / p99, ms | peak MiB | dropped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    titles = {"moving": "High profile, B-frames", "plain": "Main profile, no B-frames"}
    for kind, title in titles.items():
        text = title
        for subject in SUBJECTS:
            sample = found[kind].get(subject)
            if sample:
                rows.append(f"| {text} | {TITLES[subject]} | {_camera_cells(sample, subject)} |")
                text = ""
    still = {"without": "without motion gate", "with": "with motion gate", "keyframes": 'gate, decode = "keyframes"'}
    for name, sample in found["still"].items():
        rows.append(f"| still scene, {still[name]} | Penstock | {_camera_cells(sample, OURS)} |")
    return "\n".join(rows)


def _camera_cells(sample: Sample, subject: str) -> str:
    if "failed" in sample:
        return "failed: it never saw all cameras | | | | | | "
    age = "" if subject == "ultralytics" else f"{sample['age_p50_ms']:.0f} / {sample['age_p99_ms']:.0f}"
    drops = str(dropped(sample)) if "outcomes" in sample else ""
    cost = f"{sample['cpu_ms']:.1f}" if sample["cpu_ms"] else ""
    return (
        f"{100 * min(1.0, sample['served']):.0f} % | {100 * min(1.0, sample['least_served']):.0f} % "
        f"| {sample['cores']:.2f} | {cost} | {age} | {sample['rss_mib']:.0f} | {drops}"
    )


def _memory(part: Sample) -> str:
    rows = ["## Memory\n", "| what | MiB |", "|---|---|"]
    rows += [
        f"| a bare session of job {name} that ran once | {mib:.0f} |" for name, mib in part["bare_rss_mib"].items()
    ]
    rows += [
        f"| 16 files of 720p, light model: {TITLES[who]}, peak ({one['whole_fps']:.0f} frames/s, start included) "
        f"| {one['rss_mib']:.0f} |"
        for who, one in part["many"].items()
    ]
    return "\n".join(rows)


def _curve(found: Sample) -> str:
    rows = [
        "## From 1 to 32 sources\n",
        "| cameras | served | cores | others' cores | CPU ms/frame | age p50 / p99, ms | peak MiB | dropped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {point['cameras']} | {100 * min(1.0, point['served']):.0f} % | {point['cores']:.2f} "
        f"| {point['others_cores']:.2f} | {point['cpu_ms'] or 0:.1f} "
        f"| {point['age_p50_ms']:.0f} / {point['age_p99_ms']:.0f} | {point['rss_mib']:.0f} | {dropped(point)} |"
        for point in found["cameras"]
    ]
    rows += ["", "| files at full speed | frames/s | CPU ms/frame | peak MiB |", "|---|---|---|---|"]
    rows += [
        f"| {point['files']} | {point['fps']:.1f} | {point['cpu_ms']:.2f} | {point['rss_mib']:.0f} |"
        for point in found["files"]
    ]
    bend = next((point for point in found["cameras"] if point["served"] < SERVED), None)
    if bend is None:
        rows.append("\nIt does not bend up to here: every camera is served.")
    else:
        whole = bend["cores"] + bend["others_cores"]
        rows.append(
            f"\nIt bends at {bend['cameras']} cameras: it takes {bend['cores']:.2f} cores, the cameras' server and "
            f"the system {bend['others_cores']:.2f}, {whole:.2f} in all. Of what is not served {dropped(bend)} frames "
            "were dropped by queues; the others were not even decoded: they back up in the network, and ages, which "
            "count from decoding, do not tell it."
        )
    return "\n".join(rows)
