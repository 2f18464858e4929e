"""`FolderWatch`: the pictures that come into watched folders, each once and never half of one."""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import iglob
from pathlib import Path
from typing import NamedTuple

from pipeline.contracts.component import Context
from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.models.images import BrokenPictureError, read_picture
from pipeline.models.picture import VideoPicture
from sources._listing import is_pattern, natural_key
from sources._watch_after import Disposal
from sources._watch_state import DoneFiles, Version

SCAN_EVERY_S = 0.5
_LONGEST_SHARE = 20  # after a scan it rests for so many times as long as the scan took: 5 % of a core at most

SETTLE_S = 0.5
"""A file is read when its size and time of change were the same for so long..."""

PATIENCE_S = 10.0
"""...and if it is no whole picture then, once more when they were for so long: who writes it may be slow."""


class Found(NamedTuple):
    """A file as it was at one moment.

    Attributes:
        path: its name.
        version: its size and time of change; of what it points to if it is a link.
        inode: which file the name stands for.
        folder: the watched folder it was found in; None for one of a pattern, or that was named.
    """

    path: str
    version: Version
    inode: int
    folder: str | None


@dataclass(slots=True)
class _OnItsWay:
    """A file that was given and is not known to be dealt with.

    Attributes:
        found: the file.
        picture: gone when nobody holds the pixels any more.
        whole: False where there was no picture in it.
        asked: True once the next one was asked for: this one has arrived.
    """

    found: Found
    picture: weakref.ref[VideoPicture] | None
    whole: bool
    asked: bool = False

    @property
    def over(self) -> bool:
        return self.asked and (self.picture is None or self.picture() is None)


