"""Roboflow's legacy route, `POST|GET /{dataset}/{version}`: one picture in any form, settings in the query."""

import uuid

from aiohttp import web

from pipeline.contracts.frame import Picture
from pipeline.runtime.asking import Answer, Served
from pipeline.server.inference._roboflow_answers import loaded, schema, timed
from pipeline.server.inference._roboflow_infer import Inference
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import InferenceRoute, Service, json_answer
from pipeline.wire.roboflow import REGISTRY_TASKS, LegacyQuery, encode_stub, parse_legacy_query

FILE_PART = "file"
NO_MODEL_VERSION = "0"
"""Of a Roboflow project that was never trained."""

_JPEG = "image/jpeg"


class Legacy:
    """Made by the dialect, used on the main loop."""

    def __init__(self, service: Service, inference: Inference) -> None:
        self._service = service
        self._inference = inference

    def routes(self) -> list[InferenceRoute]:
        """Behind everything else: any path of two parts is one of these."""
        path, summary = "/{dataset_id}/{version_id}", "Use a model: one picture, the model named by the path"
        return [
            InferenceRoute("POST", path, timed(self.infer), summary, last=True),
            InferenceRoute("GET", path, timed(self.infer), summary, last=True),
        ]

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """One picture."""
        with schema():
            asked = parse_legacy_query(list(request.query.items()))
        if asked.image is None and "Content-Type" not in request.headers:
            raise RefusedError(400, "a Content-Type is needed, or image=URL in the query", kind="picture")
        dataset, version = request.match_info["dataset_id"], request.match_info["version_id"]
        served = self._model(dataset, version)
        if served is None:
            return self._stub(dataset, version)
        picture = await self._picture(request, asked)
        await loaded(self._service, served.name)
        (answer,) = await self._service.infer(served.name, [picture], asked.options.wishes())
        response = await self._answer(asked, picture, answer)
        response.headers["X-Model-Id"] = f"{dataset}/{version}"
        return response

    async def _answer(self, asked: LegacyQuery, picture: Picture, answer: Answer) -> web.Response:
        prediction, options = answer.prediction, asked.options
        how = options.format or "json"
        drawn = None if how == "json" else await self._inference.drawn(picture, prediction, options)
        if how == "image" and drawn is not None:
            return web.Response(body=drawn, headers={"Content-Type": _JPEG})
        body = self._inference.body(
            picture, answer, prediction, options=options, inference_id=str(uuid.uuid4()), drawn=drawn
        )
        return json_answer(await body)

    def _model(self, dataset: str, version: str) -> Served | None:
        """The model; None where the project is known, and the version is the one that stands for no model at all.

        A model without an alias of two parts is found by its name with any number behind it.
        """
        asking = self._service.asking
        found = asking.find(f"{dataset}/{version}")
        if found is None and version == NO_MODEL_VERSION and self._of_project(dataset) is not None:
            return None
        if found is None and version.isascii() and version.isdecimal():
            found = asking.find(dataset)
        return self._service.model(f"{dataset}/{version}") if found is None else found

    def _of_project(self, dataset: str) -> Served | None:
        for served in self._service.asking.served():
            if any(alias.startswith(f"{dataset}/") for alias in served.aliases):
                return served
        return None

    def _stub(self, dataset: str, version: str) -> web.Response:
        served = self._of_project(dataset)
        task = "object-detection" if served is None or served.info is None else REGISTRY_TASKS[served.info.task]
        return json_answer(encode_stub(f"{dataset}/{version}", task, inference_id=str(uuid.uuid4())))

    async def _picture(self, request: web.Request, asked: LegacyQuery) -> Picture:
        """The picture: by URL, in a multipart file, or the whole body in base64, whatever its Content-Type says.

        Raises:
            RefusedError: 400.
        """
        pictures = self._service.pictures
        if asked.image is not None:
            return await pictures.decode(await pictures.fetch(asked.image))
        if request.headers["Content-Type"].strip().lower().startswith("multipart/form-data"):
            return await pictures.decode(await self._file(request))
        if asked.image_type != "base64":
            raise RefusedError(400, "images of type numpy are pickles and never taken; send base64", kind="picture")
        body = await self._service.body(request)
        if not body.strip():
            raise RefusedError(400, "the body is empty; it must be an image file in base64", kind="picture")
        return await pictures.decode_base64(body)

    async def _file(self, request: web.Request) -> bytes:
        for part in await self._service.parts(request):
            if part.name == FILE_PART:
                return part.data
        raise RefusedError(400, f'there is no part "{FILE_PART}" in the multipart body', kind="picture")
