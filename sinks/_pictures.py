"""Picture files that are whole or not there, with their JSON beside them; some get their names only later."""

import json
import os
from pathlib import Path

from pipeline.contracts.errors import PenstockError
from pipeline.contracts.event import ObjectEvent
from pipeline.contracts.result import Result
from pipeline.wire.results import event_dict, to_dict
from sinks._files import PART_SUFFIX, OutputFile, keep_reserve, make_folder, write_error
from sinks._paths import display

_END_OF_JPEG = b"\xff\xd9"


class PictureFiles:
    """Writes them. Made by a sink, used by its thread.

    Args:
        min_free_bytes: write nothing where less of the disk is free.
        sidecar: whether to write `NAME.json` beside each.
    """

    def __init__(self, min_free_bytes: int, *, sidecar: bool) -> None:
        self._min_free_bytes = min_free_bytes
        self._sidecar = sidecar

    def put(self, path: Path, jpeg: bytes, item: Result | ObjectEvent, *, final: bool) -> None:
        """Write a picture, in place of one of the same name; `NAME.part` unless it is final.

        Raises:
            TransientError: no room.
            FatalError: it cannot be written.
        """
        make_folder(path.parent)
        keep_reserve(path.parent, self._min_free_bytes)
        # Also what is not final yet is there as a whole: of the one before, or of this one.
        _write(path if final else _part(path), jpeg)
        self.describe(path, item)

    def describe(self, path: Path, item: Result | ObjectEvent) -> None:
        """Write, or replace, what is told of the picture.

        Raises:
            TransientError: no room.
            FatalError: it cannot be written.
        """
        if self._sidecar:
            told = to_dict(item) if isinstance(item, Result) else event_dict(item)
            line = json.dumps(told | {"picture": path.name}, ensure_ascii=False, allow_nan=False)
            _write(_sidecar(path), line.encode() + b"\n")

    def finish(self, path: Path) -> Path:
        """Give a picture that was not final its name.

        Raises:
            TransientError, FatalError: it has not got it.
        """
        OutputFile(path, keep=True).finish()
        return path

    def salvage(self, part: Path) -> str | None:
        """Give a picture that a killed process left its name, if it is whole, else remove it; the name it got."""
        path = part.with_name(part.name.removesuffix(PART_SUFFIX))
        try:
            file = OutputFile(path, keep=True)
        except PenstockError:
            return None  # somebody writes it
        _part(part).unlink(missing_ok=True)
        if _is_whole(file.fd):
            file.finish()
            return display(path)
        file.abandon(remove=True)
        return None

    def forget(self, path: Path) -> None:
        """The picture was removed: its JSON goes, too."""
        if self._sidecar:
            _sidecar(path).unlink(missing_ok=True)


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART_SUFFIX)


def _write(path: Path, content: bytes) -> None:
    file = OutputFile(path)
    try:
        with open(file.fd, "wb", closefd=False) as stream:
            stream.write(content)
    except OSError as error:
        file.abandon(remove=True)
        raise write_error(path, error) from error
    file.finish()


def _is_whole(fd: int) -> bool:
    """Whether it is a JPEG that has an end."""
    size = os.fstat(fd).st_size
    return size > 4 and os.pread(fd, 2, size - 2) == _END_OF_JPEG
