"""Asking a workflow of a Roboflow server about frames."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.backends._http import Client, Request, Sent
from pipeline.backends._roboflow_asking import Key, read
from pipeline.backends._roboflow_config import RoboflowKeys
from pipeline.backends._roboflow_model import model_task
from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Prediction
from pipeline.wire.roboflow import (
    ImageValue,
    Labels,
    PointLabels,
    WorkflowRequest,
    decode_workflow_output,
    find_output,
    parse_workflow_answer,
)


class WorkflowAsker:
    """One workflow, by its place or by its text. Made by the dialect.

    It is not tried out at the start: what a workflow does with a picture, such as telling somebody, is its own affair.
    """

    max_batch = 64

    def __init__(self, config: RoboflowKeys, specification: Mapping[str, Any] | None) -> None:
        self._config = config
        self._specification = specification
        self._key = Key(config, "body")
        self._labels, self._points = Labels(config.labels), PointLabels()
        self._task: Task | None = model_task(config)
        self.model = "workflow" if config.workflow_id is None else f"{config.workspace}/{config.workflow_id}"

    async def open(self, client: Client) -> ModelInfo | None:
        """Nothing is asked."""
        return None if self._task is None else ModelInfo(self._task, self._config.labels)

    async def infer(
        self, client: Client, pictures: Sequence[Sent], wishes: Wishes | None, deadline: float | None
    ) -> Sequence[Prediction]:
        """What the output that counts says about each picture."""
        config = self._config
        images = [ImageValue.of(sent.data).to_json() for sent in pictures]
        asked = WorkflowRequest(
            {**config.parameters, config.image_input: images if len(images) > 1 else images[0]},
            self._specification,
            config.workspace,
            config.workflow_id,
            config.workflow_version_id,
            api_key=self._key.body,
        )
        body = asked.to_json()
        if self._key.body is None:
            del body["api_key"]
        request = Request("POST", asked.path, query=self._key.body_query, headers=self._key.headers, json=body)
        response = await client.send(request, deadline=deadline)
        return await read(response, partial(self._read, sizes=[sent.size for sent in pictures]))

    def _read(self, document: object, sizes: Sequence[Size]) -> list[Prediction]:
        """The answer. From any thread. Raises ValueError."""
        outputs = parse_workflow_answer(document, len(sizes))
        return [
            decode_workflow_output(
                find_output(output, self._config.output),
                size,
                task=self._task,
                labels=self._labels,
                points=self._points,
            )
            for output, size in zip(outputs, sizes, strict=True)
        ]
