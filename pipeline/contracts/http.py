"""The keys by which a plugin says what it asks over HTTP: the URL and the headers."""

from typing import Annotated

from pydantic import AfterValidator, SecretStr

from pipeline.contracts.secret import SecretUrl

_TOKEN_CHARS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# What frames a request: two of them would contradict each other.
_OURS = frozenset({"content-length", "content-type", "content-encoding", "transfer-encoding", "host", "connection"})


def check_http(url: SecretUrl) -> SecretUrl:
    """The URL itself, if it can be asked over HTTP.

    Raises:
        ValueError: it cannot; for a validator.
    """
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError('must begin with "http://" or "https://" and name a host')
    if "#" in url.reveal():
        raise ValueError("must not hold a fragment (#...): nothing of it would be sent")
    return url


def _headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not name or not _TOKEN_CHARS.issuperset(name):
            raise ValueError("a header's name holds letters, digits and dashes only")
        if name.lower() in _OURS:
            raise ValueError(f"{name} is set by the program itself")
        if any(character in value.get_secret_value() for character in "\r\n\0"):
            raise ValueError(f"the value of {name} holds a line break")
    return headers


def host_and_port(url: SecretUrl) -> str:
    """Host and port for logs and errors; nothing secret can be in them."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return host if url.port is None else f"{host}:{url.port}"


HttpUrl = Annotated[SecretUrl, AfterValidator(check_http)]
"""An http:// or https:// URL that may hold credentials, in front of the host or in its query."""

Headers = Annotated[dict[str, SecretStr], AfterValidator(_headers)]
"""Headers to be sent with every request: names that can be sent, values that are secrets."""
