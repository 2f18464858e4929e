"""HTTPS with the operator's certificate."""

import asyncio
import ssl

import aiohttp
import pytest
from serving import FakeControl, make_server

from pipeline.server.app import Limits

trustme = pytest.importorskip("trustme", reason="the package trustme is not installed")


@pytest.fixture
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and a client's that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def test_with_a_certificate_it_speaks_https_and_nothing_else(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, client = contexts

    async def main() -> None:
        under_test = make_server(FakeControl(), tls=server)
        await under_test.start()
        try:
            assert under_test.url.startswith("https://127.0.0.1:")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{under_test.url}/livez", ssl=client) as answer:
                    assert answer.status == 200
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await session.get(f"{under_test.url}/livez")
            reader, writer = await asyncio.open_connection(*under_test.address)
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with_reset = await asyncio.gather(reader.read(), return_exceptions=True)
            assert b"HTTP/1.1 200" not in (with_reset[0] if isinstance(with_reset[0], bytes) else b"")
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        finally:
            await under_test.close()

    asyncio.run(main())


def test_a_client_that_never_agrees_on_tls_is_closed(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        under_test = make_server(FakeControl(), tls=contexts[0], limits=Limits(handshake_s=0.2))
        await under_test.start()
        try:
            reader, writer = await asyncio.open_connection(*under_test.address)
            await asyncio.wait_for(asyncio.gather(reader.read(), return_exceptions=True), 10)
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        finally:
            await under_test.close()

    asyncio.run(main())
