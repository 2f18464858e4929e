"""What a live stream's failures mean: FFmpeg's errors as `TransientError`, in one line and without credentials."""

import errno
import math

import av

from pipeline.contracts.errors import SourceErrorCode, TransientError

_CODE = SourceErrorCode

_ERRNO_MEANS: dict[int, tuple[SourceErrorCode, str]] = {
    errno.ECONNREFUSED: (_CODE.CONNECTION_FAILED, "the connection was refused: is the port right, is the camera up?"),
    errno.ECONNRESET: (_CODE.CONNECTION_FAILED, "the connection was reset"),
    errno.ECONNABORTED: (_CODE.CONNECTION_FAILED, "the connection was broken off"),
    errno.EPIPE: (_CODE.CONNECTION_FAILED, "the connection was broken off"),
    errno.EHOSTUNREACH: (_CODE.CONNECTION_FAILED, "there is no route to the host"),
    errno.ENETUNREACH: (_CODE.CONNECTION_FAILED, "the network cannot be reached"),
    errno.ETIMEDOUT: (_CODE.TIMEOUT, "no answer in time"),
    errno.ENOENT: (_CODE.NOT_FOUND, "there is no such thing"),
    errno.ENODEV: (_CODE.NOT_FOUND, "there is no such device"),
    errno.ENXIO: (_CODE.NOT_FOUND, "there is no such device"),
    errno.EACCES: (_CODE.AUTH_FAILED, "permission denied"),
    errno.ENOTTY: (_CODE.NOT_FOUND, "it is no video device"),
    errno.EBUSY: (_CODE.CONNECTION_FAILED, "it is in use by another program"),
    errno.ENOMEM: (_CODE.INTERNAL, "out of memory"),
    errno.EMFILE: (_CODE.INTERNAL, "too many open files"),
    errno.EIO: (_CODE.CONNECTION_FAILED, "the connection was cut"),
}

_CLASS_MEANS: tuple[tuple[type[BaseException], SourceErrorCode, str], ...] = (
    (av.error.HTTPUnauthorizedError, _CODE.AUTH_FAILED, "user or password is wrong or missing (401)"),
    (av.error.HTTPForbiddenError, _CODE.AUTH_FAILED, "access is forbidden to this user (403)"),
    (av.error.HTTPNotFoundError, _CODE.NOT_FOUND, "there is no such stream, or its camera is offline (404)"),
    (av.error.HTTPTooManyRequestsError, _CODE.CONNECTION_FAILED, "the server has had too many requests (429)"),
    (av.error.HTTPBadRequestError, _CODE.CONNECTION_FAILED, "the server does not take the request (400)"),
    (av.error.HTTPClientError, _CODE.CONNECTION_FAILED, "the server does not take the request, or the transport (4xx)"),
    (av.error.HTTPServerError, _CODE.CONNECTION_FAILED, "the server failed (5xx)"),
    (av.error.ExitError, _CODE.TIMEOUT, "no answer in time"),
    (av.error.DecoderNotFoundError, _CODE.CODEC_UNSUPPORTED, "this build of FFmpeg has no decoder for it"),
    (av.error.DemuxerNotFoundError, _CODE.CODEC_UNSUPPORTED, "this build of FFmpeg cannot read the format"),
    (av.error.ProtocolNotFoundError, _CODE.CODEC_UNSUPPORTED, "this build of FFmpeg does not speak the protocol"),
    (av.error.PatchWelcomeError, _CODE.CODEC_UNSUPPORTED, "FFmpeg does not know this kind of stream"),
    (
        av.error.ArgumentError,
        _CODE.CODEC_UNSUPPORTED,
        "not a stream that is read here, or not one with the options that are set",
    ),
    (av.error.InvalidDataError, _CODE.CORRUPT, "what came is no stream that can be read"),
    (av.error.EOFError, _CODE.CONNECTION_FAILED, "the other side closed the connection"),
)


def as_error(
    error: BaseException, shown: str, *, opening: bool = False, took_s: float = 0.0, limit_s: float = math.inf
) -> TransientError:
    """The failure as the runner understands it: always something that may work later.

    Raise it outside of the `except`: the library's own error holds the URL with its password, in its text, its
    `filename` and its `repr`, and must not hang on to the new one.

    Args:
        error: what FFmpeg or PyAV raised.
        shown: what the stream is called in messages, without credentials.
        opening: it came while the stream was being opened.
        took_s: how long it had been waited for.
        limit_s: how long it could have been. An interrupted handshake looks like a damaged one, but for the time.
    """
    code, text = _meaning(error)
    if opening and isinstance(error, OSError) and error.errno == errno.EIO:
        text = "it cannot be connected: is the host's name right?"  # what FFmpeg says where there is no such host
    if code is _CODE.TIMEOUT or (code is _CODE.CORRUPT and took_s >= limit_s):
        code, text = _CODE.TIMEOUT, f"no answer within {took_s:.1f} s"
    return TransientError(f"{shown}: {text}", code=code)


def closed(shown: str) -> TransientError:
    """The clean end of a live stream, which is what PyAV makes of a camera that died."""
    return TransientError(f"{shown}: the camera closed the connection", code=_CODE.CONNECTION_FAILED)


def no_picture(shown: str, limit_s: float, *, frames_came: bool, packets_came: bool) -> TransientError:
    """Nothing was decoded for `limit_s`."""
    if packets_came:
        return TransientError(
            f"{shown}: data comes, but for {limit_s:g} s no picture could be decoded from it",
            code=_CODE.STALLED if frames_came else _CODE.CORRUPT,
        )
    if frames_came:
        return TransientError(f"{shown}: no picture for {limit_s:g} s", code=_CODE.STALLED)
    return TransientError(f"{shown}: connected, but no picture came", code=_CODE.TIMEOUT)


def _meaning(error: BaseException) -> tuple[SourceErrorCode, str]:
    for kind, code, text in _CLASS_MEANS:
        if isinstance(error, kind):
            return code, text
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number in _ERRNO_MEANS:
        return _ERRNO_MEANS[number]
    if isinstance(error, av.FFmpegError):
        return _CODE.CONNECTION_FAILED, (error.strerror or "FFmpeg failed").lower()
    return _CODE.CORRUPT, f"what came cannot be read ({type(error).__name__})"
