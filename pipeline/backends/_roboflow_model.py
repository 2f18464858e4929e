"""Asking a model of a Roboflow server: by the legacy route (v0), or by the registry and `/infer/...` (v1)."""

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.backends._http import Client, Request, Sent
from pipeline.backends._roboflow_asking import SAMPLE_SIZE, Key, read, sample
from pipeline.backends._roboflow_config import AskedOptions, RoboflowKeys
from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.errors import BackendErrorCode, ConfigError, TransientError
from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Prediction
from pipeline.wire.document import items
from pipeline.wire.roboflow import (
    BODY_FIELDS,
    PATHS,
    REGISTRY_TASKS,
    ImageValue,
    InferRequest,
    Labels,
    ModelOrder,
    Options,
    PointLabels,
    RegistryModel,
    decode_prediction,
    parse_registry,
)

MAX_BATCH = 256

# "classification" is of both kinds; the answer tells.
_TASKS: dict[str, Task] = {name: task for task, name in reversed(REGISTRY_TASKS.items()) if task in PATHS}
_V1_TASKS = frozenset(
    {
        *("object-detection", "instance-segmentation", "keypoint-detection"),
        *("classification", "multi-label-classification", "semantic-segmentation"),
    }
)


class _Reader:
    """Reads answers, and keeps what the model's classes and keypoints are called. From any thread."""

    def __init__(self, config: RoboflowKeys) -> None:
        self._labels = Labels(config.labels)
        self._points = PointLabels()

    def one(self, document: object, size: Size, task: Task | None) -> Prediction:
        """What one response object says. Raises ValueError."""
        return decode_prediction(document, size, task=task, labels=self._labels, points=self._points)

    def several(self, document: object, sizes: Sequence[Size], task: Task | None) -> list[Prediction]:
        """The same of an array, or for one picture of an object. Raises ValueError."""
        if len(sizes) == 1:
            return [self.one(document, sizes[0], task)]
        found = items(document, "the answer to several pictures", len(sizes))
        if len(found) != len(sizes):
            raise ValueError(f"{len(found)} results for {len(sizes)} pictures")
        return [self.one(answer, size, task) for answer, size in zip(found, sizes, strict=True)]


def wished(options: Options, wishes: Wishes | None) -> Options:
    """The options with what is wished for one picture in their place."""
    if wishes is None:
        return options
    asked = {
        "confidence": wishes.confidence,
        "iou_threshold": wishes.iou_threshold,
        "max_detections": wishes.max_detections,
        "class_agnostic_nms": wishes.class_agnostic_nms,
        "class_filter": wishes.classes,
        "keypoint_confidence": wishes.keypoint_confidence,
    }
    return options.model_copy(update={name: value for name, value in asked.items() if value is not None})


class LegacyAsker:
    """v0: one picture as base64 to `/{project}/{version}`. Made by the dialect."""

    max_batch = 1

    def __init__(self, config: RoboflowKeys, model_id: str) -> None:
        self.model = model_id
        self._config = config
        self._options = config.options()
        self._key = Key(config, "query")
        self._reader = _Reader(config)
        self._task: Task | None = model_task(config)

    async def open(self, client: Client) -> ModelInfo | None:
        """Ask about a grey picture: there is nothing else that tells whether the model is there."""
        if self._config.probe:
            options = self._options.model_copy(update={"disable_active_learning": True})
            request = self._request(await asyncio.to_thread(sample), options)
            response = await client.send(request)
            await read(response, lambda document: self._reader.one(document, SAMPLE_SIZE, self._task))
        return None if self._task is None else ModelInfo(self._task, self._config.labels)

    async def infer(
        self, client: Client, pictures: Sequence[Sent], wishes: Wishes | None, deadline: float | None
    ) -> Sequence[Prediction]:
        """What it says about the one picture."""
        [sent] = pictures
        response = await client.send(self._request(sent.data, wished(self._options, wishes)), deadline=deadline)
        return [await read(response, lambda document: self._reader.one(document, sent.size, self._task))]

    def _request(self, data: bytes, options: Options) -> Request:
        query = [*self._key.query, *options.to_query()]
        # The body is no JSON; its label is the one of Roboflow's own client, and any other would do.
        headers = {**self._key.headers, "Content-Type": "application/json", "Accept": "application/json"}
        return Request("POST", f"/{self.model}", query=query, headers=headers, body=base64.b64encode(data))