class FolderWatch:
    """Looks into the folders twice a second. Made and used by one source's thread.

    It looks, and does not ask the kernel to be told (inotify): folders on a network tell nothing of what others do,
    events are lost when there are many, and that a file was closed does not mean that it is complete.

    A file is done with when nobody holds its picture any more, so once it was inferred (or, at an end in good order,
    when it has been handed on): `kill -9` loses none in a queue, and may give the few again that were on their way.

    Args:
        paths: folders, patterns and names, as in the config.
        wanted: the extensions of pictures in folders, with their dots.
        recursive: their subfolders too.
        follow_links: read links that lead out of the folder.
        max_pixels: as in the config.
        done: what was read before.
        disposal: what happens to a file that is done with.
        frame_of: makes the frame of a file's picture.
        ctx: the source's.
    """

    def __init__(
        self,
        paths: Iterable[str],
        *,
        wanted: set[str],
        recursive: bool,
        follow_links: bool,
        max_pixels: int,
        done: DoneFiles,
        disposal: Disposal,
        frame_of: Callable[[str, VideoPicture], Frame],
        ctx: Context,
    ) -> None:
        self._paths = list(paths)
        self._wanted, self._recursive, self._follow_links = wanted, recursive, follow_links
        self._max_pixels = max_pixels
        self._done, self._disposal, self._frame_of, self._ctx = done, disposal, frame_of, ctx
        self._settling: dict[str, tuple[Found, float]] = {}
        self._unreadable: dict[str, Found] = {}
        self._on_their_way: dict[str, _OnItsWay] = {}
        self._next: Frame | FailedFrame | None = None
        self._missing: set[str] = set()
        self._scanned_at = 0.0

    def items(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        """Every file as it arrives, until `stop`: in the order of their times of change, then of their names.

        Raises:
            TransientError: NOT_FOUND, none of the folders is there; INTERNAL, what was read cannot be noted.
        """
        monotonic = self._ctx.clock.monotonic
        try:
            while not stop.is_set():
                began_at = monotonic()
                for found in self._ready():
                    if self._read(found):
                        yield self._take()
                        self._on_their_way[found.path].asked = True
                    self._settle()
                    if stop.is_set():
                        return
                self._settle()
                stop.wait(max(SCAN_EVERY_S, _LONGEST_SHARE * (self._scanned_at - began_at)))
        finally:
            self._settle(at_the_end=True)

    def _ready(self) -> list[Found]:
        """The files that are new and have not changed for long enough."""
        now = self._ctx.clock.monotonic()
        present, complete = self._scan()
        self._scanned_at = self._ctx.clock.monotonic()
        settling, ready = {}, []
        for path, found in present.items():
            on_its_way = self._on_their_way.get(path)
            if (path, found.version) in self._done or (on_its_way and on_its_way.found == found):
                continue
            before, since = self._settling.get(path, (None, now))
            if before != found:
                since = now
            settling[path] = found, since
            if now - since >= (PATIENCE_S if self._unreadable.get(path) == found else SETTLE_S):
                ready.append(found)
        self._settling = settling
        self._unreadable = {path: found for path, found in self._unreadable.items() if path in settling}
        if complete:
            self._done.forget_gone(present)
        return sorted(ready, key=lambda found: (found.version.mtime_ns, natural_key(found.path)))

    def _read(self, found: Found) -> bool:
        """Whether there is something to give, which `_take` gives."""
        path = found.path
        picture = None
        if found.folder is not None and not self._follow_links and not _lies_in(path, found.folder):
            failure = f"{path}: a link out of the folder (follow_links = true reads it)"
        elif _found(path, found.folder) != found:
            return False  # gone, or being written again
        else:
            failure = ""
            try:
                picture = read_picture(path, self._max_pixels)
            except BrokenPictureError as error:
                failure = f"{path}: {error}"
            if _found(path, found.folder) != found:
                return False
            if failure and self._unreadable.get(path) != found:
                self._unreadable[path] = found
                return False
        whole = picture is not None
        self._on_their_way[path] = _OnItsWay(found, weakref.ref(picture) if picture else None, whole)
        self._next = FailedFrame(failure, file=path) if picture is None else self._frame_of(path, picture)
        return True

    def _take(self) -> Frame | FailedFrame:
        """What was read; it is held here no longer."""
        item, self._next = self._next, None
        assert item is not None  # noqa: S101  (only after `_read`)
        return item

    def _settle(self, *, at_the_end: bool = False) -> None:
        """Deal with the files whose pictures have been let go; at the end with all that have been handed on."""
        over = [each for each in self._on_their_way.values() if each.over or (at_the_end and each.asked)]
        for each in over:
            found = each.found
            del self._on_their_way[found.path]
            if _found(found.path, found.folder) != found:
                continue  # somebody else took it away, or there is a new one under its name
            is_foreign = found.folder is not None and not _lies_in(found.path, found.folder)
            if is_foreign or not self._disposal.dispose(found.path, found.folder, whole=each.whole):
                self._done.add(found.path, found.version)

    def _scan(self) -> tuple[dict[str, Found], bool]:
        """All files that are there now, and whether all folders are."""
        present: dict[str, Found] = {}
        missing = set()
        for path in self._paths:
            if is_pattern(path):
                matches = (_found(match, None) for match in iglob(path, recursive=True))  # noqa: PTH207
                present.update((found.path, found) for found in matches if found)
            elif Path(path).is_dir():
                present.update((found.path, found) for found in self._in_folder(path, path))
            elif found := _found(path, None):
                present[path] = found
            elif Path(path).suffix.lower() not in self._wanted:
                missing.add(path)
        if len(missing) == len(self._paths):
            raise TransientError(f"{', '.join(self._paths)}: no such folder", code=SourceErrorCode.NOT_FOUND)
        for path in missing - self._missing:
            self._ctx.warn(f"{path}: no such folder; it is watched as soon as it is there")
        self._missing = missing
        return present, not missing

    def _in_folder(self, folder: str, root: str) -> Iterator[Found]:
        """The picture files in it; links to folders are not entered, hidden ones neither."""
        try:
            with os.scandir(folder) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            if folder == root:
                raise TransientError(f"{folder}: {error.strerror}", code=SourceErrorCode.NOT_FOUND) from error
            return  # a subfolder that has gone, or is somebody else's
        for entry in listed:
            try:
                if entry.is_dir(follow_symlinks=False):
                    if self._recursive:
                        yield from self._in_folder(entry.path, root)
                elif os.path.splitext(entry.name)[1].lower() in self._wanted and entry.is_file():  # noqa: PTH122
                    yield _as_found(entry.path, entry.stat(), root)
            except OSError:
                continue  # it has gone in the meantime


def _found(path: str, folder: str | None) -> Found | None:
    """The file as it is now; None where there is none."""
    try:
        return _as_found(path, Path(path).stat(), folder) if Path(path).is_file() else None
    except OSError:
        return None


def _as_found(path: str, stat: os.stat_result, folder: str | None) -> Found:
    return Found(path, Version(stat.st_size, stat.st_mtime_ns), stat.st_ino, folder)


def _lies_in(path: str, folder: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(folder).resolve())
