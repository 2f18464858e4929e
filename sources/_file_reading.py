"""`Reading`: one pass over an open video file, from where it stands to its end, packet by packet."""

import contextlib
import threading
from collections.abc import Generator, Iterator

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.contracts.errors import FatalError, SourceErrorCode
from pipeline.contracts.frame import FailedFrame
from sources._decoder import Decoder
from sources._file_frames import DecodedFrame, FrameTimes, SkippedFrame, seconds
from sources._file_skip import Ask, Lookahead
from sources._open import MEDIA_ERRORS, reason

Item = DecodedFrame | SkippedFrame | FailedFrame

_MAX_FAILURES_IN_A_ROW = 1000
_MAX_READ_FAILURES_IN_A_ROW = 20


class Reading:
    """Made and used by a file's thread.

    Args:
        path: what messages call the file.
        container: the open file.
        stream: the one that is decoded.
        decoder: its decoder.
        times: gives the frames their times.
        lookahead: says which packets nobody needs; None: all are decoded.

    Attributes:
        packets: how many were read.
        frames: how many frames there were, those that were left out included.
        failures: how many packets could not be decoded.
        failures_since_frame: of these, since the last frame.
    """

    def __init__(
        self,
        path: str,
        container: InputContainer,
        stream: VideoStream,
        decoder: Decoder,
        *,
        times: FrameTimes,
        lookahead: Lookahead | None,
    ) -> None:
        self.times = times
        self.packets = self.frames = self.failures = self.failures_since_frame = 0
        self._path = path
        self._container = container
        self._stream = stream
        self._decoder = decoder
        self._lookahead = lookahead

    @property
    def is_short(self) -> bool:
        """Whether there were fewer frames than packets and failures tell."""
        left_out = 0 if self._lookahead is None else self._lookahead.left_out()
        return self.packets > self.frames + self.failures + left_out

    def items(self, stop: threading.Event) -> Generator[Item]:
        """Every frame in the order of display, and what could not be decoded.

        Raises:
            FatalError: the decoder fails on and on.
            HardwareLostError: see `Decoder`.
        """
        for item in self._packetwise(stop):
            if isinstance(item, FailedFrame):
                self.failures += 1
                self.failures_since_frame += 1
                if self.failures_since_frame >= _MAX_FAILURES_IN_A_ROW:
                    raise FatalError(
                        f"{self._path}: {self.failures_since_frame} packets in a row could not be decoded",
                        code=SourceErrorCode.CORRUPT,
                    )
                self._see_damage()
                yield item
                continue
            yield from self._skipped(item.pts)
            self.frames += 1
            self.failures_since_frame = 0
            concealed = item.is_corrupt
            placed = self.times.place(item, self._decoder)
            del item  # let go of, see `take_picture`
            if concealed:  # the decoder raises nothing for these: it makes up what it could not read
                self._see_damage()
                yield FailedFrame(f"{self._path}: damaged at {placed.pts_s:.2f} s")
            else:
                yield placed
        if not stop.is_set() and not self.is_short:
            yield from self._skipped(None)

    def _skipped(self, before_pts: int | None) -> Iterator[SkippedFrame]:
        """The frames that were left out, as far as they come before this one; None: the rest of them."""
        base = self._stream.time_base
        if self._lookahead is None or base is None:
            return
        for pts, duration in self._lookahead.skipped_before(before_pts):
            self.frames += 1
            yield self.times.skip(seconds(pts, base), seconds(duration, base) if duration else None)

    def _see_damage(self) -> None:
        if self._lookahead is not None:
            self._lookahead.give_up()

    def _packetwise(self, stop: threading.Event) -> Iterator[VideoFrame | FailedFrame]:
        """Each packet's frames or its failure; at the end the frames that the decoder held back."""
        read_failures = 0
        while read_failures < _MAX_READ_FAILURES_IN_A_ROW:
            packets = self._container.demux(self._stream)
            asked = (
                ((each, Ask.FRAME) for each in packets) if self._lookahead is None else self._lookahead.asked(packets)
            )
            try:
                for packet, ask in asked:
                    read_failures = 0
                    if stop.is_set():
                        return
                    if packet.size:
                        self.packets += 1
                    if ask is Ask.NOTHING:
                        continue
                    at = "" if packet.pts is None else f" at time stamp {packet.pts}"
                    try:
                        frames = self._decoder.decode(packet, only_reference=ask is Ask.REFERENCE)
                    except MEDIA_ERRORS as error:
                        yield FailedFrame(f"{self._path}: a frame{at} cannot be decoded: {reason(error)}")
                        continue
                    del packet  # it holds memory for as long as the next one takes
                    while frames:
                        yield frames.pop(0)
            except MEDIA_ERRORS as error:  # raised by the demuxer, which can go on behind the bad place
                read_failures += 1
                yield FailedFrame(f"{self._path}: the file is damaged: {reason(error)}")
            else:
                return
        with contextlib.suppress(*MEDIA_ERRORS):  # the demuxer gave up before it told the decoder that this is the end
            yield from self._decoder.drain()
