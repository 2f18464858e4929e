"""What is different between two configurations, component by component: what a reload does and `plan` says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.settings import Settings
from pipeline.contracts.component import ComponentConfig

Action = Literal["added", "removed", "changed"]
KINDS: tuple[Literal["source", "backend", "sink"], ...] = ("source", "backend", "sink")

RUNNER_KEYS = {
    "sink": frozenset({"sources", "queue"}),
    "source": frozenset({"tracking", "zones", "lines"}),
}
"""Keys that the runner carries out: a component in which only these differ is not rebuilt, but connected anew."""


@dataclass(frozen=True, slots=True)
class Change:
    """One component that is not what it was.

    Attributes:
        kind: source, backend or sink.
        name: its name in pipeline.toml.
        action: what happened to it.
        keys: for a changed one, which of its keys differ, in the order of the table.
    """

    kind: Literal["source", "backend", "sink"]
    name: str
    action: Action
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.action}" + (f" ({', '.join(self.keys)})" if self.keys else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a reload would do, and what it cannot.

    Attributes:
        changes: the components, sources first.
        at_restart: keys outside of the components that only a restart puts in force.
        at_once: such keys that are in force at once.
    """

    changes: tuple[Change, ...]
    at_restart: tuple[str, ...] = ()
    at_once: tuple[str, ...] = field(default=())

    def names(self, kind: str, *actions: Action) -> list[str]:
        """Names of the components of a kind to which one of these happened."""
        return [change.name for change in self.changes if change.kind == kind and change.action in actions]

    def lines(self) -> list[str]:
        """For people; empty when nothing differs."""
        return [
            *(str(change) for change in self.changes),
            *(f"{key}: changed" for key in self.at_once),
            *(f"{key}: changed, takes effect at the next start" for key in self.at_restart),
        ]


def diff(old: Settings, new: Settings) -> Plan:
    """What must be done to get from `old` to `new`."""
    changes = [
        change
        for kind, before, after in (
            ("source", old.sources, new.sources),
            ("backend", old.backends, new.backends),
            ("sink", old.sinks, new.sinks),
        )
        for change in _changes(kind, before, after)  # type: ignore[arg-type]
    ]
    at_restart = ["data_dir"] if old.data_dir != new.data_dir else []
    if old.server.model_copy(update={"tokens": new.server.tokens}) != new.server:
        at_restart.append("server")
    at_once = ["server.tokens"] if old.server.tokens != new.server.tokens else []
    at_once += [
        key for key in ("log", "shutdown_timeout_s", "reload_timeout_s") if getattr(old, key) != getattr(new, key)
    ]
    return Plan(tuple(changes), tuple(at_restart), tuple(at_once))


def is_rebuilt(old: ComponentConfig, new: ComponentConfig, kind: str) -> bool:
    """Whether the component itself must be built anew, and not only connected anew."""
    return type(old) is not type(new) or bool(set(_keys(old, new)) - RUNNER_KEYS.get(kind, frozenset()))


def _changes(
    kind: Literal["source", "backend", "sink"],
    before: Mapping[str, ComponentConfig],
    after: Mapping[str, ComponentConfig],
) -> Iterator[Change]:
    for name in [*after, *(name for name in before if name not in after)]:
        if name not in before:
            yield Change(kind, name, "added")
        elif name not in after:
            yield Change(kind, name, "removed")
        elif before[name] != after[name]:
            yield Change(kind, name, "changed", _keys(before[name], after[name]))


def _keys(old: ComponentConfig, new: ComponentConfig) -> tuple[str, ...]:
    """Names of the keys that differ; their values are nobody's business: they may be secrets."""
    if type(old) is not type(new):
        return ("type",)
    return tuple(name for name in type(new).model_fields if getattr(old, name) != getattr(new, name))
