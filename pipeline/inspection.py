"""`penstock inspect`: asks the backend that runs ONNX models what it makes of one."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from pipeline.config.explain import explain
from pipeline.contracts.errors import ConfigError
from pipeline.registry import Registry


def inspect(model: str, family: str = "auto", task: str | None = None) -> Sequence[str]:
    """Lines about a model.

    Args:
        model: a path, or `pkg:PACKAGE/path`.
        family: "auto", or the family to read its output as.
        task: what it does; None: its outputs or its metadata say.

    Raises:
        ConfigError: it cannot be used, and why.
    """
    config_class = Registry.load().config_class("backend", "onnx")
    table = {"type": "onnx", "model": model, "family": family} | ({} if task is None else {"task": task})
    try:
        config = config_class.model_validate(table, context={"base_dir": Path.cwd()})
    except ValidationError as error:
        faults = explain(error, config_class, table)
        raise ConfigError("\n".join(f"{'.'.join(key)}: {message}" for key, message in faults)) from error
    return config.inspect()
