"""What all ways of asking a Roboflow server share: where the key goes, how an answer is read, what a probe shows."""

import asyncio
import io
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from pipeline.backends._http import Client, Response, Sent
from pipeline.backends._roboflow_config import RoboflowKeys
from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Prediction
from pipeline.wire.document import loads

T = TypeVar("T")

_THREAD_FROM_BYTES = 64 << 10
"""From this length on an answer is read in a thread: masks take time, and the main loop is everybody's."""

SAMPLE_SIZE = Size(64, 64)


class Asker(Protocol):
    """One way of asking: a model by v0 or v1, a core model, a workflow. On the main loop."""

    model: str
    max_batch: int

    async def open(self, client: Client) -> ModelInfo | None:
        """See `Dialect.open`."""
        ...

    async def infer(
        self, client: Client, pictures: Sequence[Sent], wishes: Wishes | None, deadline: float | None
    ) -> Sequence[Prediction]:
        """See `Dialect.infer`; all pictures have these wishes."""
        ...


class Key:
    """The API key, and where it goes.

    Attributes:
        headers: of every request.
        query: of a request whose place for the key is the query.
        body: value of `api_key` in a JSON body; None where it goes elsewhere.
        body_query: of a request with a JSON body.
    """

    def __init__(self, config: RoboflowKeys, default: str) -> None:
        key = None if config.api_key is None else config.api_key.get_secret_value()
        transport = config.api_key_transport or default
        pair = () if key is None or transport == "header" else (("api_key", key),)
        self.headers = {"Authorization": f"Bearer {key}"} if key is not None and transport == "header" else {}
        self.query: tuple[tuple[str, str], ...] = pair
        self.body = key if transport == "body" else None
        self.body_query: tuple[tuple[str, str], ...] = pair if transport == "query" else ()


async def read(response: Response, how: Callable[[object], T]) -> T:
    """What `how` makes of the answer's JSON.

    Raises:
        ValueError: it is no JSON, or `how` does not take it.
    """
    if len(response.body) < _THREAD_FROM_BYTES:
        return how(loads(response.body))
    return await asyncio.to_thread(lambda: how(loads(response.body)))


def sample() -> bytes:
    """A small grey JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", SAMPLE_SIZE, (128, 128, 128)).save(buffer, "JPEG")
    return buffer.getvalue()
