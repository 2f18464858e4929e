"""URLs that a request names: nothing of the internal network is reached, whatever they look like."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from asking import picture_file
from hypothesis import given
from hypothesis import strategies as st

from pipeline.server.inference.budget import Budget
from pipeline.server.inference.fetch import REFUSAL, Fetcher, is_public
from pipeline.server.inference.limits import InferenceLimits
from pipeline.server.inference.refusal import RefusedError

NAMES = {
    "public.test": "93.184.216.34",
    "internal.test": "127.0.0.1",
    "mapped.test": "::ffff:127.0.0.1",
    "meta.test": "169.254.169.254",
}
OPEN = InferenceLimits(allow_urls=True, fetch_s=2, max_body_bytes=100_000)


class Resolver(AbstractResolver):
    """Knows `NAMES`; any other name is public the first time, and this machine from then on (DNS rebinding)."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        address = NAMES.get(host.rstrip(".")) or ("93.184.216.34" if self.asked.count(host) == 1 else "127.0.0.1")
        found = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=found, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is open."""


class Inside:
    """A server that nobody should reach; `hits` are the paths that were asked for."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        self.port = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:  # noqa: PLR0911 - one for each path
        self.hits.append(request.path_qs)
        assert "Cookie" not in request.headers
        assert "Authorization" not in request.headers
        match request.match_info["what"]:
            case "picture":
                return web.Response(body=picture_file(), content_type="image/jpeg", headers={"Set-Cookie": "a=b"})
            case "hops" if (left := int(request.query["left"])) > 0:
                return web.Response(status=307, headers={"Location": f"hops?left={left - 1}"})
            case "hops":
                return web.Response(body=picture_file(), content_type="image/jpeg")
            case "redirect":
                return web.Response(status=302, headers={"Location": request.query["to"], "Set-Cookie": "a=b"})
            case "long":
                return web.Response(body=bytes(100_001), content_type="image/png")
            case "endless":
                response = web.StreamResponse(headers={"Content-Type": "image/png"})
                await response.prepare(request)
                while True:
                    await response.write(bytes(10_000))
            case "silent":
                await asyncio.sleep(60)
            case "packed":
                return web.Response(body=b"x", content_type="image/png", headers={"Content-Encoding": "gzip"})
            case "playlist":
                return web.Response(body=b"#EXTM3U\n", content_type="application/vnd.apple.mpegurl")
        return web.Response(text="SECRET", status=200 if request.match_info["what"] == "page" else 404)


def run(test: Callable[[Fetcher, Inside, Resolver], Awaitable[None]], limits: InferenceLimits = OPEN) -> None:
    async def main() -> None:
        inside, resolver = Inside(), Resolver()
        app = web.Application()
        app.router.add_get("/{what}", inside.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", 0).start()  # noqa: S104 - it is about what can be reached there
        inside.port = runner.addresses[0][1]
        fetcher = Fetcher(limits, Budget(1_000_000, "files"), resolver)
        try:
            await test(fetcher, inside, resolver)
        finally:
            await fetcher.close()
            await runner.cleanup()

    asyncio.run(main())


async def refused(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(RefusedError) as caught:
        await fetcher.fetch(url)
    assert (caught.value.status, caught.value.message) == (400, REFUSAL)


URLS = [
    "http://127.0.0.1:{port}/picture",
    "http://internal.test:{port}/picture",
    "http://[::ffff:127.0.0.1]:{port}/picture",
    "http://[::1]:{port}/picture",
    "http://2130706433:{port}/picture",
    "http://0x7f.1:{port}/picture",
    "http://127.1:{port}/picture",
    "http://0.0.0.0:{port}/picture",
    "http://[::]:{port}/picture",
    "http://public.test\\@127.0.0.1:{port}/picture",
    "http://public.test@127.0.0.1:{port}/picture",
    "http://meta.test:{port}/latest/meta-data",
    "http://mapped.test:{port}/picture",
    "http://localhost.:{port}/picture",
    "http://localhost:{port}/picture",
    "http://LOCALHOST:{port}/picture",
    "http://127.0.0.1:{port}/picture\r\nX: y",
    "http:127.0.0.1:{port}/picture",
    "//127.0.0.1:{port}/picture",
    "file:///etc/passwd",
    "ftp://127.0.0.1:{port}/picture",
    "gopher://127.0.0.1:{port}/picture",
    "data:image/png;base64,QQ==",
    "rtsp://127.0.0.1:{port}/picture",
    "http://",
    "http:///picture",
    "http://[::1",
    "http://127.0.0.1:99999/",
    "",
    "picture",
    "http://" + "a" * 5_000,
]


@pytest.mark.parametrize("url", URLS)
def test_nothing_inside_is_reached_by_any_spelling(url: str) -> None:
    async def test(fetcher: Fetcher, inside: Inside, _: Resolver) -> None:
        await refused(fetcher, url.replace("{port}", str(inside.port)))
        assert inside.hits == []

    run(test)


def test_a_name_that_is_rebound_between_two_looks_is_of_no_use() -> None:
    async def test(fetcher: Fetcher, inside: Inside, resolver: Resolver) -> None:
        for number in range(3):
            await refused(fetcher, f"http://rebound.test:{inside.port}/picture?{number}")
        assert inside.hits == []
        assert resolver.asked.count("rebound.test") == 3

    run(test, InferenceLimits(allow_urls=True, fetch_s=0.3))


LISTED = InferenceLimits(
    allow_urls=True,
    fetch_s=1,
    max_body_bytes=100_000,
    url_hosts=("internal.test", "Gate.test"),
    allow_private_urls=True,
)


def test_a_host_that_the_operator_named_may_be_inside_and_no_other() -> None:
    async def test(fetcher: Fetcher, inside: Inside, _: Resolver) -> None:
        assert await fetcher.fetch(f"http://internal.test:{inside.port}/picture") == picture_file()
        assert await fetcher.fetch(f"http://INTERNAL.test.:{inside.port}/picture") == picture_file()
        assert len(inside.hits) == 2
        for host in ("localhost", "127.0.0.1", "mapped.test", "public.test", "x.internal.test"):
            await refused(fetcher, f"http://{host}:{inside.port}/picture")
        assert len(inside.hits) == 2

    run(test, LISTED)


def test_a_host_on_the_list_is_not_private_unless_that_is_said_too() -> None:
    limits = InferenceLimits(allow_urls=True, fetch_s=1, url_hosts=("internal.test",))

    async def test(fetcher: Fetcher, inside: Inside, _: Resolver) -> None:
        await refused(fetcher, f"http://internal.test:{inside.port}/picture")
        assert inside.hits == []

    run(test, limits)


def test_without_a_list_private_addresses_stay_closed() -> None:
    limits = InferenceLimits(allow_urls=True, fetch_s=1, allow_private_urls=True)

    async def test(fetcher: Fetcher, inside: Inside, _: Resolver) -> None:
        await refused(fetcher, f"http://internal.test:{inside.port}/picture")
        assert inside.hits == []

    run(test, limits)


def test_nothing_is_fetched_unless_it_is_allowed() -> None:
    async def test(fetcher: Fetcher, inside: Inside, resolver: Resolver) -> None:
        await refused(fetcher, f"http://internal.test:{inside.port}/picture")
        assert (inside.hits, resolver.asked) == ([], [])

    run(test, InferenceLimits(url_hosts=("internal.test",), allow_private_urls=True))


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.1:{port}/picture",
        "http://localhost:{port}/picture",
        "//127.0.0.1:{port}/picture",
        "file:///etc/passwd",
        "http://user:pass@internal.test:{port}/picture",
        "http://internal.test\\@127.0.0.1:{port}/picture",
        "",
    ],
)
def test_every_hop_of_a_redirect_is_looked_at(to: str) -> None:
    async def test(fetcher: Fetcher, inside: Inside, _: Resolver) -> None:
        await refused(fetcher, f"http://internal.test:{inside.port}/redirect?to={quote(to.format(port=inside.port))}")
        assert [hit.partition("?")[0] for hit in inside.hits] in (["/redirect"], ["/redirect"] * 4)
        assert "/picture" not in inside.hits

    run(test, LISTED)


