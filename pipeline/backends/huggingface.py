"""The `huggingface` backend: a model behind the Hugging Face inference protocol, hosted or of one's own."""

import asyncio
import io
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, model_validator

from pipeline.backends._http import Client, Request, Response, Sent
from pipeline.backends._http_backend import HttpBackend
from pipeline.backends._http_config import HttpBackendConfig, sendable
from pipeline.contracts.backend import ModelInfo, Task, TextsAre
from pipeline.contracts.component import Context
from pipeline.contracts.errors import BackendErrorCode, TransientError
from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.http import HttpUrl
from pipeline.contracts.result import Prediction, Text
from pipeline.contracts.secret import SecretUrl
from pipeline.wire.huggingface import SPECS, canonical, decode_body
from pipeline.wire.huggingface_answers import (
    LabelTable,
    Pooling,
    decode_answers,
    decode_classes,
    decode_detections,
    decode_extract,
    decode_text,
    decode_vector,
)
from pipeline.wire.huggingface_masks import Kind, decode_segmentation
from pipeline.wire.huggingface_requests import Ask, encode_ask, vision_parameters

HOSTED = "https://router.huggingface.co/hf-inference"
"""Where a model goes by its id alone, if no other server is named."""

FrameTask = Literal[
    "document-question-answering",
    "feature-extraction",
    "image-classification",
    "image-feature-extraction",
    "image-segmentation",
    "image-to-text",
    "object-detection",
    "visual-question-answering",
    "zero-shot-image-classification",
]
_TASK_OF: Mapping[FrameTask, Task] = {
    "document-question-answering": "text",
    "feature-extraction": "embedding",
    "image-classification": "classification",
    "image-feature-extraction": "embedding",
    "image-segmentation": "instance-segmentation",
    "image-to-text": "text",
    "object-detection": "object-detection",
    "visual-question-answering": "classification",
    "zero-shot-image-classification": "classification",
}
_TEXTS: Mapping[str, TextsAre] = {
    "document-question-answering": "question",
    "visual-question-answering": "question",
    "zero-shot-image-classification": "labels",
}
_KINDS: Mapping[str | None, Kind] = {
    None: "auto",
    "instance": "objects",
    "panoptic": "objects",
    "semantic": "semantic",
}
_WITH_TASK_IN_PATH = frozenset({"feature-extraction"})
_THREAD_FROM_BYTES = 64 << 10
_SAMPLE_SIDE_PX = 64


def _frame_task(value: object) -> object:
    """As the hub writes tasks, or as the client's methods are called."""
    if not isinstance(value, str):
        return value
    name = canonical(value) or value
    if name not in _TASK_OF and name in SPECS:
        raise ValueError(f"{name} is not about the pictures of a camera; tasks that are: {', '.join(_TASK_OF)}")
    return name


def _parameters(value: dict[str, Any]) -> dict[str, Any]:
    vision_parameters(value)
    return sendable(value)


ModelId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,3}$", max_length=200),
]


