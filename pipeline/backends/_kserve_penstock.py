"""`PenstockAsker`: a model behind another Penstock, which takes whole files and answers with boxes in their pixels."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from pipeline.backends._http import Client, Sent
from pipeline.backends._kserve_asking import Described, KserveKeys, ask
from pipeline.contracts.backend import ModelInfo, TextsAre
from pipeline.contracts.errors import BackendErrorCode, ConfigError, TransientError
from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Prediction
from pipeline.models.labels import find_classes, from_file
from pipeline.wire import document
from pipeline.wire.kserve import InferRequest, RequestedOutput
from pipeline.wire.kserve_reading import from_tensors
from pipeline.wire.kserve_results import outputs_of, task_of
from pipeline.wire.kserve_tensors import Parameter, tensor

_MAX_NAMES = 65_536
_TEXTS: Mapping[str, TextsAre] = {"labels": "labels", "question": "question"}


def is_penstock(described: Described) -> bool:
    """Whether a model takes pictures and gives boxes as `pipeline.wire.kserve_results` says."""
    metadata = described.metadata
    inputs = {(spec.name, spec.datatype) for spec in metadata.inputs}
    return ("image", "UINT8") in inputs and task_of(metadata.outputs) is not None


class PenstockAsker:
    """Such a model. Made by the dialect once the server has described it; used on the main loop.

    Raises:
        ConfigError: keys `task`, `labels`, `keypoints`, `classes`: they do not fit the model.
        ValueError: what the server says makes no sense.
    """

    sends_files = True

    def __init__(self, config: KserveKeys, described: Described) -> None:
        self._config = config
        self.info = _info(config, described)
        self.max_batch = described.max_batch or 1
        self._parameters = _parameters(config, self.info)

    async def infer(self, client: Client, pictures: Sequence[Sent], deadline: float | None) -> Sequence[Prediction]:
        """A prediction for each picture. What is wished for single pictures makes requests of their own."""
        found: list[Prediction] = []
        for wishes, group in groupby(pictures, lambda sent: sent.frame.wishes):
            found += await self._infer(client, list(group), wishes, deadline)
        return found

    async def _infer(
        self, client: Client, pictures: Sequence[Sent], wishes: Wishes | None, deadline: float | None
    ) -> list[Prediction]:
        info = self.info
        if wishes is not None and wishes.texts and (info.task == "embedding" or info.texts == "labels"):
            info = replace(info, task="classification", labels=wishes.texts)
        request = InferRequest(
            inputs=(tensor("image", [sent.data for sent in pictures]),),
            outputs=tuple(RequestedOutput(spec.name) for spec in outputs_of(info.task)),
            parameters=self._parameters | _wished(wishes, info.texts),
            binary_output=True,
        )
        answer = await ask(client, self._config, request, deadline)
        return await asyncio.to_thread(from_tensors, answer.outputs, [sent.size for sent in pictures], info)

    def describe(self) -> str:
        """Its task."""
        return f"{self.info.task}, a Penstock"


def _info(config: KserveKeys, described: Described) -> ModelInfo:
    task = task_of(described.metadata.outputs)
    said = described.said.get("task")
    if task == "classification" and "multi-label-classification" in (said, config.task):
        task = "multi-label-classification"  # both have the same outputs
    if task is None:
        raise ValueError("the outputs of the model are not known")
    if config.task not in (None, task):
        raise ConfigError(f"{config.model_name}: the model's task is {task}", key="task")
    labels = _names(described.said, "labels")
    if isinstance(config.labels, Path):
        labels = from_file(config.labels)
    elif config.labels:
        labels = config.labels
    keypoints = config.keypoints or _names(described.said, "keypoints")
    texts = _TEXTS.get(described.said.get("texts", ""))
    return ModelInfo(task, labels, _size(described.said.get("input_size", "")), keypoints, texts)


def _names(said: Mapping[str, str], key: str) -> tuple[str, ...]:
    if key not in said:
        return ()
    names = document.items(document.loads(said[key]), f"the model's {key}", _MAX_NAMES)
    return tuple(document.text(name, f"one of the model's {key}") for name in names)


def _size(text: str) -> Size | None:
    width, _, height = text.partition("x")
    return Size(int(width), int(height)) if width.isdecimal() and height.isdecimal() and len(text) < 16 else None


def _parameters(config: KserveKeys, info: ModelInfo) -> dict[str, Parameter]:
    """What the config asks of every picture. What it does not say is left to the server."""
    keys = ("confidence", "iou_threshold", "max_detections", "class_agnostic_nms", "keypoint_confidence")
    found: dict[str, Parameter] = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    if config.classes is not None:
        ids = find_classes(config.classes, info.labels, len(info.labels) or None)
        if not info.labels:
            raise ConfigError("the model's classes have no names: give `labels`", key="classes")
        names = [info.labels[class_id] for class_id in ids]
        if any("," in name for name in names):
            raise ConfigError("a class name with a comma in it cannot be asked for", key="classes")
        found["classes"] = _joined(names)
    return found


def _wished(wishes: Wishes | None, texts_are: TextsAre | None) -> dict[str, Parameter]:
    if wishes is None:
        return {}
    texts = wishes.texts
    if texts_are == "question" and len(texts) > 1:
        message = "the model takes a question, and not what was said before it"
        raise TransientError(message, code=BackendErrorCode.REJECTED)
    numbers: Mapping[str, Parameter | None] = {
        "confidence": wishes.confidence,
        "iou_threshold": wishes.iou_threshold,
        "max_detections": wishes.max_detections,
        "class_agnostic_nms": wishes.class_agnostic_nms,
        "keypoint_confidence": wishes.keypoint_confidence,
        "classes": None if wishes.classes is None else _joined(wishes.classes),
        "texts": None if not texts else texts[0] if texts_are == "question" else _joined(texts),
    }
    return {key: value for key, value in numbers.items() if value is not None}


def _joined(names: Sequence[str]) -> str:
    if any("," in name for name in names):
        raise TransientError("a name with a comma in it cannot be asked for", code=BackendErrorCode.REJECTED)
    return ",".join(names)
