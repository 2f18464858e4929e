"""Opening something live through PyAV: its container and its video, or why there is none."""

from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.contracts.clock import Clock
from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.secret import SecretUrl
from sources._live import Plan
from sources._live_errors import as_error
from sources._open import MEDIA_ERRORS


def open_live(plan: Plan, clock: Clock) -> InputContainer:
    """Connect, within `open_timeout_s`.

    Raises:
        TransientError: it cannot be opened, and why.
    """
    failure, started_s = None, clock.monotonic()
    # Opening has two steps with a limit each: the handshake, and a look at the first packets.
    limit_s = plan.open_timeout_s / 2
    read_s = min(plan.stall_timeout_s, plan.first_frame_timeout_s)
    try:
        return av.open(
            str(plan.address) if isinstance(plan.address, Path) else plan.address.reveal(),
            format=plan.demuxer,
            options={"max_pixels": str(plan.decoding.max_pixels), **plan.options},
            timeout=(limit_s, read_s),
            metadata_errors="ignore",
        )
    except MEDIA_ERRORS as error:
        failure = as_error(error, plan.shown, opening=True, took_s=clock.monotonic() - started_s, limit_s=limit_s)
    if (
        failure.code is SourceErrorCode.CONNECTION_FAILED
        and plan.tls is not None
        and isinstance(plan.address, SecretUrl)
    ):
        fault = plan.tls.fault(plan.address, limit_s)
        failure = failure if fault is None else TransientError(f"{plan.shown}: {fault}", code=SourceErrorCode.TLS)
    raise failure


def video_stream(container: InputContainer, shown: str) -> VideoStream:
    """The stream that is read.

    Raises:
        TransientError: there is none that can be decoded.
    """
    if not container.streams.video:
        raise TransientError(f"{shown}: there is no video in the stream", code=SourceErrorCode.CODEC_UNSUPPORTED)
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise TransientError(
            f"{shown}: there is no decoder for its video codec in this build of FFmpeg",
            code=SourceErrorCode.CODEC_UNSUPPORTED,
        )
    return stream


def declared_fps(stream: VideoStream) -> float:
    """Frames a second; 0 where nothing sensible is declared."""
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    return fps if 0 < fps <= 1000 else 0.0
