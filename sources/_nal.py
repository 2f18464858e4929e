"""Looks into packets of H.264 and H.265 as far as their units' headers: ITU-T H.264 (7.3.1) and H.265 (7.3.1.2)."""

from collections.abc import Iterator

_IDR_H264 = 5
_IDR_H265 = frozenset([19, 20])  # IDR_W_RADL, IDR_N_LP
_FIRST_NO_PICTURE_H265 = 32


def length_size(codec: str, extradata: bytes | None) -> int:
    """How many bytes tell the length of each unit; 0: units begin with a start code (Annex B).

    Source: ISO/IEC 14496-15, the decoder configuration records.
    """
    if not extradata or extradata[0] != 1:
        return 0
    place = 4 if codec == "h264" else 21
    return (extradata[place] & 3) + 1 if len(extradata) > place else 0


def temporal_layers(extradata: bytes | None) -> int:
    """Of H.265, by its configuration record; 0: unknown."""
    return extradata[21] >> 3 & 7 if extradata and extradata[0] == 1 and len(extradata) > 21 else 0


def begins_anew(codec: str, packet: bytes, size_bytes: int) -> bool:
    """Whether it is an IDR picture: nothing after it builds on anything before it.

    Args:
        codec: "h264" or "hevc".
        packet: one access unit.
        size_bytes: as from `length_size`.
    """
    heads = _heads_with_lengths(packet, size_bytes) if size_bytes else _heads_with_start_codes(packet)
    for head in heads:
        if codec == "h264":
            kind = head & 31
            if 1 <= kind <= _IDR_H264:
                return kind == _IDR_H264
        else:
            kind = head >> 1 & 63
            if kind < _FIRST_NO_PICTURE_H265:
                return kind in _IDR_H265
    return False


def _heads_with_lengths(packet: bytes, size_bytes: int) -> Iterator[int]:
    at = 0
    while at + size_bytes < len(packet):
        length = int.from_bytes(packet[at : at + size_bytes])
        yield packet[at + size_bytes]
        at += size_bytes + length


def _heads_with_start_codes(packet: bytes) -> Iterator[int]:
    at = packet.find(b"\x00\x00\x01")
    while at >= 0 and at + 3 < len(packet):
        yield packet[at + 3]
        at = packet.find(b"\x00\x00\x01", at + 4)
