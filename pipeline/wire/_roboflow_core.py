"""Roboflow's core models: CLIP, OCR, language models, gaze; what is sent to them and what they answer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.contracts.result import Detections
from pipeline.wire._roboflow_decode import MAX_OBJECTS, box_of
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
)
from pipeline.wire.document import items, mapping, number

OCR_PATHS = {"doctr": "/doctr/ocr", "trocr": "/ocr/trocr", "easy_ocr": "/easy_ocr/ocr", "pp_ocr": "/ocr/pp-ocr"}
"""Where each model that reads is found."""

LANDMARKS = ("right_eye", "left_eye", "nose", "mouth", "right_ear", "left_ear")
"""The face's points in the order of the gaze model (MediaPipe's face detector)."""

MAX_LANDMARKS = 1000


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """Pictures for a core model: CLIP's `/clip/embed_image`, OCR, gaze, LMM.

    Attributes:
        images: one at least.
        many: they came as an array, and so does the answer.
        version_id: which version of the model; None: the server's.
        prompt: what a language model is asked.
        model_id: of a language model, where it does not stand in the path.
        api_key: the client's.
    """

    images: tuple[ImageValue, ...]
    many: bool = False
    version_id: str | None = None
    prompt: str | None = None
    model_id: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def to_json(self, version_key: str = "clip_version_id") -> dict[str, Any]:
        """As a client sends it."""
        beside = {version_key: self.version_id, "prompt": self.prompt, "model_id": self.model_id}
        said = {name: value for name, value in beside.items() if value is not None}
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


@dataclass(frozen=True, slots=True)
class Gaze:
    """One face and where it looks.

    Attributes:
        box: left, top, right, bottom in pixels.
        confidence: that it is a face, 0..1.
        landmarks: x, y of its points, in the order of `LANDMARKS`.
        yaw: radians; positive where the eyes turn to the left of the picture.
        pitch: radians; positive where they look up.
    """

    box: tuple[float, float, float, float]
    confidence: float
    landmarks: tuple[tuple[float, float], ...]
    yaw: float
    pitch: float


def encode_gazes(gazes: Sequence[Gaze], time_s: float) -> dict[str, Any]:
    """The answer of `/gaze/gaze_detection` for one picture."""
    predictions = []
    for gaze in gazes:
        left, top, right, bottom = gaze.box
        face = {
            "x": (left + right) / 2,
            "y": (top + bottom) / 2,
            "width": right - left,
            "height": bottom - top,
            "confidence": gaze.confidence,
            "class": "face",
            "class_confidence": None,
            "landmarks": [{"x": x, "y": y} for x, y in gaze.landmarks],
        }
        predictions.append({"face": face, "yaw": gaze.yaw, "pitch": gaze.pitch})
    times = {"time": round(time_s, 6), "time_face_det": None, "time_gaze_det": None}
    return {"predictions": predictions, **times}


def decode_gazes(document: object) -> list[Gaze]:
    """The same read. Raises ValueError."""
    found = []
    for value in items(mapping(document, "the answer").get("predictions"), "predictions", MAX_OBJECTS):
        item = mapping(value, "a prediction")
        face = mapping(item.get("face"), "face of a prediction")
        points = [mapping(point, "a landmark") for point in items(face.get("landmarks"), "landmarks", MAX_LANDMARKS)]
        landmarks = tuple((number(point.get("x"), "x"), number(point.get("y"), "y")) for point in points)
        score = number(face.get("confidence"), "confidence")
        if not 0 <= score <= 1.001:
            raise ValueError(f"a confidence of {score:g} is none: it goes from 0 to 1")
        yaw, pitch = number(item.get("yaw"), "yaw"), number(item.get("pitch"), "pitch")
        found.append(Gaze(box_of(face), min(score, 1.0), landmarks, yaw, pitch))
    return found


def gaze_detections(gazes: Sequence[Gaze], size: Size) -> Detections:
    """Faces with their landmarks as keypoints, and as the last one, "gaze", where a look as long as the face ends.

    Arrows that would leave the picture end at its edge, in the same direction.
    """
    count = max((len(gaze.landmarks) for gaze in gazes), default=len(LANDMARKS))
    points = np.full((len(gazes), count + 1, 3), np.nan, np.float32)
    for row, gaze in zip(points, gazes, strict=True):
        for place, (x, y) in enumerate(gaze.landmarks):
            row[place] = x, y, gaze.confidence
        row[count] = *_arrow(gaze, size), gaze.confidence
    names = (*LANDMARKS[:count], *(f"landmark_{index}" for index in range(len(LANDMARKS), count)), "gaze")
    return Detections(
        xyxy=np.array([gaze.box for gaze in gazes], np.float32).reshape(-1, 4),
        confidence=np.array([gaze.confidence for gaze in gazes], np.float32),
        class_id=np.zeros(len(gazes), np.int32),
        names=("face",),
        keypoints=points,
        keypoint_names=names,
    )


def _arrow(gaze: Gaze, size: Size) -> tuple[float, float]:
    """Where the look ends that begins in the middle of the face. Format: Roboflow's gaze example (its arrow)."""
    left, top, right, bottom = gaze.box
    x, y = min(max((left + right) / 2, 0), size.width), min(max((top + bottom) / 2, 0), size.height)
    length = right - left
    dx, dy = -length * math.sin(gaze.yaw) * math.cos(gaze.pitch), -length * math.sin(gaze.pitch)
    room = [1.0]
    for start, step, most in ((x, dx, size.width), (y, dy, size.height)):
        if step:
            room.append(((most if step > 0 else 0) - start) / step)
    ratio = max(0.0, min(room))
    return x + dx * ratio, y + dy * ratio
