"""Opens a video file and nothing else: no other file, host or device behind it, and one clear line where it cannot."""

from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from pipeline.contracts.errors import FatalError, SourceErrorCode

# What FFmpeg and PyAV raise on hostile media: besides FFmpegError also UnicodeDecodeError (a ValueError), IndexError
# (a LookupError), numbers that do not fit (ArithmeticError), and sizes that do not (MemoryError).
MEDIA_ERRORS = (
    *(av.FFmpegError, OSError, ValueError, LookupError, ArithmeticError),
    *(MemoryError, RuntimeError, AssertionError),
)

# Demuxers that read something else than the file they are given: other files, hosts, devices, or made-up pictures
# (`tty` draws any .txt as a video). A file that pretends to be a video must not reach through them.
_FORMATS_REFUSED = frozenset(
    [
        *("alsa", "applehttp", "bktr", "caca", "concat", "dash", "dvdvideo", "fbdev", "hls", "iec61883", "imf", "jack"),
        *("kmsgrab", "lavfi", "libcdio", "openal", "oss", "pulse", "rtp", "rtsp", "sap", "sdp", "sndio", "tty", "v4l2"),
        *("video4linux2", "webm_dash_manifest", "x11grab", "xcbgrab"),
    ]
)


def open_video(path: str, max_pixels: int) -> tuple[InputContainer, VideoStream]:
    """The container and its first video stream that is not a cover picture; all other streams are left out.

    Raises:
        FatalError: NOT_FOUND, CORRUPT or CODEC_UNSUPPORTED, with one line that names the file.
    """
    _refuse_what_is_no_file(path)
    container = _open_container(path, max_pixels)
    try:
        return container, _video_stream(container, path)
    except BaseException:
        container.close()
        raise


def reason(error: BaseException) -> str:
    """FFmpeg's own words, without the path and the number."""
    return getattr(error, "strerror", None) or type(error).__name__


def _refuse_what_is_no_file(path: str) -> None:
    try:
        if Path(path).is_dir():
            raise FatalError(
                f'{path}: is a folder; pictures in a folder are read by type = "directory"',
                code=SourceErrorCode.NOT_FOUND,
            )
        size_bytes = Path(path).stat().st_size
    except OSError as error:
        raise FatalError(f"{path}: {error.strerror or 'cannot be read'}", code=SourceErrorCode.NOT_FOUND) from error
    if not Path(path).is_file():  # a pipe or a device would block for ever
        raise FatalError(f"{path}: is not a regular file", code=SourceErrorCode.NOT_FOUND)
    if size_bytes == 0:
        raise FatalError(f"{path}: the file is empty", code=SourceErrorCode.CORRUPT)


def _open_container(path: str, max_pixels: int) -> InputContainer:
    formats = ",".join(name for name in sorted(av.formats_available) if _FORMATS_REFUSED.isdisjoint(name.split(",")))
    try:
        return av.open(
            path,
            options={"max_pixels": str(max_pixels)},
            container_options={"protocol_whitelist": "file", "format_whitelist": formats},
            metadata_errors="ignore",
        )
    except PermissionError as error:
        raise FatalError(f"{path}: permission denied", code=SourceErrorCode.NOT_FOUND) from error
    except av.ArgumentError as error:
        raise FatalError(
            f"{path}: this is no video file: playlists, texts and the like are not followed",
            code=SourceErrorCode.CODEC_UNSUPPORTED,
        ) from error
    except MEDIA_ERRORS as error:
        raise FatalError(
            f"{path}: this is not a video file, or its header is damaged ({reason(error)})",
            code=SourceErrorCode.CORRUPT,
        ) from error


def _video_stream(container: InputContainer, path: str) -> VideoStream:
    if not len(container.streams):
        raise FatalError(f"{path}: the file is damaged or cut: no stream is left in it", code=SourceErrorCode.CORRUPT)
    covers = {s.index for s in container.streams.video if s.disposition & Disposition.attached_pic}
    streams = [s for s in container.streams.video if s.index not in covers]
    if not streams:
        kinds = ", ".join(sorted({"a cover picture" if s.index in covers else s.type for s in container.streams}))
        raise FatalError(
            f"{path}: there is no video stream in the file, only {kinds}", code=SourceErrorCode.CODEC_UNSUPPORTED
        )
    stream = streams[0]
    if stream.codec_context is None:
        raise FatalError(
            f"{path}: there is no decoder for its video codec in this build of FFmpeg",
            code=SourceErrorCode.CODEC_UNSUPPORTED,
        )
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream
