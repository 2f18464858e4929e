"""`parquet`: a row for each object, in columns, for those who count over many days."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ByteSize, Field, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.event import Event
from pipeline.contracts.result import Result
from pipeline.contracts.sink import SinkConfig
from sinks._afterwork import Afterwork
from sinks._line_files import LineFiles
from sinks._line_rules import Fsync, LineRules, check_keep, sync_every_s
from sinks._lines import LinesSink
from sinks._parquet_file import ParquetJob
from sinks._paths import PathTemplate, check_writable, known_path
from sinks._retention import Archive, KeepConfig, Retention
from sinks._rotation import RotateConfig, base_name
from sinks._rows import check_columns, default_columns, rows_of

ROWS_SUFFIX = ".rows"

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


class ParquetSinkConfig(SinkConfig):
    """Parquet files with a row for each object."""

    takes_events: ClassVar[bool] = True

    type: Literal["parquet"] = "parquet"
    path: PathTemplate = Field(description="file name; placeholders: {source}, {stem}, {date}, {hour}")
    columns: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(check_columns)] | None = Field(
        default=None, description="which columns, in this order; those that fit `emit` and `notices` if left out"
    )
    empty_frames: bool = Field(default=False, description="a row without an object for frames in which nothing is")
    rotate: RotateConfig | None = Field(
        default=None,
        description="when a file is made of the rows so far, as NAME-20260131T120000Z; only at the end if left out",
    )
    keep: KeepConfig | None = Field(default=None, description="which files are removed; none if left out")
    fsync: Fsync = Field(default="interval", description="as in the sink `jsonl`, for the rows that wait")
    fsync_interval_s: Annotated[float, Field(gt=0, le=3600)] = Field(default=5.0, description='for fsync = "interval"')
    min_free_bytes: ByteSize = Field(default=ByteSize(64 << 20), description="leave so much of the disk free")

    @model_validator(mode="after")
    def _fits_together(self) -> "ParquetSinkConfig":
        check_keep(self.path, self.keep, self.rotate)
        return self

    def check(self) -> None:
        """Find a path that cannot be written, and a library that is not there.

        Raises:
            ConfigError: for the key to blame.
        """
        check_writable(self.path)
        if importlib.util.find_spec("pyarrow") is None:
            raise ConfigError("needs pyarrow: pip install 'penstock[parquet]'", key="type")

    def build(self, ctx: Context) -> "ParquetSink":
        """Make the sink."""
        return ParquetSink(self, ctx)

    def writes(self, source: str) -> Sequence[Path]:
        """The file for this source, where its name does not depend on the frames."""
        path = known_path(self.path, source)
        return () if path is None else (path,)


class ParquetSink:
    """Gathers rows in files of lines, and makes Parquet files of them; used by its runner's thread only.

    A Parquet file is nothing before its last byte. So the rows wait as lines in `PATH.rows.part`, which a kill does
    not harm, and become a Parquet file when `rotate` says so, or at the end.
    """

    wants_pictures = False

    def __init__(self, config: ParquetSinkConfig, ctx: Context) -> None:
        columns = config.columns or default_columns(events=config.emit == "events", notices=bool(config.notices))
        self._columns = columns
        self._empty_frames = config.empty_frames
        self._ctx = ctx
        rules = LineRules(
            template=config.path + ROWS_SUFFIX,
            mode="replace",
            rotate=config.rotate,
            keep=None,
            sync_every_s=sync_every_s(config.fsync, config.fsync_interval_s),
            min_free_bytes=config.min_free_bytes,
        )
        self._afterwork = Afterwork(
            ctx, lambda path: ParquetJob(path, parquet_path(path), ctx), parquet_path, config.min_free_bytes
        )
        self._files = LineFiles(rules, ctx, head=(json.dumps(columns) + "\n").encode(), afterwork=self._afterwork)
        self._left = Archive(rules.template)
        self._lines = LinesSink(self._files, self._lines_of)
        self._retention = Retention(Archive(config.path), config.keep, ctx)

    @property
    def mended(self) -> int:
        """See `Mending`."""
        return self._files.mended

    def open(self) -> None:
        """Get ready, and load what writes Parquet: what is missing shows now.

        Raises:
            ConfigError: it is not installed.
        """
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"pyarrow cannot be loaded: {error}", key="type") from error
        self._files.open()
        for made in sorted(self._left.files()):
            if not made.is_piece:  # complete, and the last process did not come to it
                self._afterwork.add(made.path)

    def write(self, results: Sequence[Result]) -> None:
        """Add the rows; all of them, or none."""
        self._lines.write(results)

    def notice(self, event: Event) -> None:
        """Add the event's row; raises as `write` does."""
        self._lines.notice(event)

    def tick(self) -> None:
        """Do what time asks for: remove, rotate, sync, convert; raises as `LineFiles.tick` does."""
        self._retention.sweep()
        self._files.tick()

    def release(self, source: str) -> None:
        """Make a Parquet file of what there is of this source."""
        self._files.release(source)

    def close(self) -> None:
        """Make Parquet files of all that is left.

        Raises:
            FatalError: rows wait in files of lines for the next start.
        """
        self._files.close()
        self._retention.look_soon()
        self._retention.sweep()

    def written(self) -> Sequence[str]:
        """The Parquet files, and the files of rows that are none yet."""
        return self._files.written()

    def _lines_of(self, item: Result | Event) -> list[str]:
        rows = rows_of(item, empty_frames=self._empty_frames)
        return [_encode([row.get(column) for column in self._columns]) + "\n" for row in rows]


def parquet_path(rows: Path) -> Path:
    """`x.parquet-20261121T163000Z.rows` -> `x-20261121T163000Z.parquet`, `x.parquet.rows` -> `x.parquet`."""
    base, _ = base_name(rows.name)
    path = rows.with_name(base.removesuffix(ROWS_SUFFIX))
    stamp = rows.name.removesuffix(ROWS_SUFFIX).removeprefix(path.name)
    return path.with_name(f"{path.stem}{stamp}{path.suffix}")
