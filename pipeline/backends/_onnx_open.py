"""What all backends on ONNX Runtime share: the keys that say where and how a model runs, and its start."""

from abc import ABC
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, StringConstraints

from pipeline.backends._onnx_device import (
    CPU,
    DeviceChoice,
    OnFallback,
    choose_device,
    cuda_devices,
    fallback,
    usable_cores,
)
from pipeline.backends._onnx_feed import Feed, HostFeed
from pipeline.backends._onnx_session import Runtime, Session, decide_run_error, zeros
from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError
from pipeline.models.description import ModelDescription, Shapes
from pipeline.models.reader import Reader

GPU_WORKERS = 2
GPU_BATCH = 8
_SPARE_SIZES = 2  # input sizes for which buffers are kept, where the input fits the frame


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
    workers: int | None = Field(default=None, ge=1, le=256, description="frames at work at once; one per core on a CPU")
    intra_op_threads: int | None = Field(default=None, ge=1, le=256, description="threads inside one run")
    max_batch: int | None = Field(default=None, ge=1, le=128, description="frames in one run; 1 on a CPU")


class Started(NamedTuple):
    """A model that runs.

    Attributes:
        session: the loaded model.
        runtime: what it is loaded with.
        device: what it really runs on: "cpu", "cuda:N", or the name of a provider.
        shapes: the true shapes of its outputs.
        concurrency: how many runs may overlap.
        max_batch: frames in one run.
    """

    session: Session
    runtime: Runtime
    device: str
    shapes: Shapes
    concurrency: int
    max_batch: int


def start(config: RunConfig, model: Path, ctx: Context, description: ModelDescription) -> Started:
    """Load a model and run it once: what is still open about it is known then, and its way up is warm.

    Raises:
        ConfigError: the model, the device or a key that does not fit the model.
        FatalError: onnxruntime cannot be loaded.
    """
    runtime = Runtime()
    session, device = session_of(config, model, runtime, device_of(config, runtime))
    if device.warning is not None:
        ctx.warn(device.warning)
    on_cpu = device.must_have == CPU
    concurrency = config.workers or (usable_cores() if on_cpu else GPU_WORKERS)
    max_batch = description.fixed_batch or config.max_batch or (1 if on_cpu else GPU_BATCH)
    shapes = trial(session, runtime, description, max_batch)
    return Started(session, runtime, device.device, shapes, concurrency, max_batch)


def feed_of(started: Started, reader: Reader, ctx: Context, *, fit: bool) -> Feed:
    """How pictures come into this model, on the device that it runs on."""
    return HostFeed(
        session=started.session,
        reader=reader,
        max_batch=started.max_batch,
        spare=started.concurrency * (_SPARE_SIZES if fit else 1),
        errors=started.runtime.errors,
        now_s=ctx.clock.monotonic,
    )


def check_batch(config: RunConfig, description: ModelDescription) -> None:
    """A model with a fixed batch takes no other.

    Raises:
        ConfigError: key `max_batch`.
    """
    fixed = description.fixed_batch
    if fixed is not None and config.max_batch not in {None, fixed}:
        raise ConfigError(f"the model takes {fixed} frames in a run, not {config.max_batch}", key="max_batch")


def device_of(config: RunConfig, runtime: Runtime) -> DeviceChoice:
    """Where the config says that models shall run."""
    asks_cuda = config.device != "cpu" and config.providers is None
    devices = cuda_devices() if asks_cuda else 0
    return choose_device(config.device, config.on_fallback, config.providers, runtime.available, devices)


def session_of(config: RunConfig, model: Path, runtime: Runtime, device: DeviceChoice) -> tuple[Session, DeviceChoice]:
    """The session, and the device that it really runs on."""
    cores = usable_cores()
    # Measured on two cores: as many single-threaded runs as cores beat one run on all of them by 1.39.
    threads = config.intra_op_threads or max(1, cores // (config.workers or cores))
    session = runtime.session(model, device, threads)
    if session is None and config.providers is None:
        reason = "onnxruntime could not start CUDA (its CUDA 13 or cuDNN 9 libraries are missing: penstock[cuda])"
        device = fallback(config.device, config.on_fallback, reason)
        session = runtime.session(model, device, threads)
    if session is None:
        raise ConfigError(f"onnxruntime could not start {device.must_have}", key="providers")
    return session, device


def trial(session: Session, runtime: Runtime, model: ModelDescription, batch: int) -> Shapes:
    """Run once with an empty picture: warms up, and tells the true shapes."""
    width, height = model.input_size
    rows = model.fixed_batch or batch
    shape = (rows, height, width, 3) if model.channels_last else (rows, 3, height, width)
    names = [output.name for output in model.file.outputs]
    feeds = model.feeds(zeros(shape, model.image.dtype), model.input_size)
    try:
        outputs = session.run(names, feeds)
    except runtime.errors as error:
        raise ConfigError(
            f"{model.file.path}: {decide_run_error(error)} (fed with {model.image.dtype} {list(shape)})", key="model"
        ) from error
    shapes = {name: np.shape(output) for name, output in zip(names, outputs, strict=True)}
    if rows > 1 and all(len(s) < 2 or s[0] != rows for s in shapes.values()):
        raise ConfigError(f"{model.file.path}: fed with {rows} frames, the model answers {shapes}", key="max_batch")
    return shapes
