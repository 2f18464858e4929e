"""The source `file`: one video file, a list of them or a glob pattern, every frame in order."""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from weakref import WeakSet

from pydantic import Field, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError, FatalError, SourceErrorCode
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.sampling import Sampling
from pipeline.contracts.source import SourceConfig
from sources._decoding import DecodeWish, Decoding, LoopFilterWish
from sources._file_timeline import TIME_TOLERANCE_S, Foresight, Timeline, Window
from sources._listing import PathList, check_there, expand

if TYPE_CHECKING:
    from sources._decode import VideoFile
    from sources._file_frames import DecodedFrame
    from sources._file_reading import Item

_playing: "WeakSet[FileSource]" = WeakSet()
"""At module level because the cores are the process's: the more files are played, the fewer threads each gets."""


class FileSourceConfig(SourceConfig):
    """A video file, a list of files, or a glob pattern (`**` goes into subfolders).

    The window (`start_*`, `end_*`, `num_frames`, `duration_s`) is of each file, each time it is played; its ends are
    exclusive. Seconds count from the start of the stream, frames from 0.
    """

    type: Literal["file"]
    path: PathList = Field(min_length=1, description="a video file, a glob pattern, or a list of them")
    start_s: float = Field(default=0, ge=0, description="start at this second")
    end_s: float | None = Field(default=None, gt=0, description="end before this second")
    start_frame: int = Field(default=0, ge=0, description="start at this frame, counted from 0")
    end_frame: int | None = Field(default=None, gt=0, description="end before this frame")
    num_frames: int | None = Field(default=None, gt=0, description="at most this many frames")
    duration_s: float | None = Field(default=None, gt=0, description="at most this many seconds")
    pace: Literal["fast", "realtime"] = Field(
        default="fast", description='"fast": as fast as it can be worked off; "realtime": as a camera would give it'
    )
    loop: bool | Annotated[int, Field(ge=1)] = Field(
        default=False, description="true: again and again; a number: play it that many times"
    )
    decode: DecodeWish = "auto"
    loop_filter: LoopFilterWish = "all"
    decode_threads: int = Field(
        default=0, ge=0, le=64, description="threads that decode one file; 0: by cores and files"
    )
    max_pixels: int = Field(default=100_000_000, ge=1, description="refuse pictures with more pixels than this")

    @model_validator(mode="before")
    @classmethod
    def _queue_for_realtime(cls, values: Any) -> Any:
        # Played like a camera, a file has a camera's lane, unless told otherwise: its frames do not wait.
        if isinstance(values, dict) and values.get("pace") == "realtime" and "queue" not in values:
            return {**values, "queue": {"max_frames": 2, "when_full": "drop_oldest"}}
        return values

    @model_validator(mode="after")
    def _one_start_and_one_end(self) -> Self:
        if self.start_s and self.start_frame:
            raise ValueError("start_s and start_frame are two ways to say the same: keep one of them")
        if self.start_s and self.end_frame:
            raise ValueError("frames are not counted when the file is entered in the middle: use start_frame, or end_s")
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"end_s = {self.end_s:g} must be greater than start_s = {self.start_s:g}")
        if self.end_frame is not None and self.end_frame <= self.start_frame:
            raise ValueError(f"end_frame = {self.end_frame} must be greater than start_frame = {self.start_frame}")
        return self

    def check(self) -> None:
        """Find files that are not there.

        Raises:
            ConfigError: key `path`.
        """
        check_there(self.path)
        for path in self.path:
            if Path(path).is_dir():
                raise ConfigError(f'{path} is a folder: use type = "directory", or a pattern like */*.mp4', key="path")

    def build(self, ctx: Context) -> "FileSource":
        """Make the source; opens nothing."""
        return FileSource(self, ctx)

    def reads(self) -> Sequence[Path]:
        """The files, as far as they exist now."""
        return [Path(path) for path in expand(self.path)]


