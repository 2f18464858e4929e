"""Clips of one live source: cut out of the ring of its packets while they come."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.contracts.component import Context
from pipeline.contracts.errors import PenstockError, TransientError
from pipeline.contracts.event import ObjectEvent
from pipeline.contracts.packets import Connection, EncodedPacket, PacketReader
from sinks._clip_file import Account, ClipFile, combined, streams_of
from sinks._paths import display

if TYPE_CHECKING:
    from sinks._clips import ClipPlan

_BEGIN_S = 30.0  # so long a camera may take for its first keyframe, counted from when it was asked
_MOST_AHEAD_S = 1.0  # so far ahead of what is shown, at the most, is decoded
_PATIENCE_S = 5.0  # after which a clip ends although no more packets come that would show that it is over


class LiveCutter:
    """One source's clips, one at a time. Made by the clip sink at the first event; used by its thread.

    A clip is held open for `pre_roll_s` after its end: an event that begins meanwhile, with what is shown from before
    it, goes on in it without a gap.

    Args:
        plan: what the config says.
        ctx: the sink's.
        reader: of the source's packets.
        since_s: since when, monotonic, it has been there.
        path_of: the file for an event's clip.
        done: told each finished file.
    """

    def __init__(
        self,
        plan: "ClipPlan",
        ctx: Context,
        reader: PacketReader,
        *,
        since_s: float,
        path_of: Callable[[ObjectEvent], Path],
        done: Callable[[Path], None],
    ) -> None:
        self._plan = plan
        self._ctx = ctx
        self._reader = reader
        self._since_s = since_s
        self._path_of = path_of
        self._done = done
        self._first: ObjectEvent | None = None  # the one that began the clip; None: there is none
        self._account = Account("")
        self._until_s = 0.0
        self._going_on: set[str] = set()
        self._connection: Connection | None = None
        self._file: ClipFile | None = None
        self._files = 0  # of this clip

    def notice(self, event: ObjectEvent) -> None:
        """An event begins, goes on or ends.

        Raises:
            TransientError: there are no packets, or there is no room.
            FatalError: it cannot be written.
        """
        at_s = event.frame.decoded_at
        if self._first is None:
            if event.phase == "end":
                return  # its clip was given up
            ago_s = max(0.0, event.at - event.began_at) if event.phase == "new" else 0.0
            has_begun = self._reader.seek(at_s - ago_s - self._plan.pre_roll_s)
            if not has_begun and self._ctx.clock.monotonic() - self._since_s > _BEGIN_S:
                raise TransientError(f"source {event.source} gives no encoded video: no clip")
            self._first, self._account, self._until_s, self._files = event, Account(event.source), at_s, 0
        self._account.note(event)
        self._until_s = max(self._until_s, at_s + self._plan.post_roll_s)
        if event.phase == "end":
            self._going_on.discard(event.event_id)
        elif event.phase != "once":
            self._going_on.add(event.event_id)
        self._drain()

    def tick(self) -> None:
        """Write what came; finish the clip where it is over.

        Raises:
            TransientError: no room.
            FatalError: it cannot be written.
        """
        if self._first is None:
            return
        self._drain()
        over_s = self._until_s + self._plan.pre_roll_s
        newest_s = self._reader.newest_s
        is_over = newest_s is not None and newest_s > over_s
        if not self._going_on and (is_over or self._ctx.clock.monotonic() > over_s + _PATIENCE_S):
            self.finish()

    def finish(self) -> None:
        """Complete the clip.

        Raises:
            TransientError, FatalError: it is not complete.
        """
        try:
            if self._first is not None:
                self._drain()
                self._fill_hole()
                if not self._files:
                    self._ctx.warn(f"source {self._first.source} gave no encoded video for an event: no clip")
            self._finish_file()
        finally:
            self._first = None
            self._going_on.clear()

    def _drain(self) -> None:
        taken = self._reader.take(None if self._going_on else self._until_s)
        try:
            if taken.lost and self._file is not None:
                self._ctx.warn(f"{display(self._file.path)} lacks {taken.lost} packets: the sink was too slow for them")
                self._finish_file()
            if self._file is not None and taken.packets:
                self._file.check_room()
            for connection, packet in taken.packets:
                self._write(connection, packet)
        except PenstockError as error:
            raise self._give_up(error) from error

    def _fill_hole(self) -> None:
        """Add the pictures that are decoded after one that is shown after them."""
        if self._file is None or self._connection is None:
            return
        for connection, packet in self._reader.take(self._until_s + _MOST_AHEAD_S).packets:
            base = connection.streams[packet.stream].time_base
            if connection is not self._connection or (
                packet.stream == 0 and self._file.place_s(packet.pts, base) > self._file.last_s
            ):
                return
            self._write(connection, packet)

    def _write(self, connection: Connection, packet: EncodedPacket) -> None:
        is_start = packet.stream == 0 and packet.keyframe
        too_long = self._file is not None and self._file.shown_s >= self._plan.max_clip_s
        if self._file is not None and (connection is not self._connection or (too_long and is_start)):
            self._finish_file()
        if self._file is None:
            if not is_start or self._first is None:
                return
            self._begin_file(connection, self._path_of(self._first))
        if self._file is None:
            return
        self._file.write(
            packet.stream,
            packet.data,
            pts=packet.pts,
            dts=packet.dts,
            duration=packet.duration,
            keyframe=packet.keyframe,
            base=connection.streams[packet.stream].time_base,
        )

    def _begin_file(self, connection: Connection, path: Path) -> None:
        with streams_of(connection.header) as header:
            self._file = ClipFile(path, list(header.streams), self._plan.min_free_bytes, self._ctx)
        self._connection = connection
        self._files += 1

    def _finish_file(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        file.finish()
        if file.pictures:
            self._done(file.path)
            self._account.write(file.path, file.shown_s, self._plan.pre_roll_s)

    def _give_up(self, error: PenstockError) -> PenstockError:
        """Save what there is; the next message of an event begins a new clip."""
        self._first = None
        self._going_on.clear()
        try:
            self._finish_file()
        except PenstockError as lost:
            return combined([error, lost])
        return error
