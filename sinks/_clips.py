"""Clips: what a camera or a file shows around events, cut out of the encoded stream without encoding it again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.event import Event, ObjectEvent
from pipeline.contracts.result import Result
from sinks._clip_copy import FileCutter
from sinks._clip_file import combined, made_from, sidecar
from sinks._clip_live import LiveCutter
from sinks._files import FinishedFiles, make_folder
from sinks._leftovers import finish_leftovers
from sinks._paths import fixed_root, item_path
from sinks._retention import Archive, KeepConfig, Retention

if TYPE_CHECKING:
    from pipeline.contracts.packets import PacketReader

_LAG_S = 10.0  # the sink may be so late before a clip loses packets


class ClipPlan(NamedTuple):
    """What the config says of clips.

    Attributes:
        path: where they go, an `EventPathTemplate`.
        pre_roll_s: how much is shown from before an event, at least.
        post_roll_s: how much is shown from after it.
        max_clip_s: a longer one goes on in the next file.
        audio: with sound.
        ring_bytes: for each source, so much is kept in memory of what was before.
        min_free_bytes: leave so much of the disk free.
        keep: which clips are removed; None: none.
    """

    path: str
    pre_roll_s: float
    post_roll_s: float
    max_clip_s: float
    audio: bool
    ring_bytes: int
    min_free_bytes: int
    keep: KeepConfig | None


class ClipSink:
    """Records clips around the events that it is told. Made by the config of `video`; used by its runner's thread,
    `attach` by the main one.

    A live source's packets lie in a ring in memory until an event wants them; what a file shows is copied out of the
    file. Events whose clips would overlap have one clip together.
    """

    wants_pictures = False

    def __init__(self, plan: ClipPlan, ctx: Context) -> None:
        self._plan = plan
        self._ctx = ctx
        self._readers: dict[str, tuple[PacketReader, float]] = {}  # with the monotonic seconds of `attach`
        self._live: dict[str, LiveCutter] = {}
        self._files: dict[str, FileCutter] = {}
        self._archive = Archive(plan.path, made_from, bases_close=True)
        self._retention = Retention(self._archive, plan.keep, ctx)
        self._finished = FinishedFiles()

    def attach(self, source: str) -> None:
        """Keep what this source shows from now on, for the time before an event."""
        if source not in self._readers:
            reader = self._ctx.packets(source).reader(
                keep_s=self._plan.pre_roll_s + _LAG_S, max_bytes=self._plan.ring_bytes, audio=self._plan.audio
            )
            self._readers[source] = (reader, self._ctx.clock.monotonic())

    def open(self) -> None:
        """Make the folder, and finish what a killed process left.

        Raises:
            TransientError, FatalError: the folder cannot be made.
        """
        make_folder(fixed_root(self._plan.path))
        finish_leftovers(self._archive, self._ctx)

    def write(self, results: Sequence[Result]) -> None:
        """Clips are about events: a result changes nothing.

        Raises:
            FatalError: always; the config asks for events.
        """
        raise FatalError(f"clips are recorded around events, and {len(results)} results came")

    def notice(self, event: Event) -> None:
        """Begin a clip, or let the one that is being recorded go on; notices change nothing.

        Raises:
            TransientError: there is nothing to record, or no room.
            FatalError: it cannot be written.
        """
        if not isinstance(event, ObjectEvent):
            return
        frame, source = event.frame, event.source
        if frame.path is not None and frame.file_pts_s is not None:
            if source not in self._files:
                self._files[source] = FileCutter(self._plan, self._ctx, self._path, self._done)
            self._files[source].notice(event)
            return
        if source not in self._live:
            if source not in self._readers:
                raise TransientError(f"source {source} is not known yet: no clip")
            reader, since_s = self._readers[source]
            self._live[source] = LiveCutter(
                self._plan, self._ctx, reader, since_s=since_s, path_of=self._path, done=self._done
            )
        self._live[source].notice(event)

    def tick(self) -> None:
        """Write what came, finish what is over, remove what is too much by now.

        Raises:
            TransientError: no room.
            FatalError: it cannot be written.
        """
        self._each([cutter.tick for cutter in self._cutters()])
        for path in self._retention.sweep():
            sidecar(path).unlink(missing_ok=True)

    def release(self, source: str) -> None:
        """Finish the clip of a source that was removed, and keep nothing more of it."""
        cutters = [self._live.pop(source, None), self._files.pop(source, None)]
        attached = self._readers.pop(source, None)
        try:
            self._each([cutter.finish for cutter in cutters if cutter is not None])
        finally:
            if attached is not None:
                attached[0].close()

    def close(self) -> None:
        """Finish every clip.

        Raises:
            FatalError: with what is not complete.
        """
        try:
            self._each([cutter.finish for cutter in self._cutters()])
        except TransientError as error:
            raise FatalError(str(error)) from error
        finally:
            for reader, _ in self._readers.values():
                reader.close()

    def written(self) -> Sequence[str]:
        """The first clips, and how many more there are."""
        return self._finished.shown()

    def _cutters(self) -> list[LiveCutter | FileCutter]:
        return [*self._live.values(), *self._files.values()]

    def _path(self, event: ObjectEvent) -> Path:
        return item_path(
            self._plan.path,
            event.frame,
            event.began_at,
            event=event.event_id,
            class_name=event.class_name,
            track=event.tracker_id,
        )

    def _done(self, path: Path) -> None:
        self._finished.add(path)
        self._retention.look_soon()

    @staticmethod
    def _each(steps: Sequence[Callable[[], None]]) -> None:
        """All of them, also when one fails."""
        failures: list[PenstockError] = []
        for step in steps:
            try:
                step()
            except PenstockError as error:
                failures.append(error)
        if failures:
            raise combined(failures)
