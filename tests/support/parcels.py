"""Parcels that say which they are, for tests of the spool."""

from collections.abc import Callable
from typing import Any

from pipeline.contracts.sender import Parcel
from pipeline.spool.store import Store

Opener = Callable[..., Store]
"""Opens the test's spool with these keys of `buffer`."""


def parcel(number: int, source: str = "cam", kind: Any = "result", size: int = 100) -> Parcel:
    """A parcel whose body tells its number."""
    return Parcel(f"{number:032x}", source, kind, b"%d " % number + b"x" * size)


def number_of(item: Parcel) -> int:
    return int(item.body.split()[0])
