"""`Pushing`: one video on its way to a server: the muxer for the protocol, and a limit to how long it may block."""

import contextlib
import ssl
from typing import TYPE_CHECKING, NamedTuple

from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.http import host_and_port
from pipeline.contracts.secret import SecretUrl
from sinks._encoder import Encoder, Encoding
from sinks._planes import Planes
from sinks._rtsp_record import PACKET_BYTES, RtspRecord, describe
from sinks._track import Kind, Track

if TYPE_CHECKING:
    from av.container import OutputContainer

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp")

_FORMATS = {"rtmp": "flv", "rtmps": "flv", "srt": "mpegts", "udp": "mpegts"}
_WRITES_PER_TIMEOUT = 3  # FFmpeg waits that often before it gives up


class Target(NamedTuple):
    """Where to, and how.

    Attributes:
        url: of the server.
        timeout_s: how long one answer or write may take.
        tls: for rtsps.
        ca_file: for rtmps.
        verify_tls: for rtmps.
    """

    url: SecretUrl
    timeout_s: float
    tls: ssl.SSLContext | None
    ca_file: str | None
    verify_tls: bool


def can_send(scheme: str) -> bool:
    """Whether this FFmpeg speaks the protocol."""
    import av

    if scheme != "srt":
        return True
    try:
        av.open("srt://127.0.0.1:1", timeout=0.5).close()  # nobody listens there
    except av.error.ProtocolNotFoundError:
        return False
    except (av.FFmpegError, OSError, ValueError):
        return True
    return True


class Pushing:
    """One connection for one kind of picture. Made by the sink `push`, used by its thread.

    Raises:
        TransientError: the server is not there, or refuses for now.
        FatalError: this cannot be encoded, or the server refuses for good.
    """

    def __init__(self, target: Target, first: Frame, kind: Kind, *, encoding: Encoding, encoder: Encoder) -> None:
        import av

        self.kind = kind
        self._target = target
        self._where = host_and_port(target.url)
        self._rtsp: RtspRecord | None = None
        self._container: OutputContainer | None = None
        self._began: list[bytes] | None = []  # packets of before the server was asked
        try:
            self._open(first, kind, encoding, encoder)
        except (av.FFmpegError, OSError, ValueError) as error:
            self.close()
            raise self._error(error) from error
        except BaseException:
            self.close()
            raise

    def canvas(self) -> Planes:
        """Where to put the next picture, all of it."""
        return self._track.canvas()

    def write(self, frame: Frame) -> None:
        """Encode and send what is on the canvas. After an error it is over.

        Raises:
            TransientError: the connection is gone, or the server reads too slowly.
            FatalError: it cannot be encoded.
        """
        import av

        try:
            self._track.write(frame)
        except PenstockError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Hang up."""
        import av

        container, self._container = self._container, None
        rtsp, self._rtsp = self._rtsp, None
        if container is not None:
            with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                container.close()
        if rtsp is not None:
            rtsp.close(tell=True)

    def _open(self, first: Frame, kind: Kind, encoding: Encoding, encoder: Encoder) -> None:
        import av

        url = self._target.url
        if url.scheme in {"rtsp", "rtsps"}:
            options = {"packetsize": str(PACKET_BYTES), "payload_type": "96"}
            container = self._container = av.open(_Packets(self), "w", format="rtp", options=options)
        else:
            container = self._container = av.open(self._tee(), "w", format="tee")
        self._track = Track(container, first, kind, encoding, encoder, global_header=url.scheme != "udp")
        container.start_encoding()
        if url.scheme in {"rtsp", "rtsps"}:
            sdp = describe(encoding.codec, self._track.extradata, first.source)
            self._rtsp = RtspRecord(url, sdp, self._target.timeout_s, self._target.tls)
            before, self._began = self._began or [], None
            for packet in before:
                self._rtsp.send(packet)

    def _tee(self) -> str:
        """The name for FFmpeg's `tee`: the only way to hand time limits to the protocol under a muxer."""
        target, url = self._target, self._target.url
        limit_us = round(target.timeout_s / _WRITES_PER_TIMEOUT * 1e6)
        options = {"f": _FORMATS[url.scheme], "onfail": "abort"}
        if url.scheme != "udp":
            options["rw_timeout"] = str(limit_us)
        if url.scheme in {"rtmp", "rtmps"}:
            options["flvflags"] = "no_duration_filesize"
        if url.scheme == "rtmps":
            options["tls_verify"] = "1" if target.verify_tls else "0"
            if target.ca_file is not None:
                options["ca_file"] = target.ca_file
        given = ":".join(f"{key}={_escaped(value, r':]')}" for key, value in options.items())
        return f"[{given}]{_escaped(url.reveal(), '|')}"

    def _sent(self, packet: bytes) -> None:
        if self._began is not None:
            self._began.append(packet)
        elif self._rtsp is not None:
            self._rtsp.send(packet)

    def _error(self, error: Exception) -> PenstockError:
        # Never the library's own text: it holds the URL with its credentials.
        if isinstance(error, OSError):
            return TransientError(f"{self._where}: {error.strerror or type(error).__name__}")
        return FatalError(f"the video for {self._where} cannot be encoded: {type(error).__name__}")


class _Packets:
    """What the RTP muxer takes for a file: each write is one packet."""

    def __init__(self, pushing: Pushing) -> None:
        self._pushing = pushing

    def write(self, data: bytes) -> int:
        """Send a packet."""
        self._pushing._sent(bytes(data))
        return len(data)


def _escaped(text: str, special: str) -> str:
    for character in f"\\'{special}":
        text = text.replace(character, f"\\{character}")
    return text
