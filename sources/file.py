"""The source `file`: one video file, a list of them or a glob pattern, every frame in order."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError, FatalError, SourceErrorCode
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.source import SourceConfig
from sources._listing import PathList, check_there, expand

if TYPE_CHECKING:
    from sources._decode import DecodedFrame, VideoFile


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
    decode_threads: int = Field(default=0, ge=0, le=64, description="threads that decode one file; 0: by the machine")
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
        self._warned = False

    @property
    def expected_frames(self) -> int | None:
        """Frames in all, by the header of the file; None for several files, endless loops and before it is open."""
        return self._expected_frames

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        """Every frame of every file. See `Source`.

        Raises:
            FatalError: the file (of several: each of them) cannot be read.
        """
        files = expand(self._config.path)
        if not files:
            raise FatalError(f"no file matches {', '.join(self._config.path)}", code=SourceErrorCode.NOT_FOUND)
        timeline = Timeline(self._ctx, stop, realtime=self._config.pace == "realtime")
        loop, rounds = self._config.loop, 0
        while (loop is True or rounds < int(loop or 1)) and not stop.is_set():
            rounds += 1
            seq_before = self._seq
            failure: FatalError | None = None
            for path in files:
                try:
                    yield from self._play(path, len(files) == 1, timeline, stop)
                except FatalError as error:
                    failure = error
                    if len(files) > 1:
                        yield FailedFrame(str(error), file=path)
            if failure and self._seq == seq_before:
                raise failure
            if self._seq == seq_before:  # nothing in the window: another round would find nothing either
                return

    def _play(
        self, path: str, alone: bool, timeline: "Timeline", stop: threading.Event
    ) -> Iterator[Frame | FailedFrame]:
        from sources._decode import VideoFile, auto_decode_threads

        if stop.is_set():
            return
        config = self._config
        frames = failures = 0
        threads = config.decode_threads or auto_decode_threads()
        with (
            closing(VideoFile(path, threads=threads, max_pixels=config.max_pixels)) as video,
            closing(video.decoded(stop, config.start_s)) as items,
        ):
            if alone and config.loop is not True:
                self._expected_frames = _expected(config, video)
            timeline.begin_file()
            for item in _window(config, items):
                if isinstance(item, FailedFrame):
                    failures += 1
                    yield item
                    continue
                if not item.stamped:
                    self._warn_once(f"{path}: no time stamps in the file: counted at {video.fps:g} frames a second")
                pts_s = timeline.place(item)
                if not timeline.wait_until(pts_s):
                    return
                frames += 1
                yield Frame(
                    source=self._ctx.name,
                    seq=self._seq,
                    pts_s=pts_s,
                    captured_at=timeline.started_at + pts_s,
                    time_source="pts",
                    picture=item.take_picture(),
                    decoded_at=self._ctx.clock.monotonic(),
                    path=path,
                    duration_s=item.duration_s,
                    file_pts_s=item.pts_s,
                )
                self._seq += 1
        if frames or stop.is_set():
            return
        if failures or not (config.start_s or config.start_frame):
            raise FatalError(f"{path}: no frame in the file could be decoded", code=SourceErrorCode.CORRUPT)
        self._warn_once(f"{path}: the file ends before the start of the window: no frames")

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            self._ctx.warn(message)
        self._warned = True


class Timeline:
    """The time stamps of several files, and of several rounds, on one line; keeps pace with it if wanted."""

    def __init__(self, ctx: Context, stop: threading.Event, *, realtime: bool) -> None:
        self.started_at = ctx.clock.wall()
        self._clock = ctx.clock
        self._stop = stop
        self._realtime = realtime
        self._pts_s_at_zero: float | None = None  # monotonic seconds at which pts_s = 0 is due
        self._offset_s: float | None = 0.0  # None: the next frame settles it
        self._end_s: float | None = None

    def begin_file(self) -> None:
        """What comes now goes on where the file before it ended."""
        self._offset_s = 0.0 if self._end_s is None else None

    def place(self, frame: "DecodedFrame") -> float:
        """Seconds on the common line."""
        if self._offset_s is None:
            self._offset_s = (self._end_s or 0.0) - frame.pts_s
        pts_s = frame.pts_s + self._offset_s
        self._end_s = max(self._end_s or 0.0, pts_s + frame.shown_s)
        return pts_s

    def wait_until(self, pts_s: float) -> bool:
        """Wait until it is time for `pts_s`, if in real time; False when stopped."""
        if self._realtime:
            now_s = self._clock.monotonic()
            if self._pts_s_at_zero is None:
                self._pts_s_at_zero = now_s - pts_s
            wait_s = self._pts_s_at_zero + pts_s - now_s
            self._stop.wait(min(max(0.0, wait_s), threading.TIMEOUT_MAX))  # damaged time stamps know no bounds
        return not self._stop.is_set()


def _window(
    config: FileSourceConfig, items: Iterator["DecodedFrame | FailedFrame"]
) -> Iterator["DecodedFrame | FailedFrame"]:
    """The items inside the window; decodes nothing beyond its end where that is known before."""
    from sources._decode import TIME_TOLERANCE_S

    index, taken, end_s = 0, 0, config.end_s
    for item in items:
        if isinstance(item, FailedFrame):
            if index >= config.start_frame:
                yield item
            continue
        index += 1
        if index <= config.start_frame:
            continue
        if taken == 0 and config.duration_s is not None:
            duration_end_s = item.pts_s + config.duration_s
            end_s = duration_end_s if end_s is None else min(end_s, duration_end_s)
        if end_s is not None and item.pts_s >= end_s - TIME_TOLERANCE_S:
            return
        taken += 1
        yield item
        if taken == config.num_frames or index == config.end_frame:
            return


def _expected(config: FileSourceConfig, video: "VideoFile") -> int | None:
    """Frames that the window of one file will give, by its header, times the rounds of the loop."""
    from sources._decode import TIME_TOLERANCE_S

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
