"""Reading rows out of a database file without its trees: page by page, for a file whose way to its rows is lost.

Format: https://www.sqlite.org/fileformat.html, "B-tree Pages", "Cell Payload Overflow Pages" and "Record Format".
Whether a row is whole its checksum says; what stands in pages that are free is left out, as far as the file tells.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.spool.schema import PAGE_BYTES

TABLE_LEAF = 0x0D
HEAD_BYTES = 8
MAX_RECORD_BYTES = 1 << 30

_MOST_LOCAL = PAGE_BYTES - 35
_LEAST_LOCAL = (PAGE_BYTES - 12) * 32 // 255 - 23
_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  # of the serial types 0 to 9: nothing, integers, a float, 0 and 1


class _BrokenError(Exception):
    """What is read makes no sense."""


def rows_in(path: Path, wanted: Callable[[int], bool]) -> Iterator[tuple[int, list[Any]]]:
    """The key and the values of every row of any table whose key is wanted, in the order of the pages.

    The key's own column is None.
    """
    pages = path.stat().st_size // PAGE_BYTES
    with path.open("rb") as file:
        free = _free_pages(file, pages)
        for number in range(2, pages + 1):
            if number in free:
                continue
            page = _page(file, number)
            if page[0] != TABLE_LEAF:
                continue
            (cells,) = struct.unpack_from(">H", page, 3)
            for index in range(min(cells, (PAGE_BYTES - HEAD_BYTES) // 2)):
                (at,) = struct.unpack_from(">H", page, HEAD_BYTES + 2 * index)
                try:
                    size, at = _varint(page, at)
                    key, at = _varint(page, at)
                    if wanted(key):
                        yield key, _values(_record(file, page, at, size, pages))
                except (_BrokenError, IndexError, struct.error, UnicodeDecodeError):
                    continue


def _record(file: BinaryIO, page: bytes, at: int, size: int, pages: int) -> bytes:
    """What belongs to a cell: the part in its page, and what flowed over into others."""
    if size > min(MAX_RECORD_BYTES, pages * PAGE_BYTES):
        raise _BrokenError
    local = size
    if size > _MOST_LOCAL:
        local = _LEAST_LOCAL + (size - _LEAST_LOCAL) % (PAGE_BYTES - 4)
        local = local if local <= _MOST_LOCAL else _LEAST_LOCAL
    record = page[at : at + local]
    if local < size:
        (overflow,) = struct.unpack_from(">I", page, at + local)
        parts, have = [record], local
        while have < size:
            if not 1 < overflow <= pages:
                raise _BrokenError
            more = _page(file, overflow)
            (overflow,) = struct.unpack_from(">I", more)
            parts.append(more[4 : 4 + size - have])
            have += len(parts[-1])
        record = b"".join(parts)
    return record


def _values(record: bytes) -> list[Any]:
    head, at = _varint(record, 0)
    body, values = head, []
    while at < head:
        serial, at = _varint(record, at)
        size = _size(serial)
        value = record[body : body + size]
        if len(value) != size:
            raise _BrokenError
        values.append(_value(serial, value))
        body += size
    return values


def _size(serial: int) -> int:
    if serial >= 12:
        return (serial - 12) // 2
    if serial in (10, 11):
        raise _BrokenError
    return _SIZES[serial]


def _value(serial: int, value: bytes) -> Any:
    if serial == 0:
        return None
    if serial == 7:
        return struct.unpack(">d", value)[0]
    if serial in (8, 9):
        return serial - 8
    if serial < 7:
        return int.from_bytes(value, signed=True)
    return value.decode() if serial % 2 else value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9


def _free_pages(file: BinaryIO, pages: int) -> set[int]:
    """Pages that hold what was deleted, as the file's head tells; none where that makes no sense."""
    free: set[int] = set()
    trunk = struct.unpack_from(">I", _page(file, 1), 32)[0]
    while 1 < trunk <= pages and trunk not in free:
        free.add(trunk)
        page = _page(file, trunk)
        following, count = struct.unpack_from(">II", page)
        count = min(count, PAGE_BYTES // 4 - 2)
        free |= set(struct.unpack_from(f">{count}I", page, 8))
        trunk = following
    return free


def _page(file: BinaryIO, number: int) -> bytes:
    file.seek((number - 1) * PAGE_BYTES)
    return file.read(PAGE_BYTES)
