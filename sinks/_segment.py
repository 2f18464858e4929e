"""One video file: encoder, muxer, time stamps, and the copy of the planes that is drawn on."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.frame import ColorMatrix, Frame, Size, YuvPlanes
from sinks._audio import AudioCopy, AudioError
from sinks._files import OutputFile, write_error
from sinks._paths import display
from sinks._planes import Planes, copy_planes, planes_of

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
CODECS = {"h264": "libx264", "hevc": "libx265"}

TIME_BASE = Fraction(1, 90_000)  # of MPEG: exact for 24, 25, 30, 50, 60 and 29.97 frames a second
KEEP_START_S = 1.0
"""A first time stamp up to here is kept as it is; a video that begins later than that begins at 0."""
RESERVE_BYTES = 8 * 1024 * 1024
"""A disk with less room than this counts as full: what the encoder still holds and the index must fit."""
_INDEX_BYTES_PER_FRAME = 64

_COLORSPACE_OF: dict[ColorMatrix, int] = {"bt601": 6, "bt709": 1, "bt2020": 9}  # AVColorSpace, ITU-T H.273 table 4
_UNSPECIFIED = 2
_RANGE_TV, _RANGE_PC = 1, 2  # AVColorRange


class Encoding(NamedTuple):
    """How to encode: what the config says."""

    codec: str
    preset: str
    crf: int
    threads: int
    fps: float
    audio: bool


class Kind(NamedTuple):
    """What all pictures of one file have in common; another kind begins another file."""

    size: Size
    matrix: ColorMatrix
    full_range: bool
    tagged: bool
    path: str | None


def free_bytes(path: Path) -> int:
    """Room on the disk of `path` for who is not root."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


