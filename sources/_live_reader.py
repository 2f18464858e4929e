"""One connection to something live through PyAV: every packet is taken at once, every wait has an end."""

import struct
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from pipeline.contracts.clock import Clock
from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Picture
from pipeline.contracts.packets import PacketRing
from pipeline.contracts.secret import SecretUrl
from sources._decoder import Decoder, FellBack, HardwareLostError, unheard
from sources._live import Plan
from sources._live_errors import as_error, closed, no_picture
from sources._live_pace import Pace, Rate
from sources._live_packets import Tap
from sources._live_skip import Decode, Skipping
from sources._live_undecoded import Undecoded
from sources._open import MEDIA_ERRORS, reason

if TYPE_CHECKING:
    from av.packet import Packet

# Demuxers that make time stamps up: 25 frames a second, whatever comes.
_WITHOUT_TIME_STAMPS = frozenset(["mpjpeg", "mjpeg", "jpeg_pipe", "h264", "hevc"])


@dataclass(slots=True)
class LiveFrame:
    """A decoder's frame with what is known about when it was taken.

    Attributes:
        raw_s: its time stamp in the stream's own seconds; None where it has none.
        camera_s: when it was taken by the camera's clock, Unix seconds; None where the camera does not tell.
        at_s: monotonic seconds at which it was decoded.
        corrupt: whether the decoder concealed damage in it.
        decode_s: how long its packet was decoded.
    """

    raw_s: float | None
    camera_s: float | None
    at_s: float
    corrupt: bool
    decode_s: float
    _picture: Picture | None = field(repr=False)

    def take_picture(self) -> Picture:
        """The pixels, once: a generator that is suspended must not hold on to what it gave last."""
        picture, self._picture = self._picture, None
        if picture is None:
            raise RuntimeError("the picture was taken before")
        return picture


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
        self._container = _open(plan, clock)
        try:
            self._stream = _video_stream(self._container, plan.shown)
            self._decoder = Decoder(self._stream, plan.decoding, fell_back)
        except BaseException:
            self._container.close()
            raise
        self._streams = [self._stream, *(self._container.streams.audio[:1] if ring.wants_audio else ())]
        self._tap = Tap(ring, self._streams, stamped=self._container.format.name not in _WITHOUT_TIME_STAMPS)
        self._skipping = Skipping(plan.max_fps, plan.stall_timeout_s / 2)
        self._camera_minus_raw_s: float | None = None
        self._good_start = False  # what comes before the first whole picture is in part made up
        self._frames = 0
        self._packets_since_frame = 0
        self._last_frame_at_s = clock.monotonic()
        self._stamped = self._container.format.name not in _WITHOUT_TIME_STAMPS
        self._pace = Pace() if self._container.format.name == "hls" else None
        self._rate = Rate()
        self.details: Mapping[str, str | int | float] = self._describe(
            self._stream.codec_context.width, self._stream.codec_context.height
        )

    @property
    def interval_s(self) -> float:
        """From one frame to the next, as the stream declares it; 0 where it does not."""
        rate = _declared_fps(self._stream) if self._stamped else 0.0
        return 1 / rate if rate else 0.0

    def close(self) -> None:
        """Close it; frames that were handed out stay good."""
        self._undecoded.end()
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
                    yield from self._decoded(packet)
                continue
            self._tap.put(packet, now_s)
            if packet.stream_index != self._stream.index:
                continue
            self._packets_since_frame += 1
            raw_s = self._seconds(packet.pts)
            self._note_camera_time(packet, raw_s)
            if self._rate.passed(now_s, keyframe=packet.is_keyframe):
                self.details = {**self.details, **self._rate.details}
            if not self._wants(packet, raw_s if self._stamped else now_s):
                self._undecoded.leave_out()
                continue
            if self._pace is not None and not self._pace.wait(raw_s, self._clock, stop):
                return
            yield from self._decoded(packet)
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

    def _decoded(self, packet: "Packet[VideoStream]") -> Iterator[LiveFrame | FailedFrame]:
        decoder = self._decoder
        alone = self._skipping.mode is Decode.KEYFRAMES and packet.size > 0
        only_reference = self._skipping.mode is Decode.REFERENCES
        if packet.size and not alone:
            self._undecoded.give(packet.pts, only_reference=only_reference)
        began_s = self._clock.monotonic()
        try:
            frames = decoder.decode(packet, only_reference=only_reference)
            if alone:  # without its followers a decoder that reorders would hold it back
                frames += decoder.drain()
        except HardwareLostError as error:
            self._use_cpu(str(error))
            yield FailedFrame(f"{self._plan.shown}: a frame cannot be decoded: {error}")
            return
        except MEDIA_ERRORS as error:
            self._undecoded.fail(packet.pts)
            if self._good_start:
                yield FailedFrame(f"{self._plan.shown}: a frame cannot be decoded: {reason(error)}")
            return
        finally:
            if alone:
                decoder.context.flush_buffers()
        decode_s = self._clock.monotonic() - began_s
        while frames:
            if (item := self._frame(frames.pop(0), decode_s)) is not None:
                yield item
                item = None  # let go of, see `take_picture`

    def _frame(self, frame: VideoFrame, decode_s: float) -> LiveFrame | FailedFrame | None:
        now_s = self._clock.monotonic()
        corrupt = bool(frame.is_corrupt)
        self._undecoded.come(frame.pts)
        if not self._good_start:
            if corrupt and not frame.key_frame:
                return None
            self._good_start = True
        self._frames += 1
        self._packets_since_frame = 0
        self._last_frame_at_s = now_s
        raw_s = self._seconds(frame.pts)
        self._skipping.decoded(raw_s if self._stamped else now_s, frame.pict_type == PictureType.B)
        if (frame.width, frame.height) != (self.details["width"], self.details["height"]):
            self.details = self._describe(frame.width, frame.height)
        if corrupt and self._plan.on_corrupt == "skip":
            return FailedFrame(f"{self._plan.shown}: a damaged frame", corrupt=True)
        camera_s = None
        if raw_s is not None and self._camera_minus_raw_s is not None:
            camera_s = raw_s + self._camera_minus_raw_s
        if self._decoder.device != self.details["decoder"]:
            self.details = {**self.details, "decoder": self._decoder.device}
        return LiveFrame(raw_s, camera_s, now_s, corrupt, decode_s, self._decoder.picture(frame))

    def _use_cpu(self, why: str) -> None:
        """It begins like a new connection: what comes before the next keyframe builds on what it never saw."""
        self._undecoded.end()
        self._decoder.use_cpu(why)
        self._good_start = False
        self.details = {**self.details, "decoder": self._decoder.device}

    def _wants(self, packet: "Packet[VideoStream]", at_s: float | None) -> bool:
        before = self._skipping.mode
        wanted = self._skipping.wants(at_s, packet.is_keyframe)
        if self._skipping.mode is not before and Decode.KEYFRAMES in (before, self._skipping.mode):
            self._undecoded.throw_away()
            self._decoder.context.flush_buffers()
        return wanted

    def _note_camera_time(self, packet: "Packet[VideoStream]", raw_s: float | None) -> None:
        # The difference to the time stamp holds until the next sender report, however frames are reordered.
        if raw_s is not None and packet.has_sidedata("prft"):
            wall_us, *_ = struct.unpack_from("<q", bytes(packet.get_sidedata("prft")))  # AVProducerReferenceTime
            self._camera_minus_raw_s = wall_us / 1e6 - raw_s

    def _check_for_stall(self, now_s: float) -> None:
        if now_s - self._last_frame_at_s > self._limit_s():
            raise self._no_picture(self._limit_s())

    def _limit_s(self) -> float:
        return self._plan.stall_timeout_s if self._frames else self._plan.first_frame_timeout_s

    def _no_picture(self, limit_s: float) -> TransientError:
        came = self._packets_since_frame > 1  # one is what a time-out drives out of the parser
        return no_picture(self._plan.shown, limit_s, frames_came=self._frames > 0, packets_came=came)

    def _seconds(self, pts: int | None) -> float | None:
        """A time stamp in seconds. In the stream's base: frames that are drained out of a decoder name none."""
        base = self._stream.time_base
        return None if pts is None or base is None or not self._stamped else float(pts * base)

    def _describe(self, width: int, height: int) -> Mapping[str, str | int | float]:
        return {
            "codec": self._stream.codec_context.name,
            "decoder": self._decoder.device,
            "transport": self._plan.transport,
            "width": width,
            "height": height,
            "fps": round(_declared_fps(self._stream), 2),
            **self._rate.details,
        }


