"""The benchmark's arithmetic: pairs of one round, the best rival, targets that are missed and reached."""

from typing import Any

from tests.bench.figures import Target, best_rival, dropped, ratio, targets


def sample(fps: float, cpu_ms: float = 10.0, rss_mib: float = 100.0) -> dict[str, Any]:
    return {"fps": fps, "cpu_ms": cpu_ms, "rss_mib": rss_mib}


def job(*rounds: dict[str, Any]) -> dict[str, Any]:
    return {"rounds": list(rounds)}


def test_ratios_are_of_pairs_within_a_round() -> None:
    found = ratio(
        job(
            {"penstock": sample(100), "limit": sample(100)},
            {"penstock": sample(50), "limit": sample(100)},
            {"penstock": sample(90), "limit": sample(100)},
        ),
        "limit",
    )

    assert found == (0.9, 0.5, 1.0)


def test_a_round_in_which_a_rival_did_not_run_does_not_count() -> None:
    found = ratio(job({"penstock": sample(100), "naive": sample(50)}, {"penstock": sample(10)}), "naive")

    assert found == (2.0, 2.0, 2.0)


def test_who_never_ran_has_no_ratio() -> None:
    assert ratio(job({"penstock": sample(100)}), "naive") is None


def test_the_best_rival_has_the_most_frames_a_second() -> None:
    rounds = {"penstock": sample(90), "limit": sample(95), "naive": sample(40), "streamvision": sample(50)}

    assert best_rival(job(rounds)) == "streamvision"


def test_a_missed_target_says_so() -> None:
    report = {"jobs": {"jobs": {"A": job({"penstock": sample(90), "limit": sample(100), "naive": sample(45)})}}}

    assert targets(report) == [
        Target("A: frames a second over the limit's", 0.9, ">= 0.95", False),
        Target("A: over those of the best rival (naive)", 2.0, ">= 1.8", True),
    ]


def camera(cpu_ms: float, cores: float = 1.0, **outcomes: int) -> dict[str, Any]:
    return {"cpu_ms": cpu_ms, "cores": cores, "least_served": 1.0, "outcomes": outcomes}


def test_one_dropped_frame_misses_the_target() -> None:
    moving = {"penstock": camera(5, inferred=800, dropped_queue_full=1), "streamvision": camera(20), "naive": camera(9)}
    still = {"without": camera(5, 1.0), "with": camera(5, 0.3)}
    found = targets({"cameras": {"moving": moving, "plain": {}, "still": still}})

    assert [(row.measured, row.reached) for row in found] == [(1.0, True), (1, False), (5 / 9, False), (0.3, True)]


def test_every_kind_of_drop_counts() -> None:
    assert dropped(camera(1, inferred=5, dropped_stale=2, dropped_queue_full=3, sampled_out=9)) == 5


def test_memory_is_compared_with_inference_pipeline() -> None:
    rounds = {"penstock": sample(1, rss_mib=200), "streamvision": sample(1, rss_mib=800), "naive": sample(1)}
    many = {"penstock": {"rss_mib": 300}, "streamvision": {"rss_mib": 1500}}
    found = targets({"jobs": {"jobs": {"B": job(rounds)}}, "memory": {"many": many}})

    assert [(row.measured, row.reached) for row in found if "memory" in row.what] == [(0.25, True), (0.2, False)]


def test_a_cost_that_grows_with_the_sources_misses_the_target() -> None:
    points = [{"cameras": 1, "cpu_ms": 10.0}, {"cameras": 16, "cpu_ms": 11.5}]
    files = [{"files": 1, "cpu_ms": 10.0}, {"files": 16, "cpu_ms": 11.0}]
    found = targets({"curve": {"cameras": points, "files": files}})

    assert [row.reached for row in found] == [False, True]
