"""`Order`: what one `penstock quantize` is asked for, and what can be found out, or refused, before the work begins."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Size
from pipeline.contracts.paths import ConfigPath
from pipeline.models.description import ModelDescription, ModelOptions, Shapes, describe
from pipeline.models.families import FAMILIES
from pipeline.models.letterbox import fitted
from pipeline.models.onnx_file import read_onnx
from pipeline.quantize.ranges import Method


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for.

    Attributes:
        model: the float model: a path, or `pkg:PACKAGE/path`.
        pictures: videos, pictures, folders or patterns to calibrate on; what is labelled is not, if there is more.
        out: where the result goes; None: `NAME_int8.onnx` in the current folder.
        method: how ranges are cut.
        frames: pictures to calibrate on; half as many more are held out where nothing is labelled.
        labels: COCO's JSON or a folder of YOLO's files, for AP.
        max_loss: refuse to write what lost more, 0..1; None: `MAX_LOSS`.
        accept_loss: write it anyway.
        family: how the output is read.
        input_size: side that a model with a dynamic input is fed.
    """

    model: str
    pictures: tuple[str, ...]
    out: Path | None = None
    method: Method = "percentile"
    frames: int = 64
    labels: Path | None = None
    max_loss: float | None = None
    accept_loss: bool = False
    family: str = "auto"
    input_size: int | None = None


def input_size_for(description: ModelDescription, frame: Size) -> Size:
    """The input that a frame of this size comes in, as the backend does it with `input_shape = "auto"`."""
    if description.whole_input is not None:
        return description.input_size
    return fitted(frame, description.input_size, description.stride_px)


def refuse_output(out: Path) -> None:
    """What cannot be written is found before the work, not after it.

    Raises:
        ConfigError: why the result cannot go there.
    """
    folder = out.absolute().parent
    if out.is_dir():
        raise ConfigError(f"--output {out} is a folder; give a file name in it")
    if not folder.is_dir():
        raise ConfigError(f"--output {out}: there is no folder {out.parent}")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--output {out}: the folder cannot be written")


def model_path(text: str) -> Path:
    """The model's file.

    Raises:
        ConfigError: key `model`: there is none.
    """
    try:
        return TypeAdapter(ConfigPath).validate_python(text, context={"base_dir": Path.cwd()})
    except ValidationError as error:
        raise ConfigError(f"{text}: {error.errors()[0]['msg'].removeprefix('Value error, ')}", key="model") from error


def described(model: Path, order: Order) -> ModelDescription:
    """The model, with the shapes of a trial run where the graph leaves them open.

    Raises:
        ConfigError: there is no such family, or the model cannot be read or run.
    """
    known = [family.name for family in FAMILIES]
    if order.family not in {"auto", *known}:
        raise ConfigError(f"--family {order.family}: there is none; known are {', '.join(known)}", key="family")
    side = order.input_size
    options = ModelOptions(family=order.family, input_size=None if side is None else Size(side, side))
    file = read_onnx(model)
    description = describe(file, options)
    if description.choice is None:
        description = describe(file, options, _tried(description))
    return description


def _tried(description: ModelDescription) -> Shapes:
    import numpy as np
    import onnxruntime

    size, rows = description.input_size, description.fixed_batch or 1
    sides = (size.height, size.width, 3) if description.channels_last else (3, size.height, size.width)
    feeds = description.feeds(np.zeros((rows, *sides), description.image.dtype), size)
    names = [output.name for output in description.file.outputs]
    try:
        session = onnxruntime.InferenceSession(str(description.file.path), providers=["CPUExecutionProvider"])
        outputs = session.run(names, feeds)
    except Exception as error:  # onnxruntime's own classes have no common one; whatever it is, the model is to blame
        line = " ".join(str(error).split())[:300]
        raise ConfigError(f"{description.file.path}: the model cannot be run: {line}", key="model") from error
    return {name: np.shape(output) for name, output in zip(names, outputs, strict=True)}