class FileSource:
    """Plays files one after another, on one timeline. Built and read by its runner's thread.

    `pts_s` is the container's own time stamp less the start of its stream, so that a file begins at 0; what is played
    after it (the next file, or the next round of a loop) goes on where it ended. `captured_at` is the wall clock at
    the beginning plus `pts_s`: time in a file is relative.
    """

    live = False
    """Also with pace = "realtime": the end of a file is its end."""

    def __init__(self, config: FileSourceConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._seq = 0
        self._expected_frames: int | None = None
        self._skipped = 0
        self._warned = False
        self._details: Mapping[str, str | int | float] = {}
        _playing.add(self)

    @property
    def expected_frames(self) -> int | None:
        """Frames in all, by the header of the file; None for several files, endless loops and before it is open."""
        return None if self._expected_frames is None else self._expected_frames - self._skipped

    @property
    def skipped_frames(self) -> int:
        """Frames inside of the window that were not decoded, of all files and rounds: the gaps in `seq`."""
        return self._skipped

    def details(self) -> Mapping[str, str | int | float]:
        """Codec, decoder, size and rate of the file that is played."""
        return self._details

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        """Every frame of every file. See `Source`.

        Raises:
            FatalError: the file (of several: each of them) cannot be read.
        """
        try:
            yield from self._rounds(stop)
        finally:
            _playing.discard(self)

    def _rounds(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        files = expand(self._config.path)
        if not files:
            raise FatalError(f"no file matches {', '.join(self._config.path)}", code=SourceErrorCode.NOT_FOUND)
        timeline = Timeline(self._ctx, stop, realtime=self._config.pace == "realtime")
        config = self._config
        samples = config.stride > 1 or config.max_fps is not None
        foresight = Foresight(config, Sampling(config.stride, config.max_fps), timeline) if samples else None
        loop, rounds = self._config.loop, 0
        while (loop is True or rounds < int(loop or 1)) and not stop.is_set():
            rounds += 1
            seq_before = self._seq
            failure: FatalError | None = None
            for path in files:
                try:
                    yield from self._play(path, len(files) == 1, timeline, foresight, stop)
                except FatalError as error:
                    failure = error
                    if len(files) > 1:
                        yield FailedFrame(str(error), file=path)
            if failure and self._seq == seq_before:
                raise failure
            if self._seq == seq_before:  # nothing in the window: another round would find nothing either
                return

    def _play(
        self, path: str, alone: bool, timeline: Timeline, foresight: Foresight | None, stop: threading.Event
    ) -> Iterator[Frame | FailedFrame]:
        from sources._decode import VideoFile, auto_decode_threads
        from sources._file_frames import SkippedFrame

        if stop.is_set():
            return
        config = self._config
        frames = failures = 0
        decoding = Decoding(
            wish=config.decode,
            threads=config.decode_threads or auto_decode_threads(len(_playing)),
            max_pixels=config.max_pixels,
            loop_filter=config.loop_filter,
        )
        with (
            closing(VideoFile(path, decoding, self._ctx.fell_back, foresight)) as video,
            closing(video.decoded(stop, config.start_s)) as items,
        ):
            if alone and config.loop is not True:
                self._expected_frames = _expected(config, video)
            self._details = video.details
            timeline.begin_file()
            if foresight is not None:
                foresight.begin_file(self._seq)
            for item in _inside(config, items):
                if isinstance(item, FailedFrame):
                    failures += 1
                    yield item
                    continue
                frames += 1
                pts_s, seq = timeline.place(item), self._seq
                self._seq += 1
                if isinstance(item, SkippedFrame):
                    self._skipped += 1
                    continue
                if not item.stamped:
                    self._warn_once(f"{path}: no time stamps in the file: counted at {video.fps:g} frames a second")
                if not timeline.wait_until(pts_s):
                    return
                if foresight is not None:
                    foresight.gave(seq, pts_s)
                yield self._frame(item, seq, pts_s, timeline.started_at, path)
            self._details = video.details
        if frames or stop.is_set():
            return
        if failures or not (config.start_s or config.start_frame):
            raise FatalError(f"{path}: no frame in the file could be decoded", code=SourceErrorCode.CORRUPT)
        self._warn_once(f"{path}: the file ends before the start of the window: no frames")

    def _frame(self, item: "DecodedFrame", seq: int, pts_s: float, started_at: float, path: str) -> Frame:
        return Frame(
            source=self._ctx.name,
            seq=seq,
            pts_s=pts_s,
            captured_at=started_at + pts_s,
            time_source="pts",
            picture=item.take_picture(),
            decoded_at=self._ctx.clock.monotonic(),
            path=path,
            duration_s=item.duration_s,
            file_pts_s=item.pts_s,
        )

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            self._ctx.warn(message)
        self._warned = True


def _inside(config: FileSourceConfig, items: Iterator["Item"]) -> Iterator["Item"]:
    """The items inside of the window; decodes nothing behind it where that is known before."""
    window = Window(config)
    for item in items:
        if isinstance(item, FailedFrame):
            if window.has_begun:
                yield item
            continue
        where = window.place(item.pts_s)
        if where == "behind":
            return
        if where == "inside":
            yield item
        if window.is_full:
            return


def _expected(config: FileSourceConfig, video: "VideoFile") -> int | None:
    """Frames that the window of one file will give, by its header, times the rounds of the loop."""
    if video.frame_count is None:
        return None
    first = max(config.start_frame, math.ceil(config.start_s * video.fps - TIME_TOLERANCE_S))
    ends = [video.frame_count]
    if config.end_s is not None:
        ends.append(round(config.end_s * video.fps))
    if config.end_frame is not None:
        ends.append(config.end_frame)
    if config.num_frames is not None:
        ends.append(first + config.num_frames)
    if config.duration_s is not None:
        ends.append(first + round(config.duration_s * video.fps))
    return max(0, min(ends) - first) * int(config.loop or 1)
