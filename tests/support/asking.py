"""Models that are none, and the real server in front of them: what tests of the inference server's dialects need.

asking = FakeAsking(detector("local", "coco/9"))

async def test(ask: Ask) -> None:
    answer = await ask("POST", "/infer/object_detection", json={...})
    assert answer.status == 200

serve_dialects(asking, {"": dialect}, test)
"""

import asyncio
import io
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from serving import Ask, FakeControl, make_server, serve

from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.frame import Picture, Size, Wishes
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.runtime.asking import Answer, AskError, Served
from pipeline.server.app import Limits
from pipeline.server.inference.mount import Inference, Mounted
from pipeline.server.inference.pictures import PictureReader
from pipeline.server.inference.service import Dialect, InferenceLimits, Service

Predict = Callable[[Picture, Wishes | None], Prediction]

NAMES = ("person", "bus", "dog")
NODES = ("nose", "left_eye")


def found(**changes: Any) -> Detections:
    """A person at 10, 20 to 110, 120 and a bus at 30.5, 40.5 to 90.5, 80.5; `changes` go into the Detections."""
    fields: dict[str, Any] = {
        "xyxy": np.array([[10, 20, 110, 120], [30.5, 40.5, 90.5, 80.5]], np.float32),
        "confidence": np.array([0.875, 0.5], np.float32),
        "class_id": np.array([0, 1], np.int32),
        "names": NAMES,
        **changes,
    }
    return Detections(**fields)


