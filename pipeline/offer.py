"""`penstock serve`: a configuration that offers models to clients and reads no source."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.config.loader import from_tree
from pipeline.config.problems import ConfigProblems
from pipeline.contracts.errors import ConfigError
from pipeline.predict import demo_model
from pipeline.registry import Registry

if TYPE_CHECKING:
    from pipeline.config.settings import Settings


def of_models(
    models: Sequence[str], *, listen: str, device: str | None = None, confidence: float | None = None
) -> "Settings":
    """ONNX files, each under its own name and, for clients who want a version, as NAME/1.

    Raises:
        ConfigError: two files have one name, or none is given and the demo's is not installed.
        ConfigProblems: with everything that is wrong.
    """
    tables: dict[str, dict[str, Any]] = {}
    for model in models or (demo_model(),):
        stem = Path(model).stem
        name = re.sub(r"[^a-z0-9_]+", "_", stem.lower()).strip("_")[:63]
        name = name if name[:1].isalpha() else f"model_{name}".rstrip("_")
        if name in tables:
            raise ConfigError(f"two models are called {name}: rename one of the files, or write a pipeline.toml")
        table = {"type": "onnx", "model": model, "device": device, "confidence": confidence}
        tables[name] = {key: value for key, value in table.items() if value is not None}
        alias = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-") or name
        tables[name]["aliases"] = [f"{alias}/1"]
    tree = {"models": tables, "server": {"listen": listen}}
    return from_tree(tree, base_dir=Path.cwd(), registry=Registry.load())


def of_file(settings: "Settings", listen: str | None) -> "Settings":
    """The models and backends of a configuration, without its sources and sinks.

    Raises:
        ConfigProblems: it offers nothing.
        ConfigError: `listen` is nothing to listen on.
    """
    server = settings.server
    if listen is not None:
        try:
            server = type(server).model_validate({**dict(server), "listen": listen})
        except ValidationError as error:
            raise ConfigError(f"--listen {listen}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    missing = None
    if server.address is None:
        missing = ConfigError('nothing can be served: listen is "off"', key="server.listen")
    elif not server.inference.enabled:
        missing = ConfigError("nothing can be served: it is not enabled", key="server.inference.enabled")
    if missing is not None:
        raise ConfigProblems([settings.blame("core", "", missing)])
    models = frozenset(settings.backends)
    return replace(settings, sources={}, sinks={}, server=server, models=models, serves_only=True, listen=listen)
