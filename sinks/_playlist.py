"""`Playlist`: one HLS playlist and its segments, as they are written and removed."""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from pipeline.contracts.errors import FatalError, PenstockError
from pipeline.contracts.frame import Frame
from pipeline.contracts.paths import FILE_MODE
from sinks._encoder import Encoder, Encoding
from sinks._files import write_error
from sinks._paths import display
from sinks._planes import Planes
from sinks._track import Kind, Track

if TYPE_CHECKING:
    from av.container import OutputContainer

_OLD_SEGMENTS = 3  # that have left the playlist and stay on the disk, for who has just read their names
_AVIO_WRITE = 2  # AVIO_FLAG_WRITE
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class Window(NamedTuple):
    """What a playlist shows.

    Attributes:
        segments: their format.
        segment_s: how long one is, about.
        length: so many are in it.
    """

    segments: Literal["ts", "mp4"]
    segment_s: float
    length: int


class Playlist:
    """One playlist being written. Made by the sink at the first picture of a kind; used by the sink's thread.

    It goes on where an older one of the same name ends. Format: RFC 8216; playlist and segments are written under
    another name and renamed (FFmpeg, hlsenc: `temp_file`).

    Raises:
        FatalError, TransientError: it cannot be begun.
    """

    def __init__(
        self, path: Path, first: Frame, kind: Kind, *, window: Window, encoding: Encoding, encoder: Encoder
    ) -> None:
        import av

        self.path = path
        self.kind = kind
        self._container: OutputContainer | None = None
        try:
            options = _options(path, window, is_live=first.path is None)
            self._container = av.open(str(path), "w", format="hls", options=options, io_open=_opener(path.parent))
            self._track = Track(self._container, first, kind, encoding, encoder)
            self._container.start_encoding()
        except (av.FFmpegError, OSError, ValueError) as error:
            self._let_go()
            raise self._error(error) from error

    def canvas(self) -> Planes:
        """Where to put the next picture, all of it."""
        return self._track.canvas()

    def write(self, frame: Frame) -> None:
        """Encode what is on the canvas. After an error it is over.

        Raises:
            TransientError: the disk is full.
            FatalError: encoder or muxer failed.
        """
        import av

        try:
            self._track.write(frame)
        except (av.FFmpegError, OSError, ValueError) as error:
            self._let_go()
            raise self._error(error) from error

    def finish(self) -> None:
        """Write what the encoder holds.

        Raises:
            FatalError, TransientError: the last segment is lost.
        """
        import av

        container, self._container = self._container, None
        if container is None:
            return
        try:
            try:
                self._track.flush()
            finally:
                container.close()
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._error(error) from error

    def _let_go(self) -> None:
        import av

        if self._container is not None:
            with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                self._container.close()
            self._container = None

    def _error(self, error: Exception) -> PenstockError:
        if isinstance(error, OSError) and error.errno:
            return write_error(self.path, error)
        return FatalError(f"{display(self.path)} cannot be encoded: {type(error).__name__}: {error}")


def pieces(playlist: Path) -> list[Path]:
    """The segments that lie beside a playlist, and the headers of fragmented ones."""
    try:
        return sorted(path for path in playlist.parent.iterdir() if _piece(playlist, path.name))
    except OSError:
        return []


def _piece(playlist: Path, name: str) -> re.Match[str] | None:
    return re.fullmatch(re.escape(playlist.stem) + r"-(?:init-)?(\d{6,})\.(?:ts|m4s|mp4)(?:\.tmp)?", name)


def _options(path: Path, window: Window, *, is_live: bool) -> dict[str, str]:
    """For the muxer `hls`. What a run before left is gone on with, or removed."""
    listed = _listed(path)
    number = 1 + max((int(found[1]) for one in pieces(path) if (found := _piece(path, one.name))), default=0)
    # A header holds for all of the playlist: segments of a run before would be read with that of this one.
    goes_on = window.segments == "ts" and bool(listed)
    for one in pieces(path):
        if not goes_on or one.name not in listed:
            one.unlink(missing_ok=True)
    flags = "delete_segments+temp_file+independent_segments"
    flags += "+append_list" if goes_on else ""
    flags += "+omit_endlist" if is_live else ""
    suffix = "ts" if window.segments == "ts" else "m4s"
    stem = path.stem.replace("%", "%%")
    begins = {} if goes_on else {"start_number": str(number)}
    return {
        **begins,
        "hls_time": str(window.segment_s),
        "hls_list_size": str(window.length),
        "hls_delete_threshold": str(_OLD_SEGMENTS),
        "hls_flags": flags,
        "hls_segment_type": "mpegts" if window.segments == "ts" else "fmp4",
        "hls_segment_filename": f"{str(path.parent).replace('%', '%%')}/{stem}-%06d.{suffix}",
        "hls_fmp4_init_filename": f"{path.stem}-init-{number:06d}.mp4",
    }


def _listed(playlist: Path) -> set[str]:
    """The names of the segments that an older playlist names."""
    try:
        lines = playlist.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {line for line in lines if line and not line.startswith("#")}


def _opener(folder: Path) -> Callable[[str, int, dict[str, Any]], BinaryIO]:
    """How FFmpeg's muxer opens files: in this folder only, and with our mode."""

    def opened(url: str, flags: int, _: dict[str, Any]) -> BinaryIO:
        path = Path(url)
        if path.parent != folder:
            raise PermissionError(f"{display(path)} is not in {display(folder)}")
        if not flags & _AVIO_WRITE:
            return path.open("rb")
        return os.fdopen(os.open(path, _FLAGS, FILE_MODE), "wb")

    return opened
