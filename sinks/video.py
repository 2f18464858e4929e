"""`video`: annotated video, H.264 or HEVC in MP4, MOV or Matroska."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.result import Detections, Result
from pipeline.contracts.sink import SinkConfig
from sinks._annotators import DRAWN_IN_YUV, Annotators, check_name, is_slow
from sinks._draw import Painter
from sinks._files import make_folder
from sinks._paths import PathTemplate, check_writable, display, fixed_root, known_path, path_for, placeholders
from sinks._segment import CODECS, FORMATS, RESERVE_BYTES, Encoding, Kind, Segment, free_bytes

Codec = Literal["h264", "hevc"]
Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]

_MAX_REMEMBERED = 10_000  # names of finished files, so that none of them is written over


class VideoSinkConfig(SinkConfig):
    """The source's video with boxes and labels, its time stamps and its sound."""

    type: Literal["video"] = "video"
    path: PathTemplate = Field(
        description="file name (.mp4, .mov, .mkv); placeholders: {source}, {stem}, {date}, {hour}; pictures of another "
        "size and the next input file begin NAME-0002.mp4"
    )
    codec: Codec = Field(default="h264", description="h264 or hevc")
    preset: Preset = Field(default="ultrafast", description="slower presets make smaller files")
    crf: int = Field(default=23, ge=0, le=51, description="quality: 18 looks lossless, 28 is small")
    threads: int = Field(default=0, ge=0, le=64, description="of the encoder; 0: as many as it finds useful")
    fps: float = Field(default=25.0, gt=0, le=1000, description="frames a second of a source without a timeline")
    audio: bool = Field(default=True, description="copy the sound of a file")
    annotators: tuple[str, ...] = Field(
        default=DRAWN_IN_YUV,
        description="what to draw: box and label (fast), and of supervision's annotators: mask, trace, blur, ellipse, "
        "heat_map and more; box and label always lie on top",
    )

    @field_validator("path")
    @classmethod
    def _known_format(cls, path: str) -> str:
        if Path(path).suffix.lower() not in FORMATS:
            raise ValueError(f"the name must end in {', '.join(FORMATS)}, which settles the format")
        return path

    @field_validator("annotators")
    @classmethod
    def _known_annotators(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_name(name) for name in names)

    def check(self) -> None:
        """Find a path that cannot be written.

        Raises:
            ConfigError: for the key `path`.
        """
        check_writable(self.path)

    def build(self, ctx: Context) -> "VideoSink":
        """Make the sink."""
        return VideoSink(self, ctx)

    def writes(self, source: str) -> Sequence[Path]:
        """The first file for this source, where its name does not depend on the frames."""
        path = known_path(self.path, source)
        return () if path is None else (path,)


