"""Proof that an execution provider of onnxruntime works here: a tiny model that is made, run and looked at."""

import tempfile
from pathlib import Path

import numpy as np

from pipeline.backends._onnx.device import CPU, CUDA, TENSORRT, DeviceChoice
from pipeline.backends._onnx.session import Runtime
from pipeline.backends._onnx.tensorrt import load_libraries
from pipeline.contracts.component import Finding
from pipeline.contracts.errors import PenstockError

SIDE = 8

_ADVICE = {
    CUDA: "the CUDA and cuDNN libraries do not load: install the extra penstock[cuda], or models run on the CPU",
}
_NOT_TRIED = {"AzureExecutionProvider": "sends pictures to a cloud: not tried"}


def tiny_model(path: Path) -> Path:
    """A model with one matrix product, `y = x @ x`, float32 (8, 8)."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["y"])],
        "proof",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIDE, SIDE])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def _why_not(provider: str, gpus: int) -> str | None:
    """Why there is nothing to prove and nothing to complain of, or None."""
    if provider in {CUDA, TENSORRT} and gpus == 0:
        return "no NVIDIA driver or no GPU: models run on the CPU"
    if provider == TENSORRT and (fault := load_libraries(to_build=True)) is not None:
        return f"its libraries do not load, CUDA is used: {fault}"
    return _NOT_TRIED.get(provider)


def prove(provider: str, runtime: Runtime, gpus: int) -> Finding:
    """Run the tiny model with this provider, and see that it ran there and is right."""
    if (why := _why_not(provider, gpus)) is not None:
        return Finding(True, provider, why)
    names = (provider,) if provider == CPU else (provider, CPU)
    choice = DeviceChoice(tuple((name, {}) for name in names), provider, provider)
    ramp = np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) / SIDE
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
            session = runtime.session(tiny_model(Path(folder) / "proof.onnx"), choice, 1)
            if session is None:
                return Finding(False, provider, _ADVICE.get(provider, "it does not start"))
            (found,) = session.run(None, {"x": ramp})
    except Exception as error:
        if not isinstance(error, (PenstockError, OSError, *runtime.errors)):
            raise
        detail = " ".join(str(error).split())[:300]
        return Finding(False, provider, f"{_ADVICE.get(provider, 'it does not run a model')} ({detail})")
    if not np.allclose(found, ramp @ ramp, rtol=1e-2):
        return Finding(False, provider, "it runs a model and gets it wrong: update its driver, or do without it")
    number = f"; {gpus} GPU{'s' * (gpus != 1)}" if provider in {CUDA, TENSORRT} else ""
    return Finding(True, provider, f"runs a model{number}")
