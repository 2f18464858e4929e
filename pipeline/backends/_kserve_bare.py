"""`BareAsker`: a model that takes and gives nothing but numbers, fed and read as a local ONNX model is."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.backends._http import Client, Sent
from pipeline.backends._kserve_asking import Described, KserveKeys, ask
from pipeline.contracts.errors import ConfigError, TransientError
from pipeline.contracts.frame import Frame, Size, Wishes
from pipeline.contracts.result import Prediction
from pipeline.models.description import ModelDescription, ModelOptions, Shapes, describe
from pipeline.models.labels import find_classes
from pipeline.models.onnx_file import OnnxFile, TensorInfo
from pipeline.models.preprocess import UNCONVERTIBLE
from pipeline.models.reader import Reader
from pipeline.models.rules import ReadSettings
from pipeline.wire.kserve import InferRequest, RequestedOutput
from pipeline.wire.kserve_models import TensorSpec
from pipeline.wire.kserve_tensors import tensor

_DTYPES: Final = {
    "BOOL": "bool",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
_MAX_BATCH: Final = 256

Arrays = Mapping[str, npt.NDArray[Any]]


class BareAsker:
    """Such a model. Made by `bare`; used on the main loop, pictures are converted and answers read in threads."""

    sends_files = False

    def __init__(self, config: KserveKeys, reader: Reader, max_batch: int) -> None:
        self._config = config
        self._reader = reader
        self.info = reader.info
        self.max_batch = max_batch

    async def infer(self, client: Client, pictures: Sequence[Sent], deadline: float | None) -> Sequence[Prediction]:
        """A prediction for each picture, in its own pixels."""
        reader, frames = self._reader, [sent.frame for sent in pictures]
        feeds = await asyncio.to_thread(_prepared, reader, frames)
        found = await _run(client, self._config, feeds, reader.outputs, deadline)
        sizes, wishes = [frame.picture.size for frame in frames], [frame.wishes for frame in frames]
        return await asyncio.to_thread(_read, reader, found, sizes, wishes)

    def describe(self) -> str:
        """Its family and size."""
        model = self._reader.model
        return f"{model.task}, {self._reader.choice.family.name}, {model.input_size.width}x{model.input_size.height}"


async def bare(client: Client, config: KserveKeys, described: Described) -> BareAsker:
    """Find out all about such a model; where its outputs' shapes are dynamic, it is run once, on an empty picture.

    Raises:
        ConfigError: with the key to blame: what the server says of the model does not fit any family, or the config.
        TransientError: the trial run failed.
        ValueError: its answer makes no sense.
    """
    file = _as_file(config, described)
    model = _described(config, file)
    if model.choice is None:
        model = _described(config, file, await _trial(client, config, model))
    if model.choice is None:
        raise ConfigError(f"{config.model_name}: the family of the model is not known after a trial run", key="family")
    ids = None if config.classes is None else find_classes(config.classes, model.labels, model.classes)
    usual = ReadSettings()
    settings = ReadSettings(
        confidence=usual.confidence if config.confidence is None else config.confidence,
        iou_threshold=usual.iou_threshold if config.iou_threshold is None else config.iou_threshold,
        max_detections=config.max_detections or usual.max_detections,
        class_agnostic_nms=bool(config.class_agnostic_nms),
        class_ids=ids,
        keypoint_confidence=config.keypoint_confidence or 0.0,
    )
    most = model.fixed_batch or described.max_batch or _MAX_BATCH
    return BareAsker(config, Reader(model, settings), most)


def _as_file(config: KserveKeys, described: Described) -> OnnxFile:
    """What the server says of the model, as an ONNX file would say it."""
    return OnnxFile(
        path=Path(config.model_name),
        inputs=tuple(_tensor(spec) for spec in described.metadata.inputs),
        outputs=tuple(_tensor(spec) for spec in described.metadata.outputs),
        metadata=dict(described.said) | _names(described.said),
    )


def _names(said: Mapping[str, str]) -> dict[str, str]:
    """The names of the classes as an ONNX file has them: ours are a JSON list under `labels`."""
    return {"names": said["labels"]} if "labels" in said and "names" not in said else {}


def _tensor(spec: TensorSpec) -> TensorInfo:
    shape = tuple(side if side >= 0 else "" for side in spec.shape)
    return TensorInfo(spec.name, _DTYPES.get(spec.datatype, spec.datatype), shape)


def _described(config: KserveKeys, file: OnnxFile, shapes: Shapes | None = None) -> ModelDescription:
    size = config.input_size
    options = ModelOptions(
        family=config.family,
        task=config.task,
        labels=config.labels,
        keypoints=config.keypoints,
        input_size=Size(size, size) if isinstance(size, int) else size and Size(*size),
        preprocess=config.preprocess,
    )
    try:
        return describe(file, options, shapes)
    except ConfigError as error:
        # What a file would be blamed for, is here that of the model by that name.
        raise ConfigError(str(error), key="model_name" if error.key == "model" else error.key) from error


async def _trial(client: Client, config: KserveKeys, model: ModelDescription) -> dict[str, tuple[int, ...]]:
    (width, height), rows = model.input_size, model.fixed_batch or 1
    shape = (rows, height, width, 3) if model.channels_last else (rows, 3, height, width)
    feeds = model.feeds(np.zeros(shape, model.image.dtype), model.input_size)
    found = await _run(client, config, feeds, (), None)
    return {name: array.shape for name, array in found.items()}


async def _run(
    client: Client, config: KserveKeys, feeds: Arrays, outputs: Sequence[str], deadline: float | None
) -> dict[str, npt.NDArray[Any]]:
    request = InferRequest(
        inputs=tuple(tensor(name, values) for name, values in feeds.items()),
        outputs=tuple(RequestedOutput(name, binary=True if config.binary else None) for name in outputs),
        binary_output=config.binary,
    )
    answer = await ask(client, config, request, deadline)
    return {one.name: one.array for one in answer.outputs}


def _read(
    reader: Reader, outputs: Arrays, sizes: Sequence[Size], wishes: Sequence[Wishes | None]
) -> Sequence[Prediction]:
    for name in reader.outputs:
        array = outputs.get(name)
        # A head leaves out what is no number, which would make an empty picture of a server that is out of order.
        if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"output {name!r} holds what is no finite number")
    return reader.read_batch(outputs, sizes, wishes)


def _prepared(reader: Reader, frames: Sequence[Frame]) -> Arrays:
    try:
        return reader.prepare([frame.picture for frame in frames])
    except UNCONVERTIBLE as error:  # the next frame may be fine
        raise TransientError(f"frame {frames[0].seq} of {frames[0].source} cannot be converted: {error}") from error
