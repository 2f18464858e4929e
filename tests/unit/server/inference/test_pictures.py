"""Pictures out of requests: what is taken, what is refused, and what all of them hold together."""

import asyncio
import base64
import contextlib
import gc
import io
import resource
import struct
import threading
import time
import zlib
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from asking import picture_file
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.contracts.frame import Picture
from pipeline.models.images import BrokenPictureError, TooLargeError, decode_picture
from pipeline.server.inference.limits import InferenceLimits
from pipeline.server.inference.pictures import PictureReader, unbase64
from pipeline.server.inference.refusal import RefusedError

LIMITS = InferenceLimits(max_pixels=1_000_000)


def run(test: Callable[[PictureReader], Awaitable[None]], limits: InferenceLimits = LIMITS) -> PictureReader:
    reader = PictureReader(limits)

    async def main() -> None:
        try:
            await test(reader)
        finally:
            await reader.close()

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]
    return reader


def png_header(width: int, height: int) -> bytes:
    """A PNG that says what it is, and holds a kilobyte of nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


async def until_held(reader: PictureReader, size_bytes: int) -> None:
    """Until so much is held: the thread that decoded the last picture lets go of it a moment after it was handed over.

    Nothing collects garbage meanwhile: what is let go must not be part of a cycle.
    """
    gc.disable()
    try:
        async with asyncio.timeout(5):
            while reader.budget.held_bytes != size_bytes:
                await asyncio.to_thread(time.sleep, 0)
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_picture_of_each_kind_is_decoded(kind: str) -> None:
    async def test(reader: PictureReader) -> None:
        options = {"lossless": True} if kind == "WEBP" else {}
        picture = await reader.decode(picture_file(40, 30, kind, **options))
        assert picture.size == (40, 30)
        assert np.allclose(picture.rgb()[10, :, 0], np.linspace(0, 255, 40), atol=4)

    run(test)


def test_a_picture_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    async def test(reader: PictureReader) -> None:
        assert (await reader.decode(picture_file(40, 30, exif=exif))).size == (30, 40)

    run(test)


BROKEN = {
    "nothing": b"",
    "text": b"hello",
    "gif": b"GIF89a" + bytes(100),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "half a jpeg": picture_file()[:2000],
    "half a png": picture_file(kind="PNG")[:200],
    "half a webp": picture_file(kind="WEBP")[:200],
    "half a bmp": picture_file(kind="BMP")[:5000],
    "half a tiff": picture_file(kind="TIFF")[:5000],
    "only a head": b"\xff\xd8\xff",
    "webp head": b"RIFF\0\0\0\0WEBPVP8X",
    "pickle": b"\x80\x04\x95",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_whole_picture_is_400(data: bytes) -> None:
    async def test(reader: PictureReader) -> None:
        with pytest.raises(RefusedError) as caught:
            await reader.decode(data)
        assert caught.value.status == 400
        assert "\n" not in caught.value.message

    reader = run(test)
    assert reader.budget.held_bytes == 0


def test_a_bomb_is_413_before_it_is_decoded() -> None:
    bombs = [
        png_header(30_000, 30_000),
        png_header(1001, 1000),
        picture_file(1200, 1000),
        picture_file(1, 1_000_001, "BMP"),
    ]

    async def test(reader: PictureReader) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began_at = time.monotonic()
        for bomb in bombs:
            with pytest.raises(RefusedError) as caught:
                await reader.decode(bomb)
            assert caught.value.status == 413
            assert "max_pixels = 1000000" in caught.value.message
        assert time.monotonic() - began_at < 1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000

    run(test)


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    with pytest.raises(BrokenPictureError, match="scans"):
        decode_picture(picture_file()[:-2] + scan * 1000 + b"\xff\xd9", 1_000_000)


def test_who_is_told_the_size_may_refuse_before_anything_is_decoded() -> None:
    told = []

    def refuse(width: int, height: int) -> None:
        told.append((width, height))
        raise LookupError("no")

    with pytest.raises(LookupError):
        decode_picture(png_header(900, 800), 1_000_000, refuse)
    assert told == [(900, 800)]
    with pytest.raises(TooLargeError):
        decode_picture(png_header(9000, 800), 1_000_000, refuse)


def test_what_pictures_hold_is_counted_until_they_are_let_go() -> None:
    async def test(reader: PictureReader) -> None:
        pictures = [await reader.decode(picture_file()) for _ in range(3)]
        assert reader.budget.held_bytes == 3 * 320 * 240 * 3
        pictures.pop()
        await until_held(reader, 2 * 320 * 240 * 3)
        pictures.clear()
        await until_held(reader, 0)

    run(test)


def test_pictures_beyond_what_may_be_held_are_turned_away_and_taken_again_later() -> None:
    file, held = picture_file(1000, 1000), []

    async def test(reader: PictureReader) -> None:
        most = reader.budget.total_bytes // 3_000_000
        held.extend([await reader.decode(file) for _ in range(most)])
        with pytest.raises(RefusedError) as caught:
            await reader.decode(file)
        assert (caught.value.status, caught.value.retry_after_s) == (503, 1.0)
        held.pop()
        await until_held(reader, (most - 1) * 3_000_000)
        held.append(await reader.decode(file))
        held.clear()

    run(test)


def test_more_pictures_than_may_wait_are_turned_away() -> None:
    limits = InferenceLimits(max_waiting=2, max_pictures=2, decoders=1)

    async def test(reader: PictureReader) -> None:
        gate = threading.Event()

        def wait() -> Picture:
            gate.wait(10)
            raise ZeroDivisionError

        blocked = asyncio.ensure_future(reader._in_a_thread(wait))
        second = asyncio.ensure_future(reader.decode(picture_file()))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError) as caught:
            await reader.decode(picture_file())
        assert caught.value.status == 503
        second.cancel()  # a client that is gone makes room
        gate.set()
        with pytest.raises(ZeroDivisionError):
            await blocked
        assert (await reader.decode(picture_file())).size == (320, 240)

    run(test, limits)


JPEG = picture_file()
TEXT = base64.b64encode(JPEG).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.encode(),
        TEXT.rstrip("="),
        base64.encodebytes(JPEG),
        "\r\n".join([TEXT[:100], TEXT[100:]]) + "\n",
        base64.urlsafe_b64encode(JPEG),
        f"data:image/jpeg;base64,{TEXT}",
        f"  data:image/png;charset=utf-8;base64,{TEXT}",
        f"data:,{TEXT}",
    ],
    ids=range(9),
)
def test_base64_is_read_in_all_its_spellings(text: str | bytes) -> None:
    assert unbase64(text) == JPEG


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (JPEG, "encode it as base64"),
        (picture_file(kind="PNG"), "encode it as base64"),
        ("", "empty"),
        (b" \n", "empty"),
        ("/path/to/a.jpg", "no base64"),
        ("bröt", "no base64"),
        ("QQ=Q", "no base64"),
        ("QQQQQ", "no base64"),
        ("QQ==QQ==", "no base64"),
        (b"\x80\x04\x95pickled", "no base64"),
    ],
)
def test_what_is_no_base64_is_named_as_what_it_is(text: str | bytes, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        unbase64(text)
    assert caught.value.status == 400


@given(st.binary() | st.text())
def test_anything_is_bytes_or_a_refusal(text: str | bytes) -> None:
    with contextlib.suppress(RefusedError):
        unbase64(text)


@given(st.binary(min_size=1))
def test_what_is_encoded_comes_out_again(data: bytes) -> None:
    assert unbase64(base64.b64encode(data)) == data
    assert unbase64(base64.urlsafe_b64encode(data).rstrip(b"=")) == data


@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF"]), st.data())
def test_damaged_pictures_are_pictures_or_broken(kind: str, data: st.DataObject) -> None:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 100, 50)).save(file, kind)
    damaged = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BrokenPictureError):
        picture = decode_picture(bytes(damaged), 1_000_000)
        assert picture.size.width * picture.size.height <= 1_000_000
