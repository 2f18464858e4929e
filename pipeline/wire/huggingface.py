"""The Hugging Face inference protocol: its tasks, what its bodies hold by their first bytes, and its errors.

Requests are in `huggingface_requests`, answers in `huggingface_answers` (those that are predictions) and
`huggingface_text` (those of tasks that have nothing to do with pictures).

Format: huggingface_hub 0.17.3 and 2.4.0, and the servers of api-inference-community.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pipeline.wire.document import loads

MAX_LOADING_S = 3600.0
"""A server that estimates more is not believed."""
MAX_ERROR_CHARS = 200
"""So much of a server's own text goes into an error."""


class Spec(NamedTuple):
    """How the requests of one task look.

    Attributes:
        binary: the name of the input that is a file: "image" or "audio".
        fields: the names of its other inputs; ("text",) alone stands in `inputs` itself.
        nested: generation 0.17 put the fields into `inputs`, too, not beside it.
        plain: no generation puts the fields into `inputs`.
    """

    binary: Literal["image", "audio"] | None = None
    fields: tuple[str, ...] = ()
    nested: bool = False
    plain: bool = False


_IMAGE, _AUDIO, _TEXT = Spec("image"), Spec("audio"), Spec(fields=("text",))

SPECS: Mapping[str, Spec] = {
    "audio-classification": _AUDIO,
    "audio-to-audio": _AUDIO,
    "automatic-speech-recognition": _AUDIO,
    "conversational": Spec(fields=("text", "generated_responses", "past_user_inputs"), nested=True),
    "document-question-answering": Spec("image", ("question",)),
    "feature-extraction": _TEXT,
    "fill-mask": _TEXT,
    "image-classification": _IMAGE,
    "image-feature-extraction": _IMAGE,
    "image-segmentation": _IMAGE,
    "image-to-image": _IMAGE,
    "image-to-text": _IMAGE,
    "object-detection": _IMAGE,
    "question-answering": Spec(fields=("question", "context")),
    "sentence-similarity": Spec(fields=("source_sentence", "sentences"), nested=True),
    "summarization": _TEXT,
    "table-question-answering": Spec(fields=("query", "table")),
    "tabular-classification": Spec(fields=("table",), plain=True),
    "tabular-regression": Spec(fields=("table",), plain=True),
    "text-classification": _TEXT,
    "text-generation": _TEXT,
    "text-to-image": _TEXT,
    "text-to-speech": _TEXT,
    "token-classification": _TEXT,
    "translation": _TEXT,
    "visual-question-answering": Spec("image", ("question",), plain=True),
    "zero-shot-classification": _TEXT,
    "zero-shot-image-classification": _IMAGE,
}
"""All tasks, by the name that the hub gives them."""


def canonical(task: str) -> str | None:
    """The task's name as the hub writes it, from that or from a method's name (`object_detection`); None: no such."""
    name = task.replace("_", "-")
    return name if name in SPECS else None


# The first bytes of the files that may be a body of their own: (where, what, media type).
_MAGIC = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (0, b"GIF8", "image/gif"),
    (8, b"WAVE", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (0, b"\xff\xf2", "audio/mpeg"),
)


def sniff(body: bytes) -> str | None:
    """The media type of a body by its first bytes, whatever its header says; None: unknown."""
    for offset, magic, media_type in _MAGIC:
        if body.startswith(magic, offset):
            return media_type
    start = body[:64].lstrip()
    return "application/json" if start[:1] in {b"{", b"["} else None


def error_document(message: str | Sequence[str]) -> dict[str, Any]:
    """The body of any error."""
    return {"error": message if isinstance(message, str) else list(message)}


def loading_document(model: str, estimated_time_s: float) -> dict[str, Any]:
    """The body of the 503 that a model which is not ready yet is told by."""
    return {"error": f"Model {model} is currently loading", "estimated_time": round(estimated_time_s, 3)}


def error_text(body: bytes) -> str | None:
    """What an error's body says, cut to a length that a log takes; None: nothing that can be read."""
    try:
        document = loads(body)
    except ValueError:
        return None
    error = document.get("error") if isinstance(document, dict) else None
    texts = [error] if isinstance(error, str) else error if isinstance(error, list) else []
    return "; ".join(text for text in texts if isinstance(text, str))[:MAX_ERROR_CHARS] or None


def decode_body(body: bytes) -> Any:
    """The document of an answer.

    Raises:
        ValueError: it is no JSON, or it is an error in spite of its status.
    """
    document = loads(body)
    if isinstance(document, dict) and document.get("error"):
        raise ValueError(f"an error instead of an answer: {error_text(body) or 'without a text'}")
    return document


def loading_s(body: bytes) -> float | None:
    """How long a model will still be loading, as the body of a 503 says; None where it does not speak of that."""
    try:
        document = loads(body)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    estimated, error = document.get("estimated_time"), document.get("error")
    if isinstance(estimated, int | float) and not isinstance(estimated, bool):
        return min(max(estimated, 0.0), MAX_LOADING_S)
    return 0.0 if isinstance(error, str) and "loading" in error.lower() else None
