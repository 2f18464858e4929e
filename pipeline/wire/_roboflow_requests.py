"""Inference requests of the Roboflow protocol: the legacy query, and the v1 bodies of every task."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.contracts.backend import Task
from pipeline.wire._roboflow_options import (
    BODY_FIELDS,
    BODY_NAMES,
    BODY_QUERY_NAMES,
    LEGACY_NAMES,
    InvalidRequestError,
    Options,
    Problem,
    invalid,
)
from pipeline.wire.document import mapping, quoted

MAX_PICTURES = 1000
"""So many pictures in one request are read at the most; a server's own limit is lower."""

MAX_MODEL_ID = 200
NO_OPTIONS = Options()

PATHS: dict[Task, str] = {
    "object-detection": "/infer/object_detection",
    "instance-segmentation": "/infer/instance_segmentation",
    "keypoint-detection": "/infer/keypoints_detection",
    "classification": "/infer/classification",
    "multi-label-classification": "/infer/classification",
    "semantic-segmentation": "/infer/semantic_segmentation",
    "embedding": "/infer/embeddings",
    "text": "/infer/lmm",
}
"""Where a v1 request for each task goes."""

REGISTRY_TASKS: dict[Task, str] = {
    "object-detection": "object-detection",
    "instance-segmentation": "instance-segmentation",
    "keypoint-detection": "keypoint-detection",
    "classification": "classification",
    "multi-label-classification": "classification",
    "semantic-segmentation": "semantic-segmentation",
    "embedding": "embed",
    "text": "lmm",
}
"""What the registry calls each task."""


@dataclass(frozen=True, slots=True)
class ImageValue:
    """A picture in a request, as `{"type", "value"}`.

    Attributes:
        type: "base64" (a file in base64), "url", or what a server refuses: "numpy" and anything else.
        value: the base64 text or the URL.
    """

    type: str
    value: str = field(repr=False)

    @classmethod
    def of(cls, data: bytes) -> "ImageValue":
        """A picture file."""
        return cls("base64", base64.b64encode(data).decode("ascii"))

    def to_json(self) -> dict[str, str]:
        """As it goes into a body."""
        return {"type": self.type, "value": self.value}


@dataclass(frozen=True, slots=True)
class LegacyQuery:
    """The query of `POST|GET /{dataset}/{version}`.

    Attributes:
        options: what is asked; confidence and overlap as ratios, also where they came in percent.
        api_key: the client's.
        image: a URL; where it is there, the body counts for nothing.
        image_type: how to read the body; "numpy" (a pickle) is refused.
    """

    options: Options = NO_OPTIONS
    api_key: str | None = field(default=None, repr=False)
    image: str | None = None
    image_type: Literal["base64", "numpy"] = "base64"

    def to_query(self) -> list[tuple[str, str]]:
        """As a client sends it."""
        query = [("api_key", self.api_key), ("image", self.image)]
        kind = [("image_type", self.image_type)] if self.image_type != "base64" else []
        return [*((name, value) for name, value in query if value is not None), *kind, *self.options.to_query()]


def parse_legacy_query(query: Iterable[tuple[str, str]]) -> LegacyQuery:
    """The query of the legacy route; what is not known is ignored, an empty value is none, the last one counts.

    Raises:
        InvalidRequestError: a value that cannot be: 422.
    """
    given = {name: value for name, value in query if value.strip()}
    values = {name: _ratio(given[wire]) if wire in _PERCENT else given[wire].strip() for name, wire in _wire(given)}
    image_type = given.get("image_type", "base64").strip()
    if image_type not in ("base64", "numpy"):
        message = "Input should be 'base64' or 'numpy'"
        raise InvalidRequestError([Problem("literal_error", ("query", "image_type"), message, _short(image_type))])
    options = _options(values, "query", LEGACY_NAMES)
    kind: Literal["base64", "numpy"] = "numpy" if image_type == "numpy" else "base64"
    return LegacyQuery(options, given.get("api_key"), given.get("image"), kind)


_PERCENT = ("confidence", "overlap")


def _wire(given: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, wire) for name, wire in LEGACY_NAMES.items() if wire in given]


