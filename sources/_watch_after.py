"""What becomes of a watched folder's files when they were read: kept, moved or deleted; and the keys for it."""

import errno
import os
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from glob import has_magic
from pathlib import Path
from typing import Literal

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.paths import make_folders

After = Literal["keep", "move", "delete"]

FAILED_FOLDER = "failed"
"""Inside `done_dir`: where files go in which there was no picture."""


_DONE: dict[After, str] = {"keep": "kept", "move": "moved", "delete": "deleted"}


class Disposal:
    """Moves or deletes files that were read; a file without a picture is moved, but never deleted.

    Made and used by one source's thread. Links are moved and deleted as links, never what they point to.

    Args:
        after: as in the config.
        done_dir: as in the config; given for "move".
        warn: tells the operator, once for each reason.
    """

    def __init__(self, after: After, done_dir: Path | None, warn: Callable[[str], None]) -> None:
        self._after, self._done_dir, self._warn = after, done_dir, warn
        self._told: set[str] = set()

    def dispose(self, path: str, folder: str | None, *, whole: bool) -> bool:
        """Whether the file is no longer where it was.

        Args:
            path: the file.
            folder: the watched folder that it was found in: subfolders are kept.
            whole: whether there was a picture in it.
        """
        try:
            if self._after == "move" and self._done_dir is not None:
                inside = Path(path).relative_to(folder) if folder is not None else Path(Path(path).name)
                self._move(Path(path), self._done_dir / (inside if whole else FAILED_FOLDER / inside))
                return True
            if self._after == "delete" and whole:
                Path(path).unlink(missing_ok=True)
                return True
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if reason not in self._told:
                self._told.add(reason)
                self._warn(f"{path} was read, and could not be {_DONE[self._after]}: {reason}")
        return False

    @staticmethod
    def _move(path: Path, target: Path) -> None:
        """Under another name if there is one like it already; whoever sees it there sees all of it."""
        make_folders(target.parent)
        number, free = 1, target
        while os.path.lexists(free):
            number += 1
            free = target.with_name(f"{target.stem}-{number}{target.suffix}")
        try:
            path.rename(free)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            part = free.with_name(f".{free.name}.part")  # another file system: copied first
            shutil.copy2(path, part, follow_symlinks=False)
            part.replace(free)
            path.unlink()


def check_watch(paths: Iterable[str], after: After, done_dir: Path | None, *, recursive: bool) -> None:
    """See that watched folders are there, and that files can be moved or deleted as asked.

    Raises:
        ConfigError: key `path`, `after` or `done_dir`.
    """
    folders = [(path, watched_folder(path)) for path in paths]
    for path, folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{path} cannot be watched: {folder} is not there or is no folder", key="path")
        if after != "keep" and not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f'after = "{after}": {folder} cannot be written', key="after")
    if after != "move":
        if done_dir is not None:
            raise ConfigError('done_dir is for after = "move"', key="done_dir")
        return
    if done_dir is None:
        raise ConfigError('after = "move" needs done_dir, the folder to move files to', key="done_dir")
    _check_done_dir(done_dir, folders, recursive=recursive)


def _check_done_dir(done_dir: Path, folders: Iterable[tuple[str, Path]], *, recursive: bool) -> None:
    for path, folder in folders:
        if _is_watched(done_dir, path, folder, recursive=recursive):
            raise ConfigError(f"{done_dir} is itself watched ({path}): files would be read again", key="done_dir")
    existing = next(parent for parent in (done_dir, *done_dir.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{done_dir} cannot be written", key="done_dir")


def watched_folder(path: str) -> Path:
    """The folder that a path or pattern is about: itself, that of a file, or the part before the first wildcard."""
    whole = Path(path)
    if whole.is_dir():
        return whole
    if has_magic(path) and not whole.exists():
        return next(parent for parent in whole.parents if not has_magic(str(parent)))
    return whole if not whole.suffix else whole.parent


def _is_watched(done_dir: Path, path: str, folder: Path, *, recursive: bool) -> bool:
    """Whether a file that was moved to `done_dir`, or into a folder in it, would be found by `path` again."""
    target, root = done_dir.resolve(), folder.resolve()
    if not target.is_relative_to(root):
        return False
    inside = target.relative_to(root).parts
    if Path(path).is_dir():
        hidden = any(part.startswith(".") for part in inside)
        return not inside or (recursive and not hidden)
    if "**" in path or not inside:
        return True
    # A moved file is `done_dir/NAME`, one without a picture `done_dir/failed/NAME`.
    pattern = str(Path(path).parent)
    return any(fnmatch(str(moved_to), pattern) for moved_to in (done_dir, done_dir / FAILED_FOLDER))
