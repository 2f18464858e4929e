"""The key `path` of sources that read files: names and glob patterns, in natural order, and what to say of none."""

import difflib
import glob
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.paths import ConfigPattern

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def _not_a_url(value: object) -> object:
    if isinstance(value, str) and (url := _URL.match(value)):  # only the scheme is shown: there may be a password
        wanted = "rtsp" if url[1].lower() in ("rtsp", "rtsps") else "stream"
        raise ValueError(f'{url[1]}:// is not a file: a pipeline.toml can have a source of type = "{wanted}" for it')
    return value


def _as_list(value: object) -> object:
    return [str(value)] if isinstance(value, str | Path) else value


PathList = Annotated[
    list[Annotated[ConfigPattern, BeforeValidator(_not_a_url)]],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]
"""One path or glob pattern, or a list of them; absolute after validation."""


def natural_key(path: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts as people count: `shot_9` before `shot_10`, whatever the case."""
    parts = re.split(r"([0-9]+)", path.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts if part], path


def exists(path: str) -> bool:
    """Whether there is something under this name that we may look at."""
    try:
        return Path(path).exists()
    except OSError:  # a folder on the way to it that we may not enter
        return False


def is_pattern(path: str) -> bool:
    """Whether `path` is a glob pattern, and not the name of a file that happens to have brackets in it."""
    return glob.has_magic(path) and not exists(path)


def expand(paths: Iterable[str]) -> list[str]:
    """The paths as they are, and for each pattern the files that match it, in natural order, each file once."""
    files: dict[str, None] = {}
    for path in paths:
        if is_pattern(path):
            found = glob.iglob(path, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute patterns)
            matches = (match for match in found if Path(match).is_file())
            files.update(dict.fromkeys(sorted(matches, key=natural_key)))
        else:
            files[path] = None
    return list(files)


def not_there(path: str) -> str:
    """One line about a path that does not exist, with the nearest name that does."""
    folder = Path(path).parent
    if not exists(str(folder)):
        return f"{path} is not there: the folder {folder} does not exist"
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        return f"{path} cannot be reached: {folder}: {error.strerror}"
    nearest = difflib.get_close_matches(Path(path).name, names, n=1)
    return f"{path} is not there" + (f"; did you mean {nearest[0]}?" if nearest else "")


def check_there(paths: Iterable[str]) -> None:
    """See that each path is there and each pattern matches something.

    Raises:
        ConfigError: key `path`.
    """
    for path in paths:
        if is_pattern(path):
            if not expand([path]):
                raise ConfigError(f"no file matches {path}", key="path")
        elif not exists(path):
            raise ConfigError(not_there(path), key="path")
