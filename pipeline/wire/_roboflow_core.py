"""Roboflow's core models: CLIP, OCR, language models; what is sent to them and what they answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.wire._roboflow_encode import finite
from pipeline.wire._roboflow_options import InvalidRequestError, Problem
from pipeline.wire._roboflow_requests import (
    MAX_PICTURES,
    ImageValue,
    body_of,
    image_of,
    images_json,
    images_of,
    key_of,
    optional_text,
    text_of,
)
from pipeline.wire.document import items, mapping, number

OCR_PATHS = {"doctr": "/doctr/ocr", "trocr": "/ocr/trocr", "easy_ocr": "/easy_ocr/ocr", "pp_ocr": "/ocr/pp-ocr"}
"""Where each model that reads is found."""

MAX_TURNS = 100
"""Of a talk about a picture, in one request."""


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """Pictures for a core model: CLIP's `/clip/embed_image`, OCR, gaze, LMM.

    Attributes:
        images: one at least.
        many: they came as an array, and so does the answer.
        version_id: which version of the model; None: the server's.
        prompt: what a language model is asked.
        history: what was asked and answered before, in pairs; CogVLM's alone.
        model_id: of a language model, where it does not stand in the path.
        api_key: the client's.
    """

    images: tuple[ImageValue, ...]
    many: bool = False
    version_id: str | None = None
    prompt: str | None = None
    model_id: str | None = None
    api_key: str | None = field(default=None, repr=False)
    history: tuple[tuple[str, str], ...] = ()

    def to_json(self, version_key: str = "clip_version_id") -> dict[str, Any]:
        """As a client sends it."""
        beside = {version_key: self.version_id, "prompt": self.prompt, "model_id": self.model_id}
        said: dict[str, Any] = {name: value for name, value in beside.items() if value is not None}
        if self.history:
            said["history"] = [list(turn) for turn in self.history]
        return {"api_key": self.api_key, **said, "image": images_json(self.images)}


def parse_picture_request(body: object, version_key: str = "clip_version_id") -> PictureRequest:
    """The body of `/clip/embed_image`, of the OCR paths (`doctr_version_id`), of gaze and of `/infer/lmm`.

    Raises:
        InvalidRequestError: the body breaks the schema: 422.
    """
    document = body_of(body)
    images, many = images_of(document)
    version, prompt = optional_text(document, version_key), optional_text(document, "prompt")
    return PictureRequest(images, many, version, prompt, optional_text(document, "model_id"), key_of(document))


def parse_question_request(body: object) -> PictureRequest:
    """The body of `/llm/cogvlm`: a prompt, which must be there, and what was said before.

    Format: inference-sdk 0.37.1, `prompt_cogvlm`.

    Raises:
        InvalidRequestError: the body breaks the schema: 422.
    """
    document = body_of(body)
    asked = replace(parse_picture_request(document), prompt=text_of(document, "prompt"))
    if not asked.prompt:
        message = "String should have at least 1 character"
        raise InvalidRequestError([Problem("string_too_short", ("body", "prompt"), message, None)])
    turns = document.get("history")
    if turns is None:
        return asked
    if not isinstance(turns, list) or len(turns) > MAX_TURNS:
        message = f"Input should be a list of at most {MAX_TURNS} pairs"
        raise InvalidRequestError([Problem("list_type", ("body", "history"), message, None)])
    return replace(asked, history=tuple(_turn(turn, index) for index, turn in enumerate(turns)))


def _turn(turn: object, index: int) -> tuple[str, str]:
    if not isinstance(turn, list) or len(turn) != 2:
        message = "Input should be a pair: what was asked, and what was answered"
        raise InvalidRequestError([Problem("tuple_type", ("body", "history", index), message, None)])
    asked, answered = (optional_text({"history": part}, "history") for part in turn)
    return asked or "", answered or ""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Texts for `/clip/embed_text`; `many` where they came as an array."""

    texts: tuple[str, ...]
    many: bool = False
    version_id: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """As a client sends it."""
        version = {} if self.version_id is None else {"clip_version_id": self.version_id}
        return {"api_key": self.api_key, **version, "text": list(self.texts) if self.many else self.texts[0]}


def parse_text_request(body: object) -> TextRequest:
    """The body of `/clip/embed_text`. Raises InvalidRequestError."""
    document = body_of(body)
    value = document.get("text")
    texts = _parts(value, "text", "text")
    version = optional_text(document, "clip_version_id")
    return TextRequest(tuple(map(str, texts)), isinstance(value, list), version, key_of(document))


