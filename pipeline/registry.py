"""Which sources, backends and sinks are installed: ours and strangers' alike are found through entry points."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal, Self, cast, get_args, overload

from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.component import ComponentConfig
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.sink import SinkConfig
from pipeline.contracts.source import SourceConfig

Kind = Literal["source", "backend", "sink"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ConfigClass = type[SourceConfig] | type[BackendConfig] | type[SinkConfig]

_EXPECTED: Mapping[Kind, type[ComponentConfig]] = {
    "source": SourceConfig,
    "backend": BackendConfig,
    "sink": SinkConfig,
}

NOTHING_INSTALLED = "no source, backend or sink is installed: is the project installed? run: uv sync"


@dataclass(frozen=True, slots=True)
class Plugin:
    """One type of component as its package announces it; nothing of it is imported yet.

    Attributes:
        kind: source, backend or sink.
        type: what stands as `type` in pipeline.toml.
        target: where its config class is, `module:Class`; or the class itself.
        origin: distribution and version that brings it, e.g. `penstock 0.1.0`.
        error: why it cannot be used, if that is known without importing it.
    """

    kind: Kind
    type: str
    target: str | ConfigClass
    origin: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """A plugin after the attempt to load its config class; `error` is one line, None when it can be used."""

    kind: Kind
    type: str
    origin: str
    error: str | None


class Registry:
    """The installed plugins. Their config classes are imported when they are first asked for, by the main thread."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self._plugins: dict[tuple[Kind, str], Plugin] = {}
        self._loaded: dict[tuple[Kind, str], ConfigClass | ConfigError] = {}
        for plugin in plugins:
            self._add(plugin)

    def _add(self, plugin: Plugin) -> None:
        """Two packages that offer the same type: neither wins by the order of the search path, both are refused."""
        known = self._plugins.get((plugin.kind, plugin.type))
        if known is not None:
            origins = f"{known.origin} and {plugin.origin}"
            error = f"offered by two packages, {origins}: uninstall one of them"
            plugin = Plugin(plugin.kind, plugin.type, plugin.target, origins, error)
        self._plugins[plugin.kind, plugin.type] = plugin

    @classmethod
    def load(cls) -> Self:
        """The plugins of all installed distributions; reads their metadata only."""
        plugins = []
        for kind in KINDS:
            for entry in entry_points(group=f"penstock.{kind}s"):
                origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
                plugins.append(Plugin(kind, entry.name, entry.value, origin))
        return cls(plugins)

    @classmethod
    def of(cls, *classes: ConfigClass) -> Self:
        """Exactly these config classes, as if one distribution had brought them: for tests and embedding."""
        return cls(Plugin(_kind_of(found), _type_literal(found) or "", found, "given") for found in classes)

    def types(self, kind: Kind) -> tuple[str, ...]:
        """The installed types of a kind, sorted, whether they load or not."""
        return tuple(sorted(name for plugin_kind, name in self._plugins if plugin_kind == kind))

    @overload
    def config_class(self, kind: Literal["source"], type_name: str) -> type[SourceConfig]: ...
    @overload
    def config_class(self, kind: Literal["backend"], type_name: str) -> type[BackendConfig]: ...
    @overload
    def config_class(self, kind: Literal["sink"], type_name: str) -> type[SinkConfig]: ...
    @overload
    def config_class(self, kind: Kind, type_name: str) -> ConfigClass: ...

    def config_class(self, kind: Kind, type_name: str) -> ConfigClass:
        """The config class of a type, imported now if it is the first time.

        Raises:
            ConfigError: with `key="type"`: there is no such type, or its package is broken.
        """
        if not self._plugins:
            raise ConfigError(NOTHING_INSTALLED)
        plugin = self._plugins.get((kind, type_name))
        if plugin is None:
            raise ConfigError(self._unknown(kind, type_name), key="type")
        if (kind, type_name) not in self._loaded:
            self._loaded[kind, type_name] = _load(plugin)
        loaded = self._loaded[kind, type_name]
        if isinstance(loaded, ConfigError):
            raise loaded
        return loaded

    def plugins(self) -> tuple[PluginStatus, ...]:
        """Every plugin by kind and type, and whether it loads: one that is broken is a status, not a crash."""
        found = []
        for plugin in sorted(self._plugins.values(), key=lambda plugin: (KINDS.index(plugin.kind), plugin.type)):
            error = None
            try:
                self.config_class(plugin.kind, plugin.type)
            except ConfigError as failure:
                error = str(failure)
            found.append(PluginStatus(plugin.kind, plugin.type, plugin.origin, error))
        return tuple(found)

    def _unknown(self, kind: Kind, type_name: str) -> str:
        known = self.types(kind)
        if not known:
            return f"no {kind} is installed at all"
        near = difflib.get_close_matches(type_name, known, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"installed are {', '.join(known)}"
        return f"there is no {kind} type {type_name!r}; {hint}"


def _load(plugin: Plugin) -> ConfigClass | ConfigError:
    """Import a plugin's config class; what goes wrong in a stranger's package is its status, whatever it is."""
    where = f"{plugin.kind} type {plugin.type!r} of {plugin.origin}"
    if plugin.error is not None:
        return ConfigError(f"{where} cannot be used: {plugin.error}", key="type")
    try:
        found = _resolve(plugin.target) if isinstance(plugin.target, str) else plugin.target
    except Exception as error:  # noqa: BLE001 - an import runs any code; all others go on
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return ConfigError(f"{where} cannot be loaded: {reason}", key="type")
    wrong = _wrong_with(plugin, found)
    if wrong is not None:
        return ConfigError(f"{where} cannot be used: {wrong}", key="type")
    return cast("ConfigClass", found)


def _resolve(target: str) -> object:
    module, _, attribute = target.partition(":")
    found: object = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _wrong_with(plugin: Plugin, found: object) -> str | None:
    expected = _EXPECTED[plugin.kind]
    if not (isinstance(found, type) and issubclass(found, expected)):
        return f"{plugin.target} is no subclass of {expected.__name__}"
    literal = _type_literal(found)
    if literal != plugin.type:
        return f"its class says type = {literal!r}, and its entry point {plugin.type!r}"
    return None


def _kind_of(config: ConfigClass) -> Kind:
    if issubclass(config, SourceConfig):
        return "source"
    return "backend" if issubclass(config, BackendConfig) else "sink"


def _type_literal(config: type[ComponentConfig]) -> str | None:
    """The one value that the class allows for `type`; None if it does not say."""
    values = get_args(config.model_fields["type"].annotation)
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None
