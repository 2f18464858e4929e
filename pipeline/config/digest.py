"""The hash of a configuration: the same for the same configuration wherever it runs, and without its secrets."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config.assemble import Parts
from pipeline.config.secrets import is_secret, is_secret_name, without_credentials
from pipeline.contracts.paths import resolve_text
from pipeline.contracts.secret import SecretUrl

HASH_CHARS = 12


def config_hash(parts: Parts, base_dir: Path) -> str:
    """12 hex digits of the SHA-256 of all keys, defaults included.

    Paths count as they are written, so that the same folder elsewhere has the same hash. `data_dir`, `[log]` and
    `[server]` have no influence on any result, and none on the hash.
    """
    tree: dict[str, dict[str, Any]] = {}
    for table, components in (("sources", parts.sources), ("backends", parts.backends), ("sinks", parts.sinks)):
        tree[table] = {
            name: _canonical(made.model_dump(), dict(_paths(_written(parts, table, name), base_dir)))
            for name, made in components.items()
        }
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]


def _written(parts: Parts, table: str, name: str) -> Mapping[str, Any]:
    """The component's table as it stands in the file."""
    return parts.merged["models" if table == "backends" and name in parts.models else table, name]


def _paths(raw: Any, base_dir: Path) -> Iterator[tuple[str, str]]:
    """What each text would be as an absolute path, and the text."""
    if isinstance(raw, str):
        try:
            yield resolve_text(raw, base_dir), raw
        except (ValueError, RuntimeError):  # no path, or a home that nobody has
            return
    elif isinstance(raw, (Mapping, list)):
        for inner in raw.values() if isinstance(raw, Mapping) else raw:
            yield from _paths(inner, base_dir)


def _canonical(value: Any, written: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            str(name): _canonical(inner, written)
            for name, inner in value.items()
            if not is_secret(inner) and not is_secret_name(str(name))
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        found = [_canonical(inner, written) for inner in value if not is_secret(inner)]
        return sorted(found, key=str) if isinstance(value, (set, frozenset)) else found
    if isinstance(value, (str, Path, SecretUrl)):
        text = str(value)
        return without_credentials(written.get(text, text))
    return value
