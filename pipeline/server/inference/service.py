"""What every dialect of the inference server works with: models, pictures out of requests, refusals, routes."""

import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from aiohttp import web

from pipeline.contracts.backend import MAX_TEXT_CHARS, MAX_TEXTS
from pipeline.contracts.frame import Picture, Wishes
from pipeline.contracts.result import Embedding
from pipeline.runtime.asking import Answer, AskError, Asking, Served
from pipeline.server.access import Scope
from pipeline.server.inference.body import BodyReader, parse_json
from pipeline.server.inference.limits import InferenceLimits
from pipeline.server.inference.multipart import Part, boundary_of, parse_multipart
from pipeline.server.inference.refusal import RefusedError, busy, refusal_of

__all__ = [
    "Dialect",
    "InferenceLimits",
    "InferenceRoute",
    "Part",
    "Pictures",
    "RefusedError",
    "Service",
    "json_answer",
]

T = TypeVar("T")

_SHOWN = 10  # names of models in an error

DialectName = Literal["roboflow", "huggingface", "supervisely", "kserve"]


class Pictures(Protocol):
    """Pictures out of requests, within the limits of `[server.inference]`; decoded in threads of their own."""

    async def decode(self, data: bytes) -> Picture:
        """The upright picture in a JPEG, PNG, WebP, BMP or TIFF file.

        Raises:
            RefusedError: 400 where there is none, 413 where it has too many pixels.
        """
        ...

    async def decode_base64(self, text: str | bytes) -> Picture:
        """The same out of base64: standard or URL-safe, with or without padding, line breaks and a `data:` prefix.

        Raises:
            RefusedError: 400 where it is no base64 (raw JPEG bytes are named as what they are), or as `decode`.
        """
        ...

    async def fetch(self, url: str) -> bytes:
        """What a URL names, where `allow_urls` permits it.

        Raises:
            RefusedError: 400, with one text for every reason: not allowed, not found, not reachable, too large.
        """
        ...


