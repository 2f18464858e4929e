"""Masks on the wire: COCO run lengths and polygons for objects, PNG for class maps; written and read."""

import base64
import binascii
import io
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bound=np.generic)

MAX_PIXELS = 1 << 26
"""Pictures with more pixels than this (8K has half of it) are not read."""


def encode_rle(mask: npt.NDArray[np.bool_]) -> str:
    """A bool (H, W) mask as COCO's compressed run lengths (column by column, starting with a run of zeros).

    Format: pycocotools, `rleEncode` and `rleToString` in maskApi.c.
    """
    return _pack(run_lengths(mask))


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """A bool (H, W) mask as COCO's plain run lengths: zeros, ones, zeros, ... column by column."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return [height * width] if mask.size else []
    first, last = int(columns[0]), int(columns[-1]) + 1
    # Only the columns that hold something are turned to column order: the copy is what costs.
    flat = np.ascontiguousarray(mask[:, first:last].T).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1 + first * height
    # Edges are at columns `first` to `last`; what touches the sides of that block starts or ends there.
    starts = np.array([0, first * height] if flat[0] else [0], np.int64)
    ends = np.array([last * height] if flat[-1] and last < width else [], np.int64)
    counts: list[int] = np.diff(np.concatenate([starts, edges, ends, [height * width]])).tolist()
    return counts


def _pack(counts: list[int]) -> str:
    """COCO's text form: from the third run on the difference to the run before last, 5 bits a character, low first."""
    characters = bytearray()
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            characters.append((bits | 0x20 if more else bits) + 48)
    return characters.decode("ascii")


def decode_rle(counts: str | Sequence[object], height: int, width: int) -> npt.NDArray[np.bool_]:
    """COCO's run lengths, compressed (a text) or plain (a list), as a bool (height, width) mask.

    Raises:
        ValueError: they are no run lengths, or those of a mask of another size.
    """
    if height < 0 or width < 0 or height * width > MAX_PIXELS:
        raise ValueError(f"a mask of {width} x {height} pixels is not read")
    runs = _unpack(counts) if isinstance(counts, str) else _plain(counts)
    # Each run is looked at before they are summed up: a sum may overflow and look right.
    if len(runs) and (int(runs.min()) < 0 or int(runs.max()) > height * width):
        raise ValueError("a run of the mask has an impossible length")
    if int(runs.sum()) != height * width:
        raise ValueError(f"the mask's runs sum up to {int(runs.sum())} pixels, not to {width} x {height}")
    mask = np.zeros((height, width), np.bool_)
    ends = np.cumsum(runs)
    ones = np.flatnonzero(runs[1::2]) * 2 + 1  # every other run is of ones; some are empty
    if not len(ones):
        return mask
    # Only the columns that hold something are turned: the copy is what costs.
    first, last = int(ends[ones[0] - 1]) // height, (int(ends[ones[-1]]) - 1) // height + 1
    edges = np.clip(np.concatenate([[0], ends]), first * height, last * height)
    values = np.zeros(len(runs), np.bool_)
    values[1::2] = True
    mask[:, first:last] = np.repeat(values, np.diff(edges)).reshape(last - first, height).T
    return mask


def _plain(counts: Sequence[object]) -> npt.NDArray[np.int64]:
    if len(counts) > MAX_PIXELS or any(type(count) is not int or not 0 <= count <= MAX_PIXELS for count in counts):
        raise ValueError("a run of the mask has an impossible length")
    return np.array(counts, np.int64)


def _unpack(text: str) -> npt.NDArray[np.int64]:
    """The inverse of `_pack`, for all characters at once."""
    if not text.isascii() or len(text) > MAX_PIXELS:
        raise ValueError("the mask's run lengths are no text of COCO's")
    bits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(bits):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero((bits & 0x20) == 0)
    if bits.min() < 0 or bits.max() > 63 or not len(ends) or ends[-1] != len(bits) - 1:
        raise ValueError("the mask's run lengths are no text of COCO's")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits: more than any picture has pixels
        raise ValueError("a run of the mask has an impossible length")
    places = np.arange(len(bits)) - np.repeat(starts, lengths)
    values = np.add.reduceat((bits & 0x1F) << (5 * places), starts)
    values -= np.where(bits[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    # From the fourth on each is the difference to the one before last: two running sums, of every other value.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def png_base64(class_map: npt.NDArray[np.int32] | npt.NDArray[np.uint8]) -> str:
    """A map (H, W) of classes as a grey PNG in base64: 8 bits where that is enough, else 16."""
    return base64.b64encode(encode_png(class_map)).decode("ascii")


def encode_png(values: npt.NDArray[np.int32] | npt.NDArray[np.uint8]) -> bytes:
    """A map (H, W) of small numbers as a grey PNG file: 8 bits where that is enough, else 16."""
    from PIL import Image

    dtype = np.uint8 if values.size == 0 or values.max() < 256 else np.uint16
    buffer = io.BytesIO()
    Image.fromarray(values.astype(dtype)).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_base64(text: object, what: str) -> bytes:
    """Base64 out of a document, with or without a `data:` prefix and line breaks. Raises ValueError."""
    if not isinstance(text, str) or not text.isascii():
        raise ValueError(f"{what} is no base64 text")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        raise ValueError(f"{what} is no base64 text") from None


def decode_png(data: bytes, what: str = "the mask") -> npt.NDArray[np.int32]:
    """A grey or palette PNG as int32 (H, W): its grey values or the numbers of its colours.

    Raises:
        ValueError: it is none, it is coloured, or it is too large.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = image.width * image.height
            mode = image.mode
            values = np.asarray(image) if pixels <= MAX_PIXELS and mode in _GREY else None
    except Exception as error:  # noqa: BLE001  a stranger's file: whatever the decoder trips over, it is no picture
        raise ValueError(f"{what} is no PNG: {type(error).__name__}") from None
    if values is None:
        raise ValueError(f"{what} is a PNG of {pixels} pixels, mode {mode}, where a grey one belongs")
    return values.astype(np.int32)


_GREY = ("1", "L", "P", "I", "I;16")


def resized(values: npt.NDArray[T], height: int, width: int) -> npt.NDArray[T]:
    """A map (H, W) at another size, each pixel the one that lies nearest to its centre."""
    if values.shape == (height, width):
        return values
    if not values.size or not height * width:
        raise ValueError(f"a mask of {values.shape[1]} x {values.shape[0]} pixels cannot be made {width} x {height}")
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(np.intp)
    near: npt.NDArray[T] = values[rows[:, None], columns]
    return near
