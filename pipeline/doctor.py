"""`penstock doctor`: looks at this machine and this installation, and at what each plugin needs of them."""

import os
import platform
from collections.abc import Iterator

from pipeline.contracts.component import Finding
from pipeline.registry import Registry
from pipeline.version import version


def examine() -> Iterator[Finding]:
    """What was found, in general and by each plugin."""
    yield Finding(True, "penstock", f"{version()} on Python {platform.python_version()}, {platform.platform()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(True, "processor", f"{cores} cores usable, {platform.machine()}")
    registry = Registry.load()
    for plugin in registry.plugins():
        if plugin.error is not None:
            yield Finding(False, f"{plugin.kind} {plugin.type}", plugin.error)
        else:
            yield from registry.config_class(plugin.kind, plugin.type).examine()
