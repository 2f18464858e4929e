"""One video file through PyAV: decoded packet by packet, positioned exactly, with times in seconds."""

import contextlib
import itertools
import os
import re
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import av
from av.codec.context import ThreadType

from pipeline.contracts.errors import FatalError, SourceErrorCode
from pipeline.contracts.frame import FailedFrame
from pipeline.models.picture import RotationDeg, VideoPicture
from sources._open import MEDIA_ERRORS, open_video, reason

_MATROSKA_DURATION = re.compile(r"([0-9]{1,6}):([0-9]{2}):([0-9]{2}\.[0-9]{1,9})")

_MAX_FAILURES_IN_A_ROW = 1000
_MAX_READ_FAILURES_IN_A_ROW = 20
_DEFAULT_FPS = 25.0
# A header may count a little more than there is, e.g. the delay of reordered frames.
_TOLERATED_MISSING_FRAMES = 3
# Time stamps are sums and products of fractions as floats: this much is no difference.
TIME_TOLERANCE_S = 1e-6
# How far before the wished start to look for a keyframe; containers with a poor index need more than one try.
_SEEK_BACK_S = (0.0, 5.0, 60.0)


@dataclass(slots=True)
class DecodedFrame:
    """A decoder's frame with its place in the file.

    Attributes:
        pts_s: seconds since the start of the stream.
        duration_s: how long it is shown, where the container says so.
        rotation_deg: by how much it must be turned clockwise to be upright.
        stamped: False where the container has no time stamp for it, and `pts_s` was counted on at the declared rate.
        shown_s: `duration_s`, or else one frame at the declared rate.
    """

    _frame: av.VideoFrame | None
    pts_s: float
    duration_s: float | None
    rotation_deg: RotationDeg
    stamped: bool
    shown_s: float

    def take_picture(self) -> VideoPicture:
        """The pixels, once: a generator that is suspended holds on to what it gave last, and a picture is megabytes."""
        frame, self._frame = self._frame, None
        if frame is None:
            raise RuntimeError("the picture was taken before")
        return VideoPicture(frame, self.rotation_deg)


