"""Bodies of requests, as real clients and hostile ones send them, to the real server."""

import asyncio
import gzip
import io
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asking import FakeAsking, detector, inference
from serving import Ask, FakeControl, make_server, serve
from toy_dialect import toy

from pipeline.server.app import Limits, Server
from pipeline.server.inference.body import parse_json
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import InferenceLimits
from pipeline.wire.document import MAX_ITEMS

SMALL = InferenceLimits(max_body_bytes=200_000, timeout_s=5, body_s=0.3, body_bytes_per_s=1e6)
DATA = bytes(range(256)) * 400
Talk = Callable[[bytes], Awaitable[bytes]]


class Rig:
    """The toy dialect behind a real server; `talk` sends bytes as they are and reads until the server closes."""

    def __init__(self, limits: InferenceLimits = SMALL) -> None:
        self.limits = limits
        self.address = ("", 0)
        self.held_bytes: Callable[[], int] = lambda: 0

    def run(self, test: Callable[[Ask, Talk], Awaitable[None]]) -> None:
        servers: list[Server] = []

        def make() -> Server:
            offered = inference(FakeAsking(detector()), {"": toy}, self.limits)
            budget = offered._service._bodies.budget
            self.held_bytes = lambda: budget.held_bytes
            servers.append(make_server(FakeControl(), inference=offered, limits=Limits(linger_s=0.2, idle_s=0.5)))
            return servers[0]

        async def talk(sent: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(*self.address)
            writer.write(sent)
            received = await reader.read()
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
            return received

        async def both(ask: Ask) -> None:
            self.address = servers[0].address
            await test(ask, talk)
            assert self.held_bytes() == 0, "bytes are still counted after the last request"

        serve(make, both)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        (None, DATA),
        ("identity", DATA),
        ("gzip", gzip.compress(DATA)),
        ("x-gzip", gzip.compress(DATA)),
        ("deflate", zlib.compress(DATA)),
        ("deflate", zlib.compress(DATA, wbits=-15)),
        ("GZIP", gzip.compress(b"")),
    ],
)
def test_a_body_is_unpacked_whatever_way_it_is_packed(encoding: str | None, packed: bytes) -> None:
    async def test(ask: Ask, _: Talk) -> None:
        headers = {} if encoding is None else {"Content-Encoding": encoding}
        for method in ("POST", "GET"):
            answer = await ask(method, "/toy/body", data=packed, headers=headers)
            assert (answer.status, answer.body["bytes"]) == (200, 0 if encoding == "GZIP" else len(DATA))

    Rig().run(test)


def test_a_body_in_chunks_is_read_to_its_end() -> None:
    async def chunks() -> Any:
        for at in range(0, len(DATA), 1000):
            yield DATA[at : at + 1000]

    async def test(ask: Ask, _: Talk) -> None:
        assert (await ask("POST", "/toy/body", data=chunks())).body["bytes"] == len(DATA)

    Rig().run(test)


def test_a_body_as_long_as_may_be_is_taken_and_one_byte_more_is_not() -> None:
    async def endless() -> Any:
        for _ in range(21):
            yield bytes(10_000)

    async def test(ask: Ask, _: Talk) -> None:
        assert (await ask("POST", "/toy/body", data=bytes(200_000))).body["bytes"] == 200_000
        for body in (bytes(200_001), endless()):
            answer = await ask("POST", "/toy/body", data=body)
            assert (answer.status, answer.body["toy"]) == (413, "the body is longer than 200000 bytes")

    Rig().run(test)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda data: zlib.compress(data, wbits=-15)])
def test_a_bomb_is_refused_before_it_is_unpacked(pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(50_000_000))
    assert len(bomb) < 60_000

    async def test(ask: Ask, _: Talk) -> None:
        kind = "gzip" if pack is gzip.compress else "deflate"
        answer = await ask("POST", "/toy/body", data=bomb, headers={"Content-Encoding": kind})
        assert answer.status == 413

    Rig().run(test)


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", b"this is none", 400),
        ("gzip", gzip.compress(DATA)[:-9], 400),
        ("gzip", gzip.compress(DATA)[:-4] + b"0000", 400),
        ("gzip", gzip.compress(DATA) + b"more", 400),
        ("gzip", gzip.compress(b"a") + gzip.compress(b"b"), 400),
        ("deflate", b"\x00\xff", 400),
        ("deflate", zlib.compress(DATA)[:-1], 400),
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
    ],
)
def test_what_does_not_unpack_is_a_clear_error(encoding: str, body: bytes, status: int) -> None:
    async def test(ask: Ask, _: Talk) -> None:
        answer = await ask("POST", "/toy/body", data=body, headers={"Content-Encoding": encoding})
        assert answer.status == status
        assert "ack" in answer.body["toy"] or "Content-Encoding" in answer.body["toy"]

    Rig().run(test)


