"""HTTP between us and strangers' servers: bodies of requests, answers within their limits, what an error says. Pure."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

from pipeline.contracts.secret import SecretUrl, redact
from pipeline.wire.document import loads

ENCODINGS = "gzip, deflate"
MAX_WORDS = 200
PATH_CHARS = "/:@!$&'()*+,;=~%-._"  # RFC 3986, 3.3; % as something may be encoded already
_LONGEST_WISH_S = 86_400.0


class TooLargeError(Exception):
    """The answer is over the limit."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body."""

    name: str
    data: bytes
    filename: str | None = None
    media_type: str | None = None


def bare(url: SecretUrl) -> str:
    """The URL to ask, without user and password; what is no ASCII is percent-encoded."""
    parts = urlsplit(url.reveal())
    path = quote(parts.path, safe=PATH_CHARS) or "/"
    query = quote(parts.query, safe=PATH_CHARS + "?")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}{f'?{query}' if query else ''}"


def authorization(base: SecretUrl) -> str | None:
    """The `Authorization` of a URL with user and password (RFC 7617)."""
    netloc, at, _ = urlsplit(base.reveal()).netloc.rpartition("@")
    if not at:
        return None
    user, _, password = netloc.partition(":")
    pair = f"{unquote(user)}:{unquote(password)}".encode()
    return f"Basic {base64.b64encode(pair).decode('ascii')}"


def multipart(parts: Sequence[Part], boundary: str | None = None) -> tuple[bytes, str]:
    """The body of a form, and its media type. Format: RFC 7578; names are escaped as browsers do it (HTML,
    "multipart/form-data encoding algorithm").

    Args:
        parts: in order.
        boundary: what stands between them, if it has to be the same again; it must not occur in them.
    """
    boundary = boundary or uuid4().hex
    pieces = []
    for part in parts:
        head = f'Content-Disposition: form-data; name="{_escaped(part.name)}"'
        if part.filename is not None:
            head += f'; filename="{_escaped(part.filename)}"'
        if part.media_type is not None:
            head += f"\r\nContent-Type: {_escaped(part.media_type)}"
        pieces += [f"--{boundary}\r\n{head}\r\n\r\n".encode(), part.data, b"\r\n"]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def _escaped(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def retry_after(value: str | None, wall_s: float) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3); None for what is neither."""
    if value is None or len(value) > 64:
        return None
    text = value.strip()
    seconds = seconds_in(text) if text[:1].isdecimal() else None
    if seconds is not None:
        return min(seconds, _LONGEST_WISH_S)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    try:
        return min(max(0.0, when.timestamp() - wall_s), _LONGEST_WISH_S)
    except (ValueError, OverflowError):
        return None


def shorten(text: str) -> str:
    """A stranger's text, fit for one line of our log: no line breaks, no control characters, no credentials."""
    plain = "".join(character if character.isprintable() else " " for character in redact(text[: 8 * MAX_WORDS]))
    plain = " ".join(plain.split())
    return plain if len(plain) <= MAX_WORDS else f"{plain[: MAX_WORDS - 3]}..."


def words_of(headers: Mapping[str, str], body: bytes) -> tuple[str, Mapping[str, object]]:
    """What an error says in a few words, fit for a log, and the JSON object that it says it in, if it is one."""
    kind = headers.get("Content-Type", "").lower()
    document: object = None
    if body[:1] in {b"{", b"["} or "json" in kind:
        try:
            document = loads(body)
        except ValueError:
            document = None
    if isinstance(document, dict):
        found = (document.get(key) for key in ("message", "detail", "error", "title"))
        text = next((_text(value) for value in found if value), "")
        return shorten(text), document
    if "html" in kind or body.lstrip()[:1] == b"<":
        return "with an HTML page", {}
    text = body[: 8 * MAX_WORDS].decode("utf-8", "replace")
    return shorten(text) if _readable(text) else "", {}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        inner = value.get("message") or value.get("detail")
        if isinstance(inner, str):
            return inner
    try:
        return json.dumps(value)[: 8 * MAX_WORDS]
    except (ValueError, RecursionError):
        return ""


def _readable(text: str) -> bool:
    return sum(not character.isprintable() and not character.isspace() for character in text) * 10 < len(text)


def seconds_in(value: object) -> float | None:
    """A number of seconds, not negative, finite; None where the value is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


class AnswerBody:
    """Collects the body of an answer, unpacked; never holds more than the limit. Fed in the order of arrival.

    Args:
        headers: of the answer.
        max_bytes: the limit, for what came and for what it unpacks to.

    Raises:
        TooLargeError: the answer says itself that it is too long.
        ValueError: it is packed in a way that was not asked for.
    """

    def __init__(self, headers: Mapping[str, str], max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._content = bytearray()
        self._unpack = _unpacker(headers.get("Content-Encoding", ""))
        length = headers.get("Content-Length", "")
        if length.isdecimal() and int(length[:20]) > max_bytes:
            raise TooLargeError

    def feed(self, data: bytes) -> None:
        """Take a piece.

        Raises:
            TooLargeError: it is too much now.
            ValueError: it cannot be unpacked.
        """
        if self._unpack is not None:
            try:
                data = self._unpack.decompress(data, self._max_bytes - len(self._content) + 1)
            except zlib.error as error:
                raise ValueError("an answer that cannot be unpacked") from error
        if len(self._content) + len(data) > self._max_bytes:
            raise TooLargeError
        self._content += data

    def finish(self) -> bytes:
        """All of it.

        Raises:
            ValueError: what it is packed in does not end.
        """
        if self._unpack is not None and not self._unpack.eof:
            raise ValueError("a packed answer that was cut off")
        return bytes(self._content)


def _unpacker(encoding: str) -> "zlib._Decompress | None":
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return None
    if name in {"gzip", "x-gzip", "deflate"}:
        return zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out by itself which of the two it is
    raise ValueError("an answer packed in a way that was not asked for")
