"""A TOML file read into tables, or the one problem why that cannot be done."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.problems import ConfigProblems, Problem

MAX_FILE_BYTES = 1_048_576
MAX_DEPTH = 32

_TOML_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")


def read_text(path: Path) -> str:
    """The file's text.

    Raises:
        ConfigProblems: it is not there, cannot be read, or is no text.
    """

    def refuse(message: str, line: int | None = None) -> ConfigProblems:
        return ConfigProblems([Problem(str(path), line, None, "", message)])

    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise refuse("no such file; name the config on the command line") from error
    except IsADirectoryError as error:
        raise refuse("is a folder, not a config file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no file name"
        raise refuse(f"cannot be read: {reason}") from error
    if len(content) > MAX_FILE_BYTES:
        raise refuse(f"is larger than {MAX_FILE_BYTES} bytes: that is no config")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse("is not UTF-8 text", content.count(b"\n", 0, error.start) + 1) from error


def parse(text: str, file: str) -> dict[str, Any]:
    """The tables in `text`, which came from `file`.

    Raises:
        ConfigProblems: it is no TOML, or nested deeper than what follows can walk.
    """
    try:
        tree = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigProblems([Problem(file, None, None, "", "invalid TOML: nested too deep")]) from error
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _TOML_PLACE.search(message)
        line, column = (int(place[1]), int(place[2])) if place and place[1] else (text.count("\n") + 1, None)
        message = _TOML_PLACE.sub("", message)
        message = f"invalid TOML: {message[:1].lower()}{message[1:]}"
        raise ConfigProblems([Problem(file, line, column, "", message)]) from error
    except ValueError as error:  # Python's own limit on the digits of an integer
        raise ConfigProblems([Problem(file, None, None, "", "invalid TOML: a number is too long")]) from error
    refuse_deep(tree, file)
    return tree


def refuse_deep(tree: Mapping[str, Any], file: str | None) -> None:
    """All that follows walks the tree by recursion.

    Raises:
        ConfigProblems: it is nested over `MAX_DEPTH` deep.
    """
    level: list[Any] = [tree]
    for _ in range(MAX_DEPTH):
        inner = [node.values() if isinstance(node, Mapping) else node for node in level]
        level = [value for values in inner for value in values if isinstance(value, (Mapping, list))]
    if level:
        raise ConfigProblems([Problem(file, None, None, "", f"tables are nested over {MAX_DEPTH} deep")])
