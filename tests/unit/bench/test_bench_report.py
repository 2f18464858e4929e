"""The benchmark's page: what was not measured is left out, what could not be is told."""

from typing import Any

from tests.bench.report import markdown
from tests.bench.subjects import OURS

STAGES = {"decode": 4.0, "shrink": 0.7, "infer": 7.0, "suppress": 0.2, "json": 0.1}


def sample(fps: float, **more: Any) -> dict[str, Any]:
    figures = {"fps": fps, "cpu_ms": 2000 / fps, "rss_mib": 150.0, "start_s": 0.8, "others_cores": 0.0, "joules": None}
    return figures | more


def job_b() -> dict[str, Any]:
    agreement = {"ours": 500, "theirs": 490, "alike": 480, "share": 0.97, "shift_px": 0.3, "frames": 60}
    inside = {**STAGES, "own": 0.05}
    first = {
        "penstock": sample(140, agreement={**agreement, "holds": True}),
        "limit": sample(145, in_run_cpu_ms=inside),
        "naive": sample(90, agreement={**agreement, "holds": False}),
        "alone_cpu_ms": STAGES,
    }
    second = {"penstock": sample(141), "limit": sample(150, in_run_cpu_ms=inside), "alone_cpu_ms": STAGES}
    return {
        "name": "B",
        "size": "1080",
        "does": "lines",
        "compared": True,
        "model": {"label": "yolox_nano"},
        "why_not": {"ultralytics": "does not read YOLOX", "streamvision": "not installed here: run `just bench-setup`"},
        "rounds": [first, second],
    }


def point(cameras: int, served: float) -> dict[str, Any]:
    return {
        "cameras": cameras,
        "served": served,
        "least_served": served,
        "cores": 1.5,
        "others_cores": 0.3,
        "cpu_ms": 12.0,
        "age_p50_ms": 20.0,
        "age_p99_ms": 50.0,
        "rss_mib": 300.0,
        "outcomes": {"inferred": 500, "dropped_queue_full": 0 if served == 1 else 40},
    }


def report(**parts: Any) -> dict[str, Any]:
    machine = {"processor": "a processor", "cores": "2", "commit": "abc"}
    told = {"measured_at": "2026-01-01T00:00:00+00:00", "took_s": 60.0, "machine": machine}
    return {name: part | told for name, part in parts.items()} | {"rivals": {"OpenCV loop": "5.0"}, "energy": False}


def test_a_rival_that_did_not_run_says_why_in_its_row() -> None:
    page = markdown(report(jobs={"jobs": {"B": job_b()}, "start_up_s": {"help": [0.1], "check": [0.3]}}))

    assert "|  | ultralytics | does not read YOLOX |" in page
    assert "|  | InferencePipeline | not installed here: run `just bench-setup` |" in page


def test_who_found_something_else_is_marked() -> None:
    page = markdown(report(jobs={"jobs": {"B": job_b()}, "start_up_s": {"help": [0.1], "check": [0.3]}}))

    assert "| B | OpenCV loop | 490 | 500 | 0.970 | 0.30 | **no** |" in page


def test_parts_that_were_not_measured_are_left_out() -> None:
    page = markdown(report(jobs={"jobs": {"B": job_b()}, "start_up_s": {"help": [0.1], "check": [0.3]}}))

    assert "## Throughput" in page
    assert "cameras" not in page.replace("tests/bench", "")
    assert "## Memory" not in page


def test_a_curve_says_where_it_bends() -> None:
    files = [{"files": 1, "fps": 140.0, "cpu_ms": 12.0, "rss_mib": 150.0}]
    page = markdown(report(curve={"cameras": [point(16, 1.0), point(32, 0.8)], "files": files}))

    assert "It bends at 32 cameras" in page
    assert "40 frames were dropped by queues" in page


def test_a_curve_without_a_bend_says_so() -> None:
    page = markdown(report(curve={"cameras": [point(1, 1.0), point(16, 1.0)], "files": []}))

    assert "It does not bend up to here" in page


def test_energy_that_is_not_told_is_no_column() -> None:
    page = markdown(report(jobs={"jobs": {"B": job_b()}, "start_up_s": {"help": [0.1], "check": [0.3]}}))

    assert "J/frame" not in page
    assert "energy: not told by this machine" in page


def test_energy_that_is_told_is_one() -> None:
    job = job_b()
    job["rounds"][0][OURS]["joules"] = 0.5
    job["rounds"][1][OURS]["joules"] = 0.5
    page = markdown(report(jobs={"jobs": {"B": job}, "start_up_s": {"help": [0.1], "check": [0.3]}}) | {"energy": True})

    assert "J/frame" in page
    assert "0.50 (0.50..0.50) |" in page
