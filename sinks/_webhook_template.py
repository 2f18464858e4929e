"""Bodies as an operator wants them: keys chosen from a result's JSON, or a table filled in from it. Pure.

Nothing in a template can be executed: `{key}`, `{image.width}` and `{predictions.0.class}` name what is put in their
place, and that is all there is. `{{` and `}}` stand for the braces themselves.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

MAX_DEPTH = 8
KEYS = frozenset(
    {
        *("schema", "id", "source", "frame_id", "pts_s", "captured_at", "time_source", "path", "corrupt", "backend"),
        *("model", "config_hash", "latency_s", "time", "image", "predictions", "invalid_predictions", "mask_format"),
        *("top", "predicted_classes", "segmentation_mask", "class_map", "present_class_ids", "embeddings", "result"),
        *("zones", "lines", "event", "event_id", "phase", "class", "tracker_id", "began_at", "at", "duration_s"),
        *("confidence", "x", "y", "width", "height", "best", "zone", "line", "direction", "count"),
        *("component", "value", "code", "detail"),
    }
)
"""What a result's or an event's JSON holds at its top, `pipeline/wire/results.py`."""

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)\}")

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def encoded(document: object) -> bytes:
    """As strict JSON, ASCII, on one line."""
    return _encode(document).encode("ascii")


def check_key(key: str) -> None:
    """See that results or events have it.

    Raises:
        ValueError: neither do; for a validator.
    """
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else "a line of the sink jsonl shows what there is"
        raise ValueError(f"neither a result nor an event has the key {key!r}; {hint}")


def _fields(fields: tuple[str, ...]) -> tuple[str, ...]:
    for field in fields:
        check_key(field)
    return fields


def _checked(template: dict[str, Any]) -> dict[str, Any]:
    _check(template, 0)
    return template


def _check(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    match value:
        case str():
            rest = _PLACE.sub("", value)
            if "{" in rest or "}" in rest:
                raise ValueError('holds a brace that names no key: {source} and {image.width} do, "{{" is a brace')
            for place in _PLACE.finditer(value):
                if place[1] is not None:
                    check_key(place[1].partition(".")[0])
        case Mapping():
            for inner in value.values():
                _check(inner, depth + 1)
        case list() | tuple():
            for inner in value:
                _check(inner, depth + 1)
        case float() if value - value != 0.0:
            raise ValueError("holds a number that JSON cannot: nan or inf")
        case bool() | int() | float() | None:
            pass
        case _:
            raise ValueError("holds what JSON cannot: a date")


Template = Annotated[dict[str, Any], AfterValidator(_checked)]
"""A table of texts, numbers, lists and tables; its texts may hold placeholders."""


Fields = Annotated[tuple[str, ...], AfterValidator(_fields)]
"""Keys of a result or an event."""


def chosen(document: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Only these keys, in this order; what is not there is left out."""
    return {field: document[field] for field in fields if field in document}


def filled(template: object, document: Mapping[str, Any]) -> Any:
    """The template with everything put in; a text that is one placeholder becomes the value itself, with its type."""
    match template:
        case str():
            whole = _PLACE.fullmatch(template)
            if whole is not None and whole[1] is not None:
                return _found(document, whole[1])
            return _PLACE.sub(lambda match: _text(match, document), template)
        case Mapping():
            return {key: filled(value, document) for key, value in template.items()}
        case list() | tuple():
            return [filled(value, document) for value in template]
        case _:
            return template


def _text(match: re.Match[str], document: Mapping[str, Any]) -> str:
    if match[1] is None:
        return match[0][0]
    value = _found(document, match[1])
    if isinstance(value, str):
        return value
    return "" if value is None else _encode(value)


def _found(document: object, path: str) -> Any:
    """What the path leads to; None where it leads nowhere."""
    for step in path.split("."):
        if isinstance(document, Mapping):
            document = document.get(step)
        elif isinstance(document, list) and step.isdecimal() and int(step[:9]) < len(document):
            document = document[int(step[:9])]
        else:
            return None
    return document
