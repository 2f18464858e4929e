"""What the operator's keys say of files of lines, as `LineFiles` takes it."""

from typing import Literal, NamedTuple

from sinks._paths import placeholders
from sinks._retention import KeepConfig
from sinks._rotation import RotateConfig

Mode = Literal["replace", "append", "overwrite"]
Fsync = Literal["never", "interval", "always"]


class LineRules(NamedTuple):
    """What the operator's keys say of the files; `sync_every_s`: 0.0 for each batch, None for never."""

    template: str
    mode: Mode
    rotate: RotateConfig | None
    keep: KeepConfig | None
    sync_every_s: float | None
    min_free_bytes: int


def sync_every_s(fsync: Fsync, interval_s: float) -> float | None:
    """How often files are brought to the disk: 0.0 for each batch, None for never."""
    match fsync:
        case "never":
            return None
        case "interval":
            return interval_s
        case "always":
            return 0.0


def check_keep(template: str, keep: KeepConfig | None, rotate: RotateConfig | None) -> None:
    """See that `keep` has something to remove.

    Raises:
        ValueError: none of the files would ever be closed, or told from other people's.
    """
    names = placeholders(template)
    if keep is not None and rotate is None and ("stem" in names or not names & {"date", "hour"}):
        raise ValueError("keep: there is nothing to remove: set rotate, or a path with {date} or {hour}, no {stem}")
