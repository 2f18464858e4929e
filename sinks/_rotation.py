"""Rotation: when a file that is written on and on is closed, and the name that the closed piece gets."""

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, model_validator

from pipeline.contracts.component import FrozenModel
from pipeline.contracts.errors import FatalError
from sinks._paths import display

GZIP_SUFFIX = ".gz"

_EVERY_S = {"hour": 3600.0, "day": 86_400.0}
_STAMPED = re.compile(r"(?P<stem>.+)-\d{8}T\d{6}Z(?:-\d{1,4})?(?P<suffix>\.[^.]*)?")
_MAX_OF_A_SECOND = 10_000


class RotateConfig(FrozenModel):
    """The `rotate` of a sink that writes files: what comes first closes the file."""

    max_bytes: Annotated[ByteSize, Field(ge=1024)] | None = Field(
        default=None, description='close a file before it is larger, e.g. "100MiB"'
    )
    every: Literal["hour", "day"] | Annotated[float, Field(ge=1)] | None = Field(
        default=None, description='"hour", "day" or seconds: close it then, counted from midnight in UTC'
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if all(value is None for _, value in self):
            raise ValueError(f"needs one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def every_s(self) -> float | None:
        """Seconds of `every`."""
        return _EVERY_S[self.every] if isinstance(self.every, str) else self.every


def period(every_s: float | None, unix_s: float) -> int:
    """The number of the period that a time lies in. A clock that jumps changes it once, and not again and again."""
    return 0 if every_s is None else int(unix_s // every_s)


def gzipped(path: Path) -> Path:
    """The name of a file once it is compressed."""
    return path.with_name(path.name + GZIP_SUFFIX)


def piece_path(path: Path, unix_s: float, becomes: Callable[[Path], Path] = gzipped) -> Path:
    """The name of a piece that is closed now: `gate.jsonl` -> `gate-20261121T163000Z.jsonl`, never one that is taken.

    Args:
        path: the name while it is written.
        unix_s: the time.
        becomes: what becomes of a piece later: that name is free as well.

    Raises:
        FatalError: there is none left.
    """
    stamp = datetime.fromtimestamp(unix_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in range(1, _MAX_OF_A_SECOND):
        again = "" if number == 1 else f"-{number}"
        name = path.with_name(f"{path.stem}-{stamp}{again}{path.suffix}")
        if not os.path.lexists(name) and not os.path.lexists(becomes(name)):
            return name
    raise FatalError(f"{display(path)}: there are too many pieces of one second")


def base_name(name: str) -> tuple[str, bool]:
    """The name that a closed piece had while it was written, and whether this is one."""
    found = _STAMPED.fullmatch(name.removesuffix(GZIP_SUFFIX))
    if found is None:
        return name.removesuffix(GZIP_SUFFIX), False
    return found["stem"] + (found["suffix"] or ""), True
