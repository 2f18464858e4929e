"""Sending a video to an RTSP server: ANNOUNCE, SETUP, RECORD, and RTP inside of the connection, with time limits.

FFmpeg's own sender waits for ever where the server stops reading. RFC 2326; RFC 7617 and 7616 (MD5) for the login;
RFC 6184 and 7798 for the description of H.264 and HEVC.
"""

import base64
import hashlib
import re
import socket
import ssl
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.http import host_and_port
from pipeline.contracts.secret import SecretUrl
from pipeline.wire.http import shorten

PACKET_BYTES = 1400  # of RTP, so that it also fits where a server passes it on over UDP

_PORTS = {"rtsp": 554, "rtsps": 322}
_MAX_ANSWER_BYTES = 65_536
_CONTROL_TYPES = range(192, 224)  # of RTCP (RFC 5761)


class Answer(NamedTuple):
    """What the server answered."""

    status: int
    reason: str
    headers: Mapping[str, str]


class RtspRecord:
    """One connection. Made by the sink `push`, used by its thread.

    Args:
        url: where to.
        sdp: what is coming (RFC 8866).
        timeout_s: nothing takes longer.
        tls: for rtsps.

    Raises:
        TransientError: it cannot be reached, or refuses for now.
        FatalError: it refuses for good.
    """

    def __init__(self, url: SecretUrl, sdp: str, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._where = host_and_port(url)
        bare = re.sub(r"://[^/]*@", "://", url.reveal())
        self._target = bare
        self._number = 0
        self._session: str | None = None
        self._challenge: dict[str, str] | None = None
        self._received = b""
        try:
            self._socket: socket.socket = socket.create_connection(
                (url.host, url.port or _PORTS[url.scheme]), timeout=timeout_s
            )
        except OSError as error:
            raise TransientError(f"{self._where} cannot be reached: {error.strerror or 'no answer'}") from error
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=url.host)
            self._asked("OPTIONS", self._target)
            self._asked("ANNOUNCE", self._target, {"Content-Type": "application/sdp"}, sdp.encode())
            transport = {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"}
            self._asked("SETUP", f"{self._target.rstrip('/')}/streamid=0", transport)
            self._asked("RECORD", self._target, {"Range": "npt=0.000-"})
        except (OSError, ValueError) as error:
            self.close()
            raise self._failure(error) from error
        except BaseException:
            self.close()
            raise

    def send(self, packet: bytes) -> None:
        """Send one packet of RTP or RTCP.

        Raises:
            TransientError: the connection is gone, or the server reads too slowly.
        """
        channel = 1 if packet[1] in _CONTROL_TYPES else 0
        try:
            self._socket.sendall(b"$" + bytes([channel]) + len(packet).to_bytes(2) + packet)
            self._drain()
        except (OSError, ValueError) as error:
            raise self._failure(error) from error

    def close(self, *, tell: bool = False) -> None:
        """Let the connection go; `tell` the server first."""
        try:
            if tell:
                self._send("TEARDOWN", self._target, {}, b"")
        except (OSError, ValueError):
            pass  # it is over either way
        finally:
            self._socket.close()

    def _drain(self) -> None:
        """Throw away what the server tells meanwhile (RTCP): unread, it would block the server some day."""
        timeout_s = self._socket.gettimeout()
        self._socket.setblocking(False)
        try:
            if not self._socket.recv(_MAX_ANSWER_BYTES):
                raise ConnectionResetError
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self._socket.settimeout(timeout_s)

    def _asked(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        """Ask, log in where that is wanted, and insist on 200."""
        answer = self._ask(method, target, headers or {}, body)
        if answer.status == 401 and self._challenge is None and self._url.username is not None:
            self._challenge = _challenge(answer.headers.get("www-authenticate", ""))
            answer = self._ask(method, target, headers or {}, body)
        if answer.status == 200:
            session = answer.headers.get("session")
            self._session = session.partition(";")[0].strip() if session else self._session
            return
        message = f"{self._where} answers {answer.status} {shorten(answer.reason)} to {method}"
        if answer.status in {400, 401, 403, 404, 405, 415, 461}:
            raise FatalError(message) if answer.status in {400, 415} else TransientError(message)
        raise TransientError(message)

    def _ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self._send(method, target, headers, body)
        head = self._read_until(b"\r\n\r\n").decode("utf-8", "replace").split("\r\n")
        version, _, rest = head[0].partition(" ")
        status, _, reason = rest.partition(" ")
        if not version.startswith("RTSP/") or not status.isdecimal():
            raise ValueError("no RTSP")
        parted = (line.partition(":") for line in head[1:])
        answer = Answer(int(status), reason, {name.strip().lower(): value.strip() for name, _, value in parted})
        length = answer.headers.get("content-length", "0")
        self._read(int(length) if length.isdecimal() else 0)
        return answer

    def _send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        self._number += 1
        given = {"CSeq": str(self._number), "User-Agent": "penstock", **headers}
        if self._session is not None:
            given["Session"] = self._session
        if self._challenge is not None:
            given["Authorization"] = self._login(method, target)
        if body:
            given["Content-Length"] = str(len(body))
        head = f"{method} {target} RTSP/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self._socket.sendall(head.encode() + b"\r\n" + body)

    def _login(self, method: str, target: str) -> str:
        name = self._url.username or ""
        password = "" if self._url.password is None else self._url.password.get_secret_value()
        asked = self._challenge or {}
        if "nonce" not in asked:
            return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
        realm, nonce = asked.get("realm", ""), asked["nonce"]
        response = _md5(f"{_md5(f'{name}:{realm}:{password}')}:{nonce}:{_md5(f'{method}:{target}')}")
        return f'Digest username="{name}", realm="{realm}", nonce="{nonce}", uri="{target}", response="{response}"'

    def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            if len(self._received) > _MAX_ANSWER_BYTES:
                raise ValueError("an answer without an end")
            self._receive()
        found, _, self._received = self._received.partition(mark)
        return found

    def _read(self, count: int) -> None:
        if count > _MAX_ANSWER_BYTES:
            raise ValueError("an answer without an end")
        while len(self._received) < count:
            self._receive()
        self._received = self._received[count:]

    def _receive(self) -> None:
        more = self._socket.recv(_MAX_ANSWER_BYTES)
        if not more:
            raise ConnectionResetError
        self._received += more

    def _failure(self, error: Exception) -> TransientError:
        match error:
            case ssl.SSLCertVerificationError():
                why = f"its certificate is not accepted: {error.verify_message}"
            case ssl.SSLError():
                why = f"TLS: {error.reason}"
            case TimeoutError():
                why = "it does not answer, or does not read on, in time"
            case OSError():
                why = error.strerror or "it closed the connection"
            case _:
                why = f"it does not speak RTSP: {error}"
        return TransientError(f"{self._where}: {why}")


def describe(codec: str, extradata: bytes, name: str) -> str:
    """The session description of one video; `extradata` as the encoder gives it, with start codes."""
    units = [unit for unit in re.split(b"\0\0\0?\1", extradata) if unit]
    if codec == "h264":
        sets = ",".join(base64.b64encode(unit).decode() for unit in units if unit[0] & 31 in {7, 8})
        profile = next((unit[1:4].hex() for unit in units if unit[0] & 31 == 7), "42e01f")
        form = f"packetization-mode=1; sprop-parameter-sets={sets}; profile-level-id={profile}"
    else:
        kinds = {32: "sprop-vps", 33: "sprop-sps", 34: "sprop-pps"}
        found = {kinds[kind]: unit for unit in units if (kind := unit[0] >> 1 & 63) in kinds}
        form = "; ".join(f"{key}={base64.b64encode(unit).decode()}" for key, unit in found.items())
    lines = [
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        f"s={name}",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "m=video 0 RTP/AVP 96",
        f"a=rtpmap:96 {'H264' if codec == 'h264' else 'H265'}/90000",
        f"a=fmtp:96 {form}",
        "a=control:streamid=0",
    ]
    return "\r\n".join(lines) + "\r\n"


def _challenge(header: str) -> dict[str, str]:
    """What a server wants for a login; nothing: the plain one."""
    if not header.lower().startswith("digest"):
        return {}
    return {key.lower(): quoted or bare for key, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', header)}


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
