"""Bytes of requests and answers: where a request goes, its body, and the body of an answer within its limit. Pure."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote, urlencode, urlsplit
from uuid import uuid4

from pipeline.backends._http import Part, Request
from pipeline.contracts.secret import SecretUrl

ENCODINGS = "gzip, deflate"
_PATH_CHARS = "/:@!$&'()*+,;=~%-._"  # RFC 3986, 3.3; % as the dialect may have encoded something itself


class TooLargeError(Exception):
    """The answer is over the limit."""


def target(base: SecretUrl, request: Request) -> str:
    """The URL to ask, without user and password.

    Raises:
        ValueError: the request names another server.
    """
    root = urlsplit(base.reveal())
    place = root.netloc.rpartition("@")[2]
    path, query = root.path, root.query
    if "://" in request.path:
        whole = urlsplit(request.path)
        if (whole.scheme.lower(), whole.netloc.lower()) != (root.scheme.lower(), place.lower()):
            raise ValueError("another server is named")
        path, query = whole.path, whole.query
    elif request.path:
        path = f"{path.rstrip('/')}/{request.path.lstrip('/')}"
    pairs = [(name, value) for name, value in request.query if value is not None]
    more = urlencode(pairs, quote_via=quote, safe="")
    query = "&".join(part for part in (query, more) if part)
    path = quote(path, safe=_PATH_CHARS)
    return f"{root.scheme}://{place}{path or '/'}{f'?{query}' if query else ''}"


def authorization(base: SecretUrl) -> str | None:
    """The `Authorization` of a URL with user and password (RFC 7617)."""
    netloc, at, _ = urlsplit(base.reveal()).netloc.rpartition("@")
    if not at:
        return None
    user, _, password = netloc.partition(":")
    pair = f"{unquote(user)}:{unquote(password)}".encode()
    return f"Basic {base64.b64encode(pair).decode('ascii')}"


def body_of(request: Request) -> tuple[bytes | None, str | None]:
    """The body and its type; None where there is none, or where the request's own headers name the type."""
    if request.json is not None:
        return json.dumps(request.json, separators=(",", ":"), allow_nan=False).encode(), "application/json"
    if request.body is None or isinstance(request.body, bytes):
        return request.body, None
    return _multipart(request.body)


def _multipart(parts: Sequence[Part]) -> tuple[bytes, str]:
    """RFC 7578; names are escaped as browsers do it (HTML, "multipart/form-data encoding algorithm")."""
    boundary = uuid4().hex
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