def _open(plan: Plan, clock: Clock) -> InputContainer:
    failure, started_s = None, clock.monotonic()
    # Opening has two steps with a limit each: the handshake, and a look at the first packets.
    limit_s = plan.open_timeout_s / 2
    read_s = min(plan.stall_timeout_s, plan.first_frame_timeout_s)
    try:
        return av.open(
            str(plan.address) if isinstance(plan.address, Path) else plan.address.reveal(),
            format=plan.demuxer,
            options={"max_pixels": str(plan.decoding.max_pixels), **plan.options},
            timeout=(limit_s, read_s),
            metadata_errors="ignore",
        )
    except MEDIA_ERRORS as error:
        failure = as_error(error, plan.shown, opening=True, took_s=clock.monotonic() - started_s, limit_s=limit_s)
    if (
        failure.code is SourceErrorCode.CONNECTION_FAILED
        and plan.tls is not None
        and isinstance(plan.address, SecretUrl)
    ):
        fault = plan.tls.fault(plan.address, limit_s)
        failure = failure if fault is None else TransientError(f"{plan.shown}: {fault}", code=SourceErrorCode.TLS)
    raise failure


def _video_stream(container: InputContainer, shown: str) -> VideoStream:
    if not container.streams.video:
        raise TransientError(f"{shown}: there is no video in the stream", code=SourceErrorCode.CODEC_UNSUPPORTED)
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise TransientError(
            f"{shown}: there is no decoder for its video codec in this build of FFmpeg",
            code=SourceErrorCode.CODEC_UNSUPPORTED,
        )
    return stream


def _declared_fps(stream: VideoStream) -> float:
    """Frames a second; 0 where nothing sensible is declared."""
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    return fps if 0 < fps <= 1000 else 0.0
