"""What the benchmark and the tests on a GPU write; without one."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from fake_hardware import installed
from media import moving, video

from tests.bench import gpu_alone
from tests.bench.gpu import Run, config
from tests.bench.gpu_page import PICTURE_BYTES, page
from tests.bench.jobs import ModelFile
from tests.gpu import __main__ as gpu_tests

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.gpu.test_driver" name="test_a" time="0.5"/>
<testcase classname="tests.gpu.test_driver" name="test_b" time="0.1"><failure message="a | b\nc"/></testcase>
<testcase classname="tests.gpu.test_torn" name="test_c" time="0"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>"""


def job(**changes: Any) -> dict[str, Any]:
    run = {
        "sources": 8,
        "fps": 950.0,
        "cpu_ms": 0.5,
        "core_percent_each": 1.5,
        "served": 1.0,
        "fallbacks": 0.0,
        "age_p50_ms": 9.0,
        "age_p99_ms": 20.0,
        "rss_mib": 400.0,
        "to_host_bytes_each": 9e3,
        "to_device_bytes_each": 0.0,
    }
    alone = {"decode_fps": 1000.0, "decoders": 4, "session_fps": 1500.0, "batch": 8}
    return {"model": "m", "alone": alone, "limit_fps": 1000.0, "ratio": 0.95, "files": run, "cameras": run | changes}


def rows(text: str) -> list[str]:
    return [line.rsplit("|", 2)[1].strip() for line in text.splitlines() if line.startswith(("| 0.9", "| at", "| no"))]


def test_every_aim_is_yes_or_no_by_its_figure() -> None:
    text = page({"machine": {"gpu": "none"}, "jobs": {"A": job()}})
    assert rows(text) == ["yes"] * 4
    text = page({"machine": {}, "jobs": {"A": job(core_percent_each=2.5, to_host_bytes_each=PICTURE_BYTES)}})
    assert rows(text) == ["yes", "no", "no", "yes"]
    assert "| all | B | failed: no lines | no |" in page({"machine": {}, "jobs": {"B": {"failed": "no lines\nmore"}}})


def test_what_the_cpu_decodes_is_no_figure_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_alone, "SPAN_S", 0.05)
    clip = video(tmp_path / "a.mp4", [moving(number, 64, 48) for number in range(4)])
    assert gpu_alone.decoded_fps(clip, "cpu", 1) > 0
    with installed(devices=0), pytest.raises(SystemExit, match=r"decoded on the CPU: .*there is no GPU"):
        gpu_alone.decoded_fps(clip, "cuda", 1)


def test_the_config_of_the_benchmark_is_what_was_asked_for() -> None:
    model = ModelFile("m", Path("/models/a b.onnx"), 384, 640, 640)
    run = Run(model, Path('/clips/"odd".mp4'), 3, "cuda", live=True, span_s=1.0)
    found = tomllib.loads(config(run, Path("/out"), Path("/data"), 8080))
    assert list(found["sources"]) == ["cam0", "cam1", "cam2"]
    assert found["sources"]["cam2"]["path"] == '/clips/"odd".mp4'
    assert (found["sources"]["cam0"]["decode"], found["sources"]["cam0"]["pace"]) == ("cuda", "realtime")
    assert found["backends"]["local"]["input_size"] == 640
    assert found["sinks"]["out"]["path"] == "/out/{source}.jsonl"


def test_the_outcomes_of_tests_are_told_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    outcomes = gpu_tests.read(tmp_path / "junit.xml")
    assert outcomes == [
        gpu_tests.Outcome("test_driver::test_a", "passed", 0.5, ""),
        gpu_tests.Outcome("test_driver::test_b", "failed", 0.1, "a | b c"),
        gpu_tests.Outcome("test_torn::test_c", "skipped", 0.0, "no GPU"),
    ]
    text = gpu_tests.page({"gpu": "none"}, outcomes)
    assert "1 passed, 1 failed, 1 skipped." in text
    assert "| test_driver::test_b | failed | 0.1 | a / b c |" in text


def test_a_test_that_takes_its_process_along_leaves_the_outcomes_of_those_before_it(tmp_path: Path) -> None:
    file = tmp_path / "test_dies.py"
    file.write_text(
        "import os, pytest\n"
        "def test_good(): pass\n"
        "@pytest.mark.parametrize('keys', [{'a': 1}], ids=str)\n"
        "def test_bad(keys): assert 0\n"
        "def test_dies(): os._exit(3)\n"
        "def test_never(): pass\n"
    )
    code, outcomes = gpu_tests.run(file, (), 30)
    assert code == 3
    assert [(each.test, each.outcome, each.why) for each in outcomes] == [
        ("test_dies::test_good", "passed", ""),
        ("test_dies::test_bad[{'a': 1}]", "failed", ""),
        ("test_dies::test_dies", "failed", "its process ended with 3"),
    ]


def test_a_test_that_hangs_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "test_hangs.py"
    file.write_text("import threading\ndef test_hangs(): threading.Event().wait()\n")
    code, outcomes = gpu_tests.run(file, (), 1)
    assert code == -9
    assert [(each.outcome, each.why) for each in outcomes] == [("failed", "its process ended with -9")]
