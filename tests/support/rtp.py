"""Owns the bytes a camera sends: RTP packets of H.264, H.265, JPEG and PCMU, and RTCP sender reports."""

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

PAYLOAD_BYTES = 1400
VIDEO_CLOCK_HZ = 90_000
AUDIO_CLOCK_HZ = 8_000
AUDIO_PACKET_SAMPLES = 160
NTP_EPOCH_S = 2_208_988_800  # 1900 to 1970, RFC 5905
PAYLOAD_TYPE = {"h264": 96, "hevc": 96, "mjpeg": 26}


@dataclass(frozen=True)
class Payload:
    """What one RTP packet carries; `last` is the marker: the picture is complete."""

    data: bytes
    last: bool


def packet(payload: Payload, *, payload_type: int, seq: int, timestamp: int, ssrc: int) -> bytes:
    """An RTP packet (RFC 3550, 5.1)."""
    marker = 0x80 if payload.last else 0
    return struct.pack(">BBHII", 0x80, marker | payload_type, seq, timestamp, ssrc) + payload.data


def sender_report(*, ssrc: int, timestamp: int, packets: int, octets: int, offset_s: float) -> bytes:
    """An RTCP sender report (RFC 3550, 6.4.1): this RTP time stamp was at this wall-clock time."""
    now = time.time() + NTP_EPOCH_S + offset_s
    return struct.pack(
        ">BBHIIIIII", 0x80, 200, 6, ssrc, int(now), int(now % 1 * 2**32), timestamp, packets, octets & 0xFFFFFFFF
    )


def split(codec: str, units: list[bytes]) -> Iterator[Payload]:
    """Cut one picture into payloads."""
    if codec == "mjpeg":
        yield from _jpeg(units[0])
        return
    for number, unit in enumerate(units):
        last = number == len(units) - 1
        if len(unit) <= PAYLOAD_BYTES:
            yield Payload(unit, last)
        else:
            yield from _fragments(codec, unit, last)


def _fragments(codec: str, unit: bytes, last: bool) -> Iterator[Payload]:
    """Fragmentation units: RFC 6184, 5.8 (H.264) and RFC 7798, 4.4.3 (H.265)."""
    if codec == "h264":
        kind, indicator, body = unit[0] & 0x1F, bytes([unit[0] & 0xE0 | 28]), unit[1:]
    else:
        kind, indicator, body = unit[0] >> 1 & 0x3F, bytes([unit[0] & 0x81 | 49 << 1, unit[1]]), unit[2:]
    for start in range(0, len(body), PAYLOAD_BYTES):
        end = start + PAYLOAD_BYTES >= len(body)
        header = (0x80 if start == 0 else 0) | (0x40 if end else 0) | kind
        yield Payload(indicator + bytes([header]) + body[start : start + PAYLOAD_BYTES], last and end)


def _jpeg(picture: bytes) -> Iterator[Payload]:
    """JPEG over RTP (RFC 2435) with the picture's own quantisation tables and the standard Huffman tables."""
    tables, kind, width, height, scan = _jpeg_parts(picture)
    for start in range(0, len(scan), PAYLOAD_BYTES):
        header = struct.pack(">I", start) + bytes([kind, 255, width // 8, height // 8])
        if start == 0:
            header += struct.pack(">BBH", 0, 0, len(tables)) + tables
        yield Payload(header + scan[start : start + PAYLOAD_BYTES], start + PAYLOAD_BYTES >= len(scan))


def _jpeg_parts(picture: bytes) -> tuple[bytes, int, int, int, bytes]:
    """Tables, type (0: 4:2:2, 1: 4:2:0), width, height and the entropy-coded data of a baseline JPEG."""
    tables, kind, width, height, at = b"", 1, 0, 0, 2
    while True:
        marker, length = picture[at + 1], int.from_bytes(picture[at + 2 : at + 4], "big")
        body = picture[at + 4 : at + 2 + length]
        if marker == 0xDB:
            tables += b"".join(body[place + 1 : place + 65] for place in range(0, len(body), 65))
        elif marker == 0xC0:
            height, width = struct.unpack(">HH", body[1:5])
            kind = {0x21: 0, 0x22: 1}[body[7]]
        elif marker == 0xDA:
            return tables, kind, width, height, picture[at + 2 + length :].removesuffix(b"\xff\xd9")
        at += 2 + length
