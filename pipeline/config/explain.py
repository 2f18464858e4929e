"""pydantic's errors in plain words: what was found under which key, and what would be right."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.locate import Key
from pipeline.config.secrets import is_secret_name, quoted

_EXPECTED = {
    "string_type": "a text",
    "string_sub_type": "a text",
    "path_type": "a path",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "byte_size": 'a number of bytes, or a text like "256MiB"',
    "byte_size_unit": 'a number of bytes, or a text like "256MiB"',
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "mapping_type": "a table",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_short": "at least {min_length} characters long",
    "string_too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "of the form {pattern}",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
}

_MAX_KEYS = 8
"""Keys of a table that are named as a hint."""


def explain(error: ValidationError, model: type[BaseModel], raw: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    """Key (inside of `raw`) and message of each fault; one for all branches of a union.

    Args:
        error: what validation raised.
        model: the model that refused.
        raw: what it refused. Values under keys that look secret are not shown.
    """
    expected: dict[Key, list[str]] = {}
    told: dict[Key, str] = {}
    for details in error.errors(include_url=False, include_input=False):
        key = _key_in(raw, details)
        wanted = _EXPECTED.get(details["type"])
        if wanted is None:
            told.setdefault(key, _message(details, key, model))
        else:
            context = {name: _plain(value) for name, value in details.get("ctx", {}).items()}
            phrase = wanted.format_map(context)
            if details["type"] in {"model_type", "model_attributes_type"}:
                phrase += f" ({', '.join(_fields_at(model, key)[:_MAX_KEYS])})"
            expected.setdefault(key, []).append(phrase)
    for key, phrases in expected.items():
        deeper = any(len(other) > len(key) and other[: len(key)] == key for other in (*expected, *told))
        if key not in told and not deeper:  # a branch of a union that got further says it better
            told[key] = f"must be {' or '.join(dict.fromkeys(phrases))}, got {shown(_value_at(raw, key), key)}"
    yield from told.items()


def truths_for_numbers(model: type[BaseModel], raw: Mapping[str, Any]) -> Iterator[Key]:
    """Where `raw` has true or false and only a number makes sense: pydantic would read true as 1."""
    for name, value in raw.items():
        if name not in model.model_fields:
            continue
        allowed = set(_types_in(model.model_fields[name].annotation))
        if isinstance(value, bool) and allowed & {int, float} and not allowed & {bool, Any, object}:
            yield (name,)
        elif isinstance(value, Mapping):
            for inner in allowed:
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from ((name, *key) for key in truths_for_numbers(inner, value))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean max_fps?`, or nothing where nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_key(name: str, known: Iterable[str]) -> str:
    """The message for a key that does not exist, with the nearest that does, or all of them if they are few."""
    known = list(known)
    return f"unknown key{did_you_mean(name, known) or '; known are ' + ', '.join(known)}"


def shown(value: object, key: Key = ()) -> str:
    """A value as it would stand in the file, short, and without anything secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, Mapping):
        return "a table"
    if any(map(is_secret_name, key)):
        return "a text" if isinstance(value, str) else "a number"
    return quoted(value) if isinstance(value, str) else str(value)


def _message(details: ErrorDetails, key: Key, model: type[BaseModel]) -> str:
    if details["type"] == "extra_forbidden":
        return unknown_key(key[-1], _fields_at(model, key[:-1]))
    if details["type"] == "missing":
        return "is missing"
    if details["type"] in {"value_error", "assertion_error"}:
        return str(details["ctx"]["error"])
    if details["type"] == "union_tag_invalid":
        tag, known = details["ctx"]["tag"], details["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"type: there is no {tag!r}{did_you_mean(tag, known) or '; there is ' + ', '.join(known)}"
    if details["type"] == "union_tag_not_found":
        return "type: is missing"
    return details["msg"][:1].lower() + details["msg"][1:]


def _plain(value: object) -> object:
    """Numbers without .0 and without e+06, which nobody writes into a file."""
    return f"{value:.15g}" if isinstance(value, float) else value


def _key_in(raw: Mapping[str, Any], details: ErrorDetails) -> Key:
    """The place of an error without the names of union branches that pydantic puts in between."""
    key: list[str] = []
    node: Any = raw
    for part in details["loc"]:
        if isinstance(node, Mapping) and part in node:
            node = node[str(part)]
        elif isinstance(node, (list, tuple)) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif not (isinstance(node, Mapping) and details["type"] == "missing" and part == details["loc"][-1]):
            continue
        key.append(str(part))
    return tuple(key)


def _value_at(raw: Any, key: Key) -> Any:
    for part in key:
        raw = raw[part] if isinstance(raw, Mapping) else raw[int(part)]
    return raw


def _fields_at(model: type[BaseModel], key: Key) -> list[str]:
    """The keys of the table `key` of a model; of all that may stand there, if it is a union."""
    models = [model]
    for part in key:
        annotations = [found.model_fields[part].annotation for found in models if part in found.model_fields]
        inner = [found for annotation in annotations for found in _types_in(annotation)]
        models = [found for found in inner if isinstance(found, type) and issubclass(found, BaseModel)] or models
    return list(dict.fromkeys(name for found in models for name in found.model_fields))


def _types_in(annotation: Any) -> Iterator[Any]:
    """An annotation and all that it is made of: of `tuple[int, ...] | None` also `int` and `None`."""
    yield annotation
    for inner in get_args(annotation):
        yield from _types_in(inner)
