"""Identifiers that sort by the time at which they were made: UUIDv7 as 32 hex digits."""

import os
import time

_RANDOM_BITS = 74


def new_id() -> str:
    """A new identifier, unlike any other, 32 hex digits. Format: RFC 9562, section 5.7 (UUIDv7)."""
    stamp_ms = time.time_ns() // 1_000_000 & (1 << 48) - 1
    random = int.from_bytes(os.urandom(10)) & (1 << _RANDOM_BITS) - 1
    high, low = random >> 62, random & (1 << 62) - 1
    return f"{stamp_ms << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
