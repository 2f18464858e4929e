"""The open inference protocol (KServe v2) as Triton speaks it: metadata, health, inference, the model repository.

A picture comes as the input `image`: UINT8 [height, width, 3] or [N, height, width, 3], RGB; or BYTES [N], each element
a JPEG, PNG, WebP, BMP or TIFF file. A model that takes texts has a second input, `text`, BYTES [N]. The outputs are
those of `pipeline.wire.kserve_results`. What is asked of the model for these pictures alone stands in the request's
parameters: `confidence`, `iou_threshold`, `max_detections`, `class_agnostic_nms`, `keypoint_confidence`, and `classes`
and `texts`, each a text with commas between the names; for a model that answers questions `texts` is the question.
Parameters that are not known are let be.
"""

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from pipeline.runtime.asking import Served
from pipeline.server.inference._kserve_infer import Inferring
from pipeline.server.inference._kserve_models import VERSION, config_of, entry_of, metadata_of, server_metadata
from pipeline.server.inference._kserve_stats import Stats
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import Dialect, InferenceRoute, Service, json_answer
from pipeline.wire.kserve import encode_error

_MODEL: Final = "/v2/models/{model:.+?}"
_IN_REPOSITORY: Final = "/v2/repository/models/{model:.+?}"
_VERSIONED: Final = _MODEL + "/versions/{version}"


def dialect(service: Service) -> Dialect:
    """All routes of the protocol, for one server."""
    return _KServe(service).dialect()


class _KServe:
    """The handlers. Made by `dialect`; used on the main loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stats = Stats()
        self._inferring = Inferring(service, self._stats)

    def dialect(self) -> Dialect:
        routes = [
            InferenceRoute("GET", "/v2", self._server, "what this server is"),
            InferenceRoute("GET", "/v2/health/live", self._live, "whether it lives", scope="open"),
            InferenceRoute("GET", "/v2/health/ready", self._ready, "whether its models answer", scope="open"),
            InferenceRoute("POST", "/v2/repository/index", self._index, "all models and their states"),
            InferenceRoute("POST", f"{_IN_REPOSITORY}/load", self._load, "load a model"),
            InferenceRoute("POST", f"{_IN_REPOSITORY}/unload", self._unload, "unload a model", "control"),
            InferenceRoute("GET", "/v2/models/stats", self._all_stats, "statistics of all models"),
        ]
        # Those with more words come first: a model's name may have slashes in it.
        for path in (_VERSIONED, _MODEL):
            of = " of one version" if path == _VERSIONED else ""
            routes += [
                InferenceRoute("POST", f"{path}/infer", self._infer, f"ask a model{of}"),
                InferenceRoute("GET", f"{path}/ready", self._model_ready, f"whether a model{of} answers"),
                InferenceRoute("GET", f"{path}/config", self._config, f"a model's configuration{of}"),
                InferenceRoute("GET", f"{path}/stats", self._model_stats, f"statistics of a model{of}"),
                InferenceRoute("GET", path, self._metadata, f"inputs and outputs of a model{of}"),
            ]
        return Dialect("kserve", routes, refuse)

    async def _server(self, _: web.Request) -> web.Response:
        return json_answer(server_metadata())

    async def _live(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _ready(self, _: web.Request) -> web.Response:
        # A model that somebody took out is no fault; one that is on its way or broken is.
        waits = any(served.state in {"loading", "failed"} for served in self._service.asking.served())
        return web.Response(status=503 if waits else 200)

    async def _model_ready(self, request: web.Request) -> web.Response:
        served = self._service.asking.find(request.match_info["model"])
        known = request.match_info.get("version", VERSION) == VERSION
        if served is None or not known or served.state != "ready":
            raise RefusedError(400, "Model version not ready")
        return web.Response()

    async def _metadata(self, request: web.Request) -> web.Response:
        return json_answer(metadata_of(self._known(request), request.match_info["model"]))

    async def _config(self, request: web.Request) -> web.Response:
        served = self._known(request)
        return json_answer(config_of(served, request.match_info["model"], self._service.max_pictures))

    async def _model_stats(self, request: web.Request) -> web.Response:
        served = self._known(request, unknown=400)
        return json_answer({"model_stats": [self._stats.of(served.name, request.match_info["model"])]})

    async def _all_stats(self, _: web.Request) -> web.Response:
        models = self._service.asking.served()
        return json_answer({"model_stats": [self._stats.of(served.name, served.name) for served in models]})

    async def _index(self, request: web.Request) -> web.Response:
        wanted = await self._order(request)
        ready = wanted.get("ready", False)
        if not isinstance(ready, bool):
            raise RefusedError(400, "ready is neither true nor false")
        models = [served for served in self._service.asking.served() if not ready or served.state == "ready"]
        return json_answer([entry_of(served, name) for served in models for name in served.ids])

    async def _load(self, request: web.Request) -> web.Response:
        order = await self._order(request)
        parameters = order.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise RefusedError(400, "parameters are no object")
        if any(name == "config" or name.startswith("file:") for name in parameters):
            raise RefusedError(400, "a model's configuration and its files are not taken from clients")
        await self._service.load(request.match_info["model"])
        return web.Response()

    async def _unload(self, request: web.Request) -> web.Response:
        await self._order(request)
        await self._service.unload(request.match_info["model"])
        return web.Response()

    async def _infer(self, request: web.Request) -> web.Response:
        return await self._inferring.answer(request, self._known(request))

    def _known(self, request: web.Request, unknown: int = 404) -> Served:
        """The model that the path names, in the only version that there is."""
        name, wanted = request.match_info["model"], request.match_info.get("version", VERSION)
        served = self._service.asking.find(name)
        if served is not None and wanted == VERSION:
            return served
        which = f"{name[:100]!r}" + ("" if wanted == VERSION else f" version {wanted[:20]!r}")
        raise RefusedError(unknown, f"Request for unknown model: {which} is not found", kind="unknown")

    async def _order(self, request: web.Request) -> Mapping[str, Any]:
        """The object in a body that may as well be empty."""
        if not (await self._service.body(request)).strip():
            return {}
        order = await self._service.json(request)
        if not isinstance(order, dict):
            raise RefusedError(400, "the body is no object")
        return order


def refuse(_: web.Request, error: RefusedError) -> web.Response:
    """`{"error": ...}`, which is all that clients read."""
    return web.Response(
        status=error.status, body=encode_error(error.message), headers={"Content-Type": "application/json"}
    )
