"""Retention: which of the files that a template made are removed, by the operator's rule, and when."""

import fcntl
import os
import re
import string
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ByteSize, Field, model_validator

from pipeline.contracts.clock import Clock
from pipeline.contracts.component import Context, FrozenModel
from sinks._files import PART_SUFFIX
from sinks._paths import display, fixed_root, placeholders
from sinks._rotation import base_name

LOOK_EVERY_S = 60.0

_JUMP_S = 1.0
_FILLED = {
    "source": r"[a-z][a-z0-9_]*(?: [a-z][a-z0-9_]*)?",  # "backend local": where the daemon's own events go
    "date": r"\d{4}-\d{2}-\d{2}",
    "hour": r"\d{2}",
}
_ANYTHING = "[^/]+"


class KeepConfig(FrozenModel):
    """The `keep` of a sink that writes files: closed ones beyond this are removed, the oldest first."""

    max_age_s: float | None = Field(default=None, gt=0, description="remove a file so long after it was closed")
    max_bytes: ByteSize | None = Field(default=None, gt=0, description='all files of the sink together, e.g. "10GiB"')
    max_files: int | None = Field(default=None, ge=1, description="so many closed files, of all sources together")

    @model_validator(mode="after")
    def _says_something(self) -> "KeepConfig":
        if self.max_age_s is None and self.max_bytes is None and self.max_files is None:
            raise ValueError("needs one of max_age_s, max_bytes, max_files")
        return self


