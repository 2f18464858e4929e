"""`sqlite`: results, objects and events in a database that can be asked while it is written."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import ByteSize, Field, model_validator

from pipeline.contracts.component import Context, FrozenModel
from pipeline.contracts.errors import FatalError, PenstockError
from pipeline.contracts.event import Event, ObjectEvent
from pipeline.contracts.result import Result
from pipeline.contracts.sink import SinkConfig
from sinks._database import Database, database_error, is_corrupt
from sinks._files import keep_reserve, make_folder
from sinks._paths import PathTemplate, check_writable, display, fixed_root, known_path
from sinks._places import Places
from sinks._retention import SteadyClock
from sinks._rows import Row, rows_of

T = TypeVar("T")

_PRUNE_EVERY_S = 10.0
_PRUNE_S = 0.1
_MAX_REMEMBERED = 10_000


class SqliteKeepConfig(FrozenModel):
    """The `keep` of the sink `sqlite`: rows beyond this are removed, the oldest first."""

    max_age_s: float | None = Field(default=None, gt=0, description="remove what was written so long ago")
    max_bytes: Annotated[ByteSize, Field(ge=1 << 16)] | None = Field(
        default=None, description='what a file may hold, e.g. "10GiB"'
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.max_age_s is None and self.max_bytes is None:
            raise ValueError("needs max_age_s or max_bytes")
        return self


class SqliteSinkConfig(SinkConfig):
    """An SQLite database with the tables results, objects and events."""

    takes_events: ClassVar[bool] = True

    type: Literal["sqlite"] = "sqlite"
    path: PathTemplate = Field(description="file name; placeholders: {source}, {stem}, {date}, {hour}")
    keep: SqliteKeepConfig | None = Field(default=None, description="which rows are removed; none if left out")
    fsync: Literal["interval", "always"] = Field(
        default="interval",
        description="what survives a power cut: what is older than fsync_interval_s; everything that was delivered",
    )
    fsync_interval_s: Annotated[float, Field(gt=0, le=3600)] = Field(default=5.0, description='for fsync = "interval"')
    min_free_bytes: ByteSize = Field(default=ByteSize(64 << 20), description="leave so much of the disk free")

    def check(self) -> None:
        """Find a path that cannot be written.

        Raises:
            ConfigError: for the key `path`.
        """
        check_writable(self.path)

    def build(self, ctx: Context) -> "SqliteSink":
        """Make the sink."""
        return SqliteSink(self, ctx)

    def writes(self, source: str) -> Sequence[Path]:
        """The file for this source, where its name does not depend on the frames."""
        path = known_path(self.path, source)
        return () if path is None else (path,)


class SqliteSink:
    """Writes each batch in one transaction; used by its runner's thread only."""

    wants_pictures = False

    def __init__(self, config: SqliteSinkConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._root = fixed_root(config.path)
        self._places = Places(config.path)
        self._steady = SteadyClock(ctx.clock)
        self._open: dict[Path, Database] = {}
        self._written: dict[Path, None] = {}
        self._synced_at = self._pruned_at = ctx.clock.monotonic()

    def open(self) -> None:
        """Make the folder, and the database where its name is known.

        Raises:
            ConfigError: its file is something else.
            TransientError, FatalError: it cannot be made.
        """
        make_folder(self._root)
        if self._places.only is not None:
            self._database(self._places.only)

    def write(self, results: Sequence[Result]) -> None:
        """Add the results and their objects: those of one file all of them, or none.

        Raises:
            TransientError: no room, or somebody else holds a lock.
            FatalError: the file cannot be written.
        """
        by_path: dict[Path, list[list[Row]]] = {}
        for result in results:
            path = self._places.for_frame(result.frame)
            rows = rows_of(result, empty_frames=True)
            for row in rows:
                row["captured_at"] = result.frame.captured_at
            by_path.setdefault(path, []).append(rows)
        for path, some in by_path.items():
            self._insert(path, some, ())

    def notice(self, event: Event) -> None:
        """Add the event; raises as `write` does."""
        (row,) = rows_of(event, empty_frames=False)
        row["at"] = event.at
        if isinstance(event, ObjectEvent):
            row["began_at"] = event.began_at
        self._insert(self._places.for_event(event), (), [row])

    def tick(self) -> None:
        """Remove what is too old or too much, and bring what was written to the disk.

        Raises:
            TransientError, FatalError: not now.
        """
        now = self._ctx.clock.monotonic()
        keep = self._config.keep
        if keep is not None and now - self._pruned_at >= _PRUNE_EVERY_S:
            older_than = None if keep.max_age_s is None else self._steady.now() - keep.max_age_s
            done = True
            for path in list(self._open):
                done &= self._prune(path, older_than, keep.max_bytes)
            if done:  # else there is more of it: the next tick goes on
                self._pruned_at = now
        if now - self._synced_at >= self._config.fsync_interval_s:
            self._synced_at = now
            for path in list(self._open):
                self._guarded(path, Database.checkpoint)

    def release(self, source: str) -> None:
        """Close the database of a source that was removed, unless another one writes to it, too."""
        self._places.leave(source)
        self._close_left()

    def close(self) -> None:
        """Close every database, also when one of them fails.

        Raises:
            FatalError: for all that could not be closed well.
        """
        self._places.leave_all()
        if failures := self._close_left():
            raise FatalError("; ".join(failures))

    def written(self) -> Sequence[str]:
        """The files."""
        return [display(path) for path in self._written]

    def _insert(self, path: Path, results: Sequence[Sequence[Row]], events: Sequence[Row]) -> None:
        keep_reserve(self._root, self._config.min_free_bytes)
        if path not in self._open:
            self._close_left()
        self._database(path)
        written_at = self._steady.now()
        self._guarded(path, lambda database: database.insert(results, events, written_at))

    def _prune(self, path: Path, older_than: float | None, max_bytes: int | None) -> bool:
        """Remove some; True where nothing is left to be removed."""
        clock = self._ctx.clock
        ends_at = clock.monotonic() + _PRUNE_S
        more = True
        while more and clock.monotonic() < ends_at:
            more = self._guarded(path, lambda database: database.prune(older_than, max_bytes))
        return not more

    def _guarded(self, path: Path, do: Callable[[Database], T]) -> T:
        try:
            return do(self._open[path])
        except sqlite3.Error as error:
            if is_corrupt(error):
                self._open.pop(path).drop()
            raise database_error(path, error) from error

    def _database(self, path: Path) -> Database:
        database = self._open.get(path)
        if database is None:
            database = self._open[path] = Database(path, sync=self._config.fsync == "always", ctx=self._ctx)
            if len(self._written) < _MAX_REMEMBERED:
                self._written[path] = None
        return database

    def _close_left(self) -> list[str]:
        """Close what no source writes to any more; what went wrong is in the log beside its file, and not lost."""
        failures = []
        for path in self._open.keys() - self._places.in_use():
            try:
                self._open.pop(path).close()
            except PenstockError as error:
                failures.append(str(error))
                self._ctx.tell("closed with its log", str(error), well=False)
        return failures
