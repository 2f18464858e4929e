"""Recording what cameras send as they encoded it, on and on: the cheapest recorder there is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.event import Event
from pipeline.contracts.packets import Connection, EncodedPacket, PacketReader
from pipeline.contracts.result import Result
from sinks._clip_file import ClipFile, combined, made_from, streams_of
from sinks._files import FinishedFiles, make_folder
from sinks._leftovers import finish_leftovers
from sinks._paths import fixed_root, path_for
from sinks._retention import Archive, KeepConfig, Retention
from sinks._rotation import piece_path

if TYPE_CHECKING:
    from pipeline.contracts.frame import Frame

_LAG_S = 10.0  # the sink may be so late before a recording loses packets
_TOLERANCE_S = 0.01


class CopyPlan(NamedTuple):
    """What the config says of it.

    Attributes:
        path: where the files go, a `PathTemplate`.
        audio: with sound.
        ring_bytes: for each source, so much may wait in memory.
        min_free_bytes: leave so much of the disk free.
        every_s: a file holds so much time; None: all of it.
        max_bytes: a file is about so large; None: as large as it becomes.
        keep: which files are removed; None: none.
    """

    path: str
    audio: bool
    ring_bytes: int
    min_free_bytes: int
    every_s: float | None
    max_bytes: int | None
    keep: KeepConfig | None

    @property
    def is_cut(self) -> bool:
        """Whether files end by time or size."""
        return self.every_s is not None or self.max_bytes is not None


@dataclass(slots=True)
class _Recording:
    """One source's; `frame` is its newest, from which the name of a file is made."""

    reader: PacketReader
    frame: "Frame | None" = None
    connection: Connection | None = None
    file: ClipFile | None = None
    base: Path | None = None


class CopySink:
    """Writes the packets of live sources into files. Made by the config of `video`; used by its runner's thread,
    `attach` by the main one. A result only says that there is something to record; what comes is recorded whole, also
    frames that nobody infers."""

    wants_pictures = False

    def __init__(self, plan: CopyPlan, ctx: Context) -> None:
        self._plan = plan
        self._ctx = ctx
        self._archive = Archive(plan.path, made_from)
        self._retention = Retention(self._archive, plan.keep, ctx)
        self._of: dict[str, _Recording] = {}
        self._finished = FinishedFiles()

    def attach(self, source: str) -> None:
        """Take what this source sends from now on."""
        if source not in self._of:
            reader = self._ctx.packets(source).reader(
                keep_s=_LAG_S, max_bytes=self._plan.ring_bytes, audio=self._plan.audio
            )
            self._of[source] = _Recording(reader)

    def open(self) -> None:
        """Make the folder, and finish what a killed process left.

        Raises:
            TransientError, FatalError: the folder cannot be made.
        """
        make_folder(fixed_root(self._plan.path))
        finish_leftovers(self._archive, self._ctx)

    def write(self, results: Sequence[Result]) -> None:
        """Record what came up to now.

        Raises:
            TransientError: no room, or a source sends no packets.
            FatalError: it cannot be written.
        """
        failures: list[PenstockError] = []
        for result in results:
            recording = self._of.get(result.frame.source)
            if recording is None or result.frame.path is not None:
                failures.append(TransientError(f"source {result.frame.source} is no live video: nothing to copy"))
                continue
            if recording.frame is None:
                recording.reader.seek(result.frame.decoded_at)
            recording.frame = result.frame
        failures += self._drain(list(self._of.values()))
        if failures:
            raise combined(failures)

    def notice(self, event: Event) -> None:
        """Nothing of it is seen in a video."""

    def tick(self) -> None:
        """Record what came up to now; remove what is too much.

        Raises:
            TransientError: no room.
            FatalError: it cannot be written.
        """
        failures = self._drain(list(self._of.values()))
        self._retention.sweep([one.file.path for one in self._of.values() if one.file is not None])
        if failures:
            raise combined(failures)

    def release(self, source: str) -> None:
        """Finish the file of a source that was removed."""
        recording = self._of.pop(source, None)
        if recording is not None:
            try:
                self._finish(recording)
            finally:
                recording.reader.close()

    def close(self) -> None:
        """Finish every file.

        Raises:
            FatalError: with what is not complete.
        """
        failures = self._drain(list(self._of.values()))
        for source in list(self._of):
            try:
                self.release(source)
            except PenstockError as error:
                failures.append(error)
        if failures:
            raise FatalError(str(combined(failures)))

    def written(self) -> Sequence[str]:
        """The first files, and how many more there are."""
        return self._finished.shown()

    def _drain(self, recordings: Sequence[_Recording]) -> list[PenstockError]:
        failures: list[PenstockError] = []
        for recording in recordings:
            if recording.frame is None:
                continue
            try:
                self._take(recording, recording.frame)
            except PenstockError as error:
                failures.append(error)
                try:  # the next keyframe begins a new file
                    self._finish(recording)
                except PenstockError as lost:
                    failures.append(lost)
        return failures

    def _take(self, recording: _Recording, frame: "Frame") -> None:
        taken = recording.reader.take()
        if taken.lost:
            self._ctx.warn(f"{frame.source}: {taken.lost} packets are not recorded: the sink was too slow for them")
            self._finish(recording)
        if recording.file is not None and taken.packets:
            recording.file.check_room()
        for connection, packet in taken.packets:
            self._write(recording, frame, connection, packet)

    def _write(self, recording: _Recording, frame: "Frame", connection: Connection, packet: EncodedPacket) -> None:
        if packet.stream == 0 and packet.keyframe:
            # The frame's own time, moved by when the packet came.
            at = frame.captured_at + packet.at_s - frame.decoded_at
            base = path_for(self._plan.path, replace(frame, captured_at=at))
            if recording.file is None or self._is_over(recording, recording.file, connection, packet, base):
                self._finish(recording)
                self._begin(recording, connection, base, at)
        elif recording.file is not None and connection is not recording.connection:
            self._finish(recording)
        if recording.file is not None:
            recording.file.write(
                packet.stream,
                packet.data,
                pts=packet.pts,
                dts=packet.dts,
                duration=packet.duration,
                keyframe=packet.keyframe,
                base=connection.streams[packet.stream].time_base,
            )

    def _is_over(
        self, recording: _Recording, file: ClipFile, connection: Connection, packet: EncodedPacket, base: Path
    ) -> bool:
        plan = self._plan
        if connection is not recording.connection or base != recording.base:
            return True
        shown_s = file.place_s(packet.pts, connection.streams[0].time_base)
        too_long = plan.every_s is not None and shown_s >= plan.every_s - _TOLERANCE_S
        return too_long or (plan.max_bytes is not None and file.size_bytes >= plan.max_bytes)

    def _begin(self, recording: _Recording, connection: Connection, base: Path, at: float) -> None:
        path = piece_path(base, at) if self._plan.is_cut else base
        with streams_of(connection.header) as header:
            recording.file = ClipFile(path, list(header.streams), self._plan.min_free_bytes, self._ctx)
        recording.connection, recording.base = connection, base

    def _finish(self, recording: _Recording) -> None:
        file, recording.file = recording.file, None
        if file is None:
            return
        file.finish()
        self._finished.add(file.path)
        self._retention.look_soon()
