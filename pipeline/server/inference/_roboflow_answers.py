"""What all Roboflow routes share: pictures out of requests, answers with their headers, errors in Roboflow's form."""

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from aiohttp import web

from pipeline.contracts.frame import Picture
from pipeline.runtime.asking import Served
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import Handler, Service, json_answer
from pipeline.wire.roboflow import ImageValue, InvalidRequestError, encode_error

T = TypeVar("T")

STARTED_AT = web.RequestKey("roboflow_started_at", float)
REQUEST_ID = "x-request-id"

_API_KEY = re.compile(rb'"api_key"\s*:\s*"([^"\\]{1,1000})"')
_SETTINGS_THAT_ARE_400: Final = frozenset({"mask_decode_mode", "tradeoff_factor"})
_NO_ROUTE: Final = {404: "Not Found", 405: "Method Not Allowed"}
_DRAWERS = 2


class RoboflowRefusedError(RefusedError):
    """A refusal whose body says more than a message.

    Attributes:
        body: of the answer, as it stands.
    """

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(status, str(body.get("message", "the request breaks the schema")))
        self.body = body


def refuse(_: web.Request, error: RefusedError) -> web.Response:
    """`Dialect.refuse`: `{"message"}`; `{"detail"}` for what breaks the schema, and for what is no route.

    Format: what version 1.8.3 of Roboflow's server answers.
    """
    if isinstance(error, RoboflowRefusedError):
        body: Mapping[str, Any] = error.body
    elif error.kind is None and error.status in _NO_ROUTE:
        body = {"detail": _NO_ROUTE[error.status]}
    elif error.status == 401:
        body = {"status": 401, "message": error.message}
    else:
        body = encode_error(error.message)
    response = json_answer(body, error.status)
    response.headers[REQUEST_ID] = uuid.uuid4().hex
    return response


@contextlib.contextmanager
def schema() -> Iterator[None]:
    """What the wire module finds wrong with a request, as the refusal that Roboflow's server makes of it.

    Raises:
        RoboflowRefusedError: 422 where the schema is broken; 400 for the few settings that the server checks itself.
        RefusedError: 400 for other faults.
    """
    try:
        yield
    except InvalidRequestError as error:
        first = error.problems[0]
        if first.loc[-1] in _SETTINGS_THAT_ARE_400 and first.type != "float_parsing":
            raise RefusedError(400, f"invalid {first.loc[-1]}: {first.msg}") from error
        raise RoboflowRefusedError(422, error.body()) from error
    except ValueError as error:
        raise RefusedError(400, str(error)) from error


async def token_of(service: Service, request: web.Request) -> str | None:
    """`Dialect.token`: the `api_key` in a JSON body, where this protocol's clients put it.

    The body is not parsed for it: whoever is not known yet gets no more than a search. That it is in the right place
    does not matter; that it is the right secret does.
    """
    if not request.can_read_body or request.content_type.startswith("multipart/"):
        return None
    found = _API_KEY.search(await service.body(request))
    return None if found is None else found[1].decode("utf-8", "replace")


class Bench:
    """Where answers are made that take a while: drawn, cut out, encoded. Made by the dialect; has two threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_DRAWERS, thread_name_prefix="drawing")

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` gives, from one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Take no more; what is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def timed(handler: Handler) -> Handler:
    """The handler, whose answers carry `x-request-id` and `x-processing-time`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        request[STARTED_AT] = time.monotonic()
        response = await handler(request)
        response.headers[REQUEST_ID] = uuid.uuid4().hex
        response.headers["x-processing-time"] = f"{seconds_since(request):.6f}"
        return response

    return handle


def seconds_since(request: web.Request) -> float:
    """Since the request's handler began."""
    return time.monotonic() - request[STARTED_AT]


async def loaded(service: Service, model_id: str) -> Served:
    """The model; one that was taken out is loaded again, as Roboflow's server does when it is asked something.

    Raises:
        RefusedError: 404, or it cannot be loaded.
    """
    served = service.model(model_id)
    return await service.load(model_id) if served.state == "unloaded" else served


async def picture_of(service: Service, image: ImageValue) -> Picture:
    """The picture in one image value.

    Raises:
        RefusedError: 400: there is none, or it comes in a form that is not taken; as `Pictures` else.
    """
    if image.type == "base64":
        return await service.pictures.decode_base64(image.value)
    if image.type == "url":
        return await service.pictures.decode(await service.pictures.fetch(image.value))
    if image.type in ("numpy", "numpy_object"):
        raise RefusedError(400, "images of type numpy are pickles and never taken; send base64")
    raise RefusedError(400, f"unknown image type {image.type!r}; there are base64 and url")


async def pictures_of(service: Service, images: Sequence[ImageValue]) -> list[Picture]:
    """All of them, in their order.

    Raises:
        RefusedError: as `picture_of`; 413 where there are too many.
    """
    service.check_count(len(images))
    return await together([picture_of(service, image) for image in images])


async def together(jobs: Sequence[Awaitable[T]]) -> list[T]:
    """What all of them give; the first fault once all have ended."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
