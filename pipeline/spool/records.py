"""What the store gives, and what it tells of what it did."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.contracts.sender import Parcel

Removed = tuple[str, str, int]
"""Source, kind and size of an item that was deleted."""


class Spooled(NamedTuple):
    """A parcel in the spool; `seq` grows in the order in which they came, over all sources."""

    seq: int
    parcel: Parcel


class Appended(NamedTuple):
    """What became of the parcels handed to `append`, and of others by that; only those in the ledger are counted.

    Attributes:
        taken: so many from the front are settled; the rest found no room, and is still the caller's.
        accepted: of those, how many are in the spool now.
        dropped: how many that were in the spool were dropped for them.
        refused: of those taken, how many were dropped themselves.
    """

    taken: int
    accepted: int
    dropped: int
    refused: int


class Tended(NamedTuple):
    """What happened to items besides: how many went by age, or at the hands of another process."""

    expired: int = 0
    purged: int = 0
    replayed: int = 0


class Opened(NamedTuple):
    """What was found in the file.

    Attributes:
        waiting: how many of the ledger wait.
        lost: how many could not be read, or -1 where that cannot be said; 0: the file is sound.
        aside: the damaged file under its new name.
    """

    waiting: int
    lost: int = 0
    aside: Path | None = None


def in_ledger(parcels: Iterable[Parcel]) -> int:
    """How many of these are."""
    return sum(parcel.kind != "notice" for parcel in parcels)


def waits_for_room(parcels: Sequence[Parcel], room: int, max_bytes: int) -> tuple[list[Parcel], list[Parcel]]:
    """Where the sources wait: those from the front that fit, and those that never would."""
    fitting: list[Parcel] = []
    refused: list[Parcel] = []
    for parcel in parcels:
        if parcel.nbytes > max_bytes:
            refused.append(parcel)
        elif parcel.nbytes <= room:
            room -= parcel.nbytes
            fitting.append(parcel)
        else:
            break
    return fitting, refused


def newest_that_fit(parcels: Sequence[Parcel], most: int) -> tuple[Sequence[Parcel], Sequence[Parcel]]:
    """Where the oldest go: the last that fit into `most` bytes, and those before them."""
    total = sum(parcel.nbytes for parcel in parcels)
    first = 0
    while total > most and first < len(parcels):
        total -= parcels[first].nbytes
        first += 1
    return parcels[first:], parcels[:first]
