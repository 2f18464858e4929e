"""`GzipJob`: a closed file becomes `NAME.gz`."""

import os
import zlib
from pathlib import Path

from pipeline.contracts.paths import FILE_MODE
from sinks._files import PART_SUFFIX, sync_folder
from sinks._rotation import gzipped

_SLICE_BYTES = 256 << 10
_LEVEL = 6
_WINDOW = 31  # zlib.h: 15 bits of window, and a gzip header around it


class GzipJob:
    """`NAME` becomes `NAME.gz` by way of `NAME.gz.part`; see `Afterwork`.

    Raises:
        OSError: one of them cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.target = gzipped(path)
        self._part = self.target.with_name(self.target.name + PART_SUFFIX)
        self._from = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._to = os.open(self._part, flags, FILE_MODE)
        except BaseException:
            os.close(self._from)
            raise
        self._zip = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW)

    def step(self) -> bool:
        """See `Job.step`."""
        data = os.read(self._from, _SLICE_BYTES)
        view = memoryview(self._zip.compress(data) if data else self._zip.flush())
        while view:
            view = view[os.write(self._to, view) :]
        if data:
            return False
        stat = os.fstat(self._from)
        os.utime(self._to, (stat.st_atime, stat.st_mtime))  # as old as what is in it
        os.fsync(self._to)
        self._part.replace(self.target)
        sync_folder(self.target.parent)
        self.path.unlink(missing_ok=True)
        self._close()
        return True

    def abandon(self) -> None:
        """See `Job.abandon`."""
        self._close()
        self._part.unlink(missing_ok=True)

    def _close(self) -> None:
        os.close(self._from)
        os.close(self._to)
