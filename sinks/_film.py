"""`VideoSink`: which file of a source a picture goes to, where one ends, and what becomes of it then."""

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import ByteSize, Field, model_validator

from pipeline.contracts.component import Context, FrozenModel
from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.event import Event
from pipeline.contracts.result import Result
from sinks._encoder import Codec
from sinks._files import PART_SUFFIX, free_bytes, make_folder
from sinks._leftovers import finish_leftovers, numbered
from sinks._paths import display, fixed_root, path_for, placeholders
from sinks._retention import Archive, KeepConfig, Retention
from sinks._segment import BEGIN_BYTES, FileRules, Segment
from sinks._showing import Showing, ShowingConfig, write_each
from sinks._track import Kind

_MAX_REMEMBERED = 10_000  # names of finished files, so that none of them is written over
_IDLE_S = 10.0
"""A segment whose source gives nothing for so long is finished."""
_STAMPED = re.compile(r"(.+)-\d{8}T\d{6}Z(?:-\d{4,})?(\.[^.]+)")
_NUMBERED = re.compile(r"(.+)-\d{4,}(\.[^.]+)")


class SegmentConfig(FrozenModel):
    """The `segment` of the sink `video`: what comes first ends a file."""

    every_s: float | None = Field(default=None, ge=1, description="a file holds so much time")
    max_bytes: Annotated[ByteSize, Field(ge=1 << 16)] | None = Field(
        default=None, description='a file is about so large, e.g. "1GiB"'
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.every_s is None and self.max_bytes is None:
            raise ValueError("needs one of every_s, max_bytes")
        return self


class VideoPlan(NamedTuple):
    """What the sink is to do.

    Attributes:
        path: template of the files' names.
        codec: of the video.
        rules: how to write a file.
        segment: when one ends; None: with its input.
        keep: which finished ones are removed; None: none.
    """

    path: str
    codec: Codec
    rules: FileRules
    segment: SegmentConfig | None
    keep: KeepConfig | None


class VideoSink:
    """Draws and encodes, one file at a time for each source; used by its runner's thread only."""

    wants_pictures = True

    def __init__(self, plan: VideoPlan, config: ShowingConfig, ctx: Context) -> None:
        self._plan = plan
        self._config = config
        self._ctx = ctx
        names = placeholders(plan.path)
        self._changes = bool(names - {"source"})
        self._archive = Archive(plan.path, _base_name if "stem" not in names else _base_name_of_stamped)
        self._retention = Retention(self._archive, plan.keep, ctx)
        self._showing: Showing | None = None
        self._path_of: dict[str, Path] = {}
        self._writing: dict[str, tuple[Path, Segment]] = {}  # by source; the path without a number
        self._counts: dict[Path, int] = {}  # how many files were begun for a path
        self._finished: list[str] = []

    def open(self) -> None:
        """Make the folder, look for the encoder, and finish what a killed run left.

        Raises:
            ConfigError: this FFmpeg cannot encode the codec, or the hardware that was asked for does not work.
        """
        survives = self._plan.rules.layout != "plain" or Path(self._plan.path).suffix.lower() in {".mkv", ".ts"}
        encoding = self._config.encoding(self._plan.codec, ahead="little" if survives else "any")
        self._showing = Showing(self._config, encoding, self._ctx)
        make_folder(fixed_root(self._plan.path))
        for path in finish_leftovers(self._archive, self._ctx):
            base = path.with_name(_base_name(path.name)[0])
            if self._plan.segment is None and len(self._counts) < _MAX_REMEMBERED:
                self._counts[base] = max(self._counts.get(base, 0), _number_of(path))

    def write(self, results: Sequence[Result]) -> None:
        """Draw and encode. A failure of one picture does not keep the others of the batch from being written."""
        write_each(results, self._write)

    def notice(self, event: Event) -> None:
        """Nothing of it is seen in a video."""

    def tick(self) -> None:
        """Bring to the disk what is due, finish segments whose source is silent, remove what is not to be kept."""
        now = self._ctx.clock.monotonic()
        for source, (_, segment) in list(self._writing.items()):
            if self._plan.segment is not None and now - segment.written_at >= _IDLE_S:
                self._finish(source)
            else:
                segment.sync()
        self._retention.sweep([segment.path for _, segment in self._writing.values()])

    def release(self, source: str) -> None:
        """Finish the file of a source that was removed."""
        self._path_of.pop(source, None)
        if self._showing is not None:
            self._showing.forget(source)
        if source in self._writing:
            self._finish(source)

    def close(self) -> None:
        """Finish every file, also when one of them fails.

        Raises:
            FatalError: with what is not complete.
        """
        failures = []
        for source in list(self._writing):
            try:
                self._finish(source)
            except PenstockError as error:
                failures.append(str(error))
        if failures:
            raise FatalError("; ".join(failures))

    def written(self) -> Sequence[str]:
        """The finished files, then those being written."""
        return [*self._finished, *(display(segment.path) for _, segment in self._writing.values())]

    def _write(self, result: Result) -> None:
        if self._showing is None:
            raise FatalError("the sink is not open")
        planes = result.frame.picture.yuv420p()
        segment = self._segment(result, Kind.of(result.frame, planes), self._showing)
        self._showing.fill(segment.canvas(), result, planes)
        try:
            segment.write(result.frame)
        except PenstockError as error:
            raise self._give_up(result.frame.source, error) from error

    def _segment(self, result: Result, kind: Kind, showing: Showing) -> Segment:
        """The file that the picture belongs to: the one being written, or a new one."""
        source = result.frame.source
        path = self._path_of.get(source)
        if path is None or self._changes:
            path = self._path_of[source] = path_for(self._plan.path, result.frame)
        current = self._writing.get(source)
        goes_on = False
        if current is not None:
            before, segment = current
            if before == path and segment.kind == kind and not self._is_full(segment, result):
                return segment
            goes_on = segment.kind.path == kind.path
            self._finish(source)
        make_folder(path.parent)
        if free_bytes(path.parent) < self._plan.rules.min_free_bytes + BEGIN_BYTES:
            raise TransientError(f"{display(path)} cannot be begun: the disk is nearly full (min_free_bytes)")
        segment = self._begin(self._free_name(path, result), result, kind, showing, goes_on=goes_on)
        self._writing[source] = (path, segment)
        return segment

    def _begin(self, path: Path, result: Result, kind: Kind, showing: Showing, *, goes_on: bool) -> Segment:
        def begin() -> Segment:
            return Segment(
                path,
                result.frame,
                kind,
                encoding=showing.encoding,
                encoder=showing.encoder,
                rules=self._plan.rules,
                ctx=self._ctx,
                goes_on=goes_on,
            )

        try:
            return begin()
        except FatalError as error:
            if not showing.fall_back(error):
                raise
            return begin()

    def _is_full(self, segment: Segment, result: Result) -> bool:
        rule = self._plan.segment
        if rule is None or not segment.frames:
            return False
        if rule.every_s is not None and segment.shown_s(result.frame) >= rule.every_s - 1e-6:
            return True
        return rule.max_bytes is not None and segment.size_bytes >= rule.max_bytes

    def _free_name(self, path: Path, result: Result) -> Path:
        """`path`, or `path` with the next number where this sink began a file of this name before."""
        if self._plan.segment is not None:
            return _free(_stamped(path, result.frame.captured_at), self._writing_paths())
        if path not in self._counts and len(self._counts) >= _MAX_REMEMBERED:
            return _free(path, ())
        number = self._counts.get(path, 0) + 1
        while self._ctx.continues and numbered(path, number).exists():
            number += 1
        self._counts[path] = number
        return numbered(path, number)

    def _writing_paths(self) -> list[Path]:
        return [segment.path for _, segment in self._writing.values()]

    def _finish(self, source: str) -> None:
        _, segment = self._writing.pop(source)
        self._retention.look_soon()
        try:
            segment.finish()
        finally:
            if segment.is_there and len(self._finished) < _MAX_REMEMBERED:
                self._finished.append(display(segment.path))

    def _give_up(self, source: str, error: PenstockError) -> PenstockError:
        """Save what was written before `error`; the next picture begins a new file."""
        _, segment = self._writing[source]
        fatal = isinstance(error, FatalError) and not (self._showing and self._showing.fall_back(error))
        try:
            self._finish(source)
        except PenstockError as lost:
            return FatalError(f"{error}; {lost}") if fatal else TransientError(f"{error}; {lost}")
        kept = f"{error}; its {segment.frames} frames before are complete in {display(segment.path)}"
        return FatalError(kept) if fatal else TransientError(kept)


def _stamped(path: Path, at: float) -> Path:
    """`path` with the time in its name."""
    try:
        moment = datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        moment = datetime.fromtimestamp(0, UTC)
    return path.with_name(f"{path.stem}-{moment.strftime('%Y%m%dT%H%M%SZ')}{path.suffix}")


def _free(path: Path, taken: Sequence[Path]) -> Path:
    number = 1
    while (name := numbered(path, number)) in taken or os.path.lexists(name) or os.path.lexists(f"{name}{PART_SUFFIX}"):
        number += 1
    return name


def _base_name(name: str) -> tuple[str, bool]:
    """The name that the template gave a file, and whether a time or a number was put into it."""
    found = _STAMPED.fullmatch(name) or _NUMBERED.fullmatch(name)
    return (name, False) if found is None else (found[1] + found[2], True)


def _base_name_of_stamped(name: str) -> tuple[str, bool]:
    """The same where names are other files' names: a number may be theirs."""
    found = _STAMPED.fullmatch(name)
    return (name, False) if found is None else (found[1] + found[2], True)


def _number_of(path: Path) -> int:
    found = re.fullmatch(r".+-(\d{4,})\.[^.]+", path.name)
    return int(found[1]) if found else 1
