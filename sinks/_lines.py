"""What every sink is made of that writes lines to files: its keys, and the sink around its `LineFiles`."""

from abc import ABC
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ByteSize, Field, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.event import Event
from pipeline.contracts.result import Result
from pipeline.contracts.sink import SinkConfig
from sinks._afterwork import Afterwork
from sinks._gzip import GzipJob
from sinks._line_files import LineFiles
from sinks._line_rules import Fsync, LineRules, Mode, check_keep, sync_every_s
from sinks._paths import PathTemplate, check_writable, known_path
from sinks._retention import KeepConfig
from sinks._rotation import RotateConfig, gzipped


class LinesConfig(SinkConfig, ABC):
    """The keys that every sink has that writes lines to files."""

    takes_events: ClassVar[bool] = True

    path: PathTemplate = Field(description="file name; placeholders: {source}, {stem}, {date}, {hour}")
    mode: Mode = Field(
        default="replace",
        description="replace: PATH.part until the end, then complete under its name; append and overwrite: lines can "
        "be read at PATH as they come, after what is in the file or instead of it",
    )
    rotate: RotateConfig | None = Field(
        default=None,
        description="when a file is closed as NAME-20260131T120000Z and a new one begun; never if left out",
    )
    compress: Literal["none", "gzip"] = Field(default="none", description="gzip: closed files become NAME.gz")
    keep: KeepConfig | None = Field(default=None, description="which closed files are removed; none if left out")
    fsync: Fsync = Field(
        default="interval",
        description="what survives a power cut: what the system wrote by itself; what is older than fsync_interval_s; "
        "everything that counts as delivered",
    )
    fsync_interval_s: Annotated[float, Field(gt=0, le=3600)] = Field(default=5.0, description='for fsync = "interval"')
    min_free_bytes: ByteSize = Field(default=ByteSize(64 << 20), description="leave so much of the disk free")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.compress != "none" and self.rotate is None and self.mode != "replace":
            raise ValueError(f'compress: with mode = "{self.mode}" no file is ever closed for good: set rotate as well')
        check_keep(self.path, self.keep, self.rotate)
        return self

    def check(self) -> None:
        """Find a path that cannot be written.

        Raises:
            ConfigError: for the key `path`.
        """
        check_writable(self.path)

    def writes(self, source: str) -> Sequence[Path]:
        """The file for this source, where its name does not depend on the frames."""
        path = known_path(self.path, source)
        return () if path is None else (path,)

    def rules(self) -> LineRules:
        """The same for `LineFiles`."""
        return LineRules(
            template=self.path,
            mode=self.mode,
            rotate=self.rotate,
            keep=self.keep,
            sync_every_s=sync_every_s(self.fsync, self.fsync_interval_s),
            min_free_bytes=self.min_free_bytes,
        )

    def files(
        self, ctx: Context, *, head: bytes = b"", is_whole: Callable[[bytes], bool] = lambda _: False
    ) -> LineFiles:
        """The files that carry these keys out; the arguments are those of `LineFiles`."""
        afterwork = Afterwork(ctx, GzipJob, gzipped, self.min_free_bytes) if self.compress == "gzip" else None
        return LineFiles(self.rules(), ctx, head=head, is_whole=is_whole, afterwork=afterwork)


class LinesSink:
    """Writes the lines of each result to the file that its template names; used by its runner's thread only.

    Args:
        files: where they go.
        lines_of: the lines of one result or event, each with its end.
    """

    wants_pictures = False

    def __init__(self, files: LineFiles, lines_of: Callable[[Result | Event], list[str]]) -> None:
        self._files = files
        self._lines_of = lines_of

    @property
    def mended(self) -> int:
        """See `Mending`."""
        return self._files.mended

    def open(self) -> None:
        """See `LineFiles.open`."""
        self._files.open()

    def write(self, results: Sequence[Result]) -> None:
        """Write the lines; each can be read by others when this returns. All of them, or none."""
        lines: dict[Path, list[str]] = {}
        for result in results:
            lines.setdefault(self._files.places.for_frame(result.frame), []).extend(self._lines_of(result))
        self._files.append(lines)

    def notice(self, event: Event) -> None:
        """Write the event's line; raises as `write` does."""
        self._files.append({self._files.places.for_event(event): self._lines_of(event)})

    def tick(self) -> None:
        """See `LineFiles.tick`."""
        self._files.tick()

    def release(self, source: str) -> None:
        """See `LineFiles.release`."""
        self._files.release(source)

    def close(self) -> None:
        """See `LineFiles.close`."""
        self._files.close()

    def written(self) -> Sequence[str]:
        """See `LineFiles.written`."""
        return self._files.written()
