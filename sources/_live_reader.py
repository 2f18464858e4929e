"""One connection to something live through PyAV: every packet is taken at once, every wait has an end."""

import struct
import threading
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, cast

from av.video.frame import VideoFrame

from pipeline.contracts.clock import Clock
from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame
from pipeline.contracts.packets import PacketRing
from pipeline.contracts.source import REST_SHARE
from sources._decoder import Decoder, FellBack, unheard
from sources._live import Plan
from sources._live_errors import as_error, closed, no_picture
from sources._live_frames import LiveDecoding, LiveFrame
from sources._live_open import declared_fps, open_live, video_stream
from sources._live_pace import Pace, Rate
from sources._live_packets import Tap
from sources._live_rest import Step
from sources._live_undecoded import Undecoded
from sources._open import MEDIA_ERRORS

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

# Demuxers that make time stamps up: 25 frames a second, whatever comes.
_WITHOUT_TIME_STAMPS = frozenset(["mpjpeg", "mjpeg", "jpeg_pipe", "h264", "hevc"])


class Connection:
    """An open stream. Made and used by the source's thread only; close it.

    Only PyAV's interrupt callback ends a read that waits; but FFmpeg swallows the first time-out, flushes its parser,
    gives one more packet and waits again. That packet ends the wait here: it comes too late by definition.

    Raises:
        TransientError: it cannot be opened, and why.
    """

    def __init__(
        self,
        plan: Plan,
        clock: Clock,
        ring: PacketRing,
        fell_back: FellBack = unheard,
        undecoded: Undecoded | None = None,
    ) -> None:
        self._undecoded = undecoded or Undecoded()
        self._undecoded.begin_connection()
        self._plan = plan
        self._clock = clock
        self._container = open_live(plan, clock)
        try:
            self._stream = video_stream(self._container, plan.shown)
            self._decoder = Decoder(self._stream, plan.decoding, fell_back)
        except BaseException:
            self._container.close()
            raise
        self._streams = [self._stream, *(self._container.streams.audio[:1] if ring.wants_audio else ())]
        self._stamped = self._container.format.name not in _WITHOUT_TIME_STAMPS
        self._tap = Tap(ring, self._streams, stamped=self._stamped)
        self._decoding = LiveDecoding(
            self._decoder,
            plan,
            clock,
            self._undecoded,
            make=self._frame,
            seconds=self._seconds if self._stamped else None,
        )
        self._given_s: float | None = None  # the time stamp of the frame that was given last
        self._camera_minus_raw_s: float | None = None
        self._frames = 0
        self._packets_since_frame = 0
        self._last_frame_at_s = self._last_kept_at_s = clock.monotonic()
        self._pace = Pace() if self._container.format.name == "hls" else None
        self._rate = Rate()
        base = self._stream.time_base
        self._base = (0, 0) if base is None else (base.numerator, base.denominator)
        self._size = (self._stream.codec_context.width, self._stream.codec_context.height)
        self._declared_fps = round(declared_fps(self._stream), 2)

    @property
    def details(self) -> Mapping[str, str | int | float]:
        """Codec, decoder, transport, size and rate, as far as they are known by now."""
        return {
            "codec": self._stream.codec_context.name,
            "decoder": self._decoder.device,
            "decoding": self._decoding.described,
            "transport": self._plan.transport,
            "width": self._size[0],
            "height": self._size[1],
            "fps": self._declared_fps,
            **self._rate.details,
        }

    @property
    def interval_s(self) -> float:
        """From one frame to the next, as the stream declares it; 0 where it does not."""
        rate = declared_fps(self._stream) if self._stamped else 0.0
        return 1 / rate if rate else 0.0

    @property
    def resting(self) -> bool:
        """Whether keyframes only are decoded because nothing moves."""
        return self._decoding.rest.resting

    def judge(self, for_s: float) -> None:
        """What the gate saw in the frame that was given last: see `Resting.rest`."""
        self._decoding.rest.judged(for_s, self._given_s)

    def close(self) -> None:
        """Close it; frames that were handed out stay good."""
        self._decoding.end()
        self._tap.close()
        self._decoder.close()
        self._container.close()

    def items(self, stop: threading.Event) -> Generator[LiveFrame | FailedFrame]:
        """Every frame as it comes, and a `FailedFrame` for each packet that cannot be decoded.

        Ends within one packet once `stop` is set, where none comes within `stall_timeout_s`.

        Raises:
            TransientError: the stream ended or stalled.
        """
        for packet in self._packets(stop):
            if stop.is_set():
                return
            now_s = self._clock.monotonic()
            self._check_for_stall(now_s)
            if not packet.size:  # the end: what the decoder still holds
                if packet.stream_index == self._stream.index:
                    yield from self._decoding.decode(packet)
                continue
            self._tap.put(packet, now_s)
            if packet.stream_index != self._stream.index:
                continue
            raw_s = self._seconds(packet.pts)
            self._note_camera_time(packet, raw_s)
            self._rate.passed(now_s, keyframe=packet.is_keyframe)
            step = self._decoding.step(packet, raw_s if self._stamped else now_s)
            if step is Step.KEEP:
                self._last_kept_at_s = now_s
            if step in (Step.LEAVE_OUT, Step.KEEP):
                continue
            self._packets_since_frame += 1
            if self._pace is not None and not self._pace.wait(raw_s, self._clock, stop):
                return
            yield from self._decoding.decode(packet, step)
            del packet
        raise closed(self._plan.shown)

    def _packets(self, stop: threading.Event) -> Iterator["Packet[VideoStream]"]:
        failure = None
        try:
            yield from cast("Iterator[Packet[VideoStream]]", self._container.demux(*self._streams))  # or of the sound
        except MEDIA_ERRORS as error:
            if not stop.is_set():
                failure = as_error(error, self._plan.shown)
                if failure.code is SourceErrorCode.TIMEOUT:
                    failure = self._no_picture(self._limit_s())
        if failure is not None:
            raise failure

    def _frame(self, frame: VideoFrame, decode_s: float) -> LiveFrame | FailedFrame:
        now_s = self._clock.monotonic()
        corrupt = bool(frame.is_corrupt)
        self._frames += 1
        self._packets_since_frame = 0
        self._last_frame_at_s = now_s
        self._size = (frame.width, frame.height)
        if corrupt and self._plan.on_corrupt == "skip":
            return FailedFrame(f"{self._plan.shown}: a damaged frame", corrupt=True)
        raw_s = self._seconds(frame.pts)
        camera_s = None
        if raw_s is not None and self._camera_minus_raw_s is not None:
            camera_s = raw_s + self._camera_minus_raw_s
        self._given_s = raw_s
        return LiveFrame(raw_s, camera_s, now_s, corrupt, decode_s, self._decoder.picture(frame))

    def _note_camera_time(self, packet: "Packet[VideoStream]", raw_s: float | None) -> None:
        # The difference to the time stamp holds until the next sender report, however frames are reordered.
        if raw_s is not None and packet.has_sidedata("prft"):
            wall_us, *_ = struct.unpack_from("<q", bytes(packet.get_sidedata("prft")))  # AVProducerReferenceTime
            self._camera_minus_raw_s = wall_us / 1e6 - raw_s

    def _check_for_stall(self, now_s: float) -> None:
        limit_s = self._limit_s()
        # At rest the last picture is older though all is well: the network may stutter as long as else.
        well_until_s = min(self._last_kept_at_s, self._last_frame_at_s + REST_SHARE * limit_s)
        if now_s - max(self._last_frame_at_s, well_until_s) > limit_s:
            raise self._no_picture(limit_s)

    def _limit_s(self) -> float:
        return self._plan.stall_timeout_s if self._frames else self._plan.first_frame_timeout_s

    def _no_picture(self, limit_s: float) -> TransientError:
        came = self._packets_since_frame > 1  # one is what a time-out drives out of the parser
        return no_picture(self._plan.shown, limit_s, frames_came=self._frames > 0, packets_came=came)

    def _seconds(self, pts: int | None) -> float | None:
        """A time stamp in seconds. In the stream's base: frames that are drained out of a decoder name none."""
        numerator, denominator = self._base
        return None if pts is None or not denominator or not self._stamped else pts * numerator / denominator
