"""`Fetcher`: files that a request names by URL, from hosts that may be asked and from no others (SSRF)."""

import asyncio
import ipaddress
import socket
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from pipeline.server.inference.budget import Budget, LeasedBytes
from pipeline.server.inference.limits import InferenceLimits
from pipeline.server.inference.refusal import RefusedError

MAX_REDIRECTS: Final = 3
_AT_ONCE = 8
_MAX_URL_CHARS = 4_096
_REDIRECTS = (301, 302, 303, 307, 308)
# Pictures, and what careless servers call them. No playlists, no pages.
_CONTENT_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")

REFUSAL: Final = (
    "no picture can be had from this URL; server.inference.allow_urls, url_hosts and allow_private_urls say from where "
    "pictures may be fetched"
)
"""The one text for every reason: another one for each would tell what there is behind the firewall."""


class _BlockedError(OSError):
    """This address is not for clients."""


class Fetcher:
    """Made by the server; used on its loop. The session is made at the first fetch.

    Args:
        limits: whether, from where, how much and for how long.
        budget: where fetched files are counted.
        resolver: for tests.
    """

    def __init__(self, limits: InferenceLimits, budget: Budget, resolver: AbstractResolver | None = None) -> None:
        self._limits = limits
        self._budget = budget
        self._resolver = resolver
        self._hosts = frozenset(host.lower().rstrip(".") for host in limits.url_hosts)
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def fetch(self, url: str) -> bytes:
        """The file behind a URL.

        Raises:
            RefusedError: 400, with `REFUSAL`; 503 where too much is held.
        """
        if not self._limits.allow_urls:
            raise RefusedError(400, REFUSAL)
        try:
            async with asyncio.timeout(self._limits.fetch_s), self._free:
                return await self._follow(_parsed(url))
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            raise RefusedError(400, REFUSAL) from error

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def _follow(self, url: URL) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            session = self._session(self._may_be_private(url))
            async with session.get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._file(response)
                where = response.headers.get("Location", "")
            url = url.join(_parsed(where, relative=True))
            _check(url)
        raise ValueError("too many redirects")

    async def _file(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise ValueError("not there")
        # aiohttp calls what has no type application/octet-stream.
        if not response.content_type.lower().startswith(_CONTENT_TYPES):
            raise ValueError("no picture")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ValueError("packed, though nobody asked for that")
        lease, file = self._budget.lease(), bytearray()
        async for chunk in response.content.iter_any():
            if len(file) + len(chunk) > self._limits.max_body_bytes:
                raise ValueError("too large")
            lease.grow(len(chunk))
            file += chunk
        return LeasedBytes.of(file, lease)

    def _may_be_private(self, url: URL) -> bool:
        """Whether this host may have an address that is not public.

        Raises:
            ValueError: nothing may be fetched from it.
        """
        host = (url.host or "").lower().rstrip(".")
        if self._hosts and host not in self._hosts:
            raise ValueError("not one of the hosts")
        return self._limits.allow_private_urls and host in self._hosts

    def _session(self, private: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(private)
        if session is None:
            session = self._sessions[private] = aiohttp.ClientSession(
                # The socket is the last that sees the address, whatever was resolved, redirected or rebound before.
                connector=aiohttp.TCPConnector(
                    resolver=self._resolver,
                    socket_factory=_any_socket if private else _public_socket,
                    use_dns_cache=False,
                    force_close=True,
                    limit=_AT_ONCE,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "penstock", "Accept": "image/*", "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
                requote_redirect_url=False,
            )
        return session


def is_public(address: str) -> bool:
    """Whether an address is one of the internet, and nothing is hidden in it that is not."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo and parsed.teredo[1])
        if inner:
            return is_public(str(inner))
        if parsed in _NAT64:  # RFC 6052: the last 32 bits
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)))
        # What stands for an IPv4 address in ways that nobody uses any more: ::a.b.c.d (RFC 4291, 2.5.5.1).
        if parsed in _NAT64_LOCAL or int(parsed) >> 32 == 0 or parsed.is_site_local:
            return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified)


def _public_socket(address: Any) -> socket.socket:
    if not is_public(str(address[4][0])):
        raise _BlockedError("not a public address")
    return _any_socket(address)


def _any_socket(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    return made


def _parsed(text: str, *, relative: bool = False) -> URL:
    if len(text) > _MAX_URL_CHARS or "\\" in text or any(ord(char) < 0x21 for char in text):
        raise ValueError("no URL")
    url = URL(text)
    if not relative:
        _check(url)
    return url


def _check(url: URL) -> None:
    if url.scheme not in ("http", "https") or not url.host or url.user is not None or url.password is not None:
        raise ValueError("not of a kind that is fetched")
