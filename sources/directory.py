"""The source `directory`: every picture in a folder, or of a list or pattern, once; and those that come, if watched."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError, FatalError, SourceErrorCode
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.source import SourceConfig
from sources._listing import PathList, check_there, exists, expand, natural_key
from sources._watch_after import After, check_watch, watched_folder

if TYPE_CHECKING:
    from pipeline.models.picture import VideoPicture

Extension = Annotated[str, StringConstraints(pattern=r"^\.?[A-Za-z0-9]+$", to_lower=True)]


class DirectorySourceConfig(SourceConfig):
    """JPEG, PNG, WebP, BMP and TIFF pictures. Hidden files in a folder are left out."""

    type: Literal["directory"]
    path: PathList = Field(
        min_length=1, description="a folder, a picture, a glob pattern of pictures, or a list of these"
    )
    recursive: bool = Field(default=False, description="its subfolders too")
    extensions: tuple[Extension, ...] = Field(
        default=("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"),
        min_length=1,
        description="which files are pictures; what is in them decides how they are read",
    )
    follow_links: bool = Field(
        default=False,
        description="read symbolic links that lead out of the folder; without it they are counted as failed",
    )
    fps: float | None = Field(default=None, gt=0, description="how many pictures make a second; none have no timeline")
    max_pixels: int = Field(default=100_000_000, ge=1, description="refuse pictures with more pixels than this")

    watch: bool = Field(
        default=False, description="go on for ever: read each picture that comes, once, even after a restart"
    )
    after: After = Field(
        default="keep", description='with watch, what becomes of a file that was read: "keep", "move" or "delete"'
    )
    done_dir: ConfigPath | None = Field(
        default=None, description='the folder for after = "move"; files without a picture go into its subfolder failed'
    )

    def check(self) -> None:
        """Find what is not there, and what cannot be done with files that were read.

        Raises:
            ConfigError: keys `path`, `after`, `done_dir`, `fps`.
        """
        if self.watch:
            if self.fps is not None:
                raise ConfigError("pictures that are watched for come when they come: fps says nothing", key="fps")
            check_watch(self.path, self.after, self.done_dir, recursive=self.recursive)
            return
        for key, is_set in (("after", self.after != "keep"), ("done_dir", self.done_dir is not None)):
            if is_set:
                raise ConfigError(f"{key} needs watch = true", key=key)
        check_there(self.path)

    def build(self, ctx: Context) -> "DirectorySource":
        """Make the source; opens nothing."""
        return DirectorySource(self, ctx)

    def reads(self) -> Sequence[Path]:
        """The folders and the single pictures; with `watch` the folders of patterns."""
        if self.watch:
            return [path if (path := Path(each)).is_dir() else watched_folder(each) for each in self.path]
        return [Path(path) for path in expand(self.path)]


class DirectorySource:
    """Gives the pictures that are in the folder when it begins; or, watching, those and all that come, until it is
    stopped. Built and read by its runner's thread.

    `pts_s` is the number of the picture over `fps`, and None without it; a picture that cannot be read keeps its place.
    """

    live = False

    def __init__(self, config: DirectorySourceConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._seq = 0
        self._expected_frames: int | None = None

    @property
    def may_idle(self) -> bool:
        """Whether it is well without giving anything for as long as nothing comes."""
        return self._config.watch

    @property
    def expected_frames(self) -> int | None:
        """How many files there are to read; None before they are listed, and where they are watched for."""
        return self._expected_frames

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        """Every picture. See `Source`.

        Raises:
            FatalError: the folder cannot be read, or holds no picture that can.
            TransientError: with `watch`: the folder is not there, or what was read cannot be noted.
        """
        if self._config.watch:
            yield from self._watched(stop)
            return
        from pipeline.models.images import BrokenPictureError, read_picture

        config, clock = self._config, self._ctx.clock
        listed = list(_listed(config))
        self._expected_frames = len(listed)
        seq_before, started_at = self._seq, clock.wall()
        for number, (path, folder) in enumerate(listed):
            if stop.is_set():
                return
            if folder is not None and not config.follow_links and not _lies_in(path, folder):
                yield FailedFrame(f"{path}: a link out of the folder (follow_links = true reads it)", file=path)
                continue
            try:
                picture = read_picture(path, config.max_pixels)
            except BrokenPictureError as error:
                yield FailedFrame(f"{path}: {error}", file=path)
                continue
            pts_s = None if config.fps is None else number / config.fps
            yield Frame(
                source=self._ctx.name,
                seq=self._seq,
                pts_s=pts_s,
                captured_at=clock.wall() if pts_s is None else started_at + pts_s,
                time_source="arrival" if pts_s is None else "pts",
                picture=picture,
                decoded_at=clock.monotonic(),
                path=path,
                duration_s=None if config.fps is None else 1 / config.fps,
            )
            self._seq += 1
        if self._seq == seq_before:
            raise FatalError(
                f"{', '.join(config.path)}: none of the pictures could be read", code=SourceErrorCode.CORRUPT
            )

    def _watched(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        from sources._watch import FolderWatch
        from sources._watch_after import Disposal
        from sources._watch_state import DoneFiles

        config, ctx = self._config, self._ctx
        if stop.is_set():
            return
        done = DoneFiles(ctx.data_dir / "watched" / f"{ctx.name}.sqlite", ctx.warn)
        try:
            yield from FolderWatch(
                config.path,
                wanted=_suffixes(config),
                recursive=config.recursive,
                follow_links=config.follow_links,
                max_pixels=config.max_pixels,
                done=done,
                disposal=Disposal(config.after, config.done_dir, ctx.warn),
                frame_of=self._arrived,
                ctx=ctx,
            ).items(stop)
        finally:
            done.close()

    def _arrived(self, path: str, picture: "VideoPicture") -> Frame:
        """The frame of a picture that came."""
        clock = self._ctx.clock
        seq, self._seq = self._seq, self._seq + 1
        return Frame(
            source=self._ctx.name,
            seq=seq,
            pts_s=None,
            captured_at=clock.wall(),
            time_source="arrival",
            picture=picture,
            decoded_at=clock.monotonic(),
            path=path,
        )


def _suffixes(config: DirectorySourceConfig) -> set[str]:
    return {"." + extension.removeprefix(".") for extension in config.extensions}


def _lies_in(path: str, folder: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def _listed(config: DirectorySourceConfig) -> Iterator[tuple[str, str | None]]:
    """The pictures, each with the folder that it was found in; None for one that the user named.

    Raises:
        FatalError: nothing is there, or a folder cannot be read or has no such files.
    """
    wanted = _suffixes(config)
    paths = expand(config.path)
    if not any(map(exists, paths)):
        raise FatalError(f"{', '.join(config.path)}: no such file or folder", code=SourceErrorCode.NOT_FOUND)
    for path in paths:
        if Path(path).is_dir():
            yield from ((found, path) for found in _in_folder(path, wanted, recursive=config.recursive))
        else:
            yield path, None


def _in_folder(folder: str, wanted: set[str], *, recursive: bool) -> list[str]:
    """The picture files in natural order of their paths; links to folders are not entered."""

    def fail(error: OSError) -> None:
        raise FatalError(
            f"{error.filename}: {error.strerror or 'cannot be read'}", code=SourceErrorCode.NOT_FOUND
        ) from error

    paths = []
    for parent, subfolders, names in os.walk(folder, onerror=fail):
        subfolders[:] = [name for name in subfolders if recursive and not name.startswith(".")]
        paths += [
            path
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in wanted
            if Path(path := str(Path(parent, name))).is_file()
        ]
    if not paths:
        raise FatalError(
            f"{folder}: there are no pictures ({', '.join(sorted(wanted))}) in the folder",
            code=SourceErrorCode.NOT_FOUND,
        )
    return sorted(paths, key=natural_key)
