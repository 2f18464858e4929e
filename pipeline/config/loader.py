"""From a file (or a tree of tables) to `Settings`, or to all of its problems at once."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config.assemble import TABLES, Parts, Report, assemble
from pipeline.config.crosscheck import check_files, check_references, check_selections
from pipeline.config.digest import config_hash
from pipeline.config.environment import overrides
from pipeline.config.explain import did_you_mean, shown
from pipeline.config.interpolate import Interpolation
from pipeline.config.locate import Key
from pipeline.config.overlay import Overlay
from pipeline.config.overlay import read as read_overlay
from pipeline.config.problems import ConfigProblems, Places
from pipeline.config.settings import Settings
from pipeline.config.toml_file import parse, read_text, refuse_deep
from pipeline.contracts.paths import resolve_text
from pipeline.registry import Registry

Look = Callable[[Parts, Report], None]


def load(
    path: Path,
    *,
    registry: Registry,
    environ: Mapping[str, str] = os.environ,
    overlay: Overlay | None = None,
    look: Look | None = None,
) -> Settings:
    """Read a pipeline.toml, with `${VAR}` replaced, then the overlay's sources and `PENSTOCK_` variables laid over it.

    Args:
        path: the file; its folder is where relative paths count from.
        registry: the installed plugins.
        environ: the environment.
        overlay: the sources put and removed over HTTP; None: as they are kept in `data_dir`.
        look: where something is wrong, looks at what is not for more: `config.check.look`.

    Raises:
        ConfigProblems: with everything that is wrong, in the order of the file.
    """
    text = read_text(path)
    tree = parse(text, str(path))
    base_dir = path.absolute().parent
    interpolation = Interpolation(environ)
    replaced = interpolation.tree(tree)
    own_sources = replaced.get("sources")
    found = overrides(environ, interpolation.used)
    faults: list[tuple[Key, str]] = []
    if overlay is None:
        overlay = _kept_overlay(replaced, found, base_dir, environ)
    overlay.apply(replaced)
    taken = {key: variable for key, (variable, _) in found.items()}
    for key, (_, value) in found.items():
        fault = _override(replaced, key, value)
        if fault:
            faults.append((key, fault))
    faults += [
        (key, message)
        for key, message in interpolation.problems
        if not _overridden(key, taken) and not overlay.hides(key)
    ]
    written = {key: texts for key, texts in interpolation.written.items() if not overlay.hides(key)}
    places = Places(str(path), text, taken, interpolation.secrets, written, overlay.places, frozenset(overlay.sources))
    settings = _settings(replaced, base_dir, registry, environ, faults=faults, places=places, path=path, look=look)
    in_file = frozenset(own_sources) if isinstance(own_sources, Mapping) else frozenset()
    return replace(settings, overlay=overlay, file_sources=in_file)


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
    look: Look | None = None,
) -> Settings:
    refuse_deep(tree, places.file)
    already = {key for key, _ in faults}

    def report(key: Key, message: str) -> None:
        if key not in already:  # what could not be read cannot be judged
            faults.append((key, places.as_written(key, message)))

    parts = assemble(tree, registry=registry, base_dir=base_dir, report=report)
    check_references(parts, report)
    check_selections(parts, report)
    check_files(parts, report)
    if faults and look is not None:
        look(parts, report)
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
        reload_timeout_s=parts.core.reload_timeout_s,
        config_hash=config_hash(parts, base_dir),
        models=frozenset(parts.models),
        path=path,
        places=places,
    )


def _data_dir(base_dir: Path, environ: Mapping[str, str]) -> Path:
    """Where systemd says (the first folder of several), or `data` beside the file."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) if given.startswith("/") else base_dir / "data"


def _kept_overlay(
    tree: Mapping[str, Any], found: Mapping[Key, tuple[str, Any]], base_dir: Path, environ: Mapping[str, str]
) -> Overlay:
    """The overlay in the data folder, which is looked up before there are settings."""
    given = found[("data_dir",)][1] if ("data_dir",) in found else tree.get("data_dir")
    if given is None:
        return read_overlay(_data_dir(base_dir, environ))
    try:
        return read_overlay(Path(resolve_text(given, base_dir)))
    except (TypeError, ValueError):  # no folder, which is reported with all that is wrong
        return Overlay(base_dir)


def _override(tree: dict[str, Any], key: Key, value: Any) -> str | None:
    """Set one key of the tree; the fault if there is nothing there to set it on."""
    *tables, name = key
    if tables and tables[0] in dict(TABLES) and len(key) > 1:
        known = tree.get(tables[0])
        if not isinstance(known, dict) or key[1] not in known:
            kind = dict(TABLES)[tables[0]]
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
