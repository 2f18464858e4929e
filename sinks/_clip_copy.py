"""Clips of one source that plays files: copied out of the file itself."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.contracts.component import Context
from pipeline.contracts.errors import PenstockError, TransientError
from pipeline.contracts.event import ObjectEvent
from sinks._clip_file import Account, ClipFile
from sinks._paths import display

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream

    from sinks._clips import ClipPlan


@dataclass(slots=True)
class _Cut:
    """What is to be copied: positions in the file, in seconds since the start of its video, as `Frame.file_pts_s`."""

    first: ObjectEvent
    path: str
    start_s: float
    end_s: float
    heard_at_s: float
    account: Account
    going_on: set[str] = field(default_factory=set)


class FileCutter:
    """One source's clips, one at a time. Made by the clip sink at the first event; used by its thread.

    Args:
        plan: what the config says.
        ctx: the sink's.
        path_of: the file for an event's clip.
        done: told each finished file.
    """

    def __init__(
        self,
        plan: "ClipPlan",
        ctx: Context,
        path_of: Callable[[ObjectEvent], Path],
        done: Callable[[Path], None],
    ) -> None:
        self._plan = plan
        self._ctx = ctx
        self._path_of = path_of
        self._done = done
        self._cut: _Cut | None = None

    def notice(self, event: ObjectEvent) -> None:
        """An event begins, goes on or ends.

        Raises:
            TransientError, FatalError: the clip before could not be written.
        """
        now_s, path, plan = self._ctx.clock.monotonic(), event.frame.path or "", self._plan
        at_s = event.frame.file_pts_s or 0.0
        ago_s = max(0.0, event.at - event.began_at) if event.phase == "new" else 0.0
        start_s, end_s = max(0.0, at_s - ago_s - plan.pre_roll_s), at_s + plan.post_roll_s
        cut = self._cut
        if event.phase == "end" and (cut is None or event.event_id not in cut.going_on):
            return  # of the file, or the round, before: its clip is written
        before: _Cut | None = None
        if cut is not None and not self._belongs(cut, path, at_s, start_s):
            before, cut = cut, None
            self._cut = None
            if before.going_on:  # nobody said that they went: they were there to the end of the file
                before.end_s = math.inf
        if cut is None:
            cut = self._cut = _Cut(event, path, start_s, end_s, now_s, Account(event.source))
        if cut is not None:
            cut.account.note(event)
            cut.end_s, cut.heard_at_s = max(cut.end_s, end_s), now_s
            if event.phase == "end":
                cut.going_on.discard(event.event_id)
            elif event.phase != "once":
                cut.going_on.add(event.event_id)
        if before is not None:  # at last: should it fail, this event has its clip all the same
            self._copy(before)

    def tick(self) -> None:
        """Copy a clip of which nothing was heard for as long as another event could still lengthen it.

        Raises:
            TransientError, FatalError: it could not be written.
        """
        cut, plan = self._cut, self._plan
        wait_s = plan.pre_roll_s + plan.post_roll_s + 1.0
        if cut is not None and not cut.going_on and self._ctx.clock.monotonic() - cut.heard_at_s > wait_s:
            self.finish()

    def finish(self) -> None:
        """Copy what there is to copy.

        Raises:
            TransientError, FatalError: it could not be written.
        """
        cut, self._cut = self._cut, None
        if cut is not None:
            self._copy(cut)

    def _belongs(self, cut: _Cut, path: str, at_s: float, start_s: float) -> bool:
        """Whether an event at `at_s` goes on in the clip: the same file, played on, and no gap between."""
        if path != cut.path or at_s < cut.start_s:
            return False
        return bool(cut.going_on) or start_s <= cut.end_s

    def _copy(self, cut: _Cut) -> None:
        import av

        try:
            with av.open(cut.path, metadata_errors="ignore", options={"protocol_whitelist": "file"}) as source:
                streams = _streams(source, audio=self._plan.audio)
                if not streams:
                    raise TransientError(f"{cut.path}: there is no video in it that could be copied")
                self._write(cut, source, streams)
        except (av.FFmpegError, OSError, ValueError, IndexError) as error:
            raise TransientError(f"{cut.path}: no clip: it cannot be read: {type(error).__name__}") from error

    def _write(self, cut: _Cut, source: "InputContainer", streams: "list[Stream]") -> None:
        import av

        video = streams[0]
        base = Fraction(video.time_base or 1)
        zero = (video.start_time or 0) * base
        place = {stream.index: number for number, stream in enumerate(streams)}
        file: ClipFile | None = None
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):  # then it is read from its beginning
            source.seek(round((Fraction(cut.start_s) + zero) / base), stream=video)
        try:
            for packet in _until(source.demux(streams), video, cut.end_s + float(zero)):
                number = place[packet.stream_index]
                is_start = number == 0 and packet.is_keyframe
                if file is not None and is_start and file.shown_s >= self._plan.max_clip_s:
                    done, file = file, None
                    self._finish(cut, done)
                if file is None:
                    if not is_start:
                        continue
                    file = ClipFile(self._path_of(cut.first), streams, self._plan.min_free_bytes, self._ctx)
                if is_start:
                    file.check_room()
                _copy_packet(packet, file, number)
        except BaseException:
            if file is not None:
                with contextlib.suppress(PenstockError):  # what failed first is told
                    file.finish()
            raise
        if file is None:
            self._ctx.warn(f"{display(Path(cut.path))}: nothing of it could be copied for an event")
        else:
            self._finish(cut, file)

    def _finish(self, cut: _Cut, file: ClipFile) -> None:
        file.finish()
        self._done(file.path)
        cut.account.write(file.path, file.shown_s, self._plan.pre_roll_s)


def _copy_packet(packet: "Packet[Stream]", file: ClipFile, place: int) -> None:
    file.write(
        place,
        bytes(packet),
        pts=packet.pts or 0,
        dts=packet.dts,
        duration=packet.duration or 0,
        keyframe=bool(packet.is_keyframe),
        base=Fraction(packet.time_base),
    )


def _streams(source: "InputContainer", *, audio: bool) -> "list[Stream]":
    """The video that is no cover picture, and the first sound."""
    from av.stream import Disposition

    video = [stream for stream in source.streams.video if not stream.disposition & Disposition.attached_pic]
    return [*video[:1], *(source.streams.audio[:1] if audio and video else ())]


def _until(packets: "Iterator[Packet[Stream]]", video: "Stream", end_s: float) -> "Iterator[Packet[Stream]]":
    """The packets that have a place, up to `end_s`, and of the video as many more as it takes to leave no hole.

    What is decoded before it is shown comes first: before a picture that is shown after all that came, none is missing.
    """
    last_pts: int | None = None
    for packet in packets:
        if not packet.size or packet.pts is None:
            continue
        is_video = packet.stream_index == video.index
        at_s = float((packet.pts if packet.dts is None else packet.dts) * packet.time_base)
        if is_video and at_s > end_s and (last_pts is None or packet.pts > last_pts):
            return
        if is_video:
            last_pts = packet.pts if last_pts is None else max(last_pts, packet.pts)
        yield packet
