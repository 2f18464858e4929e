"""Text generation in the Hugging Face inference protocol: whole answers, streams of tokens, and its errors.

Format: huggingface_hub 0.17.3 and 2.4.0, and text-generation-inference (TGI).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.wire.document import integer, items, loads, mapping, number, text

FinishReason = Literal["length", "eos_token", "stop_sequence"]
_FINISH_REASONS: Mapping[str, FinishReason] = {
    "length": "length",
    "eos_token": "eos_token",
    "stop_sequence": "stop_sequence",
}
ERROR_TYPES: Mapping[str, int] = {"validation": 422, "generation": 424, "overloaded": 429, "incomplete_generation": 500}
"""The status that goes with each `error_type`."""

MAX_TOKENS = 100_000
_MAX_INTEGER = 1 << 64


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `special` is None for those of the prompt, whose first one has no `logprob`."""

    id: int
    text: str
    logprob: float | None
    special: bool | None = None


@dataclass(frozen=True, slots=True)
class Details:
    """How an answer came about. `prefill` and `tokens` are None at the end of a stream."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None = None
    prefill: tuple[Token, ...] | None = None
    tokens: tuple[Token, ...] | None = None
    best_of: "tuple[Generated, ...] | None" = None


@dataclass(frozen=True, slots=True)
class Generated:
    """A whole answer."""

    text: str
    details: Details | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One token of a stream; the last brings the whole text."""

    token: Token
    generated_text: str | None = None
    details: Details | None = None


def decode_generated(document: object) -> Generated:
    """A whole answer, from a list of one or from an object.

    Raises:
        ValueError: it is no such answer.
    """
    if isinstance(document, list):
        document = document[0] if document else None
    item = mapping(document, "the answer")
    details = item.get("details")
    return Generated(_text(item, "generated_text"), None if details is None else _read_details(details))


def encode_generated(generated: Generated) -> list[dict[str, Any]]:
    """A whole answer."""
    document: dict[str, Any] = {"generated_text": generated.text}
    return [document if generated.details is None else document | {"details": _write_details(generated.details)}]


def decode_events(lines: Iterable[bytes]) -> Iterator[Step]:
    """The tokens in the lines of a stream of server-sent events; other lines than `data:` do not matter.

    Raises:
        ValueError: a line makes no sense, or tells of an error.
    """
    for line in lines:
        name, colon, data = line.strip().partition(b":")
        if name != b"data" or not colon:
            continue
        if data.strip() == b"[DONE]":
            return
        item = mapping(loads(data), "an event")
        if item.get("error") is not None:
            raise ValueError(f"the stream ends with an error: {text(item['error'], 'error')[:200]}")
        details, whole = item.get("details"), item.get("generated_text")
        yield Step(
            _read_token(item.get("token")),
            None if whole is None else text(whole, "'generated_text'"),
            None if details is None else _read_details(details),
        )


def encode_event(step: Step) -> bytes:
    """One token as a server-sent event."""
    document = {
        "token": _write_token(step.token),
        "generated_text": step.generated_text,
        "details": None if step.details is None else _write_details(step.details),
    }
    return b"data:" + json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"


def unused_parameters(error: str) -> tuple[str, ...]:
    """The parameters that a server which is no TGI server says it does not use, in the text of its 400."""
    if "model_kwargs" not in error or "not used" not in error:
        return ()
    _, _, listed = error.partition("[")
    names = listed.partition("]")[0].split(",")
    return tuple(name.strip().strip("'\"") for name in names if name.strip())


def _read_details(value: object) -> Details:
    item = mapping(value, "'details'")
    reason = _FINISH_REASONS.get(_text(item, "finish_reason"))
    if reason is None:
        raise ValueError("'finish_reason' is none of length, eos_token, stop_sequence")
    best_of = item.get("best_of_sequences")
    return Details(
        reason,
        _integer(item, "generated_tokens"),
        None if item.get("seed") is None else _integer(item, "seed"),
        _read_tokens(item.get("prefill")),
        _read_tokens(item.get("tokens")),
        None if best_of is None else tuple(map(_read_sequence, items(best_of, "'best_of_sequences'", 100))),
    )


def _read_sequence(value: object) -> Generated:
    item = mapping(value, "a sequence")
    if item.get("best_of_sequences") is not None:
        raise ValueError("a sequence of 'best_of_sequences' holds sequences")
    return Generated(_text(item, "generated_text"), _read_details(item))


def _read_tokens(value: object) -> tuple[Token, ...] | None:
    return None if value is None else tuple(_read_token(item) for item in items(value, "a list of tokens", MAX_TOKENS))


def _read_token(value: object) -> Token:
    item = mapping(value, "a token")
    logprob, special = item.get("logprob"), item.get("special")
    if special is not None and not isinstance(special, bool):
        raise ValueError("'special' is neither true nor false")
    return Token(
        _integer(item, "id"), _text(item, "text"), None if logprob is None else number(logprob, "'logprob'"), special
    )


def _write_details(details: Details) -> dict[str, Any]:
    document: dict[str, Any] = {
        "finish_reason": details.finish_reason,
        "generated_tokens": details.generated_tokens,
        "seed": details.seed,
    }
    for key, tokens in (("prefill", details.prefill), ("tokens", details.tokens)):
        if tokens is not None:
            document[key] = [_write_token(token) for token in tokens]
    if details.best_of is not None:
        document["best_of_sequences"] = [
            {"generated_text": one.text} | ({} if one.details is None else _write_details(one.details))
            for one in details.best_of
        ]
    return document


def _write_token(token: Token) -> dict[str, Any]:
    document: dict[str, Any] = {"id": token.id, "text": token.text, "logprob": token.logprob}
    return document if token.special is None else document | {"special": token.special}


def _text(item: Mapping[str, Any], key: str) -> str:
    return text(item.get(key), repr(key))


def _integer(item: Mapping[str, Any], key: str) -> int:
    value = item.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INTEGER:
        return value  # a seed has 64 bits: as a float it would lose some
    return integer(value, repr(key), 0, _MAX_INTEGER)