class Segment:
    """A video being written. Made by the video sink at the first picture of a kind; used by the sink's thread.

    H.264 in 4:2:0 has even sides only: a picture with an odd side gets its last row or column twice, so that no pixel
    is lost and no coordinate moves.

    Raises:
        FatalError, TransientError: it cannot be begun; nothing is left behind.
    """

    def __init__(self, path: Path, first: Frame, kind: Kind, encoding: Encoding, ctx: Context) -> None:
        import av

        self.path = path
        self.kind = kind
        self.frames = 0
        self._encoding = encoding
        self._ctx = ctx
        begin_s = first.pts_s or 0.0
        # Added to the source's time stamps; grows when they go back.
        self._shift_s = -begin_s if abs(begin_s) > KEEP_START_S else 0.0
        self._last_pts = -(2**62)
        self._last_duration = round(1 / encoding.fps / TIME_BASE)
        self._audio: AudioCopy | None = None
        width, height = kind.size
        self.size = Size(width + width % 2, height + height % 2)
        self._file = OutputFile(path)
        self._container: OutputContainer | None = None
        try:
            if encoding.audio and kind.path is not None and first.file_pts_s is not None:
                self._open_audio(kind.path, first.file_pts_s)
            self._container, self._stream = self._start(first)
            self._canvas = av.VideoFrame(*self.size, "yuv420p")
        except (av.FFmpegError, OSError, ValueError) as error:
            self._drop()
            raise self._error(error) from error
        except BaseException:
            self._drop()
            raise

    def write(self, frame: Frame, planes: YuvPlanes, paint: Callable[[Planes], None]) -> None:
        """Copy the planes, let `paint` draw on the copy, encode it.

        Raises:
            TransientError: the disk is full. The file can still be finished.
            FatalError: encoder or muxer failed; what is in the file may be lost.
        """
        import av

        if self._container is None:
            raise FatalError(f"{display(self.path)} was given up")
        if free_bytes(self._file.part.parent) < RESERVE_BYTES + self.frames * _INDEX_BYTES_PER_FRAME:
            raise TransientError(f"{display(self.path)} cannot grow: the disk is nearly full")
        pts = self._next_pts(frame)
        # The encoder may still refer to the last picture: then this gets fresh memory, else it does nothing.
        self._canvas.make_writable()
        copy = planes_of(self._canvas)
        copy_planes(copy, planes)
        paint(copy)
        try:
            self._canvas.pts = pts
            self._canvas.time_base = TIME_BASE
            self._canvas.duration = self._last_duration
            self._canvas.pict_type = 0  # the encoder decides, whatever the picture was before
            for packet in self._stream.encode(self._canvas):
                self._container.mux(packet)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._error(error) from error
        self.frames += 1
        if frame.file_pts_s is not None:
            self._copy_audio(frame.file_pts_s, pts)

    def finish(self) -> None:
        """Write what the encoder holds and the index, and give the file its name.

        Raises:
            FatalError, TransientError: it is not complete; the message says what is lost.
        """
        import av

        container, self._container = self._container, None
        try:
            if container is not None:
                try:
                    for packet in self._stream.encode(None):
                        container.mux(packet)
                finally:
                    container.close()
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = self._error(error)
            self._close_audio()
            self._file.abandon(remove=False)
            raise FatalError(
                f"{reason}; {self.frames} frames of {display(self.path)} are lost or only in {display(self._file.part)}"
            ) from error
        self._close_audio()
        self._file.finish()

    def _start(self, first: Frame) -> "tuple[OutputContainer, VideoStream]":
        """Open muxer and encoder and write the header; without sound where the format refuses it."""
        import av

        container = self._open_container(first)
        try:
            if self._audio is not None:
                try:
                    self._audio.attach(container[0])
                except AudioError as error:
                    self._give_up_audio(error)
            container[0].start_encoding()
        except (av.FFmpegError, OSError, ValueError):
            container[0].close()
            if self._audio is None:
                raise
            self._give_up_audio(AudioError("this sound cannot stand in this format"))
            container = self._open_container(first)
            container[0].start_encoding()
        return container

    def _open_container(self, first: Frame) -> "tuple[OutputContainer, VideoStream]":
        import av
        from av.codec.context import Flags

        encoding = self._encoding
        form = FORMATS[self.path.suffix.lower()]
        # MP4 keeps where the video begins in units of the movie's time scale: with the default of 1/1000 s it is moved.
        muxing = {} if form == "matroska" else {"movie_timescale": str(TIME_BASE.denominator)}
        container = av.open(str(self._file.part), "w", format=form, options=muxing)
        rate = 1 / first.duration_s if first.duration_s else encoding.fps
        options = {"preset": encoding.preset, "crf": str(encoding.crf)}
        if encoding.codec == "hevc":
            options["x265-params"] = "log-level=none"
        added = container.add_stream(
            CODECS[encoding.codec], rate=Fraction(rate).limit_denominator(1001), options=options
        )
        stream = cast("VideoStream", added)
        stream.width, stream.height = self.size
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.time_base = TIME_BASE
        stream.time_base = TIME_BASE
        codec.flags |= Flags.frame_duration  # or the last picture is shown for as long as the one before
        codec.thread_count = encoding.threads
        codec.color_range = _RANGE_PC if self.kind.full_range else _RANGE_TV
        # What the source leaves open stays open: a player guesses by the size of the picture, here as there.
        codec.colorspace = _COLORSPACE_OF[self.kind.matrix] if self.kind.tagged else _UNSPECIFIED
        if encoding.codec == "hevc" and container.format.name != "matroska":
            codec.codec_tag = "hvc1"  # Apple's players know no other
        return container, stream

    def _next_pts(self, frame: Frame) -> int:
        """The frame's time stamp in `TIME_BASE`; sets `_last_duration`. Time stamps never repeat and never go back."""
        if frame.duration_s:
            self._last_duration = max(1, round(frame.duration_s / TIME_BASE))
        if frame.pts_s is None:
            pts = self._last_pts + self._last_duration if self.frames else 0
        else:
            pts = round((frame.pts_s + self._shift_s) / TIME_BASE)
            if pts <= self._last_pts:  # a loop, or a camera that began anew: it goes on where the picture before ended
                behind = self._last_pts + self._last_duration
                self._shift_s += (behind - pts) * float(TIME_BASE)
                pts = behind
                if self._audio is not None:
                    self._give_up_audio(AudioError("the time stamps went back; the sound ends there"))
        self._last_pts = pts
        return pts

    def _open_audio(self, path: str, start_s: float) -> None:
        if not Path(path).is_file():
            return
        try:
            audio = AudioCopy(path, start_s if start_s > KEEP_START_S else None)
        except AudioError as error:
            self._ctx.warn(f"{display(self.path)} has no sound: {error}")
            return
        if audio.exists:
            self._audio = audio
        else:
            audio.close()

    def _copy_audio(self, position_s: float, pts: int) -> None:
        """Copy the sound up to the end of the frame that is at `position_s` in its file and at `pts` in this one."""
        import av

        if self._audio is None or self._container is None:
            return
        until_s = position_s + self._last_duration * float(TIME_BASE)
        try:
            self._audio.copy(self._container, until_s, shift_s=pts * float(TIME_BASE) - position_s)
        except (av.FFmpegError, OSError, ValueError) as error:
            self._give_up_audio(AudioError(f"its sound cannot be copied on: {type(error).__name__}"))

    def _give_up_audio(self, why: AudioError) -> None:
        self._close_audio()
        self._ctx.warn(f"{display(self.path)}: {why}")

    def _close_audio(self) -> None:
        if self._audio is not None:
            self._audio.close()
            self._audio = None

    def _drop(self) -> None:
        """Leave nothing behind."""
        self._close_audio()
        if self._container is not None:
            self._container.close()
            self._container = None
        self._file.abandon(remove=True)

    def _error(self, error: Exception) -> PenstockError:
        if isinstance(error, OSError) and error.errno:
            return write_error(self._file.part, error)
        return FatalError(f"{display(self.path)} cannot be encoded: {type(error).__name__}: {error}")