class HuggingFaceBackendConfig(HttpBackendConfig):
    """A model behind the Hugging Face inference protocol."""

    type: Literal["huggingface"] = "huggingface"
    url: HttpUrl = Field(
        default=SecretUrl(HOSTED),
        description="of the server, in front of /models/...; with no `model`: what is asked, as it is",
    )
    task: Annotated[FrameTask, BeforeValidator(_frame_task)] = Field(
        description="object_detection, image_segmentation, image_classification, ...: what is asked of the model"
    )
    model: ModelId | HttpUrl | None = Field(
        default=None, description="an id, such as facebook/detr-resnet-50, or the URL of an endpoint"
    )
    token: SecretStr | None = Field(default=None, description="is sent as Authorization: Bearer")
    parameters: Annotated[dict[str, Any], AfterValidator(_parameters)] = Field(
        default={},
        description="of the task, as the server knows them: threshold, top_k, candidate_labels, question, ...",
    )
    labels: tuple[str, ...] = Field(
        default=(),
        description="names of the objects' classes in their order; others get the next numbers as they turn up",
    )
    pooling: Pooling = Field(
        default="none", description="what to make of several vectors for one picture: none (an error), first, mean"
    )
    wait_for_model: bool = Field(
        default=True, description="at the start, have the server load the model, and wait until it answers"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        hosted = self.url.reveal() == HOSTED
        if isinstance(self.model, SecretUrl) and not hosted:
            raise ValueError("url and model are both URLs: give one of them")
        if self.model is None and hosted:
            raise ValueError("model is missing: the id of one, or the URL of an endpoint")
        labels, question = self.parameters.get("candidate_labels"), self.parameters.get("question")
        if self.task == "zero-shot-image-classification" and not labels:
            raise ValueError('zero_shot_image_classification needs parameters = { candidate_labels = ["...", "..."] }')
        if "question" in SPECS[self.task].fields and not (isinstance(question, str) and question):
            raise ValueError(f'{self.task} needs parameters = {{ question = "..." }}')
        return self

    def check(self) -> None:
        """Find certificates that cannot be read."""
        self._with_url().tls()

    def build(self, ctx: Context) -> HttpBackend:
        """Make the backend; asks nobody."""
        config = self._with_url()
        return HttpBackend(config, ctx, HuggingFaceDialect(config))

    def _with_url(self) -> Self:
        """The same with the server in `url`, where it was named by `model`."""
        if not isinstance(self.model, SecretUrl):
            return self
        return self.model_copy(update={"url": self.model, "model": None})


class HuggingFaceDialect:
    """The protocol of one backend. Made by its config; its coroutines run on the main loop."""

    max_batch = 1

    def __init__(self, config: HuggingFaceBackendConfig) -> None:
        self._config = config
        self._table = LabelTable(config.labels)
        self._asked = vision_parameters(config.parameters)
        fields = SPECS[config.task].fields
        question = (str(config.parameters.get("question")),)
        self._texts = question if "question" in fields else self._asked.candidate_labels
        self._parameters = {key: value for key, value in config.parameters.items() if key not in fields}
        self._headers = {"Accept": "application/json"}
        if config.token is not None:
            self._headers["Authorization"] = f"Bearer {config.token.get_secret_value()}"
        self.model = config.model if isinstance(config.model, str) else config.url.host

    async def open(self, client: Client) -> ModelInfo:
        """Have the model loaded: it is asked about a small grey picture, whose answer is checked and forgotten.

        Raises:
            TransientError: it does not answer, or not to this task.
        """
        task = _TASK_OF[self._config.task]
        if self._config.wait_for_model:
            sample = await asyncio.to_thread(_sample, self._config.format)
            headers = {**self._headers, "X-Wait-For-Model": "1"}
            request = self._request(sample, f"image/{self._config.format}", headers, self._texts)
            response = await client.send(request)
            try:
                size, table = Size(_SAMPLE_SIDE_PX, _SAMPLE_SIDE_PX), LabelTable(self._config.labels)
                found = await asyncio.to_thread(self._read, response, size, table, self._texts)
                # A server whose model gives an answer without a score is a text's, whatever the protocol says.
                task = "text" if isinstance(found, Text) else task
            except ValueError as error:
                message = f"{self._config.where} does not answer as {self._config.task} should: {error}"
                raise TransientError(message, code=BackendErrorCode.BAD_ANSWER) from error
        if self._asked.subtask == "semantic":
            task = "semantic-segmentation"
        labels = self._asked.candidate_labels or self._config.labels
        return ModelInfo(task, labels, texts=_TEXTS.get(self._config.task))

    async def infer(self, client: Client, pictures: Sequence[Sent], deadline: float | None) -> Sequence[Prediction]:
        """A prediction for the one picture; its own texts go before those of the config.

        Raises TransientError where the protocol has no place for what was said before the question.
        """
        [sent] = pictures
        texts = self._texts_of(sent.frame.wishes)
        request = self._request(sent.data, sent.media_type, self._headers, texts)
        response = await client.send(request, deadline=deadline)
        if len(response.body) < _THREAD_FROM_BYTES:
            return [self._read(response, sent.size, self._table, texts)]
        return [await asyncio.to_thread(self._read, response, sent.size, self._table, texts)]  # masks take time

    def describe(self) -> str:
        """Which model where."""
        name = self._config.model if isinstance(self._config.model, str) else "the model"
        return f"{self._config.task} by {name} at {self._config.where}"

    async def close(self, client: Client) -> None:
        """Nothing is under way."""

    def _texts_of(self, wishes: Wishes | None) -> tuple[str, ...]:
        kind = _TEXTS.get(self._config.task)
        if kind is None or wishes is None or not wishes.texts:
            return self._texts
        if kind == "question" and len(wishes.texts) > 1:
            message = f"{self._config.task} takes a question, and not what was said before it"
            raise TransientError(message, code=BackendErrorCode.REJECTED)
        return wishes.texts

    def _request(self, data: bytes, media_type: str, headers: Mapping[str, str], texts: Sequence[str]) -> Request:
        """As the current client of the vendor writes it: the file itself, or with parameters JSON around it."""
        inputs: dict[str, Any] = {"image": data}
        if self._config.task == "feature-extraction":
            return Request("POST", self._path(), headers={**headers, "Content-Type": media_type}, body=data)
        parameters = self._parameters
        match _TEXTS.get(self._config.task):
            case "question":
                inputs["question"] = texts[0]
            case "labels" if texts is not self._texts:
                # Whoever wishes for texts has made whole ones: they are not put into a template once more.
                parameters = {**parameters, "candidate_labels": list(texts), "hypothesis_template": "{}"}
        body = encode_ask(self._config.task, Ask(inputs, parameters), media_type)
        if body.data is None:
            return Request("POST", self._path(), headers=headers, json=body.document)
        # Endpoints refuse a picture that does not say what it is.
        return Request("POST", self._path(), headers={**headers, "Content-Type": media_type}, body=body.data)

    def _path(self) -> str:
        model, task = self._config.model, self._config.task
        if not isinstance(model, str):
            return ""
        if task not in _WITH_TASK_IN_PATH:
            return f"/models/{model}"
        hosted = self._config.url.host == SecretUrl(HOSTED).host
        return f"/models/{model}/pipeline/{task}" if hosted else f"/pipeline/{task}/{model}"

    def _read(self, response: Response, size: Size, table: LabelTable, texts: Sequence[str]) -> Prediction:
        """The answer. From any thread.

        Raises:
            ValueError: it is none to this task.
        """
        document = decode_body(response.body)
        prediction: Prediction
        match self._config.task:
            case "object-detection":
                prediction = decode_detections(document, table)
            case "image-segmentation":
                prediction = decode_segmentation(document, size, table, _KINDS[self._asked.subtask])
            case "image-classification":
                prediction = decode_classes(document)
            case "zero-shot-image-classification":
                prediction = decode_classes(document, texts)
            case "visual-question-answering":
                prediction = decode_answers(document)
            case "document-question-answering":
                prediction = decode_extract(document)
            case "image-to-text":
                prediction = decode_text(document)
            case "feature-extraction" | "image-feature-extraction":
                prediction = decode_vector(document, self._config.pooling)
        return prediction


def _sample(file_format: str) -> bytes:
    """A small grey picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (_SAMPLE_SIDE_PX, _SAMPLE_SIDE_PX), (128, 128, 128)).save(buffer, file_format.upper())
    return buffer.getvalue()
