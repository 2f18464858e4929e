"""The smallest protocol there can be, in front of the real machinery of backends elsewhere: a JPEG in, boxes out."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from looped import LoopedContext
from misbehaving_server import Asked, MisbehavingServer
from PIL import Image

from pipeline.backends._http import Client, Request, Sent
from pipeline.backends._http_backend import HttpBackend
from pipeline.backends._http_config import HttpBackendConfig
from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.clock import Clock
from pipeline.contracts.component import Context
from pipeline.contracts.result import Detections


class ToyConfig(HttpBackendConfig):
    """Asks `/infer`, one picture or several."""

    type: Literal["toy"] = "toy"
    idempotent: bool = True
    asks_first: bool = False

    def build(self, ctx: Context) -> HttpBackend:
        return HttpBackend(self, ctx, ToyDialect(self))


class ToyDialect:
    model = "toy/1"
    max_batch = 8

    def __init__(self, config: ToyConfig) -> None:
        self._config = config
        self.closed = 0

    async def open(self, client: Client) -> ModelInfo | None:
        if self._config.asks_first:
            labels = json.loads((await client.send(Request("GET", "/info"))).body)["labels"]
            return ModelInfo("object-detection", tuple(labels))
        return None

    async def infer(self, client: Client, pictures: Sequence[Sent], deadline: float | None) -> Sequence[Detections]:
        body = b"".join(one.data for one in pictures)
        headers = {"Content-Type": pictures[0].media_type, "X-Lengths": ",".join(str(len(p.data)) for p in pictures)}
        request = Request("POST", "/infer", headers=headers, body=body, retry=self._config.idempotent)
        answer = await client.send(request, deadline=deadline)
        return decode(answer.body)

    def describe(self) -> str:
        return f"toy/1 at {self._config.where}"

    async def close(self, client: Client) -> None:
        self.closed += 1


def decode(body: bytes) -> list[Detections]:
    """The wire format: `{"boxes": [[left, top, right, bottom, confidence, class], ...]}`, or a list of those.

    Raises:
        ValueError: it is something else.
    """
    found: Any = json.loads(body)
    documents = found if isinstance(found, list) else [found]
    decoded = []
    for one in documents:
        if not isinstance(one, dict) or not isinstance(one.get("boxes"), list):
            raise ValueError("boxes are missing")  # noqa: TRY004  (so are all complaints of codecs)
        rows = np.array(one["boxes"], np.float64).reshape(-1, 6)
        decoded.append(
            Detections(
                xyxy=rows[:, :4].astype(np.float32),
                confidence=rows[:, 4].astype(np.float32),
                class_id=rows[:, 5].astype(np.int32),
                names=("dark", "bright"),
            )
        )
    return decoded


def toy_answer(asked: Asked) -> Any:
    """One box as wide as the picture is bright, for each picture."""
    if asked.path == "/info":
        return {"labels": ["dark", "bright"]}
    documents, at = [], 0
    for length in map(int, asked.headers["x-lengths"].split(",")):
        grey = np.asarray(Image.open(io.BytesIO(asked.body[at : at + length])).convert("L"))
        at += length
        mean = float(grey.mean()) / 255
        height, width = grey.shape
        documents.append({"boxes": [[0, 0, width * max(mean, 0.05), height / 2, mean, int(mean > 0.5)]]})
    return documents if len(documents) > 1 else documents[0]


@contextmanager
def toy(
    tmp_path: Path, *, clock: Clock | None = None, url: str | None = None, opened: bool = True, **keys: Any
) -> Iterator[tuple[HttpBackend, MisbehavingServer, LoopedContext]]:
    """An open backend, its server, and its context; everything is closed at the end."""
    with MisbehavingServer(toy_answer) as server, LoopedContext("cloud", tmp_path, clock) as ctx:
        backend = ToyConfig.model_validate({"url": url or server.url, **keys}).build(ctx)
        try:
            if opened:
                backend.open()
            yield backend, server, ctx
        finally:
            backend.close()
