"""Models on real GPUs: where they run, how large their batches are, what happens without memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.contracts.result import Detections
from pipeline.devices.gpus import cuda_devices
from pipeline.testing import PluginContext, frame

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture
def opened(tmp_path: Path, shared_data: Path) -> Iterator[Any]:
    backends: list[OnnxBackend] = []

    def make(**keys: Any) -> tuple[OnnxBackend, PluginContext]:
        ctx = PluginContext(data_dir=tmp_path)
        model = shared_data / "models" / "yolox_nano_416.onnx"
        backends.append(OnnxBackendConfig(model=model, **{"tensorrt": False, **keys}).build(ctx))
        backends[-1].open()
        return backends[-1], ctx

    yield make
    for backend in backends:
        backend.close()


def test_auto_takes_every_gpu_there_is(opened: Any) -> None:
    backend, ctx = opened(device="auto")
    assert backend.device == ",".join(f"cuda:{number}" for number in range(cuda_devices()))
    assert backend.concurrency == 2 * cuda_devices()
    assert ctx.fallbacks == []


def test_batches_are_found_by_measuring_and_answers_do_not_depend_on_their_size(opened: Any) -> None:
    backend, _ = opened(device="cuda:0")
    frames = [frame(seq, width=1280, height=720, grey=16 * seq) for seq in range(backend.max_batch)]
    together = backend.infer(frames)
    for one, expected in zip(frames, together, strict=True):
        (alone,) = backend.infer([one])
        assert isinstance(alone, Detections)
        assert isinstance(expected, Detections)
        np.testing.assert_allclose(alone.xyxy, expected.xyxy, atol=0.5)


def test_a_device_without_memory_gets_smaller_batches_and_loses_no_frame(opened: Any) -> None:
    backend, ctx = opened(device="cuda:0", max_batch=128, max_gpu_bytes=1 << 28)
    answers = backend.infer([frame(seq, width=640, height=480) for seq in range(128)])
    assert len(answers) == 128
    if backend.max_batch < 128:  # else 256 MiB were enough
        assert any("does not fit into the GPU's memory" in line for line in ctx.warnings)


def test_a_gpu_that_does_not_exist_is_refused_or_replaced_aloud(opened: Any) -> None:
    missing = f"cuda:{cuda_devices()}"
    backend, ctx = opened(device=missing, on_fallback="warn")
    assert backend.device == "cpu"
    assert [(wanted, got) for wanted, got, _ in ctx.fallbacks] == [(missing, "cpu")]
