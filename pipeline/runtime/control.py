"""What may be done to a running pipeline from outside: the interface between the supervisor and who gives orders."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """How an attempt to change the configuration ended.

    Attributes:
        ok: True: the new configuration is in force. False: everything is as it was.
        config_hash: of the configuration that is in force now.
        changes: what was changed, a line each, e.g. "source gate: changed (max_fps)"; empty when nothing was to do.
        problems: why nothing was changed, a line each, without secrets.
        invalid: True when the new configuration itself is wrong; False when it is right and could not be put in force.
        conflict: True when `if_match` named another configuration than the one in force.
    """

    ok: bool
    config_hash: str
    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    invalid: bool = False
    conflict: bool = False


class Control(Protocol):
    """Orders to a running pipeline. All are called on the main loop; the coroutines wait for each other's end."""

    @property
    def config_hash(self) -> str:
        """Of the configuration that is in force."""
        ...

    def pause(self, source: str) -> bool:
        """Stop reading the source until `resume`; a camera is disconnected. False: there is no such source."""
        ...

    def resume(self, source: str) -> bool:
        """Go on reading. False: there is no such source."""
        ...

    def restart(self, source: str) -> bool:
        """Connect anew now, without waiting for the back-off. False: there is no such source."""
        ...

    async def reload(self, why: str) -> ReloadOutcome:
        """Read the configuration again and put what changed in force."""
        ...

    async def put_source(self, name: str, table: Mapping[str, Any], if_match: str | None) -> ReloadOutcome:
        """Add or change a source: takes effect like a reload, and is kept in the overlay file."""
        ...

    async def delete_source(self, name: str, if_match: str | None) -> ReloadOutcome | None:
        """Remove a source, likewise. None: there is no such source."""
        ...
