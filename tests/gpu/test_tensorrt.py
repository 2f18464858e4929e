"""TensorRT on a real GPU: its engine is made beside CUDA, takes over, and is found again; where its libraries load."""

import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.backends._onnx.tensorrt import load_libraries
from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.contracts.result import Detections
from pipeline.testing import PluginContext, frame

pytestmark = [pytest.mark.usefixtures("gpu"), pytest.mark.timeout(900)]


class Waiting(PluginContext):
    """A context that somebody waits at."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir=data_dir)
        self.decided = threading.Event()

    def warn(self, message: str) -> None:
        super().warn(message)
        self.decided.set()

    def tell(self, state: str, detail: str, *, well: bool) -> None:
        super().tell(state, detail, well=well)
        if "until then" not in detail:
            self.decided.set()


@pytest.fixture(autouse=True)
def libraries(gpu: object) -> None:
    if (fault := load_libraries()) is not None:
        pytest.skip(f"TensorRT's libraries do not load: {fault}")


def opened(shared_data: Path, data_dir: Path) -> tuple[OnnxBackend, Waiting]:
    ctx = Waiting(data_dir)
    model = shared_data / "models" / "yolox_nano_416.onnx"
    backend = OnnxBackendConfig(model=model, device="cuda:0", tensorrt=True, confidence=0.05).build(ctx)
    backend.open()
    return backend, ctx


def test_tensorrt_takes_over_while_frames_are_inferred_and_answers_the_same(shared_data: Path, tmp_path: Path) -> None:
    backend, ctx = opened(shared_data, tmp_path)
    noise = frame(width=1280, height=720, grey=90)
    try:
        (before,) = backend.infer([noise])
        while not ctx.decided.wait(0.001):
            backend.infer([noise])
        (after,) = backend.infer([noise])
    finally:
        backend.close()
    assert ctx.warnings == []
    assert isinstance(before, Detections)
    assert isinstance(after, Detections)
    np.testing.assert_allclose(after.xyxy, before.xyxy, atol=1.0)
    np.testing.assert_allclose(after.confidence, before.confidence, atol=0.02)


def test_an_engine_is_made_once(shared_data: Path, tmp_path: Path) -> None:
    for _ in range(2):
        backend, ctx = opened(shared_data, tmp_path)
        assert ctx.decided.wait(800)
        backend.close()
        assert ctx.warnings == []
    assert not any("is being made" in detail for _, detail, _ in ctx.told)  # the second time
    assert len(list((tmp_path / "tensorrt" / ctx.name / "cuda-0").glob("engine-*"))) == 1


def test_a_backend_closes_in_the_middle_of_a_build(shared_data: Path, tmp_path: Path) -> None:
    backend, ctx = opened(shared_data, tmp_path)
    backend.close()
    assert ctx.warnings == []
