"""Supervisely's bitmaps: the mask of one object as base64 of zlib of a PNG, cropped to the object; and drawn polygons.

Format: supervisely 6.74.51, `Bitmap.data_2_base64` and `base64_2_data`. Written is a two-colour palette PNG whose
first colour is transparent. Read is what their decoder takes: with four channels (or a palette with transparency) what
is not transparent belongs to the object, with one channel what is not 0; three channels say nothing and are refused.
A bare PNG, which their decoder takes for granted and gives the wrong shape, is read by the same rules.
"""

import base64
import binascii
import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.wire.document import integer, items, mapping, number, text

MAX_POINTS = 100_000
MAX_COORDINATE_PX = 1_000_000
"""No picture is larger: what is further out is no coordinate."""

_PNG = b"\x89PNG\r\n\x1a\n"
_FIRST_CHUNK = struct.Struct(">I4sIIBB")
_RGB = 2
_OVERHEAD_BYTES = 1 << 16
_OPAQUE_ENOUGH = 128

Mask = npt.NDArray[np.bool_]


class Patch(NamedTuple):
    """Part of a mask: bool (h, w), whose left upper corner lies at `left`, `top` of the picture."""

    left: int
    top: int
    mask: Mask


def encode_bitmap(mask: Mask) -> dict[str, Any]:
    """The `bitmap` of an object: bool (H, W) in pixels of the picture, at least one of them true."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return {"origin": [left, top], "data": encode_mask(mask[top:bottom, left:right])}


def encode_mask(mask: Mask) -> str:
    """A bool (h, w) mask as the `data` of a bitmap."""
    from PIL import Image

    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=0, bits=1, compress_level=6)
    # Their container is compressed twice; the second time there is nothing left to gain.
    return base64.b64encode(zlib.compress(buffer.getvalue(), 1)).decode("ascii")


def decode_bitmap(document: object, size: Size, *, alpha: bool = False) -> Patch:
    """The mask in a `bitmap` object.

    Args:
        document: `{"origin": [x, y], "data": "..."}`.
        size: of the picture: a bitmap may not be larger.
        alpha: it is an `alpha_mask`: 8 bits of opacity, of which half is enough to belong to the object.

    Raises:
        ValueError: it is none.
    """
    bitmap = mapping(document, "a bitmap")
    origin = items(bitmap.get("origin"), "a bitmap's origin", 2)
    if len(origin) != 2:
        raise ValueError("a bitmap's origin has not two numbers")
    left, top = (integer(value, "a bitmap's origin", -MAX_COORDINATE_PX, MAX_COORDINATE_PX) for value in origin)
    return Patch(left, top, decode_mask(text(bitmap.get("data"), "a bitmap's data"), size, alpha=alpha))


def decode_mask(data: str, size: Size, *, alpha: bool = False) -> Mask:
    """The bool (h, w) mask in the `data` of a bitmap; see `decode_bitmap`.

    Raises:
        ValueError: there is none in it, or it is larger than the picture.
    """
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a bitmap's data is no base64") from None
    png = raw if raw.startswith(_PNG) else _inflate(raw, size)
    _check_header(png, size)
    return _pixels(png, alpha=alpha)


def _inflate(raw: bytes, size: Size) -> bytes:
    # A PNG is rarely larger than its pixels; 8 bytes each leave room for 16 bits in four channels.
    limit = size.width * size.height * 8 + _OVERHEAD_BYTES
    inflater = zlib.decompressobj()
    try:
        png = inflater.decompress(raw, limit)
    except zlib.error:
        raise ValueError("a bitmap's data is neither zlib nor PNG") from None
    if inflater.unconsumed_tail:
        raise ValueError("a bitmap's data is larger than the picture")
    if not inflater.eof:
        raise ValueError("a bitmap's data is cut off")
    return png


def _check_header(png: bytes, size: Size) -> None:
    if not png.startswith(_PNG) or len(png) < len(_PNG) + _FIRST_CHUNK.size:
        raise ValueError("a bitmap holds no PNG")
    _, kind, width, height, _, colours = _FIRST_CHUNK.unpack_from(png, len(_PNG))
    if kind != b"IHDR":
        raise ValueError("a bitmap holds no PNG")
    if not (0 < width <= size.width and 0 < height <= size.height):
        raise ValueError(f"a bitmap of {width} x {height} is larger than the picture, {size.width} x {size.height}")
    if colours == _RGB:
        raise ValueError("a bitmap in RGB says nothing about what belongs to the object")


def _pixels(png: bytes, *, alpha: bool) -> Mask:
    from PIL.PngImagePlugin import PngImageFile

    try:
        with PngImageFile(io.BytesIO(png)) as image:
            image.load()
            says_nothing = image.mode == "P" and "transparency" not in image.info
            has_alpha = image.mode not in ("1", "L", "I", "I;16")
            pixels = np.asarray(image.convert("RGBA"))[..., 3] if has_alpha else np.asarray(image)
    except Exception as error:  # PIL raises whatever comes up on damaged files: it is the bitmap that is broken
        raise ValueError("a bitmap's PNG is damaged") from error
    if says_nothing:
        raise ValueError("a bitmap with a palette and no transparency says nothing about the object")
    least = _OPAQUE_ENOUGH if alpha and pixels.dtype == np.uint8 else 1
    return np.asarray(pixels >= least)


def decode_points(document: object, what: str, least: int) -> npt.NDArray[np.float64]:
    """float64 (N, 2), x, y out of a list of pairs.

    Raises:
        ValueError: it is none, or has fewer than `least`.
    """
    pairs = items(document, what, MAX_POINTS)
    if len(pairs) < least:
        raise ValueError(f"{what} has {len(pairs)} points, fewer than {least}")
    points = np.empty((len(pairs), 2))
    for index, pair in enumerate(pairs):
        values = items(pair, f"a point of {what}", 2)
        if len(values) != 2:
            raise ValueError(f"a point of {what} has not two numbers")
        points[index] = [number(value, f"a point of {what}") for value in values]
    if np.abs(points).max(initial=0.0) > MAX_COORDINATE_PX:
        raise ValueError(f"{what} is further out than any picture")
    return points


def draw_polygon(exterior: npt.NDArray[np.float64], holes: Sequence[npt.NDArray[np.float64]], size: Size) -> Patch:
    """A polygon with its holes as a mask; the outline belongs to it, as in Supervisely. May be empty."""
    from PIL import Image, ImageDraw

    left, top = np.clip(np.floor(exterior.min(axis=0)), 0, size).astype(int).tolist()
    right, bottom = np.clip(np.floor(exterior.max(axis=0)) + 1, (left, top), size).astype(int).tolist()
    if right <= left or bottom <= top:
        return Patch(left, top, np.zeros((0, 0), np.bool_))
    image = Image.new("1", (right - left, bottom - top))
    draw = ImageDraw.Draw(image)
    for ring, value in ((exterior, 1), *((hole, 0) for hole in holes)):
        shifted = [(float(x), float(y)) for x, y in ring - (left, top)]
        draw.polygon(shifted, fill=value, outline=1)
    return Patch(left, top, np.asarray(image, np.bool_))


def inside(patch: Patch, size: Size) -> tuple[tuple[slice, slice], Mask]:
    """Where in a picture of this size `patch` lies, and the part of it that does; it may be empty."""
    rows, columns = patch.mask.shape
    top, bottom = (min(max(value, 0), size.height) for value in (patch.top, patch.top + rows))
    left, right = (min(max(value, 0), size.width) for value in (patch.left, patch.left + columns))
    part = patch.mask[top - patch.top : bottom - patch.top, left - patch.left : right - patch.left]
    return (slice(top, bottom), slice(left, right)), part


def extent(mask: Mask) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what is true, right and bottom exclusive; None where nothing is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def decode_polygon(points: Mapping[str, Any], size: Size) -> tuple[npt.NDArray[np.float64], Patch]:
    """The exterior ring, and the polygon drawn.

    Raises:
        ValueError: it is none.
    """
    exterior = decode_points(points.get("exterior"), "a polygon", 3)
    rings = items(points.get("interior", []), "a polygon's interior", 1000)
    holes = [decode_points(ring, "a polygon's hole", 3) for ring in rings]
    return exterior, draw_polygon(exterior, holes, size)
