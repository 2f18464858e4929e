"""`ParquetJob`: a file of waiting rows becomes a Parquet file."""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.contracts.component import Context
from pipeline.contracts.errors import PenstockError
from sinks._files import OutputFile
from sinks._paths import display
from sinks._rows import COLUMNS, Kind

if TYPE_CHECKING:
    import pyarrow as pa

_SLICE_ROWS = 2_000
_GROUP_ROWS = 50_000
_TAKES: dict[Kind, tuple[type, ...]] = {
    "text": (str,),
    "integer": (int,),
    "real": (int, float),
    "boolean": (bool,),
    "time": (str,),
}


def schema_of(columns: list[str]) -> "pa.Schema":
    """The columns with their types; times are UTC in milliseconds."""
    import pyarrow as pa

    types: dict[Kind, Any] = {
        "text": pa.string(),
        "integer": pa.int64(),
        "real": pa.float64(),
        "boolean": pa.bool_(),
        "time": pa.timestamp("ms", tz="UTC"),
    }
    return pa.schema([pa.field(name, types[COLUMNS[name]]) for name in columns])


class ParquetJob:
    """A file of rows, one JSON list a line under a line of their columns, becomes `target`; see `Afterwork`.

    Raises:
        OSError: one of them cannot be opened.
    """

    def __init__(self, path: Path, target: Path, ctx: Context) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self.target = target
        self._ctx = ctx
        self._bad = 0
        self._from = path.open("rb")
        try:
            columns = _columns(self._from.readline())
            self._kinds = [COLUMNS[name] for name in columns]
            self._cells: list[list[Any]] = [[] for _ in columns]
            self._file = OutputFile(target)
        except PenstockError as error:
            self._from.close()
            raise OSError(str(error)) from error
        except BaseException:
            self._from.close()
            raise
        self._schema = schema_of(columns)
        self._to: IO[bytes] = open(self._file.fd, "wb", closefd=False)  # noqa: SIM115  (`_close` closes it)
        self._writer = pq.ParquetWriter(self._to, self._schema, compression="zstd")

    def step(self) -> bool:
        """See `Job.step`."""
        lines = list(islice(self._from, _SLICE_ROWS))
        for row in self._readable(lines):
            for cells, value in zip(self._cells, row, strict=True):
                cells.append(value)
        waiting = len(self._cells[0])
        if waiting >= _GROUP_ROWS or (not lines and waiting):
            self._write_group()
        if lines:
            return False
        self._writer.close()
        self._to.flush()
        stat = os.fstat(self._from.fileno())
        os.utime(self._file.fd, (stat.st_atime, stat.st_mtime))  # as old as what is in it
        self._file.settle(self.target)
        self.path.unlink(missing_ok=True)
        self._close()
        if self._bad:
            self._ctx.warn(f"{display(self.target)}: {self._bad} rows could not be read back and are left out")
        return True

    def abandon(self) -> None:
        """See `Job.abandon`."""
        self._file.part.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        self._from.close()
        self._to.close()
        self._file.abandon(remove=False)

    def _readable(self, lines: list[bytes]) -> Iterator[list[Any]]:
        for line in lines:
            try:
                row = json.loads(line)
                yield [_cell(value, kind) for value, kind in zip(row, self._kinds, strict=True)]
            except (ValueError, TypeError):  # a disk gave back something else than was written
                self._bad += 1

    def _write_group(self) -> None:
        import pyarrow as pa

        arrays = [pa.array(cells, field.type) for cells, field in zip(self._cells, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._cells = [[] for _ in self._cells]


def _columns(line: bytes) -> list[str]:
    """The columns that stand in the first line.

    Raises:
        OSError: there are none.
    """
    try:
        columns = json.loads(line)
    except ValueError as error:
        raise OSError("its first line was damaged") from error
    if not isinstance(columns, list) or not columns or not all(name in COLUMNS for name in columns):
        raise OSError("its first line was damaged")
    return columns


def _cell(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    if not isinstance(value, _TAKES[kind]):
        raise TypeError("not of the column's type")
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise ValueError("larger than any number of ours")
    return datetime.fromisoformat(value) if isinstance(value, str) and kind == "time" else value
