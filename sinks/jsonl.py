"""`jsonl`: results as lines of JSON in files."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError
from pipeline.contracts.event import DaemonEvent, Event
from pipeline.contracts.result import Result
from pipeline.contracts.sink import SinkConfig
from pipeline.wire.results import event_line, to_line
from sinks._files import OutputFile, make_folder, write_error
from sinks._paths import (
    PathTemplate,
    check_writable,
    display,
    event_path,
    fixed_root,
    known_path,
    path_for,
    placeholders,
)

Mode = Literal["replace", "append", "overwrite"]

_MAX_REMEMBERED = 10_000  # finished files; more of them are still written right, only no longer listed
_TAIL_BYTES = 65_536


class JsonlSinkConfig(SinkConfig):
    """Lines of JSON (a Roboflow response with an envelope), one for each result."""

    takes_events: ClassVar[bool] = True

    type: Literal["jsonl"] = "jsonl"
    path: PathTemplate = Field(description="file name; placeholders: {source}, {stem}, {date}, {hour}")
    mode: Mode = Field(
        default="replace",
        description="replace: PATH.part until the end, then complete under its name; append and overwrite: lines can "
        "be read at PATH as they come, after what is in the file or instead of it",
    )

    def check(self) -> None:
        """Find a path that cannot be written.

        Raises:
            ConfigError: for the key `path`.
        """
        check_writable(self.path)

    def build(self, ctx: Context) -> "JsonlSink":
        """Make the sink."""
        return JsonlSink(self.path, self.mode, ctx)

    def writes(self, source: str) -> Sequence[Path]:
        """The file for this source, where its name does not depend on the frames."""
        path = known_path(self.path, source)
        return () if path is None else (path,)


class _LineFile:
    """One open file of whole lines."""

    def __init__(self, path: Path, mode: Mode, ctx: Context) -> None:
        self.file = OutputFile(path, atomic=mode == "replace", keep=mode == "append")
        try:
            self.size_bytes = self._mend(ctx) if mode == "append" else 0
        except BaseException:
            self.file.abandon(remove=False)
            raise

    def append(self, data: bytes) -> None:
        """Write all of `data` behind what is there; on an error the caller calls `cut`."""
        done = 0
        while done < len(data):  # a disk that is nearly full takes a part, and says why at the next call
            done += os.pwrite(self.file.fd, memoryview(data)[done:], self.size_bytes + done)
        self.size_bytes += done

    def cut(self, size_bytes: int) -> None:
        """Take back what was written behind `size_bytes`: no torn line stays."""
        self.size_bytes = size_bytes
        os.ftruncate(self.file.fd, size_bytes)

    def finish(self) -> bool:
        """Bring the file to its final name; without a line it replaces no older one, and False is the answer."""
        if self.file.atomic and self.size_bytes == 0:
            self.file.abandon(remove=True)
            return False
        self.file.finish()
        return True

    def _mend(self, ctx: Context) -> int:
        """Bring a file that ends in the middle of a line (a crash, a full disk) back to whole lines; its size."""
        size = os.fstat(self.file.fd).st_size
        tail, start = b"", size
        while start > 0 and b"\n" not in tail:
            step = min(_TAIL_BYTES, start)
            start -= step
            tail = os.pread(self.file.fd, step, start) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if not torn:
            return size
        if _is_json(torn):
            os.pwrite(self.file.fd, b"\n", size)
            return size + 1
        ctx.warn(f"{display(self.file.path)} ended in the middle of a line: its last {len(torn)} bytes were cut off")
        os.ftruncate(self.file.fd, size - len(torn))
        return size - len(torn)


class JsonlSink:
    """Writes each result's line to the file that its template names; used by its runner's thread only."""

    wants_pictures = False

    def __init__(self, template: str, mode: Mode, ctx: Context) -> None:
        self._template = template
        self._mode: Mode = mode
        self._ctx = ctx
        self._changes = bool(placeholders(template) - {"source"})
        self._path_of: dict[str, Path] = {}  # the one path that each source is writing to
        self._open: dict[Path, _LineFile] = {}
        self._finished: dict[Path, None] = {}  # in the order of their ends

    def open(self) -> None:
        """Make the folder, and the file where its name is known: what cannot be written shows before the start."""
        make_folder(fixed_root(self._template))
        if not placeholders(self._template) and self._mode != "overwrite":
            self._file(Path(self._template.format()))

    def write(self, results: Sequence[Result]) -> None:
        """Write the lines; each can be read by others when this returns. All of them, or none."""
        lines: dict[Path, list[str]] = {}
        for result in results:
            lines.setdefault(self._path(result), []).append(to_line(result))
        self._append(lines)

    def notice(self, event: Event) -> None:
        """Write the event's line; raises as `write` does."""
        source = event.component if isinstance(event, DaemonEvent) else event.source
        path = self._path_of.get(source)
        if path is None:
            path = self._path_of[source] = event_path(self._template, source, event.at)
        self._append({path: [event_line(event)]})

    def release(self, source: str) -> None:
        """Finish the file of a source that was removed, unless another one writes to it, too."""
        self._path_of.pop(source, None)
        self._finish_left()

    def close(self) -> None:
        """Bring every file to its final name, also when one of them fails."""
        self._path_of.clear()
        self._finish_left()

    def written(self) -> Sequence[str]:
        """The files, in the order in which they were finished, then those still open."""
        return [display(path) for path in dict.fromkeys([*self._finished, *self._open])]

    def _append(self, lines: Mapping[Path, Sequence[str]]) -> None:
        """Write whole lines to their files: all of them, or none."""
        before: list[tuple[_LineFile, int]] = []
        try:
            for path, batch in lines.items():
                file = self._file(path)
                before.append((file, file.size_bytes))
                file.append(("\n".join(batch) + "\n").encode())
        except OSError as error:
            _take_back(before)
            raise write_error(before[-1][0].file.part, error) from error
        except PenstockError:
            _take_back(before)
            raise
        self._finish_left()

    def _path(self, result: Result) -> Path:
        source = result.frame.source
        path = self._path_of.get(source)
        if path is None or self._changes:
            path = self._path_of[source] = path_for(self._template, result.frame)
        return path

    def _file(self, path: Path) -> _LineFile:
        file = self._open.get(path)
        if file is None:
            # A file that this sink finished before is gone on with: a loop of files must not wipe its own results.
            again = path in self._finished or (len(self._finished) >= _MAX_REMEMBERED and path.exists())
            again = again or (self._ctx.continues and path.exists())
            file = self._open[path] = _LineFile(path, "append" if again else self._mode, self._ctx)
        return file

    def _finish_left(self) -> None:
        """Finish the files that no source writes to any more.

        Raises:
            FatalError: for all that could not be finished.
        """
        needed = set(self._path_of.values())
        if len(self._open) == len(needed) and needed:
            return
        failures = []
        for path in [path for path in self._open if path not in needed]:
            try:
                stands = self._open.pop(path).finish()
            except PenstockError as error:
                failures.append(str(error))
            else:
                if stands and len(self._finished) < _MAX_REMEMBERED:
                    self._finished[path] = None
        if failures:
            raise FatalError("; ".join(failures))


def _take_back(before: Sequence[tuple[_LineFile, int]]) -> None:
    """Cut the files back to their sizes before a batch that failed: what is counted as lost stands nowhere."""
    for file, size_bytes in before:
        try:
            file.cut(size_bytes)
        except OSError as error:
            raise FatalError(f"{display(file.file.part)} ends in a torn line: {error.strerror}") from error


def _is_json(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False