def test_three_redirects_are_followed_and_a_fourth_is_not() -> None:
    async def test(fetcher: Fetcher, inside: Inside, _: Resolver) -> None:
        home = f"http://internal.test:{inside.port}"
        assert await fetcher.fetch(f"{home}/redirect?to={home}/picture") == picture_file()
        assert await fetcher.fetch(f"{home}/hops?left=3") == picture_file()
        inside.hits.clear()
        await refused(fetcher, f"{home}/hops?left=4")
        assert inside.hits == [f"/hops?left={left}" for left in (4, 3, 2, 1)]

    run(test, LISTED)


@pytest.mark.parametrize("what", ["page", "nothing", "long", "endless", "silent", "packed", "playlist"])
def test_what_is_no_picture_of_a_fair_size_is_refused_in_time(what: str) -> None:
    async def test(fetcher: Fetcher, inside: Inside, _: Resolver) -> None:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        await refused(fetcher, f"http://internal.test:{inside.port}/{what}")
        assert loop.time() - began_at < 3
        assert len(inside.hits) == 1

    run(test, LISTED)


def test_more_than_may_be_held_is_busy() -> None:
    async def test(fetcher: Fetcher, inside: Inside, _: Resolver) -> None:
        held = fetcher._budget.lease(1_000_000 - 100)
        with pytest.raises(RefusedError) as caught:
            await fetcher.fetch(f"http://internal.test:{inside.port}/picture")
        assert caught.value.status == 503
        held.release()
        assert await fetcher.fetch(f"http://internal.test:{inside.port}/picture")

    run(test, LISTED)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((text, True) for text in ("93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8")),
        *((text, True) for text in ("64:ff9b::808:808", "2002:808:808::1")),
        *((text, False) for text in ("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1")),  # noqa: S104
        *((text, False) for text in ("192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "192.0.2.1")),
        *((text, False) for text in ("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255")),
        *((text, False) for text in ("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1")),
        *((text, False) for text in ("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "::7f00:1")),
        *((text, False) for text in ("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::7f00:1")),
        *((text, False) for text in ("2002:7f00:1::", "2002:a00:1::", "2001:db8::1", "fec0::1", "2001:0:1::1")),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@given(st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=4, network="127.0.0.0/8"))
def test_no_wrapping_makes_an_inner_address_public(inner: Any) -> None:
    number = int(inner)
    wrapped = [f"::ffff:{inner}", f"::{inner}", f"64:ff9b::{inner}", f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1"]
    assert not any(is_public(address) for address in (str(inner), *wrapped))


@given(st.text(max_size=60))
def test_any_text_is_refused_and_nothing_else(text: str) -> None:
    async def main() -> None:
        fetcher = Fetcher(InferenceLimits(allow_urls=True, url_hosts=("none.test",)), Budget(1, "files"), Resolver())
        for url in (text, f"http://{text}", f"http://none.test@{text}/", f"https:{text}"):
            await refused(fetcher, url)
        await fetcher.close()

    asyncio.run(main())
