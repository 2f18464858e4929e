"""`SceneFile`: what one source's lines have counted, kept over restarts; `Numbers` that are given out only once."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from pipeline.contracts.analysis import Direction, LineConfig
from pipeline.contracts.component import FrozenModel

FOLDER = "scenes"
MOST_BYTES = 16 << 20
_LAST_NUMBER = 2**31 - 1

Count = Annotated[int, Field(ge=0)]


class LineState(FrozenModel):
    """One line, and what it has counted by direction and class."""

    line: LineConfig
    counts: dict[Direction, dict[str, Count]]


class SceneState(FrozenModel):
    """What is kept of one source.

    Attributes:
        version: of this form.
        source: its name.
        next_tracker_id: no greater one was given out.
        last_frame_at: Unix seconds at which its last frame was looked at; None: there was none.
        complete: it came to its end, as files do: the next run counts from 0.
        lines: by name.
    """

    version: Literal[1] = 1
    source: str
    next_tracker_id: Annotated[int, Field(ge=1, le=_LAST_NUMBER)] = 1
    last_frame_at: float | None = None
    complete: bool = False
    lines: dict[str, LineState] = Field(default={})


class NotOurs(Exception):  # noqa: N818  (it is no failure of the program)
    """The file is damaged, or not one of ours; it was set aside under another name, which the message says."""


class SceneFile:
    """Made for one source; written by one thread at a time."""

    def __init__(self, folder: Path, source: str) -> None:
        self._source = source
        self.path = folder / f"{source}.json"

    def read(self) -> SceneState:
        """What was kept; an empty state where nothing was.

        Raises:
            NotOurs: it says something else.
            OSError: it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return SceneState(source=self._source)
        try:
            state = SceneState.model_validate_json(content)
        except ValidationError:
            raise NotOurs(self._set_aside()) from None
        if state.source != self._source:
            raise NotOurs(self._set_aside())
        return state

    def write(self, state: SceneState) -> None:
        """Keep this instead: all of it or, whatever happens, what was there before.

        Raises:
            OSError: it cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".json.tmp")
        with beside.open("w", encoding="utf-8") as file:
            file.write(state.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the new name, too
        finally:
            os.close(folder)

    def _set_aside(self) -> str:
        aside = self.path.with_name(f"{self._source}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json")
        self.path.replace(aside)
        return f"{self.path} is damaged or of another kind: set aside as {aside.name}"


class Numbers:
    """Numbers that were never given out before, although the process may be killed at any moment.

    Some are reserved in the file before the first of them is given out: after a kill those are left out.

    Args:
        first: the first that may be given out.
        reserve: keeps in the file that all below this one may be in use; called by who asks for a number.
    """

    AHEAD = 1000

    def __init__(self, first: int, reserve: Callable[[int], None]) -> None:
        self.next = first
        self.reserved = first
        self._reserve = reserve

    def take(self) -> int:
        """The next number."""
        if self.next >= self.reserved:
            wanted = self.ahead
            self._reserve(wanted)
            self.reserved = wanted
        number = self.next
        self.next += 1
        if self.next >= _LAST_NUMBER:
            self.next = self.reserved = 1
        return number

    @property
    def ahead(self) -> int:
        """Up to here should be reserved now."""
        return min(self.next + self.AHEAD, _LAST_NUMBER)

    @property
    def low(self) -> bool:
        """Whether more should be reserved soon."""
        return self.reserved - self.next < self.AHEAD // 2
