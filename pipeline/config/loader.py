"""From a file (or a tree of tables) to `Settings`, or to all of its problems at once."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.assemble import assemble
from pipeline.config.crosscheck import check_files, check_references
from pipeline.config.digest import config_hash
from pipeline.config.environment import overrides
from pipeline.config.explain import did_you_mean, shown
from pipeline.config.interpolate import Interpolation
from pipeline.config.locate import Key
from pipeline.config.problems import ConfigProblems, Places, Problem
from pipeline.config.settings import Settings
from pipeline.registry import KINDS, Registry

MAX_FILE_BYTES = 1_048_576
MAX_DEPTH = 32

_TOML_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")


def load(path: Path, *, registry: Registry, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read a pipeline.toml, with `${VAR}` replaced and `PENSTOCK_` variables laid over it.

    Args:
        path: the file; its folder is where relative paths count from.
        registry: the installed plugins.
        environ: the environment.

    Raises:
        ConfigProblems: with everything that is wrong, in the order of the file.
    """
    text = _read(path)
    tree = _parse(text, str(path))
    _refuse_deep(tree, str(path))
    interpolation = Interpolation(environ)
    replaced = interpolation.tree(tree)
    found = overrides(environ, interpolation.used)
    faults: list[tuple[Key, str]] = []
    taken = {key: variable for key, (variable, _) in found.items()}
    for key, (_, value) in found.items():
        fault = _override(replaced, key, value)
        if fault:
            faults.append((key, fault))
    faults += [(key, message) for key, message in interpolation.problems if not _overridden(key, taken)]
    places = Places(str(path), text, taken, interpolation.secrets, interpolation.written)
    return _settings(replaced, path.absolute().parent, registry, environ, faults=faults, places=places, path=path)


def from_tree(
    tree: Mapping[str, Any], *, base_dir: Path, registry: Registry, environ: Mapping[str, str] = os.environ
) -> Settings:
    """The same from tables in memory, for a run without a file: problems name the key only.

    Nothing is replaced in the values (a file may be called `$x`), and `PENSTOCK_` variables are not looked at.

    Raises:
        ConfigProblems: with everything that is wrong.
    """
    return _settings(tree, base_dir.absolute(), registry, environ, faults=[], places=Places(), path=None)


def _settings(
    tree: Mapping[str, Any],
    base_dir: Path,
    registry: Registry,
    environ: Mapping[str, str],
    *,
    faults: list[tuple[Key, str]],
    places: Places,
    path: Path | None,
) -> Settings:
    _refuse_deep(tree, places.file)
    already = {key for key, _ in faults}

    def report(key: Key, message: str) -> None:
        if key not in already:  # what could not be read cannot be judged
            faults.append((key, places.as_written(key, message)))

    parts = assemble(tree, registry=registry, base_dir=base_dir, report=report)
    check_references(parts, report)
    check_files(parts, report)
    if faults or parts.core is None:
        raise ConfigProblems(places.problem(key, message) for key, message in faults)
    return Settings(
        sources=parts.sources,
        backends=parts.backends,
        sinks=parts.sinks,
        server=parts.core.server,
        log=parts.core.log,
        data_dir=parts.core.data_dir or _data_dir(base_dir, environ),
        shutdown_timeout_s=parts.core.shutdown_timeout_s,
        config_hash=config_hash(parts, base_dir),
        path=path,
        places=places,
    )


def _data_dir(base_dir: Path, environ: Mapping[str, str]) -> Path:
    """Where systemd says (the first folder of several), or `data` beside the file."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) if given.startswith("/") else base_dir / "data"


def _read(path: Path) -> str:
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


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
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


def _refuse_deep(tree: Mapping[str, Any], file: str | None) -> None:
    """All that follows walks the tree by recursion."""
    level: list[Any] = [tree]
    for _ in range(MAX_DEPTH):
        inner = [node.values() if isinstance(node, Mapping) else node for node in level]
        level = [value for values in inner for value in values if isinstance(value, (Mapping, list))]
    if level:
        raise ConfigProblems([Problem(file, None, None, "", f"tables are nested over {MAX_DEPTH} deep")])


def _override(tree: dict[str, Any], key: Key, value: Any) -> str | None:
    """Set one key of the tree; the fault if there is nothing there to set it on."""
    *tables, name = key
    if tables and tables[0] in {f"{kind}s" for kind in KINDS} and len(key) > 1:
        known = tree.get(tables[0])
        if not isinstance(known, dict) or key[1] not in known:
            kind = tables[0].removesuffix("s")
            return f"there is no {kind} {key[1]!r}{did_you_mean(key[1], known if isinstance(known, dict) else ())}"
    node: Any = tree
    for table in tables:
        node = node.setdefault(table, {})
        if not isinstance(node, dict):
            return f"{table} is no table here, but {shown(node, key)}"
    if not all(key):
        return "a part of the name is empty; write PENSTOCK_TABLE__NAME__KEY"
    node[name] = value
    return None


def _overridden(key: Key, taken: Mapping[Key, str]) -> bool:
    return any(key[:n] in taken for n in range(1, len(key) + 1))
