import errno

import av
import pytest

from pipeline.contracts.errors import SourceErrorCode
from sources._live_errors import as_error, closed, no_picture

SHOWN = "rtsp://cam.lan/live"
SECRET = "rtsp://user:geheim@cam.lan/live"  # noqa: S105


def ffmpeg_error(kind: type[av.FFmpegError], number: int = 1) -> av.FFmpegError:
    return kind(number, "it failed", SECRET, None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ffmpeg_error(av.error.HTTPUnauthorizedError), "AUTH_FAILED"),
        (ffmpeg_error(av.error.HTTPForbiddenError), "AUTH_FAILED"),
        (ffmpeg_error(av.error.HTTPNotFoundError), "NOT_FOUND"),
        (ffmpeg_error(av.error.HTTPOtherClientError), "CONNECTION_FAILED"),
        (ffmpeg_error(av.error.HTTPServerError), "CONNECTION_FAILED"),
        (ffmpeg_error(av.error.ExitError), "TIMEOUT"),
        (ffmpeg_error(av.error.TimeoutError, errno.ETIMEDOUT), "TIMEOUT"),
        (ffmpeg_error(av.error.DecoderNotFoundError), "CODEC_UNSUPPORTED"),
        (ffmpeg_error(av.error.ProtocolNotFoundError), "CODEC_UNSUPPORTED"),
        (ffmpeg_error(av.error.InvalidDataError), "CORRUPT"),
        (ffmpeg_error(av.error.ConnectionRefusedError, errno.ECONNREFUSED), "CONNECTION_FAILED"),
        (ffmpeg_error(av.error.ConnectionResetError, errno.ECONNRESET), "CONNECTION_FAILED"),
        (ffmpeg_error(av.error.OSError, errno.EHOSTUNREACH), "CONNECTION_FAILED"),
        (ffmpeg_error(av.error.OSError, errno.EIO), "CONNECTION_FAILED"),
        (ffmpeg_error(av.error.FileNotFoundError, errno.ENOENT), "NOT_FOUND"),
        (ffmpeg_error(av.error.PermissionError, errno.EACCES), "AUTH_FAILED"),
        (ffmpeg_error(av.error.UnknownError, 123456), "CONNECTION_FAILED"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "CORRUPT"),
        (IndexError("no stream"), "CORRUPT"),
    ],
)
def test_every_error_of_the_library_has_a_code_and_one_line_without_the_password(error: Exception, code: str) -> None:
    found = as_error(error, SHOWN)
    assert found.code is SourceErrorCode(code)
    assert str(found).startswith(f"{SHOWN}: ")
    assert "\n" not in str(found)
    assert "geheim" not in repr(found)


def test_a_handshake_that_was_interrupted_is_a_time_out_and_not_damage() -> None:
    error = ffmpeg_error(av.error.InvalidDataError)
    assert as_error(error, SHOWN, took_s=5.01, limit_s=5.0).code is SourceErrorCode.TIMEOUT
    assert as_error(error, SHOWN, took_s=0.1, limit_s=5.0).code is SourceErrorCode.CORRUPT
    assert "within 5.0 s" in str(as_error(error, SHOWN, took_s=5.01, limit_s=5.0))


def test_the_end_of_a_live_stream_is_a_lost_connection() -> None:
    assert closed(SHOWN).code is SourceErrorCode.CONNECTION_FAILED


@pytest.mark.parametrize(
    ("frames_came", "packets_came", "code"),
    [
        (True, False, "STALLED"),
        (True, True, "STALLED"),
        (False, False, "TIMEOUT"),
        (False, True, "CORRUPT"),
    ],
)
def test_no_picture_is_told_apart_by_what_had_come(frames_came: bool, packets_came: bool, code: str) -> None:
    found = no_picture(SHOWN, 4.0, frames_came=frames_came, packets_came=packets_came)
    assert found.code is SourceErrorCode(code)