def _ratio(value: str) -> str | float:
    """Percent where it is 1 or more. What is no number is left to the schema."""
    try:
        found = float(value)
    except ValueError:
        return value.strip()
    return found / 100 if 1 <= found < float("inf") else found


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A v1 inference request.

    Attributes:
        model_id: which model.
        images: the pictures, one at least.
        many: they came as an array: the answer is one, too, also for a single picture.
        options: what is asked.
        api_key: the client's.
    """

    model_id: str
    images: tuple[ImageValue, ...]
    many: bool = False
    options: Options = NO_OPTIONS
    api_key: str | None = field(default=None, repr=False)

    def to_json(self, task: Task) -> dict[str, Any]:
        """As a client sends it: an array for two pictures and more."""
        options = self.options.to_body(task)
        return {"api_key": self.api_key, "model_id": self.model_id, **options, "image": images_json(self.images)}


def images_json(images: Sequence[ImageValue]) -> Any:
    """One object for one picture, an array for more."""
    values = [image.to_json() for image in images]
    return values[0] if len(values) == 1 else values


def parse_infer_request(
    task: Task, body: object, query: Iterable[tuple[str, str]] = (), *, model_id: str | None = None
) -> InferRequest:
    """The body of `POST /infer/...`; what is not known is ignored.

    Args:
        task: whose path it came to.
        body: the JSON document.
        query: `countinference` and `service_secret` stand there.
        model_id: the model, where it stands in the path.

    Raises:
        InvalidRequestError: the body breaks the schema: 422.
    """
    document = body_of(body)
    names = {name: BODY_NAMES.get(name, name) for name in BODY_FIELDS[task]}
    values = {name: document[wire] for name, wire in names.items() if document.get(wire) is not None}
    beside = {name: value for name, value in query if value.strip()}
    values |= {name: beside[wire] for name, wire in BODY_QUERY_NAMES.items() if wire in beside}
    images, many = images_of(document)
    options = _options(values, "body", names | BODY_QUERY_NAMES)
    name = text_of(document, "model_id", MAX_MODEL_ID) if model_id is None else model_id
    return InferRequest(name, images, many, options, key_of(document))


def _options(values: Mapping[str, object], where: str, wire_names: Mapping[str, str]) -> Options:
    try:
        return Options.model_validate(values)
    except ValidationError as error:
        raise invalid(error, where, wire_names) from None


def body_of(body: object) -> Mapping[str, Any]:
    """The body as an object. Raises InvalidRequestError."""
    try:
        return mapping(body, "the body")
    except ValueError:
        message = "Input should be a valid dictionary or object to extract fields from"
        raise InvalidRequestError([Problem("model_attributes_type", ("body",), message, None)]) from None


def key_of(body: Mapping[str, Any]) -> str | None:
    """The client's API key. Raises InvalidRequestError."""
    return optional_text(body, "api_key", 10_000)


def text_of(body: Mapping[str, Any], name: str, most: int = 100_000) -> str:
    """A text that must be there. Raises InvalidRequestError."""
    found = optional_text(body, name, most)
    if found is None:
        raise InvalidRequestError([Problem("missing", ("body", name), "Field required", None)])
    return found


def optional_text(body: Mapping[str, Any], name: str, most: int = 100_000) -> str | None:
    """A text that may be there. Raises InvalidRequestError."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value[: most + 1]):
        raise InvalidRequestError([Problem("string_type", ("body", name), "Input should be a valid string", None)])
    if len(value) > most:
        message = f"String should have at most {most} characters"
        raise InvalidRequestError([Problem("string_too_long", ("body", name), message, None)])
    return value


def images_of(body: Mapping[str, Any], name: str = "image") -> tuple[tuple[ImageValue, ...], bool]:
    """The pictures under `name`, and whether they are an array. Raises InvalidRequestError."""
    if name not in body:
        raise InvalidRequestError([Problem("missing", ("body", name), "Field required", None)])
    value = body[name]
    if not isinstance(value, list):
        return (image_of(value, ("body", name)),), False
    if not 1 <= len(value) <= MAX_PICTURES:
        message = f"List should have from 1 to {MAX_PICTURES} items, not {len(value)}"
        raise InvalidRequestError([Problem("too_long" if value else "too_short", ("body", name), message, None)])
    return tuple(image_of(item, ("body", name, index)) for index, item in enumerate(value)), True


def image_of(value: object, loc: tuple[str | int, ...]) -> ImageValue:
    """One picture. Raises InvalidRequestError with `loc`."""
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or instance of InferenceRequestImage"
        raise InvalidRequestError([Problem("model_type", loc, message, None)])
    for name in ("type", "value"):
        if not isinstance(value.get(name), str):
            kind, message = ("string_type", "Input should be a valid string") if name in value else _MISSING
            raise InvalidRequestError([Problem(kind, (*loc, name), message, None)])
    return ImageValue(_short(value["type"]), value["value"])


_MISSING = ("missing", "Field required")


def _short(text: str) -> str:
    return text if len(text) <= 20 and text.isascii() else quoted(text).strip("'\"")
