"""How the benchmark watches a program that runs on, and what it reads of a machine."""

import os
import sys
import time
from pathlib import Path

import pytest

from tests.bench.measure import ChildFailedError, energy_j, environment, run_child
from tests.bench.watch import Watched, outcomes, server

TWO_CAMERAS = """
import sys, time
files = [open(f"{sys.argv[1]}/{name}.jsonl", "w") for name in ("a", "b")]
while True:
    for part in ('{"source": "%s", ', '"latency_s": 0.5}\\n'):  # at most moments, a line is half there
        for name, file in zip("ab", files):
            file.write(part.replace("%s", name))
            file.flush()
        time.sleep(0.02)
"""


def test_only_whole_lines_written_within_the_span_count(tmp_path: Path) -> None:
    (tmp_path / "early.jsonl").write_text('{"source": "early", "latency_s": 9.0}\n')
    with Watched([sys.executable, "-c", TWO_CAMERAS, str(tmp_path)], tmp_path, tmp_path) as program:
        program.wait_for(2)
        span = program.span(0.6)

    assert span.frames.keys() == {"a", "b"}
    assert span.frames["a"] >= 1
    assert abs(span.frames["b"] - span.frames["a"]) <= 1
    assert set(span.ages_s) == {0.5}
    assert span.peak_mib > 1


def test_cpu_time_is_that_of_the_span(tmp_path: Path) -> None:
    spins = (
        f'open({str(tmp_path / "x.jsonl")!r}, \'w\').write(\'{{"source": "a", "latency_s": 0}}\\n\')\nwhile True: pass'
    )
    with Watched([sys.executable, "-c", spins], tmp_path, tmp_path) as program:
        program.wait_for(1)
        program.span(0.7)
        began_s = time.process_time()
        span = program.span(0.3)
        own_s = time.process_time() - began_s

    assert 0 < span.cpu_s <= 0.5
    assert own_s < 0.2


def test_a_program_that_ends_is_told_with_what_it_said(tmp_path: Path) -> None:
    says = [sys.executable, "-c", "import sys; sys.exit('no such camera')"]
    with Watched(says, tmp_path, tmp_path) as program, pytest.raises(ChildFailedError, match="no such camera"):
        program.wait_for(1)


def test_outcomes_are_summed_over_the_sources() -> None:
    found = outcomes(
        {
            'penstock_frames_total{outcome="inferred",source="a"}': 5.0,
            'penstock_frames_total{outcome="inferred",source="b"}': 6.0,
            'penstock_frames_total{outcome="dropped_queue_full",source="b"}': 1.0,
            'penstock_frames_decoded_total{source="a"}': 9.0,
            "penstock_queue_frames": 3.0,
        }
    )

    assert found == {"inferred": 11, "dropped_queue_full": 1, "decoded": 9}


def test_a_helper_ends_with_its_standard_input(tmp_path: Path) -> None:
    helps = "import sys, os; print(os.getpid(), flush=True); sys.stdin.read()"
    with server([sys.executable, "-c", helps], tmp_path) as number:
        os.kill(number, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_energy_is_the_sum_of_the_processors_without_their_parts(tmp_path: Path) -> None:
    for name, microjoules in (("intel-rapl:0", 2_000_000), ("intel-rapl:1", 500_000), ("intel-rapl:0:0", 900_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")

    assert energy_j(tmp_path) == 2.5


def test_a_machine_that_tells_no_energy_is_not_guessed_at(tmp_path: Path) -> None:
    assert energy_j(tmp_path / "nothing") is None


def test_what_a_library_prints_before_the_result_does_not_hide_it(tmp_path: Path) -> None:
    cost = run_child([sys.executable, "-c", "print('hello'); print('{\"frames\": 3}')"], tmp_path)

    assert cost.said == {"frames": 3}


def test_children_keep_compiled_modules_whatever_the_shell_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    assert "PYTHONDONTWRITEBYTECODE" not in environment()
