"""Runs a folder of tests/cases whose detections are stored: the real clip, the stored boxes, what follows of them."""

import tomllib
from pathlib import Path
from typing import Any

from harness import Run, run
from replay import ReplayBackendConfig

from sources.file import FileSourceConfig

CASES = Path(__file__).resolve().parents[1] / "cases"


def play_clip(case: str, clips: Path, data_dir: Path, **sink: Any) -> Run:
    """Run the case's pipeline in this process; `sink`: more keys of its sink."""
    tree = tomllib.loads((CASES / case / "pipeline.toml").read_text())
    (source,) = tree["sources"].values()
    source["path"] = str(clips / source["path"])
    tree["backends"]["stored"]["path"] = str(CASES / case / "detections.jsonl")
    tree["sinks"]["keep"] |= sink
    tree["data_dir"] = str(data_dir)
    return run(tree, plugins=[FileSourceConfig, ReplayBackendConfig])