class SteadyClock:
    """Unix seconds that never jump: the wall clock at the start, then what has passed since.

    Nothing is removed because somebody set the clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._zero = clock.wall() - clock.monotonic()

    def now(self) -> float:
        """Unix seconds."""
        return self._zero + self._clock.monotonic()

    def stamp(self, path: Path) -> None:
        """Let the file that was written just now be as old as it is, if the wall clock jumped meanwhile.

        Raises:
            OSError: it is gone.
        """
        if abs(self._clock.wall() - self.now()) > _JUMP_S:
            os.utime(path, (self.now(), self.now()), follow_symlinks=False)


class Made(NamedTuple):
    """A file that the template made."""

    path: Path
    size_bytes: int
    changed_at: float
    is_piece: bool
    """True for one that was rotated away: nobody will write to it again."""


class Archive:
    """The files that one path template has made, told by their names. Made by the sink; used by its thread.

    Only regular files below the template's own folder count, and no link is followed.

    Args:
        template: the sink's path.
        piece_of: the name that a closed piece had while it was written, and whether it is one.
        bases_close: whether a file without the mark of a piece is closed, too, when nobody writes to it. If left out:
            where its name has a date or an hour. It may be what a silent source goes on with, or, with `{stem}`,
            somebody else's.
    """

    def __init__(
        self,
        template: str,
        piece_of: Callable[[str], tuple[str, bool]] = base_name,
        *,
        bases_close: bool | None = None,
    ) -> None:
        self._root = fixed_root(template)
        inside = template[len(_escaped(str(self._root))) :].lstrip("/")
        self._parts = [re.compile(_pattern(part)) for part in inside.split("/")]
        self._piece_of = piece_of
        names = placeholders(template)
        self._bases_close = (
            bool(names & {"date", "hour"}) and "stem" not in names if bases_close is None else bases_close
        )

    def files(self) -> Iterator[Made]:
        """All of them that are complete, in no order. A folder that cannot be read has none."""
        return (one for one in self._below(self._root, 0) if one.path.suffix != PART_SUFFIX)

    def parts(self) -> Iterator[Path]:
        """Those that are being written, or that a killed process left: `NAME.part`."""
        return (one.path for one in self._below(self._root, 0) if one.path.suffix == PART_SUFFIX)

    def is_closed(self, made: Made, in_use: Collection[Path]) -> bool:
        """Whether nobody will write to it any more."""
        return made.path not in in_use and (made.is_piece or self._bases_close)

    def tidy(self, folder: Path) -> None:
        """Remove folders that the template made and that are empty now."""
        while folder != self._root and folder.is_relative_to(self._root):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _below(self, folder: Path, depth: int) -> Iterator[Made]:
        pattern, last = self._parts[depth], depth == len(self._parts) - 1
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if last or pattern.fullmatch(entry.name)]
        except OSError:
            return
        for entry in found:
            try:
                if not last and entry.is_dir(follow_symlinks=False):
                    yield from self._below(folder / entry.name, depth + 1)
                elif last and entry.is_file(follow_symlinks=False):
                    base, is_piece = self._piece_of(entry.name.removesuffix(PART_SUFFIX))
                    if pattern.fullmatch(base):
                        stat = entry.stat(follow_symlinks=False)
                        yield Made(folder / entry.name, stat.st_size, stat.st_mtime, is_piece)
            except OSError:
                continue  # gone meanwhile


class Retention:
    """Carries out a `keep`. Made by the sink; used by its thread.

    Args:
        archive: the files that it is about.
        keep: the rule; None: all are kept.
        ctx: the sink's.
        steady: the clock by which the sink stamps its files (`SteadyClock.stamp`), if it does.
    """

    def __init__(
        self, archive: Archive, keep: KeepConfig | None, ctx: Context, steady: SteadyClock | None = None
    ) -> None:
        self._archive = archive
        self._keep = keep
        self._steady = steady or SteadyClock(ctx.clock)
        self._ctx = ctx
        self._look_at = 0.0
        self.look_soon()

    def look_soon(self) -> None:
        """Something was closed: look at the next call."""
        self._look_at = self._ctx.clock.monotonic()

    def sweep(self, writing: Collection[Path] = ()) -> list[Path]:
        """Remove what the rule says, at most once a minute or after `look_soon`: call it at every tick.

        Args:
            writing: what is not touched.

        Returns:
            What was removed.
        """
        now = self._ctx.clock.monotonic()
        if self._keep is None or now < self._look_at:
            return []
        self._look_at = now + LOOK_EVERY_S
        made = list(self._archive.files())
        closed = [one for one in made if self._archive.is_closed(one, writing)]
        total_bytes = sum(one.size_bytes for one in made)
        victims = _victims(self._keep, closed, total_bytes, self._steady.now())
        removed = [one.path for one in victims if self._remove(one)]
        for folder in {path.parent for path in removed}:
            self._archive.tidy(folder)
        return removed

    def _remove(self, one: Made) -> bool:
        """Remove a file that no other process writes."""
        try:
            fd = os.open(one.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                one.path.unlink()
            finally:
                os.close(fd)
        except (BlockingIOError, FileNotFoundError):
            return False
        except OSError as error:
            self._ctx.tell("retention", f"{display(one.path)} cannot be removed: {error.strerror}", well=False)
            return False
        return True


def _victims(rule: KeepConfig, closed: list[Made], total_bytes: int, now: float) -> Iterator[Made]:
    """The oldest, as long as there is too much of them; `total_bytes` counts what is being written, too."""
    left = len(closed)
    for one in sorted(closed, key=lambda one: (one.changed_at, one.path)):
        too_old = rule.max_age_s is not None and now - one.changed_at > rule.max_age_s
        too_many = rule.max_files is not None and left > rule.max_files
        too_large = rule.max_bytes is not None and total_bytes > rule.max_bytes
        if not (too_old or too_many or too_large):
            return
        left -= 1
        total_bytes -= one.size_bytes
        yield one


def _pattern(part: str) -> str:
    """One part of a template as a regular expression for the names that it makes."""
    pattern = ""
    for literal, name, _, _ in string.Formatter().parse(part):
        pattern += re.escape(literal) + ("" if name is None else f"(?:{_FILLED.get(name, _ANYTHING)})")
    return pattern


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
