"""The Hugging Face inference protocol, served: tasks by path, models by id, and what clients ask about them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aiohttp import web

from pipeline.contracts.frame import Picture, Wishes
from pipeline.runtime.asking import Served
from pipeline.server.inference._huggingface_answers import (
    check_function,
    picture_document,
    similarities,
    vectors_document,
)
from pipeline.server.inference._huggingface_models import (
    about,
    listed,
    main_task,
    models_for,
    not_done,
    not_ready,
    status,
    tasks_of,
)
from pipeline.server.inference.service import Dialect, InferenceRoute, RefusedError, Service, json_answer
from pipeline.wire.huggingface import SPECS, canonical, error_document
from pipeline.wire.huggingface_requests import Ask, VisionParameters, decode_ask, is_true, vision_parameters

T = TypeVar("T")

DEFAULT_TEMPLATE = "This is a photo of {}."
"""What a label is put into before a picture is compared with it, as transformers does."""

_LARGE_BODY_BYTES = 1 << 20
# Alternatives, not a wildcard: mounted at the root, these routes must not swallow others'.
_TASK = "{task:" + "|".join(sorted({name for task in SPECS for name in (task, task.replace("-", "_"))})) + "}"


def dialect(service: Service) -> Dialect:
    """The dialect around `service`."""
    this = HuggingFace(service)
    return Dialect(
        name="huggingface",
        routes=(
            InferenceRoute("POST", f"/{_TASK}", this.by_task, "a task, by the first model that does it"),
            InferenceRoute("POST", f"/{_TASK}/{{model:.+}}", this.by_task, "a task, by a model"),
            InferenceRoute("POST", f"/pipeline/{_TASK}/{{model:.+}}", this.by_task, "a task, by a model"),
            InferenceRoute("POST", "/models/{model:.+}", this.by_model, "a model's own task"),
            InferenceRoute("GET", "/status/{model:.+}", this.status, "whether a model is loaded"),
            InferenceRoute("GET", "/framework/{framework}", this.framework, "the models of a framework"),
            InferenceRoute("GET", "/api/tasks", this.tasks, "the tasks, and the models for each"),
            InferenceRoute("GET", "/api/models/{model:.+}", this.about, "about a model"),
            # What a client uses as its model's URL may be asked for these, too.
            InferenceRoute("GET", f"/{_TASK}/{{model:.+}}/health", this.health, "whether a model answers"),
            InferenceRoute("GET", f"/{_TASK}/{{model:.+}}/info", this.about, "about a model"),
            InferenceRoute("GET", "/models/{model:.+}/health", this.health, "whether a model answers"),
            InferenceRoute("GET", "/models/{model:.+}/info", this.about, "about a model"),
        ),
        refuse=refuse,
    )


def refuse(request: web.Request, error: RefusedError) -> web.Response:
    """A refusal as `{"error"}`; a model that is loading also tells for how long."""
    document = error_document(error.message)
    if error.kind == "loading":
        document["estimated_time"] = error.retry_after_s or 1.0
    return json_answer(document, error.status)


class HuggingFace:
    """The handlers. Made by `dialect`; called on the main loop."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def by_task(self, request: web.Request) -> web.Response:
        """POST /{task}, /{task}/{model}, /pipeline/{task}/{model}."""
        task = canonical(request.match_info["task"])
        if task is None:  # the route names all that there are
            raise RefusedError(404, "there is no such task")
        name = request.match_info.get("model")
        return await self._answer(request, task, self._first(task) if name is None else self._service.model(name))

    async def by_model(self, request: web.Request) -> web.Response:
        """POST /models/{model}, and /models/{model}/pipeline/{task} as the current client writes it."""
        name = request.match_info["model"]
        before, found, after = name.rpartition("/pipeline/")
        task = canonical(after) if found else None
        served = self._service.model(name if task is None else before)
        return await self._answer(request, task, served)

    async def status(self, request: web.Request) -> web.Response:
        """GET /status/{model}."""
        return json_answer(status(self._service.model(request.match_info["model"])))

    async def framework(self, request: web.Request) -> web.Response:
        """GET /framework/{framework}."""
        return json_answer(listed(self._service.asking.served(), request.match_info["framework"]))

    async def tasks(self, request: web.Request) -> web.Response:
        """GET /api/tasks."""
        models = self._service.asking.served()
        found = dict.fromkeys(task for one in models for task in tasks_of(one))
        return json_answer(
            {task: {"id": task, "widgetModels": [one.ids[0] for one in models_for(task, models)]} for task in found}
        )

    async def about(self, request: web.Request) -> web.Response:
        """GET /api/models/{model}."""
        name = request.match_info["model"]
        return json_answer(about(self._service.model(name), name))

    async def health(self, request: web.Request) -> web.Response:
        """GET {what a client uses as its model's URL}/health."""
        served = self._service.model(request.match_info["model"])
        if served.state != "ready":
            raise not_ready(served)
        return json_answer({"status": "ok"})

    def _first(self, task: str) -> Served:
        models = self._service.asking.served()
        able = models_for(task, models)
        if able:
            return able[0]
        unknown = next((one for one in models if one.info is None and one.state == "loading"), None)
        raise not_done(task, models) if unknown is None else not_ready(unknown)

    async def _answer(self, request: web.Request, task: str | None, served: Served) -> web.Response:
        body = await self._service.body(request)
        # As long as a model is loading its task may not be known; then the body is read once more.
        read_as = task or (main_task(served) if served.info is not None else "object-detection")
        ask = await _read(read_as, body)
        if served.state == "loading" and (ask.wait_for_model or is_true(request.headers.get("X-Wait-For-Model", ""))):
            served = await self._once_loaded(served)
        if served.info is None:
            raise not_ready(served)
        task = task or main_task(served)
        if task not in tasks_of(served):
            raise not_done(task, self._service.asking.served(), served)
        if task != read_as:
            ask = await _read(task, body)
        if task == "sentence-similarity" or "text" in ask.inputs:
            return await self._about_texts(task, ask, served)
        try:
            parameters = vision_parameters(ask.parameters)
        except ValueError as error:
            raise RefusedError(400, str(error)) from error
        return await self._about_pictures(task, ask, parameters, served)

    async def _about_texts(self, task: str, ask: Ask, served: Served) -> web.Response:
        compare = task == "sentence-similarity"
        given = [ask.inputs["source_sentence"], ask.inputs["sentences"]] if compare else [ask.inputs["text"]]
        texts = [text for one in given for text in (one if isinstance(one, list) else [one])]
        if not all(isinstance(text, str) for text in texts) or len(texts) < len(given):
            raise RefusedError(400, "'inputs' is a text, or a list of texts")
        vectors = await _named(served, self._service.embed_texts(served.name, texts))
        document: Any = similarities(vectors) if compare else vectors_document(vectors)
        answer = json_answer(document[0] if not compare and isinstance(given[0], str) else document)
        answer.headers["x-compute-characters"] = str(sum(map(len, texts)))
        return answer

    async def _about_pictures(self, task: str, ask: Ask, asked: VisionParameters, served: Served) -> web.Response:
        given = ask.inputs.get("image")
        several = given if isinstance(given, list) else [given]
        if not several:
            raise RefusedError(400, "'inputs' is an empty list")
        self._service.check_count(len(several))
        texts: tuple[str, ...] = ()
        if task == "zero-shot-image-classification":
            if not asked.candidate_labels:
                raise RefusedError(400, "'candidate_labels' is missing in 'parameters'")
            template = asked.hypothesis_template or DEFAULT_TEMPLATE
            texts = tuple(template.replace("{}", label) for label in asked.candidate_labels)
        elif "question" in SPECS[task].fields:
            question = ask.inputs["question"]
            if not isinstance(question, str) or not question:
                raise RefusedError(400, "'question' is no text, or empty")
            texts = (question,)
        self._service.check_texts(texts)
        pictures = [await self._picture(one) for one in several]
        wishes = Wishes(confidence=asked.threshold, texts=texts)
        answers = await _named(served, self._service.infer(served.name, pictures, wishes))
        for one in answers:
            check_function(asked, one.prediction)
        documents = [
            await _aside(task == "image-segmentation", picture_document, task, one.prediction, asked)  # PNG takes time
            for one in answers
        ]
        answer = json_answer(documents if isinstance(given, list) else documents[0])
        answer.headers["x-compute-time"] = f"{sum(one.inference_s for one in answers):.6f}"
        answer.headers["x-compute-images"] = str(len(answers))
        return answer

    async def _picture(self, given: object) -> Picture:
        pictures = self._service.pictures
        if isinstance(given, bytes):
            return await pictures.decode(given)
        if not isinstance(given, str):
            raise RefusedError(400, "a picture is a text in base64")
        if given[:8].lower().startswith(("http://", "https://")):
            return await pictures.decode(await pictures.fetch(given))
        return await pictures.decode_base64(given)

    async def _once_loaded(self, served: Served) -> Served:
        """The model once it is ready; as it is, where that takes too long or it fails."""
        try:
            async with asyncio.timeout(self._service.timeout_s):
                return await self._service.load(served.name)
        except (TimeoutError, RefusedError):
            return self._service.model(served.name)


async def _read(task: str, body: bytes) -> Ask:
    try:
        return await _aside(len(body) > _LARGE_BODY_BYTES, decode_ask, task, body)
    except ValueError as error:
        raise RefusedError(400, str(error)) from error


async def _aside(large: bool, function: Callable[..., T], *args: Any) -> T:
    """The function's result, from a thread where it takes long."""
    return await asyncio.to_thread(function, *args) if large else function(*args)


async def _named(served: Served, asked: Coroutine[Any, Any, T]) -> T:
    """The answer; where there is none because the model is loading, that is said in the words that clients know."""
    try:
        return await asked
    except RefusedError as error:
        if error.kind == "loading":
            message = f"Model {served.ids[0]} is currently loading"
            raise RefusedError(503, message, retry_after_s=error.retry_after_s, kind="loading") from error
        raise
