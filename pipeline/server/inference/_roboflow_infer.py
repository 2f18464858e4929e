"""Inference at the Roboflow routes of version 1, `POST /infer/...`, and what the legacy route shares with them."""

import base64
import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Picture
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.runtime.asking import Answer, Served
from pipeline.server.inference import _roboflow_draw as draw
from pipeline.server.inference._roboflow_answers import Bench, loaded, pictures_of, schema, timed
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import Handler, InferenceRoute, Service, json_answer
from pipeline.wire.roboflow import PATHS, InferRequest, Options, encode_response, parse_infer_request

_V1_TASKS: tuple[Task, ...] = (
    "object-detection",
    "instance-segmentation",
    "keypoint-detection",
    "classification",
    "semantic-segmentation",
)
_SHAPES: Final[dict[Task, type[Prediction]]] = {
    "classification": Classification,
    "multi-label-classification": Classification,
    "semantic-segmentation": SemanticMask,
    "embedding": Embedding,
    "text": Text,
}


class Inference:
    """Asks the models and writes their answers. Made by the dialect, used on the main loop."""

    def __init__(self, service: Service, bench: Bench) -> None:
        self._service = service
        self._bench = bench

    def routes(self) -> list[InferenceRoute]:
        """`/infer/...` for every task of version 1."""
        return [
            InferenceRoute("POST", PATHS[task], timed(self._handler(task)), f"Use a model: {task}")
            for task in _V1_TASKS
        ]

    def _handler(self, task: Task) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            body = await self._service.json(request)
            with schema():
                asked = parse_infer_request(task, body, list(request.query.items()))
            return await self._infer(task, asked)

        return handle

    async def _infer(self, task: Task, asked: InferRequest) -> web.Response:
        check_task(await loaded(self._service, asked.model_id), task)
        pictures = await pictures_of(self._service, asked.images)
        answers = await self._service.infer(asked.model_id, pictures, asked.options.wishes())
        bodies = await self.bodies(task, pictures, answers, asked.options)
        response = json_answer(bodies if asked.many else bodies[0])
        response.headers["X-Model-Id"] = asked.model_id
        return response

    async def bodies(
        self, task: Task | None, pictures: Sequence[Picture], answers: Sequence[Answer], options: Options
    ) -> list[dict[str, Any]]:
        """One response object for each picture, all with the same `inference_id`.

        Args:
            task: whose shape they shall have; None: the model's own.
            pictures: that were asked about.
            answers: to them.
            options: what is asked of the answer.

        Raises:
            RefusedError: 400: the model's answer has another shape.
        """
        inference_id = str(uuid.uuid4())
        bodies = []
        for picture, answer in zip(pictures, answers, strict=True):
            prediction = answer.prediction if task is None else as_task(answer.prediction, task)
            drawn = await self.drawn(picture, prediction, options) if options.visualize_predictions else None
            body = self.body(picture, answer, prediction, options=options, inference_id=inference_id, drawn=drawn)
            bodies.append(await body)
        return bodies

    async def body(
        self,
        picture: Picture,
        answer: Answer,
        prediction: Prediction,
        *,
        options: Options,
        inference_id: str,
        drawn: bytes | None = None,
    ) -> dict[str, Any]:
        """The response object of one picture; `drawn` is a JPEG file."""

        def write() -> dict[str, Any]:
            return encode_response(
                prediction,
                picture.size,
                time_s=answer.inference_s,
                inference_id=inference_id,
                masks=options.response_mask_format or "polygon",
                visualization=None if drawn is None else base64.b64encode(drawn).decode("ascii"),
            )

        is_much = isinstance(prediction, SemanticMask) or getattr(prediction, "masks", None) is not None
        return await self._bench.do(write) if is_much or drawn is not None else write()

    async def drawn(self, picture: Picture, prediction: Prediction, options: Options) -> bytes:
        """The picture with the prediction on it, as a JPEG file."""
        stroke_px, labels = options.stroke_width or 1, bool(options.visualize_labels)
        return await self._bench.do(
            lambda: draw.jpeg(draw.annotated(picture, prediction, stroke_px=stroke_px, labels=labels))
        )


def check_task(served: Served, task: Task) -> None:
    """Refuse early what the model cannot do; a model that is not ready yet is not known well enough.

    Raises:
        RefusedError: 400, naming the path that would be right.
    """
    if served.info is None:
        return
    if not _fits(served.info.task, task):
        right = PATHS.get(served.info.task)
        hint = "" if right is None else f": ask {right}"
        raise RefusedError(400, f"the model does {served.info.task}, not {task}{hint}", kind="task")


def _fits(has: Task, asked: Task) -> bool:
    if asked == "object-detection":
        return has in ("object-detection", "instance-segmentation", "keypoint-detection")
    if asked == "classification":
        return has in ("classification", "multi-label-classification")
    return has == asked


def as_task(prediction: Prediction, task: Task) -> Prediction:
    """The prediction in the shape of a task: boxes alone of objects with masks or keypoints.

    Raises:
        RefusedError: 400: it has not that shape.
    """
    if task == "object-detection" and isinstance(prediction, Detections):
        return dataclasses.replace(prediction, masks=None, keypoints=None)
    if not _has_shape(prediction, task):
        raise RefusedError(400, f"the model's answer is none of {task}", kind="task")
    return prediction


def _has_shape(prediction: Prediction, task: Task) -> bool:
    if isinstance(prediction, Detections):
        has = {"instance-segmentation": prediction.masks, "keypoint-detection": prediction.keypoints}
        return task in has and (has[task] is not None or not len(prediction))
    return isinstance(prediction, _SHAPES.get(task, ()))