def masked(size: Size) -> Detections:
    """The same with masks: what lies in each box."""
    boxes = found()
    masks = np.zeros((len(boxes), size.height, size.width), np.bool_)
    for mask, (left, top, right, bottom) in zip(masks, boxes.xyxy.astype(int).tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return found(masks=masks)


def posed() -> Detections:
    """The same with two keypoints each."""
    keypoints = np.array([[[20, 30, 0.75], [40, 50, 0.25]], [[35, 45, 0.5], [36, 46, 1.0]]], np.float32)
    return found(keypoints=keypoints, keypoint_names=NODES)


def mapped(size: Size) -> SemanticMask:
    """The left half is class 0, the right half class 1."""
    classes = np.zeros((size.height, size.width), np.int32)
    classes[:, size.width // 2 :] = 1
    return SemanticMask(classes, NAMES, np.full((size.height, size.width), 204, np.uint8))


def _clip(_: Picture, wishes: Wishes | None) -> Prediction:
    if wishes is not None and wishes.texts:
        return Classification(np.array([1 / len(wishes.texts)] * len(wishes.texts), np.float32), wishes.texts)
    return Embedding(np.array([1.0, 0.0, 0.0, 0.0], np.float32))


ANSWERS: dict[Task, Predict] = {
    "object-detection": lambda _, __: found(),
    "instance-segmentation": lambda picture, _: masked(picture.size),
    "keypoint-detection": lambda _, __: posed(),
    "classification": lambda _, __: Classification(np.array([0.125, 0.75, 0.125], np.float32), NAMES),
    "multi-label-classification": lambda _, __: Classification(
        np.array([0.875, 0.75, 0.125], np.float32), NAMES, multi_label=True
    ),
    "semantic-segmentation": lambda picture, _: mapped(picture.size),
    "embedding": _clip,
    "text": lambda _, wishes: Text(": ".join([*(wishes.texts[:1] if wishes else ()), "a bus in a street"])),
}
"""What a model of each task says about every picture."""


def model(name: str, task: Task, *aliases: str, **changes: Any) -> Served:
    """A model that is ready; `changes` go into the `Served`."""
    info = ModelInfo(task, () if task in ("embedding", "text") else NAMES, Size(640, 480))
    if task == "keypoint-detection":
        info = ModelInfo(task, NAMES, Size(640, 480), NODES)
    fields: dict[str, Any] = {
        "name": name,
        "aliases": aliases,
        "type": "onnx",
        "state": "ready",
        "model": f"{name}.onnx",
        "info": info,
        "max_batch": 4,
        "texts": task == "embedding",
        "removable": True,
        **changes,
    }
    return Served(**fields)


def detector(name: str = "local", *aliases: str, **changes: Any) -> Served:
    """A model that finds what `found` says."""
    return model(name, "object-detection", *aliases, **changes)


@dataclass
class Asked:
    """One call of `infer`."""

    model_id: str
    pictures: list[Picture]
    wishes: Wishes | None
    timeout_s: float


class FakeAsking:
    """An `Asking` whose models answer as they are told. For one loop.

    Attributes:
        asked: all calls of `infer`.
        texts: all texts that were embedded.
        answers: what a model says instead of what its task's says in `ANSWERS`, by its name.
        fault: what `infer` and `embed_texts` raise instead of an answer.
        latency_s: how long an answer takes.
        gate: answers wait for it, where there is one.
        now: pictures that wait for an answer at this moment.
        most: the most that ever did.
    """

    def __init__(self, *models: Served) -> None:
        self.models = {served.name: served for served in models}
        self.asked: list[Asked] = []
        self.texts: list[str] = []
        self.answers: dict[str, Predict] = {}
        self.fault: Exception | None = None
        self.latency_s = 0.0
        self.gate: asyncio.Event | None = None
        self.now = 0
        self.most = 0

    def served(self) -> Sequence[Served]:
        return list(self.models.values())

    def find(self, model_id: str) -> Served | None:
        return next((served for served in self.models.values() if model_id in served.ids), None)

    async def infer(
        self, model_id: str, pictures: Sequence[Picture], wishes: Wishes | None = None, *, timeout_s: float
    ) -> list[Answer]:
        served = self._ready(model_id)
        self.asked.append(Asked(model_id, list(pictures), wishes, timeout_s))
        self.now += len(pictures)
        self.most = max(self.most, self.now)
        try:
            await self._wait(timeout_s)
        finally:
            self.now -= len(pictures)
        assert served.info is not None
        predict = self.answers.get(served.name) or ANSWERS[served.info.task]
        return [Answer(predict(picture, wishes), served.name, served.model, 0.0125) for picture in pictures]

    async def embed_texts(self, model_id: str, texts: Sequence[str], *, timeout_s: float) -> list[Embedding]:
        if not self._ready(model_id).texts:
            raise AskError("unsupported", "this model takes no texts")
        self.texts += texts
        await self._wait(timeout_s)
        return [Embedding(np.array([0.0, 1.0, 0.0, float(len(text))], np.float32)) for text in texts]

    async def load(self, model_id: str) -> Served:
        return self._change(model_id, "ready")

    async def unload(self, model_id: str) -> Served:
        if not self._known(model_id).removable:
            raise AskError("unsupported", "cameras use this model")
        return self._change(model_id, "unloaded")

    def _known(self, model_id: str) -> Served:
        served = self.find(model_id)
        if served is None:
            raise AskError("unknown", f"there is no model {model_id!r}")
        return served

    def _ready(self, model_id: str) -> Served:
        served = self._known(model_id)
        match served.state:
            case "loading":
                raise AskError("loading", "the model is loading", 2.0)
            case "unloaded":
                raise AskError("unloaded", "the model is unloaded")
            case "failed":
                raise AskError("failed", "the model has failed")
            case "ready":
                return served

    def _change(self, model_id: str, state: str) -> Served:
        old = self._known(model_id)
        changed = {name: getattr(old, name) for name in Served.__slots__} | {"state": state}
        self.models[old.name] = Served(**changed)
        return self.models[old.name]

    async def _wait(self, timeout_s: float) -> None:
        if self.fault is not None:
            raise self.fault
        try:
            async with asyncio.timeout(timeout_s):
                if self.gate is not None:
                    await self.gate.wait()
                await asyncio.sleep(self.latency_s)
        except TimeoutError as error:
            raise AskError("late", "the model took too long") from error


def picture_file(width: int = 320, height: int = 240, kind: str = "JPEG", **options: Any) -> bytes:
    """A picture whose brightness grows from left to right, as a file of this kind."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    pixels: npt.NDArray[np.uint8] = np.repeat(np.repeat(row[None, :, None], height, 0), 3, 2)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@dataclass
class Observed:
    """The requests that the metrics heard of."""

    requests: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, dialect: str, status: int, _: float) -> None:
        self.requests.append((dialect, status))


MakeDialect = Callable[[Service], Dialect]


def inference(
    asking: FakeAsking,
    dialects: Mapping[str, MakeDialect | Sequence[MakeDialect]],
    limits: InferenceLimits | None = None,
    *,
    observe: Callable[[str, int, float], None] = lambda *_: None,
    pictures: PictureReader | None = None,
) -> Inference:
    """What `Server(inference=...)` takes: the dialects, each under its prefix ("" for none). Needs a running loop."""
    limits = limits or InferenceLimits(timeout_s=10)
    pictures = pictures or PictureReader(limits)
    service = Service(asking, pictures, limits)
    mounted = [
        Mounted(prefix, make(service))
        for prefix, makers in dialects.items()
        for make in (makers if isinstance(makers, Sequence) else [makers])
    ]
    return Inference(service, mounted, observe=observe, close=pictures.close)


def serve_dialects(
    asking: FakeAsking,
    dialects: Mapping[str, MakeDialect | Sequence[MakeDialect]],
    test: Callable[[Ask], Awaitable[None]],
    *,
    limits: InferenceLimits | None = None,
    observe: Callable[[str, int, float], None] = lambda *_: None,
    pictures: PictureReader | None = None,
    server_limits: Limits | None = None,
    control: FakeControl | None = None,
    **options: Any,
) -> None:
    """Run `test` beside the real server with these dialects; `options` are those of `make_server`."""

    def make() -> Any:
        offered = inference(asking, dialects, limits, observe=observe, pictures=pictures)
        return make_server(control or FakeControl(), inference=offered, limits=server_limits or Limits(), **options)

    serve(make, test)
