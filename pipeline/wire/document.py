"""JSON from strangers: read strictly, looked into piece by piece; whatever is wrong with it is a `ValueError`."""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_TEXT_IN_ERROR = 100
"""So many characters of a stranger's text are quoted in an error at the most."""


MAX_ITEMS = 2_000_000
"""Marks between the values of one document: 60 MB of `[],` would take 10 s and 1.4 GB; a tensor of 3 x 640 x 640
numbers has 1.2 million, a picture in base64 next to none."""

_MARKS = (",", "[", "{", ":")


def marks_in(data: bytes | str) -> int:
    """An upper bound of the values in a document, found without reading it."""
    if isinstance(data, str):
        return sum(data.count(mark) for mark in _MARKS)
    return sum(data.count(mark.encode()) for mark in _MARKS)


def loads(data: bytes | str) -> object:
    """The document in `data`: strict JSON, so no NaN.

    Raises:
        ValueError: it is none, it is nested too deep, or it has more than `MAX_ITEMS`.
    """
    if marks_in(data) > MAX_ITEMS:
        raise ValueError(f"the JSON has more than {MAX_ITEMS} items")
    try:
        return json.loads(data, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("the body is no UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the body is no JSON: {error.msg} at character {error.pos}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"the body is no JSON: {name} is no number")


def as_text(value: object) -> str:
    """A piece of a document written down again, as a text for people. Raises ValueError where it is nested too deep."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None


def quoted(value: object) -> str:
    """A stranger's value for an error text: printable, one line, short."""
    text = value if isinstance(value, str) else type(value).__name__
    text = text[:MAX_TEXT_IN_ERROR] + "..." if len(text) > MAX_TEXT_IN_ERROR else text
    return ascii(text)


def mapping(value: object, what: str) -> Mapping[str, Any]:
    """`value` as an object. Raises ValueError where it is none; `what` names it in the text."""
    if isinstance(value, dict):
        return value
    raise ValueError(f"{what} is no object but {_kind(value)}")


def items(value: object, what: str, most: int) -> list[Any]:
    """`value` as a list of at most `most` items. Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{what} is no list but {_kind(value)}")
    if len(value) > most:
        raise ValueError(f"{what} has {len(value)} items, more than {most}")
    return value


def number(value: object, what: str) -> float:
    """`value` as a finite number. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what} is no number but {_kind(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{what} is no finite number")
    return found


def integer(value: object, what: str, least: int, most: int) -> int:
    """`value` as a whole number from `least` to `most`; 3.0 is one. Raises ValueError."""
    found = number(value, what)
    if found != int(found):
        raise ValueError(f"{what} is no whole number")
    if not least <= found <= most:
        raise ValueError(f"{what} is not from {least} to {most}")
    return int(found)


def text(value: object, what: str) -> str:
    """`value` as a text that can be encoded. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is no text but {_kind(value)}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what} is no valid Unicode")
    return value


def _kind(value: object) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number"}
    return names.get(type(value), "a number")
