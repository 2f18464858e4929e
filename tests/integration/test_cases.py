"""Golden cases: each folder under tests/cases is a pipeline.toml, its input, and the lines that must come out.

`just golden` rewrites `expected.jsonl`; read the diff before you commit it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "cases"
CASES = sorted(case for case in FOLDER.iterdir() if not (case / "detections.jsonl").exists())  # see test_scene_cases.py
VARIES = ("id", "captured_at", "latency_s", "time", "config_hash", "path")


def _normal(line: str) -> dict[str, Any]:
    """A line without what differs from run to run; of a path only the file's name."""
    result: dict[str, Any] = json.loads(line)
    path = result.get("path")
    for key in VARIES:
        result.pop(key, None)
    for prediction in result["predictions"]:
        prediction.pop("detection_id")
    return {**result, "file": Path(path).name} if path else result


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "-q"],
        cwd=case,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [_normal(line) for line in done.stdout.splitlines()]
    expected = case / "expected.jsonl"
    if os.environ.get("REWRITE_GOLDEN"):
        expected.write_text("".join(json.dumps(line) + "\n" for line in lines))
    wanted = [json.loads(line) for line in expected.read_text().splitlines()]
    assert len(lines) == len(wanted)
    for got, want in zip(lines, wanted, strict=True):
        predictions, wanted_predictions = got.pop("predictions"), want.pop("predictions")
        assert got == want
        assert len(predictions) == len(wanted_predictions)
        for one, other in zip(predictions, wanted_predictions, strict=True):
            assert one == pytest.approx(other, abs=0.02)  # the scaler's last bit differs between processors