Kind = Literal["image", "text"]


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What `/clip/compare` compares: a subject with prompts, each a text or a picture.

    Attributes:
        subject: with which.
        prompts: which, one at least.
        keys: names of the prompts where they came as an object: the answer has the same; None else.
        version_id: which CLIP; None: the server's.
        api_key: the client's.
    """

    subject: str | ImageValue
    prompts: tuple[str | ImageValue, ...]
    keys: tuple[str, ...] | None = None
    version_id: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """As a client sends it; the prompts are of one kind."""
        prompts = [_json(prompt) for prompt in self.prompts]
        version = {} if self.version_id is None else {"clip_version_id": self.version_id}
        return {
            "api_key": self.api_key,
            **version,
            "subject_type": _kind(self.subject),
            "prompt_type": _kind(self.prompts[0]),
            "subject": _json(self.subject),
            "prompt": prompts if self.keys is None else dict(zip(self.keys, prompts, strict=True)),
        }


def parse_compare_request(body: object) -> CompareRequest:
    """The body of `/clip/compare`; without types the subject is a picture and the prompts are texts.

    Raises:
        InvalidRequestError: the body breaks the schema: 422.
    """
    document = body_of(body)
    subject = _part(document.get("subject"), _kind_of(document, "subject_type", "image"), ("body", "subject"))
    kind = _kind_of(document, "prompt_type", "text")
    value = document.get("prompt")
    keys = None
    if isinstance(value, dict) and not (kind == "image" and {"type", "value"} <= value.keys()):
        keys, value = tuple(value), list(value.values())
    prompts = _parts(value, kind, "prompt")
    return CompareRequest(subject, prompts, keys, optional_text(document, "clip_version_id"), key_of(document))


def _kind(part: str | ImageValue) -> Kind:
    return "text" if isinstance(part, str) else "image"


def _json(part: str | ImageValue) -> Any:
    return part if isinstance(part, str) else part.to_json()


def _kind_of(document: Mapping[str, Any], name: str, default: Kind) -> Kind:
    value = document.get(name, default)
    if value not in ("image", "text"):
        raise InvalidRequestError([Problem("literal_error", ("body", name), "Input should be 'image' or 'text'", None)])
    return "image" if value == "image" else "text"


def _parts(value: object, kind: Kind, name: str) -> tuple[str | ImageValue, ...]:
    if not isinstance(value, list):
        return (_part(value, kind, ("body", name)),)
    if not 1 <= len(value) <= MAX_PICTURES:
        message = f"List should have from 1 to {MAX_PICTURES} items, not {len(value)}"
        raise InvalidRequestError([Problem("too_long" if value else "too_short", ("body", name), message, None)])
    return tuple(_part(part, kind, ("body", name, index)) for index, part in enumerate(value))


def _part(value: object, kind: Kind, loc: tuple[str | int, ...]) -> str | ImageValue:
    if value is None:
        raise InvalidRequestError([Problem("missing", loc, "Field required", None)])
    if kind == "image":
        return image_of(value, loc)
    found = optional_text({"text": value}, "text")
    return found or ""


def encode_embeddings(vectors: Sequence[npt.NDArray[np.float32]], time_s: float) -> dict[str, Any]:
    """The answer of `/clip/embed_*`; the key `frame_id` must be there. `decode_embeddings` reads it."""
    return {"frame_id": None, "time": round(time_s, 6), "embeddings": [finite(vector) for vector in vectors]}


def encode_similarity(values: Sequence[float], time_s: float, keys: Sequence[str] | None = None) -> dict[str, Any]:
    """The answer of `/clip/compare`: -1 to 1 for each prompt, under its key where the prompts had keys."""
    rounded = [round(float(value), 7) for value in values]
    similarity: Any = rounded if keys is None else dict(zip(keys, rounded, strict=True))
    return {"frame_id": None, "time": round(time_s, 6), "similarity": similarity}


def decode_similarity(document: object, count: int) -> npt.NDArray[np.float32]:
    """The `count` similarities of an answer: float32, -1..1. Raises ValueError."""
    found = items(mapping(document, "the answer").get("similarity"), "similarity", count)
    if len(found) != count:
        raise ValueError(f"the answer has {len(found)} similarities, not {count}")
    values = [number(value, "a similarity") for value in found]
    if any(abs(value) > 1.01 for value in values):
        raise ValueError("a similarity is not from -1 to 1")
    return np.clip(np.array(values, np.float32), -1, 1)


def encode_ocr(read: str, time_s: float) -> dict[str, Any]:
    """The answer of the OCR paths; `decode_prediction` reads it."""
    return {"result": read, "time": round(time_s, 6)}
