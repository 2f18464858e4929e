"""From a tree of tables to config models: defaults spread out, every component validated, every fault reported."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.config.explain import did_you_mean, explain, shown, truths_for_numbers, unknown_key
from pipeline.config.locate import Key
from pipeline.config.settings import CoreConfig
from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.sink import SinkConfig
from pipeline.contracts.source import SourceConfig
from pipeline.registry import KINDS, ConfigClass, Kind, Registry

Report = Callable[[Key, str], None]
M = TypeVar("M", bound=BaseModel)

TABLES: tuple[tuple[str, Kind], ...] = (*((f"{kind}s", kind) for kind in KINDS), ("models", "backend"))
"""The tables of components, and what kind stands in each: a model is a backend that no source uses by itself."""

NAME_PATTERN = r"[a-z][a-z0-9_]{0,62}"
NAME_RULE = "a name is made of lower-case letters, digits and _, begins with a letter and has at most 63 characters"


@dataclass(slots=True)
class Parts:
    """What could be made of a tree; what could not is missing here and was reported.

    Attributes:
        core: None if one of its tables is wrong.
        sources: by name; `backend` as the file has it.
        backends: by name.
        sinks: by name.
        declared: the names of each kind that the file has, whether valid or not; models apart.
        models: names of the backends that stand in `[models]`, whether valid or not.
        merged: each valid component's table with its defaults, as written, by key.
    """

    core: CoreConfig | None = None
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    backends: dict[str, BackendConfig] = field(default_factory=dict)
    sinks: dict[str, SinkConfig] = field(default_factory=dict)
    declared: dict[Kind, tuple[str, ...]] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    merged: dict[Key, Mapping[str, Any]] = field(default_factory=dict)


def assemble(tree: Mapping[str, Any], *, registry: Registry, base_dir: Path, report: Report) -> Parts:
    """Validate all of a tree, in which variables are already replaced.

    Args:
        tree: what stands in pipeline.toml.
        registry: where the components' config classes come from.
        base_dir: absolute; relative paths count from here.
        report: called with the key and the message of each fault.
    """
    parts = Parts()
    tables = (*(table for table, _ in TABLES), "defaults")
    for name in tree:
        if name not in tables and name not in CoreConfig.model_fields:
            report((name,), unknown_key(name, (*CoreConfig.model_fields, *tables)))
    core = {name: tree[name] for name in CoreConfig.model_fields if name in tree}
    parts.core = validate(CoreConfig, core, base_dir, report)
    if not any(map(registry.types, KINDS)):
        try:
            registry.config_class("source", "")
        except ConfigError as error:
            report((), str(error))
        return parts
    defaults = _table(tree, "defaults", (), report)
    for name in defaults:
        if name not in KINDS:
            report(("defaults", name), unknown_key(name, KINDS))
    parts.models = tuple(_table(tree, "models", (), lambda *_: None))
    for table, kind in TABLES:
        shared = _table(defaults, kind, ("defaults",), report)
        _components(table, kind, tree, shared, parts, registry=registry, base_dir=base_dir, report=report)
    return parts


def validate(model: type[M], raw: Mapping[str, Any], base_dir: Path, report: Report) -> M | None:
    """`raw` as a model, or None after its faults are reported with keys inside of `raw`."""
    wrong = list(truths_for_numbers(model, raw))
    for key in wrong:
        report(key, "must be a number, got true or false")
    try:
        made = model.model_validate(raw, context={"base_dir": base_dir})
    except ValidationError as error:
        for key, message in explain(error, model, raw):
            if key not in wrong:
                report(key, message)
        return None
    except ConfigError as error:  # from a validator of a plugin
        report(tuple(error.key.split(".")) if error.key else (), str(error))
        return None
    return None if wrong else made


def _components(
    table: str,
    kind: Kind,
    tree: Mapping[str, Any],
    defaults: Mapping[str, Any],
    parts: Parts,
    *,
    registry: Registry,
    base_dir: Path,
    report: Report,
) -> None:
    tables = _table(tree, table, (), report)
    if table != "models":
        parts.declared[kind] = tuple(tables)
    if not tables:
        if isinstance(tree.get(table, {}), Mapping) and _is_needed(table, parts):
            report((table,), _missing(table, kind, tree, registry))
        return
    classes = {}
    for name, raw in tables.items():
        if table == "models" and name in parts.declared.get("backend", ()):
            report((table, name), f"there is a backend {name!r}, too; give one of them another name")
            continue
        config_class = _class_of((table, name), kind, raw, registry, report)
        if config_class is not None:
            classes[name] = config_class
    usable = _usable_defaults(kind, defaults, classes.values(), len(classes) == len(tables), report)
    for name, config_class in classes.items():
        known = {key: value for key, value in usable.items() if key in config_class.model_fields}
        merged = _merge(known, tables[name])
        blame = _blaming_defaults((table, name), kind, tables[name], known, report)
        made = validate(config_class, merged, base_dir, blame)
        if isinstance(made, SourceConfig):
            parts.sources[name] = made
        elif isinstance(made, BackendConfig):
            # What stands in [models] is there for clients, also where the type's own default is not to offer it.
            offered = table == "models" and "serve" not in made.model_fields_set
            parts.backends[name] = made.model_copy(update={"serve": True}) if offered and not made.serve else made
        elif isinstance(made, SinkConfig):
            parts.sinks[name] = made
        if made is not None:
            parts.merged[table, name] = merged


def _missing(table: str, kind: Kind, tree: Mapping[str, Any], registry: Registry) -> str:
    message = f"there is no {kind}; add a table [{table}.NAME] with a type: {_or(registry.types(kind))}"
    if table == "sources" and "backends" in tree and "sinks" not in tree:
        message += "; or rename [backends.NAME] to [models.NAME] to serve models alone"
    return message


def _is_needed(table: str, parts: Parts) -> bool:
    """A file with models alone only serves them; what has a source needs a sink, too."""
    return table != "models" and (not parts.models or (table == "sinks" and bool(parts.declared.get("source"))))


def _class_of(key: Key, kind: Kind, raw: Any, registry: Registry, report: Report) -> ConfigClass | None:
    """The config class of one component; None after what is wrong with its name, form or type is reported."""
    if not re.fullmatch(NAME_PATTERN, key[-1]):
        report(key, NAME_RULE)
        return None
    if not isinstance(raw, Mapping):
        report(key, f"must be a table, got {shown(raw, key)}")
        return None
    type_name = raw.get("type")
    if type_name is None:
        report((*key, "type"), f"is missing; it can be {_or(registry.types(kind))}")
        return None
    if not isinstance(type_name, str):
        report((*key, "type"), f"must be a text, got {shown(type_name)}")
        return None
    try:
        return registry.config_class(kind, type_name)
    except ConfigError as error:
        report((*key, "type"), str(error))
        return None


def _usable_defaults(
    kind: Kind, defaults: Mapping[str, Any], classes: Iterable[ConfigClass], complete: bool, report: Report
) -> dict[str, Any]:
    """The defaults that some component of the kind has a key for; the others are reported."""
    known = dict.fromkeys(name for config_class in classes for name in config_class.model_fields if name != "type")
    for name in defaults:
        key = ("defaults", kind, name)
        if name == "type":
            report(key, "every component says its own type")
        elif name not in known and complete:
            hint = did_you_mean(name, known)
            report(key, f"no {kind} of this file has this key{hint}")
    return {name: value for name, value in defaults.items() if name in known}


def _merge(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `defaults`, table by table."""
    merged = dict(defaults)
    for name, value in own.items():
        inherited = merged.get(name)
        both = isinstance(inherited, Mapping) and isinstance(value, Mapping)
        merged[name] = _merge(inherited, value) if both else value  # type: ignore[arg-type]
    return merged


def _blaming_defaults(
    table: Key, kind: Kind, own: Mapping[str, Any], defaults: Mapping[str, Any], report: Report
) -> Report:
    """Faults of a component go to its own table, or to the defaults where the value comes from there."""

    def blame(key: Key, message: str) -> None:
        inherited = _holds(defaults, key) and not _holds(own, key)
        report(("defaults", kind, *key) if key and inherited else (*table, *key), message)

    return blame


def _holds(tree: Any, key: Key) -> bool:
    for part in key:
        if isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return False
    return True


def _table(tree: Mapping[str, Any], name: str, above: Key, report: Report) -> Mapping[str, Any]:
    """The table `name`, empty if it is left out or no table at all, which is reported."""
    table = tree.get(name, {})
    if isinstance(table, Mapping):
        return table
    report((*above, name), f"must be a table, got {shown(table)}")
    return {}


def _or(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *first, last = list(names) or ["none is installed"]
    return f"{', '.join(first)} or {last}" if first else last
