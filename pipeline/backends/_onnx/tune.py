"""`tuned`: a started model with the plan that suits this machine: found in the data folder, or measured now."""

import time
from typing import Any

import numpy.typing as npt

from pipeline.backends._onnx.config import RunConfig
from pipeline.backends._onnx.device import CPU, usable_cores
from pipeline.backends._onnx.measuring import Stopwatch, alone
from pipeline.backends._onnx.session import Runtime, Session, zeros
from pipeline.backends._onnx.started import Started, run_seconds, shape_of
from pipeline.backends._onnx.tuning import BUDGET_S, WORTH_S, Freedom, choose
from pipeline.backends._onnx.tuning_store import TuningFile, machine
from pipeline.contracts.component import Context
from pipeline.contracts.frame import Size
from pipeline.models.description import ModelDescription
from pipeline.models.letterbox import fitted
from pipeline.models.onnx_file import fingerprint

_USUAL_FRAME = Size(1920, 1080)  # the shape of most cameras


def tuned(config: RunConfig, started: Started, ctx: Context, description: ModelDescription, *, fit: bool) -> Started:
    """The model with the plan that is fastest on this machine: measured now, if that was not done before and pays.

    Args:
        config: what it leaves open is what may be tried.
        started: the model with its usual plan.
        ctx: whose data folder keeps the result.
        description: how the model is fed.
        fit: whether its input will have the shape of the frames.
    """
    if started.how or started.choice.must_have != CPU or not may_tune(config, description):
        return started
    size = fitted(_USUAL_FRAME, description.input_size, description.stride_px) if fit else description.input_size

    def feeds(rows: int) -> dict[str, npt.NDArray[Any]]:
        rows = description.fixed_batch or rows
        return description.feeds(zeros(shape_of(description, size, rows), description.image.dtype), size)

    def session(threads: int, spinning: bool) -> Session | None:
        if (threads, spinning) == (started.plan.intra_op_threads, started.plan.allow_spinning):
            return started.session
        model = description.file.path if started.base is None else started.base.model
        return started.runtime.session(model, started.choice, threads, allow_spinning=spinning)

    run_s = run_seconds(started, feeds(1))
    if run_s < WORTH_S:
        return started
    if 3 * run_s > BUDGET_S:
        return started._replace(how=f"not tuned: a run takes {run_s:.1f} s")
    with alone() as is_alone:
        if not is_alone:
            return started._replace(how="not tuned: other models were")
        began_s = time.perf_counter()
        watch = Stopwatch(session, tuple(started.shapes), feeds, started.runtime.errors)
        free = Freedom(True, config.allow_spinning is None, config.max_batch is None and not description.fixed_batch)
        verdict = choose(
            started.plan, free, usable_cores(), watch.measure, lambda: time.perf_counter() - began_s < BUDGET_S
        )
        took_s = time.perf_counter() - began_s
    if not verdict.calm:
        return started._replace(how="not tuned, for the machine is busy")
    how = f"tuned in {took_s:.1f} s: {verdict}"
    try:
        tuning_file(config, ctx, description, started.runtime).keep(verdict)
    except OSError as error:
        how += f" (not kept: {error.strerror})"
    return started._replace(session=watch.session(verdict.plan) or started.session, plan=verdict.plan, how=how)


def may_tune(config: RunConfig, description: ModelDescription) -> bool:
    """Whether there is anything to choose: who sets workers or threads has chosen."""
    by_hand = config.workers is not None or config.intra_op_threads is not None or config.providers is not None
    several = usable_cores() > 1 or (config.max_batch is None and description.fixed_batch is None)
    return config.tune and several and not by_hand


def tuning_file(config: RunConfig, ctx: Context, description: ModelDescription, runtime: Runtime) -> TuningFile:
    about = {
        "model": description.file.path.name,
        "sha256": fingerprint(description.file),
        "input": f"{description.image} {description.input_size.width}x{description.input_size.height}",
        "input_shape": str(getattr(config, "input_shape", "square")),
        "keys": f"max_batch {config.max_batch}, allow_spinning {config.allow_spinning}",
        "runtime": runtime.version,
        **machine(usable_cores()),
    }
    return TuningFile(ctx.data_dir, about)
