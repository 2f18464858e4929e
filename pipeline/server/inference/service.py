"""What every dialect of the inference server works with: models, pictures out of requests, refusals, routes."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from aiohttp import web

from pipeline.contracts.frame import Picture, Wishes
from pipeline.contracts.result import Embedding
from pipeline.runtime.asking import Answer, Asking, Served
from pipeline.server.access import Scope


class RefusedError(Exception):
    """A request that is not carried out; the dialect writes it in its own form.

    Attributes:
        status: of HTTP.
        message: what the client did wrong, or what is the matter; nothing about insides.
        retry_after_s: goes into `Retry-After`.
        kind: for dialects that name their errors.
    """

    def __init__(
        self, status: int, message: str, *, retry_after_s: float | None = None, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.kind = kind


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
    """Made once for each server; used by all dialects on the main loop."""

    asking: Asking
    pictures: Pictures
    max_pictures: int
    timeout_s: float

    def model(self, model_id: str) -> Served:
        """The model that goes by this name or alias.

        Raises:
            RefusedError: 404.
        """
        raise NotImplementedError

    async def infer(self, model_id: str, pictures: Sequence[Picture], wishes: Wishes | None = None) -> list[Answer]:
        """An answer for each picture.

        Raises:
            RefusedError: 404, 503 with `Retry-After` (too many wait, or the model is loading), 504, 500, 501.
        """
        raise NotImplementedError

    async def embed_texts(self, model_id: str, texts: Sequence[str]) -> list[Embedding]:
        """A vector for each text.

        Raises:
            RefusedError: as `infer`; 501 where the model takes no texts.
        """
        raise NotImplementedError

    async def body(self, request: web.Request) -> bytes:
        """The whole body, un-gzipped and un-deflated, within `max_body_bytes`.

        Raises:
            RefusedError: 413; 400 where it does not unpack, 408 where it does not come.
        """
        raise NotImplementedError

    async def json(self, request: web.Request) -> object:
        """The body as JSON, whatever its Content-Type says.

        Raises:
            RefusedError: 400, also where it is nested too deep; or as `body`.
        """
        raise NotImplementedError


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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
        refuse: writes a refusal in the dialect's own form. Gets refusals of the server itself, too: 401, 403, 413, 500.
        token: finds the client's token where this dialect puts it, besides `Authorization: Bearer`, the query's
            `api_key` and `x-api-key`, where everybody's is looked for; None: nowhere else. It may read the body.
        close: called when the server closes.
    """

    name: Literal["roboflow", "huggingface", "supervisely", "kserve"]
    routes: Sequence[InferenceRoute]
    refuse: Callable[[web.Request, RefusedError], web.Response]
    token: Callable[[web.Request], Awaitable[str | None]] | None = None
    close: Callable[[], Awaitable[None]] | None = field(default=None)
