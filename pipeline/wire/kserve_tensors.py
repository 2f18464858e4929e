"""Tensors of the open inference protocol (KServe v2): datatypes, raw buffers and JSON data, both ways.

Format: "Open Inference Protocol" and Triton's binary tensor data extension. Raw buffers are little-endian and
row-major; an element of BYTES is a little-endian uint32 length and that many bytes.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.wire import document

Array = npt.NDArray[Any]
Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]

BYTES: Final = "BYTES"
_BF16: Final = "BF16"

_DTYPES: Final[Mapping[str, str]] = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_NAMES: Final = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
DATATYPES: Final = (*_DTYPES, BYTES, _BF16)
"""All that the protocol knows."""

BINARY_ONLY: Final = frozenset({"FP16", _BF16})
"""These have no form in JSON."""

MAX_AXES: Final = 16
MAX_STRINGS: Final = 1 << 16
"""Elements of a BYTES tensor: each costs more memory than it has bytes."""

_MAX_SIDE: Final = 2**31 - 1
_INTEGERS: Final = frozenset({int})
_NUMBERS: Final = frozenset({int, float})
_FLAGS: Final = frozenset({bool})


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One input or output.

    Attributes:
        name: as the model calls it.
        datatype: one of `DATATYPES`.
        array: its values in its shape; BYTES as an object array of `bytes`, BF16 as float32.
        parameters: what else was said of it.
    """

    name: str
    datatype: str
    array: Array
    parameters: Parameters = field(default_factory=dict)

    @property
    def shape(self) -> list[int]:
        """As the protocol writes it."""
        return list(self.array.shape)


def tensor(name: str, values: Array | Sequence[bytes]) -> Tensor:
    """A tensor of an array, or of byte strings; its datatype follows from what they are.

    Raises:
        ValueError: there is no datatype for such an array.
    """
    if not isinstance(values, np.ndarray):
        return Tensor(name, BYTES, strings(values, (len(values),)))
    if values.dtype == object:
        return Tensor(name, BYTES, values)
    little = values.dtype.newbyteorder("<")
    if little not in _NAMES:
        raise ValueError(f"there is no datatype for {values.dtype}")
    return Tensor(name, _NAMES[little], values)


def strings(values: Sequence[bytes], shape: Sequence[int]) -> Array:
    """Byte strings as an object array of this shape."""
    flat = np.empty(len(values), object)
    flat[:] = values
    return flat.reshape(tuple(shape))


def is_datatype(value: object) -> bool:
    """Whether the protocol knows it."""
    return isinstance(value, str) and value in DATATYPES


def shape_of(value: object, what: str) -> tuple[int, ...]:
    """A stranger's shape. Raises ValueError."""
    sides = document.items(value, what, MAX_AXES)
    return tuple(document.integer(side, f"a side of {what}", 0, _MAX_SIDE) for side in sides)


def to_buffer(one: Tensor) -> bytes:
    """Its values as they lie in a body."""
    if one.datatype == BYTES:
        return b"".join(struct.pack("<I", len(element)) + element for element in one.array.ravel().tolist())
    if one.datatype == _BF16:
        return _to_bfloat16(one.array)
    return np.ascontiguousarray(one.array, _DTYPES[one.datatype]).tobytes()


def from_buffer(data: memoryview, datatype: str, shape: Sequence[int], what: str) -> Array:
    """Values out of a body, without a copy where that is possible: read-only.

    Raises:
        ValueError: there are more or fewer bytes than the shape wants, or a flag is neither 0 nor 1.
    """
    count = math.prod(shape)  # of Python's integers: it may be as large as it likes
    if datatype == BYTES:
        return _from_strings(data, count, shape, what)
    width = 2 if datatype == _BF16 else np.dtype(_DTYPES[datatype]).itemsize
    if count * width != len(data):
        raise ValueError(f"{what} has {len(data)} bytes, but {datatype} {list(shape)} takes {count * width}")
    if datatype == _BF16:
        bits = np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)
        return bits.view("<f4").reshape(tuple(shape))
    if datatype == "BOOL":
        flags = np.frombuffer(data, np.uint8)
        if flags.size and flags.max() > 1:
            raise ValueError(f"{what} has a flag that is neither 0 nor 1")
        return flags.view(np.bool_).reshape(tuple(shape))
    return np.frombuffer(data, _DTYPES[datatype]).reshape(tuple(shape))


