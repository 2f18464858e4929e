"""`PENSTOCK_SOURCES__GATE__MAX_FPS=5`: environment variables that override one key of the config each."""

import json
import re
import tomllib
from collections.abc import Collection, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from pipeline.config.locate import Key

PREFIX = "PENSTOCK_"
DELIMITER = "__"

# Kubernetes puts the first into every container of a namespace that has a service named `penstock`; the last is what
# `penstock top` shows to a daemon.
_NO_KEY = re.compile(r"PENSTOCK_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_\w+)?|API_TOKEN)")


def overrides(environ: Mapping[str, str], besides: Collection[str]) -> dict[Key, tuple[str, Any]]:
    """Key, variable and value of each override, sorted by variable.

    Args:
        environ: the environment.
        besides: variables that are used otherwise, as `${PENSTOCK_X}` in the file.
    """
    texts = {
        variable: environ[variable]
        for variable in sorted(environ)
        if variable.startswith(PREFIX) and variable not in besides and not _NO_KEY.fullmatch(variable)
    }
    tree = _tree(texts) if texts else {}
    keys = {variable: tuple(variable.removeprefix(PREFIX).lower().split(DELIMITER)) for variable in texts}
    return {key: (variable, _at(tree, key, texts[variable])) for variable, key in keys.items()}


def _tree(texts: Mapping[str, str]) -> dict[str, Any]:
    """The variables as nested tables, as pydantic-settings reads them."""
    # Imported only when there is something to read: 85 ms.
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

    class Overlay(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=DELIMITER)
        sources: dict[str, dict[str, Any]] = {}
        backends: dict[str, dict[str, Any]] = {}
        sinks: dict[str, dict[str, Any]] = {}
        models: dict[str, dict[str, Any]] = {}
        defaults: dict[str, dict[str, Any]] = {}
        server: dict[str, Any] = {}
        log: dict[str, Any] = {}

    class Source(EnvSettingsSource):
        def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
            return value  # left as text: its own way would make a number of a password of digits

    source = Source(Overlay)
    source.env_vars = {variable.lower(): text for variable, text in texts.items()}
    return source()


def _at(tree: Mapping[str, Any], key: Key, text: str) -> Any:
    """The value at `key`; that of the plain text where pydantic-settings knows no such table: the loader judges it."""
    node: Any = tree
    for part in key:
        node = node.get(part, text) if isinstance(node, Mapping) else text
    return value_of(node) if isinstance(node, str) else node


def value_of(text: str) -> Any:
    """What a variable's text stands for: an array or a table where it is one in TOML or JSON, else the text itself.

    Numbers and yes/no stay text: the models read them, and a password of digits must not become a number.
    """
    stripped = text.strip()
    if not stripped.startswith(("[", "{")):
        return text
    try:
        return tomllib.loads(f"value = {stripped}")["value"]
    except (ValueError, RecursionError, KeyError):
        pass
    try:
        return json.loads(stripped)
    except (ValueError, RecursionError):
        return text
