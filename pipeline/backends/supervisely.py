"""The `supervisely` backend: a model that a Supervisely serving app offers, on its own or on a platform."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import uuid4

from pydantic import AfterValidator, Field, SecretStr, model_validator

from pipeline.backends._http import Client, Request, Sent
from pipeline.backends._http_backend import HttpBackend
from pipeline.backends._http_config import HttpBackendConfig, sendable
from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.component import Context
from pipeline.contracts.errors import BackendErrorCode, ConfigError, TransientError
from pipeline.contracts.frame import Wishes
from pipeline.contracts.http import HttpUrl
from pipeline.contracts.result import Detections, Prediction
from pipeline.contracts.secret import SecretUrl, redact
from pipeline.wire.document import loads, mapping, quoted, text
from pipeline.wire.http import Part
from pipeline.wire.supervisely import decode_popped, decode_result, decode_results, decode_session_info, decode_start
from pipeline.wire.supervisely_meta import Meta, decode_meta
from pipeline.wire.supervisely_objects import decode_annotation
from pipeline.wire.supervisely_state import encode_body, encode_state

SERVING_APP = "http://127.0.0.1:8000"
"""Where a serving app listens that was started by hand."""

_MOST_PICTURES = 256
_MAX_LEFT_OVER = 64
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
_THREAD_FROM_BYTES = 64 << 10

T = TypeVar("T")


Side = Annotated[int, Field(ge=1, le=16_384)]


class SuperviselyBackendConfig(HttpBackendConfig):
    """A model behind the Supervisely prediction API."""

    type: Literal["supervisely"] = "supervisely"
    url: HttpUrl = Field(default=SecretUrl(SERVING_APP), description="of the model: its serving app")
    server: HttpUrl | None = Field(default=None, description="of the platform, in place of url; with task_id and token")
    task_id: int | None = Field(default=None, ge=1, description="of the serving app on the platform")
    token: SecretStr | None = Field(default=None, min_length=1, description="is sent as x-api-key")
    settings: Annotated[dict[str, Any], AfterValidator(sendable)] = Field(
        default={}, description="of the inference, as the app knows them: conf, iou, max_det, ..."
    )
    conf: float | None = Field(default=None, ge=0, le=1, description="the setting of this name, in short")
    classes: tuple[str, ...] | None = Field(default=None, min_length=1, description="names of the classes to keep")
    img_size: Side | tuple[Side, Side] | None = Field(
        default=None, description="side, or [height, width], at which the model looks at the picture"
    )
    session: bool = Field(default=False, description="start a session for each batch and fetch its results")
    task: Task | None = Field(default=None, description="what the model does, where the app does not say")

    @model_validator(mode="before")
    @classmethod
    def _platform(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("server") is not None:
            if "url" in data and data["url"] != data["server"]:
                raise ValueError("url names a serving app, and server a platform: give one of them")
            return {**data, "url": data["server"]}
        return data

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.server is None) != (self.task_id is None):
            raise ValueError("server and task_id go together: both or none")
        if self.task_id is not None and self.token is None:
            raise ValueError("a platform wants a token")
        if self.token is not None and not self.token.get_secret_value().isascii():
            raise ValueError("token holds characters that no header can")
        if "classes" in self.settings and self.classes is not None:
            raise ValueError("classes stands in settings, too: give it once")
        return self

    def build(self, ctx: Context) -> HttpBackend:
        """Make the backend; asks nobody."""
        return HttpBackend(self, ctx, SuperviselyDialect(self))


class SuperviselyDialect:
    """The protocol of one backend. Made by its config; its coroutines run on the main loop."""

    def __init__(self, config: SuperviselyBackendConfig) -> None:
        self._config = config
        self.model = "supervisely" if config.task_id is None else f"task {config.task_id}"
        self.max_batch = _MOST_PICTURES
        self._headers = {"x-api-key": config.token.get_secret_value()} if config.token is not None else {}
        self._settings = dict(config.settings)
        if config.conf is not None:
            self._settings["conf"] = config.conf
        if config.img_size is not None:
            size = config.img_size
            self._settings["img_size"] = size if isinstance(size, int) else list(size)
        if config.classes is not None:
            self._settings["classes"] = list(config.classes)
        self._meta = Meta()
        self._task = config.task
        self._base: str | None = "" if config.task_id is None else None
        # Sessions that could not be cleared when they were through: they failed, or there was no time left.
        self._left_over: deque[str] = deque(maxlen=_MAX_LEFT_OVER)

    async def open(self, client: Client) -> ModelInfo:
        """Ask what the model is and which classes it knows.

        Raises:
            TransientError: it does not answer yet.
            ConfigError: key `classes`: it does not know one of them.
        """
        info = decode_session_info(await self._ask(client, "get_session_info", encode_state({})))
        self._meta = decode_meta(await self._ask(client, "get_model_meta", encode_state({})))
        self._task = self._config.task or info.task or self._meta.task()
        self.model = info.app_name or self.model
        self.max_batch = min(info.max_batch or _MOST_PICTURES, _MOST_PICTURES)
        names = self._meta.tags if self._is_classifier else self._meta.titles
        for name in self._config.classes or ():
            if names and name not in names:
                known = ", ".join(names[:20])
                raise ConfigError(f"the model has no class {quoted(name)}; it has {known}", key="classes")
        return ModelInfo(self._task or "object-detection", names, keypoints=self._meta.keypoints)

    async def infer(self, client: Client, pictures: Sequence[Sent], deadline: float | None) -> Sequence[Prediction]:
        """A prediction for each picture; those for which the same is asked go out together."""
        groups: dict[Wishes | None, list[int]] = {}
        for index, sent in enumerate(pictures):
            groups.setdefault(sent.frame.wishes, []).append(index)
        found: dict[int, Prediction] = {}
        for wishes, indexes in groups.items():
            together = [pictures[index] for index in indexes]
            settings = self._settings | _as_settings(wishes)
            annotations = await self._annotations(client, together, settings, deadline)
            read = await self._in_a_thread(lambda: self._read(annotations, together, settings))  # noqa: B023  (awaited here)
            found |= dict(zip(indexes, read, strict=True))
        return [found[index] for index in range(len(pictures))]

    def describe(self) -> str:
        """Which model where."""
        return f"{self.model} at {self._config.where}"

    async def close(self, client: Client) -> None:
        """End sessions that were left behind, and clear them."""
        while self._left_over:
            uuid = self._left_over.popleft()
            with contextlib.suppress(TransientError):  # gone already, or it will be: the server forgets them by itself
                await self._ask(client, "stop_inference", _about(uuid), retry=False)
                await self._ask(client, "clear_inference_request", _about(uuid), retry=False)

    @property
    def _is_classifier(self) -> bool:
        return self._task in ("classification", "multi-label-classification")

    async def _annotations(
        self, client: Client, pictures: Sequence[Sent], settings: Mapping[str, Any], deadline: float | None
    ) -> list[Mapping[str, Any]]:
        # Their server keeps uploads by their names: two of one name, asked about at once, may be mixed up.
        parts = [Part("files", sent.data, uuid4().hex + _suffix(sent), sent.media_type) for sent in pictures]
        state = encode_state(settings, batch_size=len(pictures) if len(pictures) > 1 else None)
        parts.append(Part("state", _as_text(state), media_type="text/plain"))
        if self._config.session:
            return await self._in_session(client, parts, len(pictures), deadline)
        if len(pictures) == 1:
            return [decode_result(await self._ask(client, "inference_image", parts=parts, deadline=deadline))]
        document = await self._ask(client, "inference_batch", parts=parts, deadline=deadline)
        return decode_results(document, len(pictures))

    async def _in_session(
        self, client: Client, parts: Sequence[Part], count: int, deadline: float | None
    ) -> list[Mapping[str, Any]]:
        """Start, fetch until all is there, clear: what is left on the server costs it memory for an hour."""
        uuid = decode_start(await self._ask(client, "inference_batch_async", parts=parts, deadline=deadline))
        try:
            found = await self._fetched(client, uuid, count, deadline)
        except BaseException:  # also where there is no time left
            self._left_over.append(uuid)
            raise
        try:
            await self._ask(client, "clear_inference_request", _about(uuid), deadline=deadline, retry=False)
        except TransientError:  # the results are here all the same
            self._left_over.append(uuid)
        else:
            await self.close(client)
        return found

    async def _fetched(self, client: Client, uuid: str, count: int, deadline: float | None) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        pause_s = _FIRST_PAUSE_S
        while True:
            # Results are given once: what was lost on the way cannot be asked for again.
            document = await self._ask(client, "pop_inference_results", _about(uuid), deadline=deadline, retry=False)
            popped = decode_popped(document)
            found += popped.annotations
            if popped.error:
                message = f"the session at {self._config.where} failed: {quoted(redact(popped.error))}"
                raise TransientError(message, code=BackendErrorCode.SERVER_ERROR)
            if len(found) >= count or popped.finished:
                break
            await asyncio.sleep(pause_s)  # the protocol knows no other way to wait
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        if len(found) != count:
            raise ValueError(f"{len(found)} results for {count} pictures")
        return found

    async def _ask(
        self,
        client: Client,
        endpoint: str,
        state: Mapping[str, Any] | None = None,
        *,
        parts: Sequence[Part] | None = None,
        deadline: float | None = None,
        retry: bool = True,
    ) -> object:
        base = await self._where(client, deadline)
        path = f"{base}/{endpoint}"
        if parts is None:
            request = Request("POST", path, headers=self._headers, json=encode_body(state or {}), retry=retry)
        else:
            request = Request("POST", path, headers=self._headers, body=parts, retry=retry)
        try:
            response = await client.send(request, deadline=deadline)
        except TransientError as error:
            if error.code is BackendErrorCode.NOT_FOUND and self._config.task_id is not None:
                self._base = None  # the app was started anew, and has another address
            raise
        body = response.body
        return await self._in_a_thread(lambda: loads(body)) if len(body) > _THREAD_FROM_BYTES else loads(body)

    async def _where(self, client: Client, deadline: float | None) -> str:
        """In front of the endpoints; on a platform the session of the app, which the platform tells."""
        if self._base is None:
            request = Request(
                "POST", "/public/api/v3/tasks.info", headers=self._headers, json={"id": self._config.task_id}
            )
            response = await client.send(request, deadline=deadline)
            about = mapping(mapping(loads(response.body), "the task").get("meta"), "the task's meta")
            self._base = f"/net/{text(about.get('sessionToken'), 'sessionToken')}"
        return self._base

    def _read(
        self, annotations: Sequence[Mapping[str, Any]], pictures: Sequence[Sent], settings: Mapping[str, Any]
    ) -> list[Prediction]:
        wanted = settings.get("classes")
        read = []
        for annotation, sent in zip(annotations, pictures, strict=True):
            prediction = decode_annotation(annotation, self._meta, sent.size, self._task)
            if isinstance(prediction, Detections) and isinstance(wanted, list):
                prediction = _only(prediction, wanted)  # an app may not know the setting
            read.append(prediction)
        return read

    async def _in_a_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)


def _as_settings(wishes: Wishes | None) -> dict[str, Any]:
    """What is asked for one picture, in the words that most apps know."""
    if wishes is None:
        return {}
    settings = {
        "conf": wishes.confidence,
        "iou": wishes.iou_threshold,
        "max_det": wishes.max_detections,
        "agnostic_nms": wishes.class_agnostic_nms,
        "classes": None if wishes.classes is None else list(wishes.classes),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _only(found: Detections, classes: Sequence[object]) -> Detections:
    keep = [index for index in range(len(found)) if found.label(index) in classes]
    return found if len(keep) == len(found) else found.picked(keep)


def _about(uuid: str) -> dict[str, Any]:
    return encode_state({}, inference_request_uuid=uuid)


def _suffix(sent: Sent) -> str:
    return ".png" if sent.media_type == "image/png" else ".jpg"


def _as_text(state: Mapping[str, Any]) -> bytes:
    return json.dumps(state, allow_nan=False, separators=(",", ":")).encode()
