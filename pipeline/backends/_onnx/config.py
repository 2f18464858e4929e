"""The keys that all backends on ONNX Runtime share: where a model runs, and how."""

from abc import ABC
from typing import Annotated, Literal

from pydantic import ByteSize, Field, StringConstraints

from pipeline.backends._onnx.device import OnFallback
from pipeline.contracts.backend import BackendConfig


class RunConfig(BackendConfig, ABC):
    """Where and how a model runs on this machine."""

    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda|cuda:[0-9]{1,2})$")] = Field(
        default="auto", description="auto, cpu, cuda or cuda:N; auto takes CUDA where it works"
    )
    on_fallback: OnFallback = Field(
        default="fail", description="CUDA asked for and absent: fail, or warn and use the CPU"
    )
    providers: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="execution providers of onnxruntime, instead of `device`"
    )
    tune: bool = Field(
        default=True,
        description="measure at the first start what suits this machine and model best, and keep it: whether its graph "
        "is faster rewritten; CPU: workers and threads",
    )
    workers: int | None = Field(
        default=None, ge=1, le=256, description="frames at work at once; CPU: measured, usually one per core"
    )
    intra_op_threads: int | None = Field(
        default=None, ge=1, le=256, description="threads inside one run; CPU: measured, usually one"
    )
    allow_spinning: bool | None = Field(
        default=None, description="threads inside a run wait without sleeping, which takes the cores from decoding"
    )
    max_batch: int | None = Field(
        default=None, ge=1, le=128, description="frames in one run; measured, on a CPU usually 1"
    )
    max_run_s: float = Field(
        default=0.033, gt=0, le=10, description="GPU: batches grow as long as a run takes no longer than this"
    )
    max_gpu_bytes: Annotated[ByteSize, Field(ge=1 << 28)] | None = Field(
        default=None,
        description='memory that the model may take on each GPU, e.g. "2GiB"; as much as there is, if left out',
    )
    tensorrt: Literal["auto"] | bool = Field(
        default="auto",
        description="TensorRT on an NVIDIA GPU: auto takes it where its libraries load; its engine is built beside the "
        "running model",
    )
    in_graph: Literal["auto", "none", "input", "output", "both"] = Field(
        default="auto",
        description="auto: the model's graph in fewer and cheaper steps, and pre- and post-processing as part of it, "
        "where that is measured faster on the device; input, output, both: these parts in any case; none: the file "
        "as it is, byte for byte",
    )
