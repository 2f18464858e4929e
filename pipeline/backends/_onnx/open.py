"""How a model is started: on the device that its config says, and run once."""

from pathlib import Path

from pipeline.backends._onnx.config import RunConfig
from pipeline.backends._onnx.device import (
    CPU,
    DeviceChoice,
    choose_device,
    fallback,
    usable_cores,
)
from pipeline.backends._onnx.gpu import WORKERS_EACH
from pipeline.backends._onnx.rewritten import start_kept
from pipeline.backends._onnx.session import Runtime, Session
from pipeline.backends._onnx.started import Launch, Started, trial
from pipeline.backends._onnx.tune import may_tune, tuning_file
from pipeline.backends._onnx.tuning import Plan
from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError
from pipeline.devices.gpus import cuda_devices, gpus
from pipeline.models.description import ModelDescription

_OTHER_BATCH = 8  # of providers that the config lists itself: they are accelerators, and no GPU of ours


def start(config: RunConfig, model: Path, ctx: Context, description: ModelDescription) -> Started:
    """Load a model and run it once: what is still open about it is known then, and its way up is warm.

    Raises:
        ConfigError: the model, the device or a key that does not fit the model.
        FatalError: onnxruntime cannot be loaded.
    """
    runtime = Runtime()
    choice = device_of(config, runtime, description)
    may = choice.must_have == CPU and may_tune(config, description)
    kept = tuning_file(config, ctx, description, runtime).find() if may else None
    usual = usual_plan(config, description, choice)
    plan = kept or usual
    how = "" if kept is None else "tuned before" if kept == usual else f"tuned before: {kept}"
    launch = Launch(runtime, choice, plan)
    started = start_kept(config, ctx, description, launch) or _start_plain(config, model, description, launch)
    found = started.choice
    if found.fell_back is not None:
        ctx.fell_back(*found.fell_back)
    if config.tensorrt is True and found.gpu is None:
        raise ConfigError(f"tensorrt = true, but the model runs on {found.device}", key="tensorrt")
    return started._replace(how=how)


def _start_plain(config: RunConfig, model: Path, description: ModelDescription, launch: Launch) -> Started:
    """The model's own file, in a session that has run once."""
    runtime, choice, plan = launch
    session, found = session_of(config, model, runtime, choice, plan)
    if found is not choice:
        plan = usual_plan(config, description, found)
    # On a GPU batches are halved where memory is short, here as later.
    shapes = trial(session, runtime, description, plan.max_batch, may_halve=found.gpu is not None)
    return Started(session, runtime, found, shapes, plan)


def check_batch(config: RunConfig, description: ModelDescription) -> None:
    """A model with a fixed batch takes no other.

    Raises:
        ConfigError: key `max_batch`.
    """
    fixed = description.fixed_batch
    if fixed is not None and config.max_batch not in {None, fixed}:
        raise ConfigError(f"the model takes {fixed} frames in a run, not {config.max_batch}", key="max_batch")


def device_of(config: RunConfig, runtime: Runtime, description: ModelDescription | None = None) -> DeviceChoice:
    """Where the config says that models shall run; a GPU of ours is made ready before anything else touches it."""
    asks_cuda = config.device != "cpu" and config.providers is None
    devices = cuda_devices() if asks_cuda else 0
    fixed = description is not None and description.fixed_batch is not None and not description.dynamic_size
    choice = choose_device(
        config.device,
        config.on_fallback,
        config.providers,
        runtime.available,
        devices,
        fixed_shape=fixed,
        max_gpu_bytes=config.max_gpu_bytes,
    )
    if choice.gpu is not None:
        try:
            gpus().gpu(choice.gpu)
        except OSError as error:
            return fallback(config.device, config.on_fallback, str(error))
    return choice


def usual_plan(config: RunConfig, description: ModelDescription | None, choice: DeviceChoice) -> Plan:
    """What is done without measuring.

    On two cores as many single-threaded runs as cores beat one run on all of them by 1.39, and batches gained nothing.
    A GPU begins with one frame: what more it should take is measured there.
    """
    cores, on_cpu = usable_cores(), choice.must_have == CPU
    fixed = None if description is None else description.fixed_batch
    one = on_cpu or choice.gpu is not None
    return Plan(
        workers=config.workers or (cores if on_cpu else WORKERS_EACH),
        intra_op_threads=config.intra_op_threads or max(1, cores // (config.workers or cores)),
        allow_spinning=bool(config.allow_spinning),
        max_batch=fixed or config.max_batch or (1 if one else _OTHER_BATCH),
    )


def session_of(
    config: RunConfig, model: Path, runtime: Runtime, choice: DeviceChoice, plan: Plan | None = None
) -> tuple[Session, DeviceChoice]:
    """The session, and the device that it really runs on."""
    _, threads, spinning, _ = plan or usual_plan(config, None, choice)
    session = runtime.session(model, choice, threads, allow_spinning=spinning)
    if session is None and config.providers is None:
        reason = "onnxruntime could not start CUDA (its CUDA 13 or cuDNN 9 libraries are missing: penstock[cuda])"
        choice = fallback(config.device, config.on_fallback, reason)
        session = runtime.session(model, choice, threads, allow_spinning=spinning)
    if session is None:
        raise ConfigError(f"onnxruntime could not start {choice.must_have}", key="providers")
    return session, choice