def to_json(one: Tensor) -> list[Any]:
    """Its values in JSON, flattened.

    Raises:
        ValueError: JSON cannot hold them: half floats, what is no number, bytes that are no text.
    """
    if one.datatype in BINARY_ONLY:
        raise ValueError(f"{document.quoted(one.name)} is {one.datatype}, which JSON has no form for")
    flat: list[Any] = one.array.ravel().tolist()
    if one.datatype == BYTES:
        try:
            return [element.decode("utf-8") for element in flat]
        except UnicodeDecodeError:
            raise ValueError(f"{document.quoted(one.name)} holds bytes that are no text: ask for binary data") from None
    if one.array.dtype.kind == "f" and not np.isfinite(one.array).all():
        raise ValueError(f"{document.quoted(one.name)} holds what is no finite number: ask for binary data")
    return flat


def from_json(value: object, datatype: str, shape: Sequence[int], what: str) -> Array:
    """Values out of JSON: flattened, or nested like the shape.

    Raises:
        ValueError: they are of another kind, do not fit the datatype, or are more or fewer than the shape wants.
    """
    if datatype in BINARY_ONLY:
        raise ValueError(f"{what}: {datatype} has no form in JSON")
    flat = _flattened(value, what)
    if len(flat) != math.prod(shape):
        raise ValueError(f"{what} has {len(flat)} values, but its shape is {list(shape)}")
    if datatype == BYTES:
        if len(flat) > MAX_STRINGS:
            raise ValueError(f"{what} has more than {MAX_STRINGS} elements")
        return strings([document.text(element, f"an element of {what}").encode() for element in flat], shape)
    dtype = np.dtype(_DTYPES[datatype])
    kinds = set(map(type, flat))
    wanted = {"b": _FLAGS, "f": _NUMBERS}.get(dtype.kind, _INTEGERS)
    if not kinds <= wanted:
        raise ValueError(f"{what} has a value that is no {datatype}")
    try:
        with np.errstate(over="raise"):
            array = np.array(flat, dtype)
    except (OverflowError, FloatingPointError):
        raise ValueError(f"{what} has a value that does not fit {datatype}") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{what} has a value that does not fit {datatype}")
    return array.reshape(tuple(shape))


def _flattened(value: object, what: str) -> list[Any]:
    """The leaves of lists in lists, in their order; not by recursion: strangers nest as deep as they like."""
    if not isinstance(value, list):
        raise ValueError(f"{what} has no list of data")
    level: list[Any] = value
    while any(type(item) is list for item in level):
        flat: list[Any] = []
        for item in level:
            if type(item) is list:
                flat.extend(item)
            else:
                raise ValueError(f"{what} has values and lists side by side")
        level = flat
    return level


def _from_strings(data: memoryview, count: int, shape: Sequence[int], what: str) -> Array:
    if count > MAX_STRINGS:
        raise ValueError(f"{what} has more than {MAX_STRINGS} elements")
    found: list[bytes] = []
    at = 0
    for _ in range(count):
        if at + 4 > len(data):
            raise ValueError(f"{what} ends in front of element {len(found)} of {count}")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size > len(data) - at:
            raise ValueError(f"{what} ends within element {len(found)}")
        found.append(bytes(data[at : at + size]))
        at += size
    if at != len(data):
        raise ValueError(f"{what} has {len(data) - at} bytes behind its last element")
    return strings(found, shape)


def _to_bfloat16(array: Array) -> bytes:
    """The upper halves of float32, rounded to the nearest, ties to even; NaN stays NaN."""
    values = np.ascontiguousarray(array, "<f4")
    bits = values.view("<u4")
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    halves = np.where(np.isnan(values), np.uint32(0x7FC0), rounded)
    return halves.astype("<u2").tobytes()
