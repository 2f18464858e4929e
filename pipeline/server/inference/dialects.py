"""Which protocols there are: the dialects of one server, each under its prefix."""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pipeline.server.inference.mount import Mounted
from pipeline.server.inference.service import Dialect, DialectName, Service

ALL: Final[tuple[DialectName, ...]] = ("huggingface", "supervisely", "kserve", "roboflow")
"""In the order in which their routes are tried, where several have one prefix."""


def make_dialect(name: DialectName, service: Service, **own: Any) -> Dialect:
    """One of them; its module is imported for it. `own` is what it alone works with."""
    made: Dialect = importlib.import_module(f"pipeline.server.inference.{name}").dialect(service, **own)
    return made


def make_dialects(
    service: Service,
    prefixes: Mapping[DialectName, str | None],
    own: Mapping[DialectName, Mapping[str, Any]] = MappingProxyType({}),
) -> list[Mounted]:
    """Those that are mounted; None: off. `own` is what some of them alone work with."""
    return [
        Mounted(prefix, make_dialect(name, service, **own.get(name, {})))
        for name in ALL
        if (prefix := prefixes.get(name)) is not None
    ]
