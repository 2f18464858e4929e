"""Who may ask for what: bearer tokens with scopes, and no orders from other people's web pages."""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Literal

from aiohttp import web

from pipeline.contracts.clock import Clock, SystemClock

Scope = Literal["open", "metrics", "read", "control", "infer"]
"""Who may ask: anybody (health only), who may scrape, read, give orders, use the models. None includes another."""

LOCAL = "local"
"""Who asks where there are no tokens: somebody on this machine."""

_SAFE_METHODS = ("GET", "HEAD")
_MAX_OFFERED = 8


class DeniedError(Exception):
    """The request is not allowed.

    Attributes:
        status: 401: it is not known who asks; 403: it is, and it may not.
        reason: one line for the client.
        who: name of the token; None where it is not known.
    """

    def __init__(self, status: HTTPStatus, reason: str, who: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.who = who


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """One token; its secret is kept as a digest only.

    Attributes:
        name: how the log calls who holds it.
        digest: SHA-256 of the secret.
        scopes: what it is good for.
        expires: no longer good from then on; with a time zone.
    """

    name: str
    digest: bytes
    scopes: frozenset[str]
    expires: datetime | None = None

    @classmethod
    def of(cls, name: str, secret: str, scopes: Iterable[str], expires: datetime | None = None) -> "Token":
        """From the secret itself."""
        return cls(name, _digest(secret), frozenset(scopes), expires)


class Access:
    """Knows all tokens. Made by the app; used on the server's loop.

    Args:
        tokens: may be none.
        clock: tells whether one has expired.
        exposed: other machines can ask: without a token nobody may, even while there are none.
    """

    def __init__(self, tokens: Iterable[Token] = (), clock: Clock | None = None, *, exposed: bool = False) -> None:
        self._tokens = tuple(tokens)
        self._exposed = exposed
        self._clock = clock or SystemClock()

    def replace(self, tokens: Iterable[Token]) -> None:
        """Know these from now on, and no others: a reload changed them."""
        self._tokens = tuple(tokens)

    def admit(self, request: web.Request, scope: Scope, *, offered: Sequence[str] = ()) -> str:
        """The name of who asks, who may.

        Args:
            request: with a bearer token, if any.
            scope: what is asked for.
            offered: what the request holds elsewhere that may be a token, too: one that is good is enough.

        Raises:
            DeniedError: it may not.
        """
        # To use the models costs something, by GET as well.
        if request.method not in _SAFE_METHODS or scope == "infer":
            _refuse_other_sites(request)
        if scope == "open" or not (self._tokens or self._exposed):
            return LOCAL
        token = self._token_of(request, offered)
        if scope not in token.scopes:
            raise DeniedError(HTTPStatus.FORBIDDEN, f"this token has not the scope {scope!r}", token.name)
        return token.name

    def may(self, request: web.Request, scope: Scope) -> bool:
        """Whether who asks may see more than everybody."""
        try:
            self.admit(request, scope)
        except DeniedError:
            return False
        return True

    def _token_of(self, request: web.Request, offered: Sequence[str]) -> Token:
        kind, _, bearer = request.headers.get("Authorization", "").partition(" ")
        secrets = [secret.strip() for secret in (bearer if kind.lower() == "bearer" else "", *offered)]
        digests = [_digest(secret) for secret in secrets[:_MAX_OFFERED] if secret]
        if not digests:
            raise DeniedError(HTTPStatus.UNAUTHORIZED, "a token is needed: send `Authorization: Bearer TOKEN`")
        # All are compared, whichever it is: the time tells nothing about any of them.
        pairs = [(token, digest) for digest in digests for token in self._tokens]
        matching = [token for token, digest in pairs if hmac.compare_digest(digest, token.digest)]
        if not matching:
            raise DeniedError(HTTPStatus.UNAUTHORIZED, "this token is not known here")
        token = matching[0]
        # An end in the calendar is a matter of the wall clock.
        if token.expires is not None and self._clock.wall() >= token.expires.timestamp():
            raise DeniedError(HTTPStatus.UNAUTHORIZED, "this token has expired", token.name)
        return token


def _refuse_other_sites(request: web.Request) -> None:
    """Orders from a web page that was not served here: a browser would send them for anybody (CSRF).

    Raises:
        DeniedError: a browser sends this for another site. Programs send neither of the two headers.
    """
    denied = DeniedError(HTTPStatus.FORBIDDEN, "orders from web pages of other sites are refused")
    if request.headers.get("Sec-Fetch-Site", "none").lower() not in ("same-origin", "none"):
        raise denied
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower().partition("://")[2] != request.headers.get("Host", "").lower():
        raise denied


def _digest(secret: str) -> bytes:
    # A header holds anything, and JSON can hold half a character.
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