HEAD = b"POST /toy/body HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 1000\r\n\r\nabc",
        HEAD + b"Content-Length: 1000\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_a_body_that_does_not_come_is_a_timeout_in_the_form_of_the_dialect(sent: bytes) -> None:
    async def test(_: Ask, talk: Talk) -> None:
        received = await talk(sent)
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b'{"toy":"the body did not come in time"' in received

    Rig().run(test)


def test_a_body_that_drips_is_cut_off() -> None:
    async def test(_: Ask, __: Talk) -> None:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        reader, writer = await asyncio.open_connection(*rig.address)
        writer.write(HEAD + b"Content-Length: 1000\r\n\r\n")
        line = asyncio.ensure_future(reader.readline())
        while not line.done():
            writer.write(b"x")
            await asyncio.wait([line], timeout=0.03)
        assert line.result() == b"HTTP/1.1 408 Request Timeout\r\n"
        assert loop.time() - began_at < 3
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    rig = Rig()
    rig.run(test)


def test_who_sends_fast_enough_may_take_longer_than_the_deadline() -> None:
    limits = InferenceLimits(max_body_bytes=200_000, timeout_s=5, body_s=0.3, body_bytes_per_s=20_000)

    async def slowly() -> Any:
        for _ in range(10):
            yield bytes(2_500)
            await asyncio.sleep(0.1)

    async def test(ask: Ask, _: Talk) -> None:
        assert (await ask("POST", "/toy/body", data=slowly())).body["bytes"] == 25_000

    Rig(limits).run(test)


@pytest.mark.parametrize("sent", [b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n"])
def test_malformed_chunks_are_the_clients_mistake(sent: bytes) -> None:
    async def test(_: Ask, talk: Talk) -> None:
        received = await talk(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + sent)
        assert received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))

    Rig().run(test)


def test_what_all_bodies_hold_together_is_bounded() -> None:
    limits = InferenceLimits(max_body_bytes=1024, timeout_s=5, body_s=5)
    assert limits.bodies_bytes == 64 << 20
    limits = InferenceLimits(max_body_bytes=40 << 20, timeout_s=5, body_s=5)
    part, whole = 30 << 20, 35 << 20

    async def test(ask: Ask, _: Talk) -> None:
        held = []
        for __ in range(2):
            reader, writer = await asyncio.open_connection(*rig.address)
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % whole + bytes(part))
            await writer.drain()
            held.append((reader, writer))
        while rig.held_bytes() < 2 * part:  # until the server has read what was sent
            assert (await ask("GET", "/livez")).status == 200
        answer = await ask("POST", "/toy/body", data=io.BytesIO(bytes(limits.bodies_bytes - 2 * part + 1)))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        for reader, writer in held:
            writer.write(bytes(whole - part))
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
            await writer.wait_closed()
        assert (await ask("POST", "/toy/body", data=io.BytesIO(bytes(part)))).status == 200

    rig = Rig(limits)
    rig.run(test)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"  ", b"{", b"nothing", b"[1,]", b"NaN", b"[Infinity]", b'{"a": -Infinity}', b"\xff\xfe\x00", b"\x00"),
        *(b"[" * 100_000, b'{"a":' * 30_000, b"[" * 5_000 + b"]" * 5_000, b"1" * 5_000, b"-" + b"9" * 70_000),
    ],
)
def test_what_is_no_json_is_400(body: bytes) -> None:
    async def test(ask: Ask, _: Talk) -> None:
        answer = await ask("POST", "/toy/json", data=body, headers={"Content-Type": "text/plain"})
        assert answer.status == 400
        assert "JSON" in answer.body["toy"]

    Rig().run(test)


@pytest.mark.parametrize("value", [None, 1, "a", [1, {"b": []}], {"a": "\ud800"}, [[]] * 50])
def test_json_is_read_whatever_its_content_type_says(value: object) -> None:
    async def test(ask: Ask, _: Talk) -> None:
        for kind in ("application/json", "image/jpeg", ""):
            answer = await ask("POST", "/toy/json", data=json.dumps(value), headers={"Content-Type": kind})
            assert answer.body == {"is": repr(value)[:100]}

    Rig().run(test)


@pytest.mark.parametrize("item", [b"0,", b"[],", b"{},", b'"a":1,'])
def test_a_document_of_too_many_items_is_refused_before_it_is_read(item: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_json(b"[" + item * MAX_ITEMS + b"0]")
    assert caught.value.status == 413


def test_a_tensor_as_numbers_and_a_large_picture_in_base64_are_no_such_document() -> None:
    assert len(parse_json(b"[" + b"0.5," * (3 * 640 * 640) + b"0]")) == 3 * 640 * 640 + 1
    assert len(parse_json(b'{"image":"' + b"/9j+" * 2_000_000 + b'"}')["image"]) == 8_000_000
