"""Which model a Supervisely client means, what it asks of it, and the files it sends."""

from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from pipeline.contracts.backend import ModelInfo
from pipeline.runtime.asking import Served
from pipeline.server.inference.service import Part, RefusedError, Service
from pipeline.wire.supervisely_state import State, decode_body, decode_form

T = TypeVar("T")


class Requests:
    """Reads requests. Made with the dialect; used on the main loop."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def fitting(self) -> list[Served]:
        """All models whose answers the protocol can carry, as far as one knows them."""
        return [served for served in self._service.asking.served() if served.info is None or fits(served.info)]

    def model(self, request: web.Request) -> Served | None:
        """The model in the path; without one the first that is ready, or else the first of all; None: there is none.

        Raises:
            RefusedError: 404, 501.
        """
        name = request.match_info.get("model")
        if name is not None:
            served = self._service.model(name)
            if served.info is not None and not fits(served.info):
                raise RefusedError(501, "this model's answers have no form in this protocol")
            return served
        models = self.fitting()
        return next((served for served in models if served.state == "ready"), models[0] if models else None)

    def known(self, request: web.Request) -> tuple[Served, ModelInfo]:
        """The model that is meant, and what is known of it.

        Raises:
            RefusedError: 404, 501; 503 where it is not there yet.
        """
        served = self.model(request)
        if served is None:
            raise RefusedError(503, "there is no model here that can answer", retry_after_s=5.0)
        if served.info is None:
            raise RefusedError(503, "the model is loading", retry_after_s=1.0, kind="loading")
        return served, served.info

    def is_ready(self, request: web.Request) -> bool:
        """Whether the model that is meant answers.

        Raises:
            RefusedError: 404, 501.
        """
        served = self.model(request)
        return served is not None and served.state == "ready"

    async def state(self, request: web.Request) -> State:
        """What a JSON body asks for.

        Raises:
            RefusedError: 400.
        """
        document = await self._service.json(request)
        return checked(lambda: decode_body(document))

    async def upload(self, request: web.Request) -> tuple[Served, State, list[bytes]]:
        """The model, what is asked of it, and the files, none of them empty.

        Raises:
            RefusedError: 400, or as `known`.
        """
        served, _ = self.known(request)
        parts = await self._service.parts(request)
        files = [part.data for part in parts if _is_file(part)]
        if not files:
            raise RefusedError(400, "At least one file is expected but got 0")
        if not all(files):
            # Their client sends nothing more of a file when it tries a second time.
            raise RefusedError(400, "a file is empty; if this is a second attempt, send it anew")
        texts = {part.name: part.data.decode("utf-8", "replace") for part in parts if not _is_file(part)}
        return served, checked(lambda: decode_form(texts)), files


def checked(read: Callable[[], T]) -> T:
    """What `read` gives; what it finds wrong is the client's mistake.

    Raises:
        RefusedError: 400.
    """
    try:
        return read()
    except ValueError as error:
        raise RefusedError(400, f"Error: {error}") from error


def _is_file(part: Part) -> bool:
    """`files`, whatever it is called: the texts of a form have names of their own."""
    return part.filename is not None or part.name == "files"


def fits(info: ModelInfo | None) -> bool:
    """Whether the dialect can say what a model says."""
    return info is not None and info.task != "embedding"