def auto_decode_threads() -> int:
    """How many threads decode one file where nothing is set: half of the cores, 1 to 4.

    More threads than one are faster for one file alone, but cost CPU time (5.4 against 4.7 ms for a frame of 1080p
    H.264) and hold one more decoded frame each: on a small machine, whose cores run the model, one is best.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, cores // 2))


class VideoFile:
    """An open video file: its first video stream that is not a cover picture. Used by one thread; close it.

    Args:
        path: a regular file.
        threads: how many threads decode.
        max_pixels: pictures with more pixels than this are refused by the decoder, before it takes memory for them.

    Raises:
        FatalError: NOT_FOUND, CORRUPT or CODEC_UNSUPPORTED, with one line that names the file.
    """

    def __init__(self, path: str, *, threads: int, max_pixels: int) -> None:
        self.path = path
        self._threads = threads
        self._max_pixels = max_pixels
        self._open()

    @property
    def fps(self) -> float:
        """The declared frame rate, frames per second; 25 where nothing sensible is declared."""
        rate = self._stream.average_rate or self._stream.guessed_rate or self._stream.base_rate
        return float(rate) if rate and 0 < rate < 10_000 else _DEFAULT_FPS

    @property
    def frame_count(self) -> int | None:
        """How many frames there are, by the header or else by duration times rate; None where neither is known."""
        if self._stream.frames > 0:
            return self._stream.frames
        duration_s = self.duration_s
        return None if duration_s is None else max(1, round(duration_s * self.fps))

    @property
    def duration_s(self) -> float | None:
        """How long the stream is in seconds, by its header; None where that says nothing."""
        if self._stream.duration and self._stream.time_base:
            return float(self._stream.duration * self._stream.time_base)
        tag = _MATROSKA_DURATION.fullmatch(self._stream.metadata.get("DURATION", ""))
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else None

    def decoded(self, stop: threading.Event, start_s: float = 0.0) -> Generator[DecodedFrame | FailedFrame]:
        """The frames from `start_s` on, in the order of display, and a `FailedFrame` for each that cannot be decoded.

        Ends at the end of the file, or within one packet once `stop` is set. May be called once.

        Raises:
            FatalError: the decoder fails on and on.
        """
        seekable = start_s > 0 and self._start_s is not None
        for back_s in _SEEK_BACK_S if seekable else ():
            if start_s - back_s <= 0 or not self._seek(start_s - back_s):
                break
            with contextlib.closing(self._until_the_end(stop)) as frames:
                # What fails before the first good frame lies before the start, where nobody looks.
                first = next((item for item in frames if isinstance(item, DecodedFrame)), None)
                if first is not None and first.pts_s <= start_s:
                    yield from _starting_at(start_s, itertools.chain([first], frames))
                    return
        if seekable:  # a poor index: read from the beginning
            self.close()
            self._open()
        with contextlib.closing(self._until_the_end(stop, from_start=True)) as frames:
            yield from _starting_at(start_s, frames)

    def close(self) -> None:
        """Close the file; frames that were handed out stay good."""
        self._container.close()

    def _open(self) -> None:
        self._container, self._stream = open_video(self.path, self._max_pixels)
        context = self._stream.codec_context
        context.options = {"max_pixels": str(self._max_pixels)}
        context.thread_count = self._threads
        context.thread_type = ThreadType.AUTO if self._threads > 1 else ThreadType.NONE
        start, time_base = self._stream.start_time, self._stream.time_base
        self._start_s = None if start is None or time_base is None else float(start * time_base)

    def _seek(self, position_s: float) -> bool:
        time_base = self._stream.time_base
        if time_base is None:
            return False
        try:
            self._container.seek(int((position_s + (self._start_s or 0.0)) / float(time_base)), stream=self._stream)
        except MEDIA_ERRORS:
            return False
        return True

    def _until_the_end(
        self, stop: threading.Event, *, from_start: bool = False
    ) -> Generator[DecodedFrame | FailedFrame]:
        """From the current position to the end; makes good what frame threading swallows there."""
        clock = _FrameTimes(self._start_s, self.fps)
        packets, frames, failures, failures_since_frame = 0, 0, 0, 0
        for item in self._packetwise(stop):
            if item is None:
                packets += 1
            elif isinstance(item, FailedFrame):
                failures += 1
                failures_since_frame += 1
                if failures_since_frame >= _MAX_FAILURES_IN_A_ROW:
                    raise FatalError(
                        f"{self.path}: {failures_since_frame} packets in a row could not be decoded",
                        code=SourceErrorCode.CORRUPT,
                    )
                yield item
            else:
                frames += 1
                failures_since_frame = 0
                concealed = item.is_corrupt
                placed, item = clock.place(item), None  # noqa: PLW2901  (let go of, see `take_picture`)
                # The decoder raises nothing for these: it makes up what it could not read. That is not the camera's.
                yield FailedFrame(f"{self.path}: damaged at {placed.pts_s:.2f} s") if concealed else placed
        if stop.is_set():
            return
        if self._threads > 1 and packets > frames + failures:
            yield from self._tail(stop, clock.last_pts_s, failures_since_frame)
        elif failures == 0 and (missing := self._missing(clock.end_s, frames if from_start else None)):
            yield missing

    def _packetwise(self, stop: threading.Event) -> Iterator[av.VideoFrame | FailedFrame | None]:
        """None for every packet, then its frames or its failure; at the end the frames that the decoder held back."""
        read_failures = 0
        while read_failures < _MAX_READ_FAILURES_IN_A_ROW:
            packets = self._container.demux(self._stream)
            try:
                for packet in packets:
                    read_failures = 0
                    if stop.is_set():
                        return
                    if packet.size:
                        yield None
                    at = "" if packet.pts is None else f" at time stamp {packet.pts}"
                    try:
                        frames = packet.decode()
                    except MEDIA_ERRORS as error:
                        yield FailedFrame(f"{self.path}: a frame{at} cannot be decoded: {reason(error)}")
                        continue
                    del packet  # it holds memory for as long as the next one takes
                    while frames:
                        yield frames.pop(0)
            except MEDIA_ERRORS as error:  # raised by the demuxer, which can go on behind the bad place
                read_failures += 1
                yield FailedFrame(f"{self.path}: the file is damaged: {reason(error)}")
            else:
                return
        with contextlib.suppress(*MEDIA_ERRORS):  # the demuxer gave up before it told the decoder that this is the end
            yield from self._stream.codec_context.decode(None)

    def _tail(
        self, stop: threading.Event, last_pts_s: float | None, counted_failures: int
    ) -> Iterator[DecodedFrame | FailedFrame]:
        """What comes after the last frame, decoded once more by a single thread.

        With frame threads an error in the last packets is reported only when the decoder is drained. PyAV then stops
        draining: good frames behind the error are lost, and the error itself too if a frame came before it.
        """
        with contextlib.closing(VideoFile(self.path, threads=1, max_pixels=self._max_pixels)) as again:
            for item in again.decoded(stop, start_s=last_pts_s or 0.0):
                if isinstance(item, FailedFrame):
                    counted_failures -= 1
                    if counted_failures < 0:
                        yield item
                elif last_pts_s is None or item.pts_s > last_pts_s:
                    yield item

    def _missing(self, end_s: float, frames: int | None) -> FailedFrame | None:
        """The counted end of a truncated file whose demuxer takes the cut for an ordinary end (AVI, Matroska, FLV).

        Args:
            end_s: where the last frame ended.
            frames: how many there were, where all were read.
        """
        # An MP4 may be cut on purpose by its edit list; and its demuxer reports what is missing.
        told = 0 if "mp4" in self._container.format.name else self._stream.frames
        if frames is not None and told > 0 and frames < told - _TOLERATED_MISSING_FRAMES:
            return FailedFrame(f"{self.path}: the file is truncated: {frames} frames of the {told} in its header")
        duration_s = self.duration_s
        if duration_s is None or end_s >= duration_s - _TOLERATED_MISSING_FRAMES / self.fps:
            return None
        return FailedFrame(
            f"{self.path}: the file is truncated: it ends at {end_s:.2f} s of the {duration_s:.2f} s in its header"
        )


class _FrameTimes:
    """Gives every frame its time: the container's, else counted on from the frame before."""

    def __init__(self, start_s: float | None, fps: float) -> None:
        self._start_s = start_s
        self._interval_s = 1 / fps
        self.last_pts_s: float | None = None
        self.end_s = 0.0

    def place(self, frame: av.VideoFrame) -> DecodedFrame:
        time_base = frame.time_base
        duration_s = float(frame.duration * time_base) if frame.duration and time_base else None
        pts_s, stamped = self.end_s, False
        if frame.pts is not None and time_base is not None:
            stamp_s, stamped = float(frame.pts * time_base), True
            if self._start_s is None:
                self._start_s = stamp_s - self.end_s
            pts_s = stamp_s - self._start_s
        self.last_pts_s = pts_s
        shown_s = duration_s or self._interval_s
        self.end_s = pts_s + shown_s
        return DecodedFrame(frame, pts_s, duration_s, clockwise(frame.rotation), stamped, shown_s)


def _starting_at(start_s: float, items: Iterable[DecodedFrame | FailedFrame]) -> Iterator[DecodedFrame | FailedFrame]:
    started = start_s <= 0
    for item in items:
        started = started or (isinstance(item, DecodedFrame) and item.pts_s >= start_s - TIME_TOLERANCE_S)
        if started:
            yield item


def clockwise(counter_clockwise_deg: int) -> RotationDeg:
    """What FFmpeg counts against the clock, as `VideoPicture` wants it."""
    turns: tuple[RotationDeg, ...] = (0, 90, 180, 270)
    return turns[round(-counter_clockwise_deg / 90) % 4]