class VideoSink:
    """Draws and encodes, one file at a time for each source; used by its runner's thread only."""

    wants_pictures = True

    def __init__(self, config: VideoSinkConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._encoding = Encoding(config.codec, config.preset, config.crf, config.threads, config.fps, config.audio)
        self._slow_names = tuple(name for name in config.annotators if name not in DRAWN_IN_YUV)
        self._changes = bool(placeholders(config.path) - {"source"})
        self._path_of: dict[str, Path] = {}
        self._writing: dict[str, tuple[Path, Segment, Painter]] = {}  # by source; the path without a number
        self._annotators: dict[str, Annotators] = {}  # by source: traces and heat maps remember
        self._counts: dict[Path, int] = {}  # how many files were begun for a path
        self._finished: list[str] = []

    def open(self) -> None:
        """Make the folder and look for the encoder.

        Raises:
            ConfigError: this FFmpeg cannot encode the codec.
        """
        import av

        try:
            av.Codec(CODECS[self._config.codec], "w")
        except (av.FFmpegError, ValueError) as error:
            raise ConfigError(f"this FFmpeg has no encoder for {self._config.codec}", key="codec") from error
        if self._slow_names and is_slow():
            self._ctx.warn(
                f"the annotators {', '.join(self._slow_names)} are slow without OpenCV; "
                "install opencv-python-headless to make them fast"
            )
        make_folder(fixed_root(self._config.path))

    def write(self, results: Sequence[Result]) -> None:
        """Draw and encode. A failure of one picture does not keep the others of the batch from being written."""
        failures: list[PenstockError] = []
        for result in results:
            try:
                self._write(result)
            except PenstockError as error:
                failures.append(error)
        if failures:
            raise next((error for error in failures if isinstance(error, FatalError)), failures[0])

    def release(self, source: str) -> None:
        """Finish the file of a source that was removed."""
        self._path_of.pop(source, None)
        self._annotators.pop(source, None)
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
        self._annotators.clear()
        if failures:
            raise FatalError("; ".join(failures))

    def written(self) -> Sequence[str]:
        """The finished files, then those being written."""
        return [*self._finished, *(display(segment.path) for _, segment, _ in self._writing.values())]

    def _write(self, result: Result) -> None:
        frame, found = result.frame, result.prediction
        source = frame.source
        planes = frame.picture.yuv420p()
        if self._slow_names and isinstance(found, Detections):
            if source not in self._annotators:
                self._annotators[source] = Annotators(self._slow_names)
            planes = self._annotators[source].annotate(frame.picture, found, planes)
        # Pictures of a folder, one file each, make one video; files with a timeline of their own make one each.
        path = None if frame.file_pts_s is None else frame.path
        kind = Kind(frame.picture.size, planes.matrix, planes.full_range, planes.tagged, path)
        segment, painter = self._segment(result, kind)
        try:
            segment.write(frame, planes, lambda copy: painter.paint(copy, found))
        except PenstockError as error:
            raise self._give_up(source, error) from error

    def _segment(self, result: Result, kind: Kind) -> tuple[Segment, Painter]:
        """The file that the picture belongs to: the one being written, or a new one."""
        source = result.frame.source
        path = self._path_of.get(source)
        if path is None or self._changes:
            path = self._path_of[source] = path_for(self._config.path, result.frame)
        current = self._writing.get(source)
        if current is not None:
            if current[0] == path and current[1].kind == kind:
                return current[1], current[2]
            self._finish(source)
        make_folder(path.parent)
        if free_bytes(path.parent) < 2 * RESERVE_BYTES:
            raise TransientError(f"{display(path)} cannot be begun: the disk is nearly full")
        segment = Segment(self._free_name(path), result.frame, kind, self._encoding, self._ctx)
        names = self._config.annotators
        painter = Painter(
            segment.size, kind.matrix, full_range=kind.full_range, boxes="box" in names, labels="label" in names
        )
        self._writing[source] = (path, segment, painter)
        return segment, painter

    def _free_name(self, path: Path) -> Path:
        """`path`, or `path` with the next number where this sink began a file of this name before."""
        if path not in self._counts and len(self._counts) >= _MAX_REMEMBERED:
            number = 1
            while (name := _numbered(path, number)).exists():
                number += 1
            return name
        number = self._counts.get(path, 0) + 1
        while self._ctx.continues and _numbered(path, number).exists():
            number += 1
        self._counts[path] = number
        return _numbered(path, number)

    def _finish(self, source: str) -> None:
        _, segment, _ = self._writing.pop(source)
        segment.finish()
        if len(self._finished) < _MAX_REMEMBERED:
            self._finished.append(display(segment.path))

    def _give_up(self, source: str, error: PenstockError) -> PenstockError:
        """Save what was written before `error`; the next picture begins a new file."""
        _, segment, _ = self._writing[source]
        try:
            self._finish(source)
        except PenstockError as lost:
            return (
                FatalError(f"{error}; {lost}") if isinstance(error, FatalError) else TransientError(f"{error}; {lost}")
            )
        kept = f"{error}; its {segment.frames} frames before are complete in {display(segment.path)}"
        return FatalError(kept) if isinstance(error, FatalError) else TransientError(kept)


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number:04d}{path.suffix}")
