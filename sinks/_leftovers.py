"""What a killed run left of its videos: finished at the next start, where it can be played."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.contracts.component import Context
from sinks._container import mend
from sinks._files import PART_SUFFIX, sync_folder
from sinks._paths import display
from sinks._retention import Archive

_HEADER_BYTES = 2048  # a header alone, without a picture
_NAMED = 3  # that many are named in the message


def finish_leftovers(archive: Archive, ctx: Context) -> list[Path]:
    """Give the `NAME.part` of processes that are gone their names, NAME or NAME-0002 where that is taken.

    What cannot be played stays as it is, what is empty goes. Neither is touched while somebody writes it.

    Returns:
        The files that were finished.
    """
    finished: list[Path] = []
    useless: list[Path] = []
    for part in sorted(archive.parts()):
        try:
            with _alone(part) as fd:
                if fd is None:
                    continue
                if (target := _finish(part, fd)) is not None:
                    finished.append(target)
                elif part.exists():
                    useless.append(part)
        except OSError as error:
            ctx.warn(f"{display(part)}, left by a run before, cannot be finished: {error.strerror}")
    if finished:
        ctx.warn(f"finished what a run before had to leave: {_names(finished)}")
    if useless:
        ctx.warn(f"a run before left what cannot be played: {_names(useless)}")
    return finished


def free_name(path: Path) -> Path:
    """`path`, or with the first number at which there is nothing."""
    number = 1
    while os.path.lexists(name := numbered(path, number)):
        number += 1
    return name


def numbered(path: Path, number: int) -> Path:
    """`path` itself for 1, `NAME-0002.mp4` for 2."""
    return path if number == 1 else path.with_name(f"{path.stem}-{number:04d}{path.suffix}")


@contextmanager
def _alone(part: Path) -> Iterator[int | None]:
    """The file, open and locked; None: somebody writes it, or has just finished it."""
    fd = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = os.path.samestat(os.fstat(fd), part.stat())
        except (BlockingIOError, FileNotFoundError):
            alone = False
        yield fd if alone else None
    finally:
        os.close(fd)


def _finish(part: Path, fd: int) -> Path | None:
    """The name that it got; None: it is of no use."""
    if not _can_be_played(part):
        if os.fstat(fd).st_size < _HEADER_BYTES:
            part.unlink()
        return None
    target = free_name(part.with_name(part.name.removesuffix(PART_SUFFIX)))
    os.fsync(fd)
    part.rename(target)
    sync_folder(target.parent)
    return target


def _can_be_played(path: Path) -> bool:
    """Whether there is a packet of video in it."""
    import av

    mend(path, Path(path.name.removesuffix(PART_SUFFIX)).suffix.lower())
    try:
        with av.open(str(path), metadata_errors="ignore", options={"protocol_whitelist": "file"}) as container:
            return any(packet.size for packet in container.demux(video=0))
    except (av.FFmpegError, OSError, ValueError, IndexError):
        return False


def _names(paths: list[Path]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(display(path) for path in paths[:_NAMED]) + more
