"""A dialect with one route for each thing that the base of the inference server does: its tests need no real one."""

import hashlib
import json

from aiohttp import web

from pipeline.contracts.frame import Wishes
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import Dialect, InferenceRoute, Service, json_answer


def toy(service: Service) -> Dialect:  # noqa: C901 - many, and each is simple
    """Answers under /toy, and to anything of two words."""

    async def body(request: web.Request) -> web.Response:
        data = await service.body(request)
        assert await service.body(request) is data
        return json_answer({"bytes": len(data), "sha": hashlib.sha256(data).hexdigest()})

    async def document(request: web.Request) -> web.Response:
        return json_answer({"is": repr(await service.json(request))[:100]})

    async def parts(request: web.Request) -> web.Response:
        found = await service.parts(request)
        return json_answer([[part.name, part.filename, part.content_type, len(part.data)] for part in found])

    async def picture(request: web.Request) -> web.Response:
        size = (await service.pictures.decode(await service.body(request))).size
        return json_answer({"size": [size.width, size.height]})

    async def infer(request: web.Request) -> web.Response:
        count = int(request.query.get("count", "1"))
        service.check_count(count)
        decoded = await service.pictures.decode(await service.body(request))
        answers = await service.infer(request.query.get("model", "local"), [decoded] * count, Wishes(confidence=0.5))
        return json_answer({"answers": len(answers), "backend": answers[0].backend})

    async def texts(request: web.Request) -> web.Response:
        vectors = await service.embed_texts(request.query["model"], ["a", "bc"])
        return json_answer([vector.vector.tolist() for vector in vectors])

    async def fetch(request: web.Request) -> web.Response:
        return json_answer({"bytes": len(await service.pictures.fetch(request.query["url"]))})

    async def bug(request: web.Request) -> web.Response:
        raise KeyError(f"inside of {request.path}")

    async def health(_: web.Request) -> web.Response:
        return json_answer({"ok": True})

    async def long(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * int(request.query["bytes"]))

    async def legacy(request: web.Request) -> web.Response:
        return json_answer({"legacy": request.match_info["dataset"], "version": request.match_info["version"]})

    async def token(request: web.Request) -> str | None:
        found = json.loads(await service.body(request) or b"{}").get("key")
        return found if isinstance(found, str) else None

    def refuse(request: web.Request, error: RefusedError) -> web.Response:
        return json_answer({"toy": error.message, "kind": error.kind}, error.status)

    return Dialect(
        "roboflow",
        [
            InferenceRoute("POST", "/toy/body", body, "Tells the length of a body"),
            InferenceRoute("GET", "/toy/body", body, "Tells the length of a body"),
            InferenceRoute("POST", "/toy/json", document, "Tells what JSON was sent"),
            InferenceRoute("POST", "/toy/parts", parts, "Tells the parts"),
            InferenceRoute("POST", "/toy/picture", picture, "Tells a picture's size"),
            InferenceRoute("POST", "/toy/infer", infer, "Asks a model"),
            InferenceRoute("GET", "/toy/texts", texts, "Embeds two texts"),
            InferenceRoute("GET", "/toy/fetch", fetch, "Fetches a URL"),
            InferenceRoute("POST", "/toy/bug", bug, "Has a bug"),
            InferenceRoute("GET", "/toy/long", long, "Answers at length"),
            InferenceRoute("GET", "/toy/health", health, "Is it well?", scope="open"),
            InferenceRoute("GET", "/toy/models/{model:[a-z]{1,9}(?:/[a-z]+)?}", health, "About a model"),
            InferenceRoute("POST", "/{dataset}/{version}", legacy, "Takes anything", last=True),
            InferenceRoute("GET", "/{dataset}/{version}", legacy, "Takes anything", last=True),
        ],
        refuse,
        token,
    )
