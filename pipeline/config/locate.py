"""In which line of a TOML file each key stands: `tomllib` does not say, so it is asked statement by statement."""

import tomllib
from collections.abc import Iterator
from typing import Any

Key = tuple[str, ...]
"""A key from the top of the file; the n-th element of an array counts as the key `"n"`."""

_CLOSES_A_VALUE = ("]", '"""', "'''")


def locate_keys(text: str) -> dict[Key, int]:
    """The line, from 1, of every key and table of `text`, which must be valid TOML.

    A key inside of an inline table or array has the line on which the statement around it begins.

    A statement of valid TOML cut off at the end of a line is no TOML, so lines are put together until `tomllib` takes
    them; what it returns are the keys of this statement. Only used to report problems.
    """
    lines: dict[Key, int] = {}
    header: Key = ()
    array_sizes: dict[Key, int] = {}
    for number, statement, parsed in _statements(text):
        if statement.startswith("["):
            header = _enter_table(_only_path(parsed), statement.startswith("[["), array_sizes)
            for depth in range(1, len(header)):
                lines.setdefault(header[:depth], number)
            lines[header] = number
        else:
            for key in _keys(parsed):
                lines.setdefault(header + key, number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """First line, text and parse of each key/value pair and each table header."""
    pending: list[str] = []
    first = 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not pending:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            first = number
        pending.append(line)
        if len(pending) > 1 and not any(mark in line for mark in _CLOSES_A_VALUE):
            continue  # it cannot end here; without this a long array would be parsed once for each of its lines
        statement = "\n".join(pending).strip()
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        pending = []
        yield first, statement, parsed


def _only_path(parsed: dict[str, Any]) -> Key:
    """The path of a table header from its parse: `[a.b]` is `{"a": {"b": {}}}`, `[[a]]` is `{"a": [{}]}`."""
    path: list[str] = []
    node: Any = parsed
    while isinstance(node, dict) and node:
        name, node = next(iter(node.items()))
        path.append(name)
    return tuple(path)


def _enter_table(path: Key, is_array: bool, array_sizes: dict[Key, int]) -> Key:
    """`path` with the numbers of the array elements that it goes through; `[[path]]` begins a new one."""
    key: Key = ()
    for depth, name in enumerate(path, start=1):
        key += (name,)
        if is_array and depth == len(path):
            array_sizes[key] = array_sizes.get(key, 0) + 1
        if key in array_sizes:
            key += (str(array_sizes[key] - 1),)
    return key


def _keys(value: Any) -> Iterator[Key]:
    """Every key in a value, the outer ones first."""
    if isinstance(value, dict):
        items: Iterator[tuple[str, Any]] = iter(value.items())
    elif isinstance(value, list):
        items = ((str(index), element) for index, element in enumerate(value))
    else:
        return
    for name, inner in items:
        yield (name,)
        for key in _keys(inner):
            yield (name, *key)
