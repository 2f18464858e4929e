"""`Started`: a model in its session that has run once, and what its runs tell."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.backends._onnx.device import DeviceChoice
from pipeline.backends._onnx.session import OutOfMemoryError, Runtime, Session, decide_run_error, zeros
from pipeline.backends._onnx.tuning import Plan
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Size
from pipeline.models.description import ModelDescription, Shapes
from pipeline.models.letterbox import fitted

_WIDE_FRAME = Size(2, 1)  # of another shape than any usual input


class Launch(NamedTuple):
    """With what a model is to be started.

    Attributes:
        runtime: what loads it.
        choice: what it shall run on.
        plan: how many runs overlap, and how large they are.
    """

    runtime: Runtime
    choice: DeviceChoice
    plan: Plan

    def session(self, model: Path | bytes) -> Session | None:
        """The model, loaded; None where the provider that it must have does not start.

        Raises:
            ConfigError: with key `model`: the runtime cannot load it.
        """
        _, threads, spinning, _ = self.plan
        return self.runtime.session(model, self.choice, threads, allow_spinning=spinning)


class Base(NamedTuple):
    """A rewritten model, which is loaded in the place of the model's own file.

    Attributes:
        model: a file, or its bytes where it could not be kept.
        sha256: of it.
        done: what was rewritten, in words.
    """

    model: Path | bytes
    sha256: str
    done: tuple[str, ...]


class Started(NamedTuple):
    """A model that runs.

    Attributes:
        session: the loaded model.
        runtime: what it is loaded with.
        choice: what it really runs on.
        shapes: the true shapes of its outputs.
        plan: how many runs overlap, and how large they are.
        how: where the plan comes from, in a few words; empty where nothing was measured.
        base: what is loaded; None: the model's own file.
        graph: what was found out about its graph just now, in a few words.
    """

    session: Session
    runtime: Runtime
    choice: DeviceChoice
    shapes: Shapes
    plan: Plan
    how: str = ""
    base: Base | None = None
    graph: str = ""

    @property
    def launch(self) -> Launch:
        """With what it was started."""
        return Launch(self.runtime, self.choice, self.plan)

    @property
    def said(self) -> str:
        """What the log is to say of it, once."""
        return "; ".join(filter(None, (self.graph, self.how)))

    @property
    def device(self) -> str:
        """What it runs on: "cpu", "cuda:N", or the name of a provider."""
        return self.choice.device

    @property
    def concurrency(self) -> int:
        """How many runs may overlap."""
        return self.plan.workers

    @property
    def max_batch(self) -> int:
        """Frames in one run."""
        return self.plan.max_batch


def trial(
    session: Session, runtime: Runtime, model: ModelDescription, batch: int, *, may_halve: bool = False
) -> Shapes:
    """Run once with empty pictures: warms up, and tells the true shapes.

    Args:
        session: the model.
        runtime: what it is loaded with.
        model: how it is fed.
        batch: so many pictures.
        may_halve: fewer do, too, where there is no memory for so many.

    Raises:
        ConfigError: the model does not run, or takes no batch.
    """
    rows = model.fixed_batch or batch
    try:
        shapes = run_empty(session, model, model.input_size, rows)
    except runtime.errors as error:
        decided = decide_run_error(error)
        if may_halve and rows > 1 and model.fixed_batch is None and isinstance(decided, OutOfMemoryError):
            return trial(session, runtime, model, (rows + 1) // 2, may_halve=True)
        fed = f"fed with {model.image.dtype} {list(shape_of(model, model.input_size, rows))}"
        raise ConfigError(f"{model.file.path}: {decided} ({fed})", key="model") from error
    if rows > 1 and all(len(s) < 2 or s[0] != rows for s in shapes.values()):
        raise ConfigError(f"{model.file.path}: fed with {rows} frames, the model answers {shapes}", key="max_batch")
    return shapes


def refuses_rectangles(started: Started, description: ModelDescription) -> str | None:
    """Why a model whose sides are open is not to be fed rectangles, or None: some are dynamic by name only.

    An empty text: there is no smaller input.
    """
    size = fitted(_WIDE_FRAME, description.input_size, description.stride_px)
    if size == description.input_size:
        return ""
    try:
        shapes = run_empty(started.session, description, size, description.fixed_batch or 1)
    except started.runtime.errors as error:
        return str(decide_run_error(error))
    raw = description.choice is not None and description.choice.family.needs_nms  # as many candidates as cells
    if raw and all(s[1:] == started.shapes[n][1:] for n, s in shapes.items()):
        return f"a smaller input of {size.width}x{size.height} has as many candidates"
    return None


def run_seconds(started: Started, feeds: dict[str, npt.NDArray[Any]]) -> float:
    """Seconds of one run, the shorter of two after the first one, which asks for memory."""
    names, taken = list(started.shapes), []
    started.session.run(names, feeds)
    for _ in range(2):
        began_s = time.perf_counter()
        started.session.run(names, feeds)
        taken.append(time.perf_counter() - began_s)
    return min(taken)


def shape_of(model: ModelDescription, size: Size, rows: int) -> tuple[int, ...]:
    """The shape of the input tensor for so many frames."""
    return (rows, size.height, size.width, 3) if model.channels_last else (rows, 3, size.height, size.width)


def run_empty(session: Session, model: ModelDescription, size: Size, rows: int) -> Shapes:
    """Run once with empty pictures; the shapes of the outputs."""
    names = [output.name for output in model.file.outputs]
    outputs = session.run(names, model.feeds(zeros(shape_of(model, size, rows), model.image.dtype), size))
    return {name: np.shape(output) for name, output in zip(names, outputs, strict=True)}