class ModelAsker:
    """v1: the registry once, then pictures as JSON to `/infer/...`. Made by the dialect."""

    max_batch = MAX_BATCH

    def __init__(self, config: RoboflowKeys, model_id: str, warn: Callable[[str], None]) -> None:
        self.model = model_id
        self._config = config
        self._options = config.options()
        self._key = Key(config, "body")
        self._reader = _Reader(config)
        self._warn = warn
        self._task: Task | None = model_task(config)
        self._is_loaded = False
        self._loading = asyncio.Lock()

    async def open(self, client: Client) -> ModelInfo | None:
        """Have the model loaded, and learn what it does.

        Raises:
            TransientError: the server is not there yet, or has no such model.
            ConfigError: the model does what cannot be used here.
        """
        found = await self._load(client, None)
        if self._task is None:
            self._task = _task_of(found, self.model)
            self._warn_of_options(self._task)
        size = None if found is None else found.input_size
        return ModelInfo(self._task, self._config.labels, size)

    async def infer(
        self, client: Client, pictures: Sequence[Sent], wishes: Wishes | None, deadline: float | None
    ) -> Sequence[Prediction]:
        """What it says about each picture, in one request."""
        if not self._is_loaded:
            async with self._loading:
                if not self._is_loaded:
                    await self._load(client, deadline)
        task = self._task or "object-detection"
        try:
            response = await client.send(
                self._request(task, pictures, wished(self._options, wishes)), deadline=deadline
            )
        except TransientError as error:
            # The server was restarted, or somebody took the model out: the next request has it loaded again.
            self._is_loaded = self._is_loaded and error.code is not BackendErrorCode.NOT_FOUND
            raise
        sizes = [sent.size for sent in pictures]
        return await read(response, lambda document: self._reader.several(document, sizes, task))

    def _request(self, task: Task, pictures: Sequence[Sent], options: Options) -> Request:
        images = tuple(ImageValue.of(sent.data) for sent in pictures)
        body = InferRequest(self.model, images, options=options, api_key=self._key.body).to_json(task)
        query = [*self._key.body_query, *options.to_body_query()]
        return Request("POST", PATHS[task], query=query, headers=self._key.headers, json=_without_none(body))

    async def _load(self, client: Client, deadline: float | None) -> RegistryModel | None:
        """The model's entry in the registry, into which it is brought where it is not; None: there is no registry."""
        listed = Request("GET", "/model/registry", query=self._key.query, headers=self._key.headers)
        try:
            response = await client.send(listed, deadline=deadline)
        except TransientError as error:
            if error.code is BackendErrorCode.NOT_FOUND and self._task is not None:
                self._is_loaded = True
                return None
            raise
        found = await read(response, self._find)
        if found is None:
            order = _without_none(ModelOrder(self.model, self._key.body).to_json())
            query = self._key.body_query
            added = Request("POST", "/model/add", query=query, headers=self._key.headers, json=order)
            found = await read(await client.send(added, deadline=deadline), self._find)
            if found is None:
                message = f"the server took {self.model} and does not list it"
                raise TransientError(message, code=BackendErrorCode.BAD_ANSWER)
        self._is_loaded = True
        return found

    def _find(self, document: object) -> RegistryModel | None:
        return next((model for model in parse_registry(document) if model.model_id == self.model), None)

    def _warn_of_options(self, task: Task) -> None:
        known = BODY_FIELDS[task] | {"count_inference", "service_secret"}
        set_ = [name for name in AskedOptions.model_fields if getattr(self._config, name) is not None]
        lost = [name for name in set_ if name not in known]
        if lost:
            self._warn(f"{', '.join(lost)}: nothing that a model for {task} can be asked, and not sent")


def model_task(config: RoboflowKeys) -> Task | None:
    """The model's task as the config has it; None where it says nothing."""
    return next((task for task in PATHS if task == config.task), None)


def _task_of(found: RegistryModel | None, model_id: str) -> Task:
    said = "" if found is None else found.task_type
    task = _TASKS.get(said)
    if task not in _V1_TASKS or task is None:
        message = f"{model_id} is a model for {ascii(said)[:60]}, which is not used here; set task if that is not so"
        raise ConfigError(message, key="model_id")
    return task


def _without_none(body: dict[str, Any]) -> dict[str, Any]:
    """A key that goes elsewhere leaves no null behind."""
    return {name: value for name, value in body.items() if value is not None}
