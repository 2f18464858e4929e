"""`penstock run` on a GPU, as users run it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpu_rig import frames_of
from makers import brightness_model

from pipeline.devices.gpu import Gpu

CONFIG = """
data_dir = "data"

[sources.cam]
type = "file"
path = "{clip}"
decode = "{decode}"

[backends.model]
type = "onnx"
model = "{model}"
device = "{device}"
confidence = 0.01

[sinks.lines]
type = "jsonl"
path = "{device_name}.jsonl"
mode = "overwrite"

[server]
listen = "off"
"""


def run(folder: Path, clip: Path, model: Path, device: str, decode: str, **environment: str) -> tuple[list[Any], str]:
    """Results, and what was logged."""
    name = device.replace(":", "")
    config = folder / f"{name}.toml"
    config.write_text(CONFIG.format(clip=clip, decode=decode, model=model, device=device, device_name=folder / name))
    command = [sys.executable, "-m", "pipeline", "run", str(config)]
    ended = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return [line for line in lines if "frame_id" in line], ended.stdout + ended.stderr


def test_the_daemon_answers_as_on_the_cpu(gpu: Gpu, clips: Callable[..., Path], tmp_path: Path) -> None:
    model = brightness_model(tmp_path / "model.onnx")
    clip = clips((1280, 720), 60)
    there, said = run(tmp_path, clip, model, gpu.device, "cuda")
    here, _ = run(tmp_path, clip, model, "cpu", "cpu")
    assert len(there) == len(here) == len(list(frames_of(clip, "cpu")))
    for one, other in zip(there, here, strict=True):
        (found,), (expected,) = one["predictions"], other["predictions"]
        assert abs(found["confidence"] - expected["confidence"]) < 0.005
        assert abs(found["x"] - expected["x"]) < 1.0
    assert not re.search("fell back|instead of", said), said


@pytest.mark.parametrize("decode", ["auto", "cuda"])
def test_without_a_gpu_it_falls_back_and_says_so(clips: Callable[..., Path], tmp_path: Path, decode: str) -> None:
    model = brightness_model(tmp_path / "model.onnx")
    results, said = run(tmp_path, clips((1280, 720), 60), model, "auto", decode, CUDA_VISIBLE_DEVICES="")
    assert len(results) == 60
    assert ("cuda" in said.casefold()) == (decode == "cuda")
