"""What goes over the wire for parcels: one JSON object, an array of them, or a form with the picture. Pure."""

import base64
import gzip
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.contracts.sender import Parcel
from pipeline.wire.http import Part, multipart

Form = Literal["inline", "multipart"]

JSON_TYPE = "application/json"
PICTURE_KEY = "snapshot"
EVENT_PART = "event"
_GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Message:
    """One request's content.

    Attributes:
        id: of the parcel; of several, made of all theirs: the same for the same parcels.
        body: as the receiver's program gets it, and as it is signed.
        media_type: of the body.
    """

    id: str
    body: bytes
    media_type: str

    def packed(self) -> bytes:
        """Compressed; the same bytes at every attempt."""
        return gzip.compress(self.body, _GZIP_LEVEL, mtime=0)


def message(parcels: Sequence[Parcel], *, form: Form, batched: bool) -> Message:
    """What to send for 1 or more parcels.

    Args:
        parcels: in order; several only where they are batched.
        form: where their pictures go.
        batched: the body is an array, also of one.
    """
    if batched:
        body = b"[" + b",".join(_document(parcel) for parcel in parcels) + b"]"
        return Message(batch_id([parcel.id for parcel in parcels]), body, JSON_TYPE)
    (parcel,) = parcels
    if form == "multipart":
        parts = [Part(EVENT_PART, parcel.body, media_type=JSON_TYPE)]
        if parcel.picture:
            parts.append(Part(PICTURE_KEY, parcel.picture, f"{parcel.id}.jpg", "image/jpeg"))
        # The boundary is the same at every attempt, and so is the body. No part holds it: 128 bits of its own hash.
        boundary = hashlib.sha256(b"".join((parcel.body, parcel.picture))).hexdigest()[:32]
        return Message(parcel.id, *multipart(parts, boundary))
    return Message(parcel.id, _document(parcel), JSON_TYPE)


def batch_id(ids: Sequence[str]) -> str:
    """The identifier of several: that of one for one; else 32 hex digits, the same while their composition is."""
    return ids[0] if len(ids) == 1 else hashlib.sha256(".".join(ids).encode()).hexdigest()[:32]


def portions(parcels: Sequence[Parcel], max_bytes: int) -> Iterator[Sequence[Parcel]]:
    """The parcels in order, in portions of about `max_bytes` of body; one that is larger goes alone."""
    begin, size = 0, 0
    for index, parcel in enumerate(parcels):
        takes = len(parcel.body) + len(parcel.picture) * 4 // 3
        if index > begin and size + takes > max_bytes:
            yield parcels[begin:index]
            begin, size = index, 0
        size += takes
    yield parcels[begin:]


def _document(parcel: Parcel) -> bytes:
    """The parcel's JSON object, its picture as the last key."""
    if not parcel.picture:
        return parcel.body
    picture = b'"%s":"%s"}' % (PICTURE_KEY.encode(), base64.b64encode(parcel.picture))
    return parcel.body[:-1] + (b"," if len(parcel.body) > 2 else b"") + picture
