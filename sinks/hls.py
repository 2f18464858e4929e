"""`hls`: the last seconds of each source as a playlist and segments, for any web server to hand out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.result import Result
from sinks._encoder import Codec
from sinks._files import keep_reserve, make_folder
from sinks._paths import PathTemplate, check_writable, display, fixed_root, known_path, path_for, placeholders
from sinks._playlist import Playlist, Window, pieces
from sinks._showing import Showing, ShowingConfig, write_each
from sinks._track import Kind

SUFFIX = ".m3u8"


class HlsSinkConfig(ShowingConfig):
    """A live playlist for each source: NAME.m3u8 and NAME-000001.ts beside it, the older ones removed."""

    file_per_source: ClassVar[bool] = True

    type: Literal["hls"] = "hls"
    path: PathTemplate = Field(description="the playlist (.m3u8); placeholder: {source}")
    codec: Codec = Field(default="h264", description='h264, hevc or av1; the latter two with segments = "mp4"')
    segments: Literal["ts", "mp4"] = Field(default="ts", description="MPEG-TS, or fragmented MP4")
    segment_s: float = Field(default=2.0, ge=0.5, le=60, description="a segment is about so long")
    window: int = Field(default=6, ge=3, le=10_000, description="so many segments are in the playlist")
    min_free_bytes: Annotated[ByteSize, Field(ge=1 << 20)] = Field(
        default=ByteSize(64 << 20), description="leave so much of the disk free"
    )

    @field_validator("path")
    @classmethod
    def _is_playlist(cls, path: str) -> str:
        if Path(path).suffix.lower() != SUFFIX:
            raise ValueError(f"the name must end in {SUFFIX}: it is the playlist's")
        if placeholders(path) - {"source"}:
            raise ValueError("players come back to one playlist: {source} is the only placeholder that can stand here")
        return path

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.codec != "h264" and self.segments == "ts":
            raise ValueError(f'codec: players take {self.codec} in fragmented MP4 only: set segments = "mp4"')
        return self

    def check(self) -> None:
        """Find a path that cannot be written.

        Raises:
            ConfigError: for the key `path`.
        """
        check_writable(self.path)

    def build(self, ctx: Context) -> "HlsSink":
        """Make the sink."""
        return HlsSink(self, ctx)

    def writes(self, source: str) -> Sequence[Path]:
        """The playlist."""
        path = known_path(self.path, source)
        return () if path is None else (path,)


class HlsSink:
    """Draws and encodes into one playlist for each source; used by its runner's thread only."""

    wants_pictures = True

    def __init__(self, config: HlsSinkConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._showing: Showing | None = None
        self._lists: dict[str, Playlist] = {}
        self._owners: dict[Path, str] = {}

    def open(self) -> None:
        """Make the folder and look for the encoder.

        Raises:
            ConfigError: this FFmpeg cannot encode the codec, or the hardware that was asked for does not work.
        """
        config = self._config
        encoding = config.encoding(config.codec, ahead="none", keyframe_s=config.segment_s)
        self._showing = Showing(config, encoding, self._ctx)
        make_folder(fixed_root(config.path))

    def write(self, results: Sequence[Result]) -> None:
        """Draw and encode. A failure of one picture does not keep the others of the batch from being shown."""
        write_each(results, self._write)

    def release(self, source: str) -> None:
        """Finish the playlist of a source that was removed."""
        if self._showing is not None:
            self._showing.forget(source)
        current = self._lists.pop(source, None)
        if current is not None:
            current.finish()

    def close(self) -> None:
        """Finish every playlist, also when one of them fails.

        Raises:
            FatalError: with what is not complete.
        """
        failures = []
        for current in self._lists.values():
            try:
                current.finish()
            except PenstockError as error:
                failures.append(str(error))
        if failures:
            raise FatalError("; ".join(failures))

    def written(self) -> Sequence[str]:
        """The playlists, each with what is in it."""
        return [display(path) for playlist in self._owners for path in (playlist, *pieces(playlist)) if path.exists()]

    def _write(self, result: Result) -> None:
        if self._showing is None:
            raise FatalError("the sink is not open")
        planes = result.frame.picture.yuv420p()
        current = self._list(result, Kind.of(result.frame, planes), self._showing)
        keep_reserve(current.path.parent, self._config.min_free_bytes)
        self._showing.fill(current.canvas(), result, planes)
        try:
            current.write(result.frame)
        except PenstockError as error:
            self._lists.pop(result.frame.source, None)
            if isinstance(error, FatalError) and self._showing.fall_back(error):
                raise TransientError(str(error)) from error
            raise

    def _list(self, result: Result, kind: Kind, showing: Showing) -> "Playlist":
        source = result.frame.source
        current = self._lists.get(source)
        if current is not None:
            if current.kind == kind:
                return current
            del self._lists[source]
            current.finish()
        path = path_for(self._config.path, result.frame)
        owner = self._owners.setdefault(path, source)
        if owner != source:
            raise FatalError(f"{owner} and {source} have one playlist, {display(path)}: put {{source}} into its path")
        make_folder(path.parent)
        keep_reserve(path.parent, self._config.min_free_bytes)

        def begin() -> Playlist:
            return Playlist(
                path,
                result.frame,
                kind,
                window=Window(self._config.segments, self._config.segment_s, self._config.window),
                encoding=showing.encoding,
                encoder=showing.encoder,
            )

        try:
            current = begin()
        except FatalError as error:
            if not showing.fall_back(error):
                raise
            current = begin()
        self._lists[source] = current
        return current