class Service:
    """Made once for each server; used by all dialects on the main loop.

    Args:
        asking: the models.
        pictures: decodes what clients send.
        limits: what they may take.

    Attributes:
        asking: the models; what it raises (`AskError`) may be left to go up to the mount.
        pictures: decodes what clients send.
        limits: all of them.
        max_pictures: in one request.
        timeout_s: how long one request may take.
    """

    def __init__(self, asking: Asking, pictures: Pictures, limits: InferenceLimits | None = None) -> None:
        self.asking = asking
        self.pictures = pictures
        self.limits = limits or InferenceLimits()
        self.max_pictures = self.limits.max_pictures
        self.timeout_s = self.limits.timeout_s
        self._bodies = BodyReader(self.limits)
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Pictures and texts of all clients that wait for a model."""
        return self._waiting

    def model(self, model_id: str) -> Served:
        """The model that goes by this name or alias.

        Raises:
            RefusedError: 404.
        """
        served = self.asking.find(model_id)
        if served is None:
            # The id is the client's own text: cut, and without what could break a line of a log.
            raise RefusedError(404, f"there is no model {model_id[:200]!r}{self._known()}", kind="unknown")
        return served

    def _known(self) -> str:
        """The names that would have been right, a few of them."""
        names = [served.ids[0] for served in self.asking.served()]
        return f"; there is {', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)}" if names else ""

    async def infer(self, model_id: str, pictures: Sequence[Picture], wishes: Wishes | None = None) -> list[Answer]:
        """An answer for each picture.

        Raises:
            RefusedError: 404, 413 (more than `max_pictures`, or as `check_texts`), 503 with `Retry-After` (too many
                wait, or the model is loading), 504, 500, 501.
        """
        if not pictures:
            return []
        self.check_count(len(pictures))
        self.check_texts(() if wishes is None else wishes.texts)
        asked = self.asking.infer(model_id, pictures, wishes, timeout_s=self.timeout_s)
        return await self._admitted(len(pictures), asked)

    async def embed_texts(self, model_id: str, texts: Sequence[str]) -> list[Embedding]:
        """A vector for each text.

        Raises:
            RefusedError: as `infer`; 501 where the model takes no texts.
        """
        if not texts:
            return []
        self.check_texts(texts)
        asked = self.asking.embed_texts(model_id, texts, timeout_s=self.timeout_s)
        return await self._admitted(1, asked)

    async def load(self, model_id: str) -> Served:
        """Have a model that was unloaded loaded again; waits until it is ready.

        Raises:
            RefusedError: 404, 500.
        """
        try:
            return await self.asking.load(model_id)
        except AskError as error:
            raise refusal_of(error) from error

    async def unload(self, model_id: str) -> Served:
        """Take a model out and free its memory.

        Raises:
            RefusedError: 404; 501 where cameras use it.
        """
        try:
            return await self.asking.unload(model_id)
        except AskError as error:
            raise refusal_of(error) from error

    def check_count(self, pictures: int) -> None:
        """Before they are decoded.

        Raises:
            RefusedError: 413: more pictures than one request may have.
        """
        if pictures > self.max_pictures:
            raise RefusedError(413, f"{pictures} pictures in one request; at most {self.max_pictures} are taken")

    def check_texts(self, texts: Sequence[str]) -> None:
        """Before a model is asked about them.

        Raises:
            RefusedError: 413: more texts, or longer ones, than a model takes.
        """
        if len(texts) > MAX_TEXTS or any(len(text) > MAX_TEXT_CHARS for text in texts):
            raise RefusedError(413, f"at most {MAX_TEXTS} texts of {MAX_TEXT_CHARS} characters are taken")

    async def body(self, request: web.Request) -> bytes:
        """The whole body, un-gzipped and un-deflated, within `max_body_bytes`. A second call gives the same.

        Raises:
            RefusedError: 413; 400 where it does not unpack, 408 where it does not come, 503 where too much is held.
        """
        return await self._bodies.read(request)

    async def json(self, request: web.Request) -> Any:
        """The body as JSON, whatever its Content-Type says.

        Raises:
            RefusedError: 400, also where it is nested too deep; or as `body`.
        """
        return parse_json(await self.body(request))

    async def parts(self, request: web.Request) -> list[Part]:
        """The parts of a `multipart/form-data` body, in their order.

        Raises:
            RefusedError: 400, or as `body`.
        """
        boundary = boundary_of(request.headers.get("Content-Type", ""))
        return parse_multipart(await self.body(request), boundary)

    async def _admitted(self, count: int, asked: Coroutine[Any, Any, T]) -> T:
        if self._waiting + count > self.limits.max_waiting:
            asked.close()
            if count > self.limits.max_waiting:
                raise RefusedError(413, f"{count} pictures in one request; at most {self.limits.max_waiting} may wait")
            raise busy("too many pictures wait for a model already")
        self._waiting += count
        try:
            return await asked
        except AskError as error:
            raise refusal_of(error) from error
        finally:
            self._waiting -= count


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_answer(body: Any, status: int = 200) -> web.Response:
    """JSON as exactly `application/json`: some clients take nothing else, not even with a charset behind it."""
    return web.Response(
        status=status,
        body=json.dumps(body, allow_nan=False, separators=(",", ":")).encode(),
        headers={"Content-Type": "application/json"},
    )


@dataclass(frozen=True, slots=True)
class InferenceRoute:
    """One path of a dialect.

    Attributes:
        method: of HTTP; GET does not answer HEAD here, unless it is there by itself.
        path: as aiohttp takes it, behind the dialect's mount: "/v2/models/{model}/infer".
        handler: answers; raises `RefusedError`.
        summary: what it does, in a line.
        scope: who may ask.
        last: tried after every other route of the server: `/{dataset}/{version}`.
    """

    method: Literal["GET", "POST", "HEAD"]
    path: str
    handler: Handler
    summary: str
    scope: Scope = "infer"
    last: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """One protocol, as the server mounts it. Made by a function `dialect(service: Service) -> Dialect` in its module.

    Attributes:
        name: as in `[server.inference]`.
        routes: all its paths.
        refuse: writes a refusal in the dialect's own form. Gets refusals of the server itself, too: 401, 403, 404,
            405, 413, 421, 500. The mount adds `Retry-After`, `Allow` and `WWW-Authenticate` to what it returns.
        token: finds the client's token where this dialect puts it, besides `Authorization: Bearer`, the query's
            `api_key` and `x-api-key`, where everybody's is looked for; None: nowhere else. It may read the body.
        close: called when the server closes.
    """

    name: DialectName
    routes: Sequence[InferenceRoute]
    refuse: Callable[[web.Request, RefusedError], web.Response]
    token: Callable[[web.Request], Awaitable[str | None]] | None = None
    close: Callable[[], Awaitable[None]] | None = field(default=None)
