"""`VideoFile`: one video file through PyAV: opened, positioned exactly, and read to its end whatever happens."""

import contextlib
import itertools
import os
import re
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from pipeline.contracts.frame import FailedFrame
from sources._decoder import CPU, Decoder, FellBack, HardwareLostError, unheard
from sources._decoding import Decoding
from sources._file_frames import DecodedFrame, FrameTimes, SkippedFrame
from sources._file_reading import Item, Reading
from sources._file_skip import Lookahead, rules_of
from sources._file_timeline import TIME_TOLERANCE_S
from sources._open import MEDIA_ERRORS, open_video

_MATROSKA_DURATION = re.compile(r"([0-9]{1,6}):([0-9]{2}):([0-9]{2}\.[0-9]{1,9})")

_DEFAULT_FPS = 25.0
# A header may count a little more than there is, e.g. the delay of reordered frames.
_TOLERATED_MISSING_FRAMES = 3
# How far before the wished start to look for a keyframe; containers with a poor index need more than one try.
_SEEK_BACK_S = (0.0, 5.0, 60.0)


def auto_decode_threads(files: int) -> int:
    """How many threads decode one file where nothing is set: half of the cores shared by all files, 1 to 4 for each.

    More threads than one are faster for one file alone where cores are idle, but cost CPU time (5.4 against 4.7 ms for
    a frame of 1080p H.264) and hold one more decoded frame each: where the cores have enough to do, one is best.

    Args:
        files: how many are played at once.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, cores // 2 // max(1, files)))


class Foresight(Protocol):
    """Knows which frames will be wanted. Made by the source, used by its thread."""

    def restart(self) -> None:
        """The file is read from another place: forget what was asked about it."""
        ...

    def wants(self, pts_s: float) -> bool:
        """Whether the frame of this time, in seconds since the start of the stream, will be wanted; called once for
        each, in the order of display, until something is not as expected."""
        ...


class VideoFile:
    """An open video file: its first video stream that is not a cover picture. Used by one thread; close it.

    Args:
        path: a regular file.
        decoding: how its pictures are decoded.
        fell_back: told when the wished device cannot be had, or fails.
        foresight: which frames will be wanted: the others may come as `SkippedFrame`; None: all.

    Raises:
        FatalError: NOT_FOUND, CORRUPT or CODEC_UNSUPPORTED, with one line that names the file.
    """

    def __init__(
        self, path: str, decoding: Decoding, fell_back: FellBack = unheard, foresight: Foresight | None = None
    ) -> None:
        self.path = path
        self._decoding = decoding
        self._fell_back = fell_back
        self._foresight = foresight
        self._open()

    @property
    def details(self) -> dict[str, str | int | float]:
        """Codec, decoder, size and rate, as its header says."""
        context = self._stream.codec_context
        return {
            "codec": context.name,
            "decoder": self._decoder.device,
            "width": context.width,
            "height": context.height,
            "fps": round(self.fps, 2),
        }

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

    def decoded(self, stop: threading.Event, start_s: float = 0.0) -> Generator[Item]:
        """The frames from `start_s` on, in the order of display, and a `FailedFrame` for each that cannot be decoded.

        Ends at the end of the file, or within one packet once `stop` is set. May be called once.

        Raises:
            FatalError: the decoder fails on and on.
        """
        seekable = start_s > 0 and self._start_s is not None
        rules = rules_of(self._stream)
        # A frame that was left out tells nothing of what the decoder has before it, except where each stands alone.
        known = (DecodedFrame, SkippedFrame) if rules is not None and rules.intra else DecodedFrame
        for back_s in _SEEK_BACK_S if seekable else ():
            if start_s - back_s <= 0 or not self._seek(start_s - back_s):
                break
            with contextlib.closing(self._until_the_end(stop)) as frames:
                # What fails before the first good frame lies before the start, where nobody looks.
                first = next((item for item in frames if isinstance(item, known)), None)
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
        self._decoder.close()
        self._container.close()

    def _open(self) -> None:
        self._container, self._stream = open_video(self.path, self._decoding.max_pixels)
        try:
            self._decoder = Decoder(self._stream, self._decoding, self._fell_back, turned=True)
        except BaseException:
            self._container.close()
            raise
        if self._decoder.device == CPU:  # what could not be had is not asked for again
            self._decoding = replace(self._decoding, wish=CPU)
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
        self._decoder.context.flush_buffers()  # the container does so with its own decoder only
        return True

    def _until_the_end(self, stop: threading.Event, *, from_start: bool = False) -> Generator[Item]:
        """From the current position to the end; makes good what frame threading swallows there, or a device loses."""
        times = FrameTimes(self._start_s, self.fps)
        reading = Reading(
            self.path, self._container, self._stream, self._decoder, times=times, lookahead=self._lookahead()
        )
        try:
            yield from reading.items(stop)
        except HardwareLostError as lost:
            self._decoder.use_cpu(str(lost))
            yield from self._again(stop, times.last_pts_s, reading.failures_since_frame, self._decoding.threads)
            return
        if stop.is_set():
            return
        if self._decoding.threads > 1 and reading.is_short:
            yield from self._again(stop, times.last_pts_s, reading.failures_since_frame, 1)
        elif reading.failures == 0 and (missing := self._missing(times.end_s, reading.frames if from_start else None)):
            yield missing

    def _lookahead(self) -> Lookahead | None:
        foresight, start_s, base = self._foresight, self._start_s, self._stream.time_base
        rules = rules_of(self._stream)
        if foresight is None or rules is None or start_s is None or base is None:
            return None
        foresight.restart()
        return Lookahead(rules, lambda pts: foresight.wants(float(pts * base) - start_s))

    def _again(
        self, stop: threading.Event, last_pts_s: float | None, counted_failures: int, threads: int
    ) -> Iterator[Item]:
        """What comes after the last frame, decoded once more by the CPU.

        With frame threads an error in the last packets is reported only when the decoder is drained. PyAV then stops
        draining: good frames behind the error are lost, and the error itself too if a frame came before it.
        """
        decoding = replace(self._decoding, wish=CPU, threads=threads)
        with contextlib.closing(VideoFile(self.path, decoding)) as again:
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


def _starting_at(start_s: float, items: Iterable[Item]) -> Iterator[Item]:
    started = start_s <= 0
    for item in items:
        started = started or (not isinstance(item, FailedFrame) and item.pts_s >= start_s - TIME_TOLERANCE_S)
        if started:
            yield item
