"""One video file: what is written, what a full disk or the end of the process leaves of it, and the sound beside it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.frame import Frame
from sinks._audio import AudioCopy, AudioError
from sinks._container import FORMATS, Layout, is_whole, mend, muxer_options
from sinks._encoder import TIME_BASE, Encoder, Encoding
from sinks._files import OutputFile, free_bytes, write_error
from sinks._paths import display
from sinks._planes import Planes
from sinks._track import KEEP_START_S, Kind, Stamp, Track

if TYPE_CHECKING:
    from av.container import OutputContainer

BEGIN_BYTES = 8 * 1024 * 1024
"""A file is begun only where so much more than the reserve is free: else it would end with its first pictures."""
_INDEX_BYTES_PER_FRAME = 64


class FileRules(NamedTuple):
    """How to write files: what the config says.

    Attributes:
        layout: of MP4 and MOV.
        audio: copy the sound of a file.
        min_free_bytes: leave so much of the disk free.
        fsync_every_s: what is older survives a power cut; None: the system writes when it likes.
    """

    layout: Layout
    audio: bool
    min_free_bytes: int
    fsync_every_s: float | None


class Segment:
    """A video being written. Made by the video sink at the first picture of a kind; used by the sink's thread.

    Args:
        path: its name when it is complete.
        first: the first picture.
        kind: of all its pictures.
        encoding: how to encode.
        encoder: with what.
        rules: how to write it.
        ctx: the sink's.
        goes_on: it is not the first of its input: the sound begins with its first picture.

    Raises:
        FatalError, TransientError: it cannot be begun; nothing is left behind.
    """

    def __init__(
        self,
        path: Path,
        first: Frame,
        kind: Kind,
        *,
        encoding: Encoding,
        encoder: Encoder,
        rules: FileRules,
        ctx: Context,
        goes_on: bool = False,
    ) -> None:
        import av

        self.path = path
        self.kind = kind
        self._encoding = encoding
        self._encoder = encoder
        self._rules = rules
        self._ctx = ctx
        self._audio: AudioCopy | None = None
        self._container: OutputContainer | None = None
        self._suffix = path.suffix.lower()
        self._torn: PenstockError | None = None
        self.is_there = False  # whether it has its name
        self._file = OutputFile(path)
        self.begun_at = self.written_at = self._synced_at = ctx.clock.monotonic()
        try:
            if rules.audio and kind.path is not None and first.file_pts_s is not None:
                start_s = first.file_pts_s
                self._open_audio(kind.path, start_s if goes_on or start_s > KEEP_START_S else None)
            self._start(first)
        except (av.FFmpegError, OSError, ValueError) as error:
            self._drop()
            raise self._error(error) from error
        except BaseException:
            self._drop()
            raise

    @property
    def frames(self) -> int:
        """How many pictures it was given."""
        return self._track.frames

    @property
    def size_bytes(self) -> int:
        """How long the file is by now."""
        return os.fstat(self._file.fd).st_size

    def shown_s(self, frame: Frame) -> float:
        """How long after the first picture this one would be shown."""
        return self._track.shown_s(frame)

    def canvas(self) -> Planes:
        """Where to put the next picture, all of it."""
        return self._track.canvas()

    def write(self, frame: Frame) -> None:
        """Encode what is on the canvas.

        Raises:
            TransientError: the disk is full. The file can still be finished.
            FatalError: encoder or muxer failed; what is in the file may be lost.
        """
        import av

        if self._container is None:
            raise FatalError(f"{display(self.path)} was given up")
        needed = self._rules.min_free_bytes + self.frames * _INDEX_BYTES_PER_FRAME
        if free_bytes(self._file.part.parent) < needed:
            raise TransientError(f"{display(self.path)} cannot grow: the disk is nearly full (min_free_bytes)")
        try:
            stamp = self._track.write(frame)
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = self._error(error)
            self._torn = reason if isinstance(error, OSError) and error.errno else None
            raise reason from error
        self.written_at = self._ctx.clock.monotonic()
        if frame.file_pts_s is not None:
            self._copy_audio(frame.file_pts_s, stamp)
        self.sync()

    def sync(self) -> None:
        """Bring what was written to the disk, where that is due.

        Raises:
            TransientError, FatalError: it cannot be written.
        """
        every_s = self._rules.fsync_every_s
        now = self._ctx.clock.monotonic()
        if every_s is None or now - self._synced_at < every_s:
            return
        self._synced_at = now
        try:
            self._file.sync()
        except OSError as error:
            raise write_error(self._file.part, error) from error

    def finish(self) -> None:
        """Write what the encoder holds and the index, and give the file its name; without pictures there is none.

        Raises:
            FatalError, TransientError: it is not complete; the message says what is lost.
        """
        import av

        if not self.frames:
            self._drop()
            return
        container, self._container = self._container, None
        torn = self._torn
        try:
            if container is not None:
                try:
                    self._track.flush()
                finally:
                    container.close()
        except (av.FFmpegError, OSError, ValueError) as error:
            torn = torn or self._error(error)
        finally:
            self._close_audio()
        if torn is None and not is_whole(self._file.part, self._suffix, self._rules.layout):
            torn = TransientError(f"the end of {display(self._file.part)} could not be written")
        if torn is not None:
            raise self._saved(torn)
        self._file.finish()
        self.is_there = True

    def _saved(self, torn: PenstockError) -> PenstockError:
        """Keep what can be played of a file that cannot be completed; the error to raise."""
        named, where = display(self.path), display(self._file.part)
        reason = "" if torn is self._torn else f"{torn}; "
        lost = FatalError(f"{reason}{self.frames} frames of {named} are lost or only in {where}")
        if self._rules.layout == "plain" and FORMATS[self._suffix] in {"mp4", "mov"}:
            self._file.abandon(remove=False)
            return lost
        try:
            mend(self._file.part, self._suffix)
        except OSError:
            self._file.abandon(remove=False)
            return lost
        self._file.finish()
        self.is_there = True
        return TransientError(f"{reason}{named} ends up to a second before its {self.frames} frames do")

    def _start(self, first: Frame) -> None:
        """Open muxer and encoder and write the header; without sound where the format refuses it."""
        import av

        self._open_container(first)
        if self._container is None:
            return
        try:
            if self._audio is not None:
                try:
                    self._audio.attach(self._container)
                except AudioError as error:
                    self._give_up_audio(error)
            self._container.start_encoding()
        except (av.FFmpegError, OSError, ValueError):
            self._container.close()
            if self._audio is None:
                raise
            self._give_up_audio(AudioError("this sound cannot stand in this format"))
            self._open_container(first)
            self._container.start_encoding()

    def _open_container(self, first: Frame) -> None:
        import av

        options = muxer_options(self._suffix, self._rules.layout)
        self._container = av.open(str(self._file.part), "w", format=FORMATS[self._suffix], options=options)
        self._track = Track(self._container, first, self.kind, self._encoding, self._encoder)

    def _open_audio(self, path: str, start_s: float | None) -> None:
        if not Path(path).is_file():
            return
        try:
            audio = AudioCopy(path, start_s)
        except AudioError as error:
            self._ctx.warn(f"{display(self.path)} has no sound: {error}")
            return
        if audio.exists:
            self._audio = audio
        else:
            audio.close()

    def _copy_audio(self, position_s: float, stamp: Stamp) -> None:
        """Copy the sound up to the end of the frame that is at `position_s` in its file."""
        import av

        if self._audio is None or self._container is None:
            return
        if stamp.went_back:
            self._give_up_audio(AudioError("the time stamps went back; the sound ends there"))
            return
        until_s = position_s + stamp.duration * float(TIME_BASE)
        try:
            self._audio.copy(self._container, until_s, shift_s=stamp.pts * float(TIME_BASE) - position_s)
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
