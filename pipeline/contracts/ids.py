"""Identifiers that sort by the time at which they were made: UUIDv7 as 32 hex digits."""

import math
import os
import time
from hashlib import blake2b

_RANDOM_BITS = 74
_LATEST_S = 1e11  # less than 48 bits of milliseconds hold


def new_id() -> str:
    """A new identifier, unlike any other, 32 hex digits. Format: RFC 9562, section 5.7 (UUIDv7)."""
    return _uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def derived_id(at: float, *parts: str) -> str:
    """The identifier that everybody makes of the same `parts`, in the same form; it sorts by `at`, Unix seconds."""
    stamp_ms = round(min(max(at, 0.0), _LATEST_S) * 1000) if math.isfinite(at) else 0
    return _uuid7(stamp_ms, blake2b("\0".join(parts).encode(), digest_size=10).digest())


def _uuid7(stamp_ms: int, random: bytes) -> str:
    bits = int.from_bytes(random) & (1 << _RANDOM_BITS) - 1
    high, low = bits >> 62, bits & (1 << 62) - 1
    return f"{(stamp_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
