"""A disk of a few MiB of its own, that can be filled and emptied: what happens when there is no room."""

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest


class SmallDisk:
    """A tmpfs at `folder`; a context manager. Skips the test where nothing may be mounted.

    Args:
        folder: where; made.
        size: as `mount` takes it.
    """

    def __init__(self, folder: Path, size: str = "1m") -> None:
        self.folder = folder
        self._filler = folder / "filler"
        self._size = size

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        if os.geteuid() != 0:
            pytest.skip("only root may mount a tmpfs")
        options = f"size={self._size},nr_inodes=1000,mode=0755"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode != 0:
            pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def free_bytes(self) -> int:
        """Room that is left."""
        stat = os.statvfs(self.folder)
        return stat.f_bavail * stat.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Let somebody else take the room, but for so much."""
        with self._filler.open("ab", buffering=0) as file:
            while (left := self.free_bytes() - leave_bytes) > 0:
                try:
                    file.write(b"\0" * left)
                except OSError:  # others write, too
                    continue

    def empty(self) -> None:
        """Give it back."""
        self._filler.unlink()
