"""What a Roboflow server says about itself and its models: info, health, registry; and models loaded and unloaded."""

import uuid
from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from pipeline.runtime.asking import Served
from pipeline.server.inference._roboflow_answers import schema, timed
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import InferenceRoute, Service, json_answer
from pipeline.wire.roboflow import (
    REGISTRY_TASKS,
    RegistryModel,
    ServerInfo,
    encode_registry,
    parse_model_order,
)

SERVER_NAME = "Penstock"


class Models:
    """Made by the dialect, used on the main loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._info = ServerInfo(SERVER_NAME, _version(), str(uuid.uuid4()))

    def routes(self) -> list[InferenceRoute]:
        """Taking models out is an order, like those to cameras; having one loaded that is configured is not."""
        return [
            InferenceRoute("GET", "/info", timed(self.info), "Name and version of this server"),
            InferenceRoute("GET", "/healthz", timed(self.health), "Has a model failed?", "open"),
            InferenceRoute("GET", "/readiness", timed(self.readiness), "Are all models ready?", "open"),
            InferenceRoute("GET", "/model/registry", timed(self.registry), "Models that are loaded"),
            InferenceRoute("POST", "/model/add", timed(self.add), "Load a model that was unloaded"),
            InferenceRoute("POST", "/model/remove", timed(self.remove), "Unload a model", "control"),
            InferenceRoute("POST", "/model/clear", timed(self.clear), "Unload all models", "control"),
            InferenceRoute("GET", "/start/{dataset}/{version}", timed(self.start), "Load a model"),
        ]

    async def info(self, _: web.Request) -> web.StreamResponse:
        """Name, version, and an id of this run."""
        return json_answer(self._info.to_json())

    async def health(self, _: web.Request) -> web.StreamResponse:
        """Whether a model has failed."""
        if any(served.state == "failed" for served in self._service.asking.served()):
            return json_answer({"status": "unhealthy", "reason": "a model has failed"}, 503)
        return json_answer({"status": "healthy"})

    async def readiness(self, _: web.Request) -> web.StreamResponse:
        """Whether all models answer that were not taken out."""
        if any(served.state in ("loading", "failed") for served in self._service.asking.served()):
            return json_answer({"status": "not ready"}, 503)
        return json_answer({"status": "ready"})

    async def registry(self, _: web.Request) -> web.StreamResponse:
        """All models that answer, each under all its names: clients look for the very name that they know."""
        return self._registry()

    async def add(self, request: web.Request) -> web.StreamResponse:
        """Load a model; what is loaded stays as it is."""
        await self._load(await self._model_id(request))
        return self._registry()

    async def start(self, request: web.Request) -> web.StreamResponse:
        """The same, as old clients ask for it."""
        await self._load(f"{request.match_info['dataset']}/{request.match_info['version']}")
        return json_answer({"status": 200, "message": "the model is loaded"})

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Unload a model; one that is not known is not loaded either."""
        model_id = await self._model_id(request)
        served = self._service.asking.find(model_id)
        if served is not None and served.state != "unloaded":
            await self._service.unload(model_id)
        return self._registry()

    async def clear(self, _: web.Request) -> web.StreamResponse:
        """Unload all models but those that cameras use."""
        for served in self._service.asking.served():
            if served.removable and served.state != "unloaded":
                await self._service.unload(served.name)
        return self._registry()

    async def _load(self, model_id: str) -> None:
        if self._service.model(model_id).state != "ready":
            await self._service.load(model_id)

    async def _model_id(self, request: web.Request) -> str:
        body = await self._service.json(request)
        with schema():
            return parse_model_order(body).model_id

    def _registry(self) -> web.Response:
        models = [
            _entry(served, model_id)
            for served in self._service.asking.served()
            if served.state == "ready" and served.info is not None
            for model_id in served.ids
        ]
        return json_answer(encode_registry(models))


def _entry(served: Served, model_id: str) -> RegistryModel:
    if served.info is None:
        raise RefusedError(500, "a model that is ready has no description", kind="failed")
    return RegistryModel(model_id, REGISTRY_TASKS[served.info.task], served.max_batch, served.info.input_size)


def _version() -> str:
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "unknown"
