"""Bytes of requests: where one goes, and its body. Pure."""

import json
from urllib.parse import quote, urlencode, urlsplit

from pipeline.backends._http import Request
from pipeline.contracts.secret import SecretUrl
from pipeline.wire.http import PATH_CHARS, multipart


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
    path = quote(path, safe=PATH_CHARS)
    return f"{root.scheme}://{place}{path or '/'}{f'?{query}' if query else ''}"


def body_of(request: Request) -> tuple[bytes | None, str | None]:
    """The body and its type; None where there is none, or where the request's own headers name the type."""
    if request.json is not None:
        return json.dumps(request.json, separators=(",", ":"), allow_nan=False).encode(), "application/json"
    if request.body is None or isinstance(request.body, bytes):
        return request.body, None
    return multipart(request.body)
