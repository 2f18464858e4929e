"""What a Roboflow server says about itself: registry, info, errors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.contracts.frame import Size
from pipeline.wire._roboflow_requests import MAX_MODEL_ID, body_of, key_of, text_of
from pipeline.wire.document import items, loads, mapping, text

MAX_MODELS = 10_000
MAX_MESSAGE = 200
"""So many characters of a server's error text are handed on."""


@dataclass(frozen=True, slots=True)
class RegistryModel:
    """One model in the registry.

    Attributes:
        model_id: as clients name it.
        task_type: in the registry's words: "object-detection", "keypoint-detection".
        batch_size: pictures in one run, or a text such as "N"; None: not said.
        input_size: what it is fed; None: not said.
    """

    model_id: str
    task_type: str
    batch_size: int | str | None = None
    input_size: Size | None = None

    def to_json(self) -> dict[str, Any]:
        """As in the registry."""
        return {
            "model_id": self.model_id,
            "task_type": self.task_type,
            "batch_size": self.batch_size,
            "input_height": None if self.input_size is None else self.input_size.height,
            "input_width": None if self.input_size is None else self.input_size.width,
        }


def encode_registry(models: Iterable[RegistryModel]) -> dict[str, Any]:
    """The answer of `GET /model/registry`, `POST /model/add`, `/model/remove` and `/model/clear`."""
    return {"models": [model.to_json() for model in models]}


def parse_registry(body: object) -> list[RegistryModel]:
    """The same read. Raises ValueError."""
    models = items(mapping(body, "the registry").get("models"), "models of the registry", MAX_MODELS)
    return [_model(mapping(item, "a model of the registry")) for item in models]


def _model(item: Mapping[str, Any]) -> RegistryModel:
    width, height = (_side(item.get(name)) for name in ("input_width", "input_height"))
    batch = item.get("batch_size")
    return RegistryModel(
        text(item.get("model_id"), "model_id of the registry"),
        text(item.get("task_type"), "task_type of the registry"),
        batch if isinstance(batch, int | str) and not isinstance(batch, bool) else None,
        None if width is None or height is None else Size(width, height),
    )


def _side(value: object) -> int | None:
    """Of an input size; models of any size have text or nothing here."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 100_000 else None


@dataclass(frozen=True, slots=True)
class ModelOrder:
    """The body of `POST /model/add` and `/model/remove`."""

    model_id: str
    api_key: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a client sends it."""
        return {"model_id": self.model_id, "api_key": self.api_key}


def parse_model_order(body: object) -> ModelOrder:
    """Which model to add or to remove. Raises InvalidRequestError."""
    document = body_of(body)
    return ModelOrder(text_of(document, "model_id", MAX_MODEL_ID), key_of(document))


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The answer of `GET /info`."""

    name: str
    version: str
    uuid: str

    def to_json(self) -> dict[str, str]:
        """As a server sends it."""
        return {"name": self.name, "version": self.version, "uuid": self.uuid}


def parse_server_info(body: object) -> ServerInfo:
    """The same read. Raises ValueError."""
    document = mapping(body, "the server's info")
    return ServerInfo(
        *(text(document.get(name), f"{name} of the server's info") for name in ("name", "version", "uuid"))
    )


def encode_error(message: str, **extra: Any) -> dict[str, Any]:
    """An error's body: `{"message": ...}`, with `error_type`, `context` and others where a route has them."""
    return {"message": message, **extra}


def parse_error(body: bytes) -> str:
    """What an error's body says, cut to 200 characters: `message`, else `detail`, and `inner_error_message`."""
    try:
        document = loads(body)
    except ValueError:
        return _line(body[: 4 * MAX_MESSAGE].decode("utf-8", "replace"))
    if not isinstance(document, dict):
        return _line(document if isinstance(document, str) else "")
    found = document.get("message", document.get("detail"))
    if isinstance(found, list):  # a 422: [{type, loc, msg, input}]
        found = "; ".join(_problem(item) for item in found[:3])
    inner = document.get("inner_error_message")
    return _line(": ".join(part for part in (found, inner) if isinstance(part, str) and part))


def _problem(item: object) -> str:
    if not isinstance(item, dict) or not isinstance(item.get("loc"), list):
        return ""
    return ".".join(str(step)[:50] for step in item["loc"][:5]) + " " + str(item.get("msg", ""))[:100]


def _line(text: str) -> str:
    return ascii(" ".join(text[: 4 * MAX_MESSAGE].split())[:MAX_MESSAGE])[1:-1]
