"""`LineFiles`: the files of one path template: rotated, compressed, removed and synced by the sink's rules."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError
from sinks._afterwork import Afterwork
from sinks._files import keep_reserve, make_folder, write_error
from sinks._line_file import LineFile
from sinks._line_rules import LineRules
from sinks._paths import display, fixed_root
from sinks._places import Places
from sinks._retention import Archive, Retention, SteadyClock
from sinks._rotation import GZIP_SUFFIX, gzipped, period, piece_path

_MAX_REMEMBERED = 10_000  # finished files; more of them are still written right, only no longer listed
_AFTERWORK_S_PER_TICK = 0.1
_AFTERWORK_S_AT_END = 10.0  # the rest after the next start; what is not rotated is all done, as there may be none


class LineFiles:
    """Made by the sink; used by its runner's thread only.

    Args:
        rules: the sink's keys.
        ctx: the sink's.
        head: what stands in front of the first line of each file.
        is_whole: whether a last line that a crash left without its end is one all the same.
        afterwork: what is made of closed files.

    Attributes:
        places: which file each source writes to.
        mended: how many torn ends were cut off.
    """

    def __init__(
        self,
        rules: LineRules,
        ctx: Context,
        *,
        head: bytes = b"",
        is_whole: Callable[[bytes], bool] = lambda _: False,
        afterwork: Afterwork | None = None,
    ) -> None:
        self._rules = rules
        self._root = fixed_root(rules.template)
        self._ctx = ctx
        self._head = head
        self._is_whole = is_whole
        self.places = Places(rules.template)
        self._every_s = rules.rotate.every_s if rules.rotate else None
        self._open: dict[Path, LineFile] = {}
        self._period_of: dict[Path, int] = {}
        self._begun: dict[Path, None] = {}  # paths that were written to before
        self._finished: dict[Path, None] = {}  # in the order of their ends
        self.mended = 0
        self._steady = SteadyClock(ctx.clock)
        self._synced_at = ctx.clock.monotonic()
        self._archive = Archive(rules.template)
        self._pieces: set[Path] = set()  # what was packed before: what comes then must not take its name
        self._retention = Retention(self._archive, rules.keep, ctx, self._steady)
        self._afterwork = afterwork
        self._becomes = gzipped if afterwork is None else afterwork.becomes

    def open(self) -> None:
        """Make the folder, and the file where its name is known: what cannot be written shows before the start."""
        make_folder(self._root)
        closed = sorted(self._archive.files()) if self._afterwork is not None else []
        if self.places.only is not None and self._rules.mode != "overwrite":
            self._file(self.places.only, 0)
        for made in closed:  # what the last process did not come to
            if self._afterwork is not None and made.is_piece and made.path.suffix != GZIP_SUFFIX:
                self._afterwork.add(made.path)

    def append(self, lines: Mapping[Path, Sequence[str]]) -> None:
        """Write lines, each with its end, to their files: all of them, or none.

        Raises:
            TransientError: there is no room; nothing of it was written.
            FatalError: they cannot be written.
        """
        keep_reserve(self._root, self._rules.min_free_bytes)
        self._finish_left()  # what fails here is tried again, and told, by the next tick
        before: list[tuple[LineFile, int]] = []
        path = self._root
        try:
            for path, batch in lines.items():
                data = "".join(batch).encode("utf-8", "replace")
                file = self._file(path, len(data))
                before.append((file, file.size_bytes))
                file.append(data)
            if self._rules.sync_every_s == 0.0:
                for file, _ in before:
                    file.sync()
        except OSError as error:
            _take_back(before)
            raise write_error(path, error) from error
        except PenstockError:
            _take_back(before)
            raise

    def tick(self) -> None:
        """Do what time asks for: remove, rotate, sync, compress or convert.

        Raises:
            TransientError: the disk does not take it now; the next tick tries again.
        """
        self._forget_removed(self._retention.sweep(self._open.keys() | self.places.in_use()))
        for path in list(self._open):
            self._leave_if_gone(path)
        problems = self._finish_left()
        for path in [path for path in self._open if self._is_due(path)]:
            try:
                self._rotate(path)
            except PenstockError as error:
                problems.append(error)
        now = self._ctx.clock.monotonic()
        if self._rules.sync_every_s is not None and now - self._synced_at >= self._rules.sync_every_s:
            self._synced_at = now
            problems += self._sync()
        self._work_on(_AFTERWORK_S_PER_TICK)
        if problems:
            raise next((one for one in problems if isinstance(one, FatalError)), problems[0])

    def release(self, source: str) -> None:
        """Finish the file of a source that was removed, unless another one writes to it, too.

        Raises:
            TransientError, FatalError: it stays open, and the next tick tries again.
        """
        self.places.leave(source)
        for problem in self._finish_left():
            raise problem

    def close(self) -> None:
        """Bring every file to its final name, also when one of them fails.

        Raises:
            FatalError: for all that could not be finished.
        """
        self.places.leave_all()
        problems = self._finish_left()
        for file in self._open.values():
            file.out.abandon(remove=False)
        self._work_on(math.inf if self._rules.rotate is None else _AFTERWORK_S_AT_END)
        if self._afterwork is not None:
            self._afterwork.close()
        self._forget_removed(self._retention.sweep(self._open.keys() | self.places.in_use()))
        if problems:
            raise FatalError("; ".join(str(problem) for problem in problems))

    def written(self) -> Sequence[str]:
        """The files, in the order in which they were finished, then those still open."""
        return [display(path) for path in dict.fromkeys([*self._finished, *self._open])]

    # One file

    def _file(self, path: Path, more_bytes: int) -> LineFile:
        """The file to append `more_bytes` to."""
        file = self._open.get(path) or self._begin(path)
        if not self._is_due(path, more_bytes):
            return file
        self._rotate(path)
        return self._begin(path)

    def _begin(self, path: Path) -> LineFile:
        mode, rotates = self._rules.mode, self._rules.rotate is not None
        # A file that this sink wrote before is gone on with: a loop of files must not wipe its own results.
        maybe = self._ctx.continues or len(self._begun) >= _MAX_REMEMBERED
        again = path in self._begun or (maybe and path.exists())
        if self._is_packed(path) and (path in self._begun or maybe):
            self._pieces.add(path)
        atomic = mode == "replace" and (rotates or path in self._pieces or not again)
        keep = mode == "append" or again or atomic
        file = LineFile(path, atomic=atomic, keep=keep, head=self._head, is_whole=self._is_whole, ctx=self._ctx)
        self.mended += file.was_torn
        # What a killed process left in PATH.part belongs to the next piece; without pieces it becomes one of its own.
        if atomic and not rotates and path not in self._pieces and file.size_bytes:
            return self._begin_beside(path, file)
        self._open[path] = file
        self._period_of[path] = period(self._every_s, file.changed_at if file.has_lines else self._ctx.clock.wall())
        if self._afterwork is not None:
            self._afterwork.forget(path)
        if file.is_foreign:
            self._ctx.warn(f"{display(path)} has other columns: it was set aside")
            self._rotate(path)
            return self._begin(path)
        if len(self._begun) < _MAX_REMEMBERED:
            self._begun[path] = None
        return file

    def _is_packed(self, path: Path) -> bool:
        """Whether the file of this name was closed before, and compressed or converted."""
        packed = self._becomes(path)
        return self._afterwork is not None and packed != path and packed.exists()

    def _begin_beside(self, path: Path, left: LineFile) -> LineFile:
        """Keep what a run before left, as a closed file, and begin anew."""
        if not left.has_lines:
            left.out.abandon(remove=True)
        else:
            piece = left.set_aside(self._ctx.clock.wall(), self._becomes)
            self._ctx.warn(f"{display(left.out.part)}, left by a run before, is kept as {display(piece)}")
            self._closed(piece)
        return self._begin(path)

    def _is_due(self, path: Path, more_bytes: int = 0) -> bool:
        """Whether a file is to be closed before so much more is written to it."""
        rotate, file = self._rules.rotate, self._open[path]
        if rotate is None or not file.has_lines:
            return False
        full = rotate.max_bytes is not None and more_bytes > 0 and file.size_bytes + more_bytes > rotate.max_bytes
        return full or self._period_of[path] != period(self._every_s, self._ctx.clock.wall())

    def _rotate(self, path: Path) -> None:
        """Close a file under the name of a piece.

        Raises:
            TransientError, FatalError: it could not be done; the file is as it was.
        """
        piece = piece_path(path, self._ctx.clock.wall(), self._becomes)
        self._open[path].close_as(piece)
        del self._open[path], self._period_of[path]
        self._closed(piece)

    def _leave_if_gone(self, path: Path) -> None:
        """A file that somebody removed or moved away gets no more lines: nobody would find them."""
        file = self._open[path]
        if file.out.is_there():
            return
        self._ctx.warn(f"{display(file.out.part)} was moved or removed while it was written: a new one is begun")
        del self._open[path], self._period_of[path]
        self._begun.pop(path, None)
        file.out.abandon(remove=False)

    def _finish_left(self) -> list[PenstockError]:
        """Finish the files that no source writes to any more; what is wrong with those that stay open."""
        problems: list[PenstockError] = []
        left = self._open.keys() - self.places.in_use()
        for path in [path for path in self._open if path in left] if left else ():
            try:
                self._finish(path)
            except PenstockError as error:
                problems.append(error)
        return problems

    def _finish(self, path: Path) -> None:
        file = self._open[path]
        if file.out.atomic and file.size_bytes == 0:  # without a line it replaces no older one
            del self._open[path], self._period_of[path]
            self._begun.pop(path, None)
            file.out.abandon(remove=True)
        elif file.out.atomic and (self._rules.rotate is not None or path in self._pieces):
            self._rotate(path)
        else:
            file.close_as(path)
            del self._open[path], self._period_of[path]
            if self._rules.mode == "replace":  # also one that was gone on with
                self._closed(path)
            else:
                self._remember(path)

    def _closed(self, path: Path) -> None:
        """Nobody will write to this file any more."""
        with contextlib.suppress(OSError):  # its age is a little off, if it is there at all
            self._steady.stamp(path)
        self._remember(path)
        self._retention.look_soon()
        if self._afterwork is not None:
            self._afterwork.add(path)

    # All of them

    def _sync(self) -> list[PenstockError]:
        problems: list[PenstockError] = []
        for file in self._open.values():
            try:
                file.sync()
            except OSError as error:
                problems.append(write_error(file.out.part, error))
        return problems

    def _work_on(self, budget_s: float) -> None:
        if self._afterwork is None:
            return
        for was, now in self._afterwork.work(budget_s).items():
            self._finished.pop(was, None)
            self._remember(now)

    def _remember(self, path: Path) -> None:
        if len(self._finished) < _MAX_REMEMBERED:
            self._finished[path] = None

    def _forget_removed(self, removed: Sequence[Path]) -> None:
        for path in removed:
            self._finished.pop(path, None)


def _take_back(before: Sequence[tuple[LineFile, int]]) -> None:
    """Cut the files back to their sizes before a batch that failed: what is counted as lost stands nowhere."""
    for file, size_bytes in before:
        try:
            file.cut(size_bytes)
        except OSError:
            continue  # it is cut before anything else is written to it, and at the end
