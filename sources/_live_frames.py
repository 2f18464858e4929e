"""`LiveDecoding`: which packets of one live connection are decoded, and the frames that come of them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from av.video.frame import PictureType, VideoFrame

from pipeline.contracts.clock import Clock
from pipeline.contracts.frame import FailedFrame, Picture
from pipeline.contracts.source import REST_SHARE
from sources._decoder import Decoder, HardwareLostError
from sources._live import Plan
from sources._live_kept import Kept
from sources._live_rest import Rest, Step
from sources._live_skip import Decode, Skipping
from sources._live_undecoded import Undecoded
from sources._open import MEDIA_ERRORS, reason

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream


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


class LiveDecoding:
    """Made by a connection, used by its thread only. Ask `step` about each packet, in order, then `decode` it.

    Args:
        decoder: the stream's; whoever made it closes it.
        plan: how the stream is read.
        clock: for how long it takes.
        undecoded: told what is left out.
        make: makes of a decoder's frame and its seconds what is given for it.
        seconds: a time stamp in seconds; None where the stream has none, and packets come with the time of arrival.

    Attributes:
        rest: whether it rests; told by the connection what the gate saw.
    """

    def __init__(
        self,
        decoder: Decoder,
        plan: Plan,
        clock: Clock,
        undecoded: Undecoded,
        *,
        make: Callable[[VideoFrame, float], LiveFrame | FailedFrame],
        seconds: Callable[[int | None], float | None] | None,
    ) -> None:
        self.rest = Rest(plan.rest_keepalive_s, plan.stall_timeout_s * REST_SHARE)
        self._asked_to_rest = plan.rest_keepalive_s is not None
        self._decoder = decoder
        self._shown = plan.shown
        self._clock = clock
        self._undecoded = undecoded
        self._make = make
        self._seconds = seconds
        self._skipping = Skipping(plan.max_fps, plan.stall_timeout_s / 2)
        self._kept = Kept()
        self._good_start = False  # what comes before the first whole picture is in part made up

    @property
    def described(self) -> str:
        """What is decoded at the moment, for status pages."""
        if self.rest.resting:
            return "keyframes"
        if self._asked_to_rest and self.rest.why_not is not None and self._skipping.mode is not Decode.KEYFRAMES:
            return f"{self._skipping.mode.value}: {self.rest.why_not}"
        return self._skipping.mode.value

    def step(self, packet: "Packet[VideoStream]", at_s: float | None) -> Step:
        """What to do with the next packet; one that is kept or left out is done with.

        Args:
            packet: of the video, not empty.
            at_s: its time in seconds.
        """
        wanted = self._wants(packet, at_s)
        if packet.is_keyframe or self._skipping.mode is Decode.KEYFRAMES:
            self._undecoded.leave_out(self._kept.end())
        if self._skipping.mode is Decode.KEYFRAMES:  # there is nothing left to rest from
            self.rest.begin_again()
            step = Step.ALONE if wanted else Step.LEAVE_OUT
        elif not wanted:
            step = Step.LEAVE_OUT
        else:
            step = self._rested(packet, None if self._seconds is None else at_s)
        if step is Step.KEEP:
            self._kept.add(packet)
        elif step is Step.LEAVE_OUT:
            self._undecoded.leave_out()
        return step

    def decode(self, packet: "Packet[VideoStream]", step: Step = Step.DECODE) -> Iterator[LiveFrame | FailedFrame]:
        """What comes of a packet, and of those that were kept before it; an empty packet: of what was held back."""
        if step is Step.LOOK:
            yield from self._look(packet)
        elif step is Step.ALONE:
            yield from self._alone(packet)
        elif step is Step.WAKE:
            yield from self._wake(packet)
        else:
            yield from self._next(packet)

    def end(self) -> None:
        """The connection is over."""
        self._undecoded.leave_out(self._kept.end())
        self._undecoded.end()

    def _wants(self, packet: "Packet[VideoStream]", at_s: float | None) -> bool:
        before = self._skipping.mode
        wanted = self._skipping.wants(at_s, packet.is_keyframe)
        if self._skipping.mode is not before and Decode.KEYFRAMES in (before, self._skipping.mode):
            self._undecoded.throw_away()
            self._decoder.context.flush_buffers()
        return wanted

    def _rested(self, packet: "Packet[VideoStream]", at_s: float | None) -> Step:
        step = self.rest.takes(packet.size, at_s, is_keyframe=packet.is_keyframe)
        if step is Step.KEEP and self._kept.is_full and at_s is not None:
            step = self.rest.wake(at_s)
        if step is Step.DECODE and self._kept.is_leading(packet):
            step = Step.LEAVE_OUT
        return step

    def _next(self, packet: "Packet[VideoStream]", *, passed_over: bool = False) -> Iterator[LiveFrame | FailedFrame]:
        """Decode a packet behind the one before it; `passed_over`: only because others build on it."""
        only_reference = passed_over or self._skipping.mode is Decode.REFERENCES
        if packet.size and not passed_over:
            self._undecoded.give(packet.pts, only_reference=only_reference)
        began_s = self._clock.monotonic()
        try:
            frames = self._decoder.decode(packet, only_reference=only_reference)
        except (HardwareLostError, *MEDIA_ERRORS) as error:
            failed = self._failed(packet, error)
            if failed is not None and not passed_over:
                yield failed
            return
        yield from self._given(frames, self._clock.monotonic() - began_s)

    def _alone(self, packet: "Packet[VideoStream]") -> Iterator[LiveFrame | FailedFrame]:
        """Decode a keyframe by itself: without its followers a decoder that reorders would hold it back."""
        began_s = self._clock.monotonic()
        failed: FailedFrame | None = None
        frames: list[VideoFrame] = []
        try:
            frames = self._decoder.decode(packet)
            frames += self._decoder.drain()
        except (HardwareLostError, *MEDIA_ERRORS) as error:
            failed = self._failed(packet, error)
        finally:
            self._decoder.context.flush_buffers()
        decode_s = self._clock.monotonic() - began_s
        again = False
        if self.rest.resting:
            for frame in frames:
                self._undecoded.come(frame.pts)
            self._undecoded.throw_away()
            self._skipping.pause()
            own = [frame for frame in frames if frame.pts == packet.pts]
            if own and not own[0].is_corrupt:
                self._kept.begin(packet)
            else:
                again = failed is None
                if again and not own:  # it builds on pictures before it: one that is made whole bit by bit
                    self.rest.give_up("its keyframes are no whole pictures")
                else:  # damaged on its way
                    self.rest.begin_again()
                frames = [frame for frame in frames if frame.pts != packet.pts]
        yield from self._given(frames, decode_s)
        if failed is not None:
            yield failed
        if again:
            yield from self._next(packet)

    def _wake(self, packet: "Packet[VideoStream]") -> Iterator[LiveFrame | FailedFrame]:
        """Decode what was kept: what was shown before this packet is passed over, all else is given."""
        kept, passed = self._kept.wake(packet)
        self._undecoded.leave_out(passed)
        while kept:
            one = kept.pop(0)
            yield from self._next(one, passed_over=self._kept.passes_over(one.pts))
        if self._kept.is_leading(packet):
            self._undecoded.leave_out()
        else:
            yield from self._next(packet)

    def _look(self, packet: "Packet[VideoStream]") -> Iterator[LiveFrame | FailedFrame]:
        """Decode what was kept for the sake of this one's frame, and forget it again."""
        self._kept.add(packet)
        began_s = self._clock.monotonic()
        frames: list[VideoFrame] = []
        try:
            for one in self._kept.packets:
                with suppress(*MEDIA_ERRORS):
                    frames += self._decoder.decode(one, only_reference=one is not packet)
                frames = [frame for frame in frames if frame.pts == packet.pts]
            frames += [frame for frame in self._decoder.drain() if frame.pts == packet.pts]
        except (HardwareLostError, *MEDIA_ERRORS) as error:
            self._failed(packet, error)
            self._undecoded.leave_out(self._kept.end())
            self.rest.begin_again()
        self._decoder.context.flush_buffers()
        if frames:
            self._kept.gave(packet)
        yield from self._given(frames, self._clock.monotonic() - began_s)

    def _failed(self, packet: "Packet[VideoStream]", error: BaseException) -> FailedFrame | None:
        """A packet could not be decoded; None where nothing could be expected yet."""
        shown = f"{self._shown}: a frame cannot be decoded"
        if isinstance(error, HardwareLostError):
            # It begins like a new connection: what comes before the next keyframe builds on what it never saw.
            self._undecoded.end()
            self._decoder.use_cpu(str(error))
            self._good_start = False
            return FailedFrame(f"{shown}: {error}")
        self._undecoded.fail(packet.pts)
        return FailedFrame(f"{shown}: {reason(error)}") if self._good_start else None

    def _given(self, frames: list[VideoFrame], decode_s: float) -> Iterator[LiveFrame | FailedFrame]:
        while frames:
            if (item := self._made(frames.pop(0), decode_s)) is not None:
                yield item
                item = None  # let go of, see `take_picture`

    def _made(self, frame: VideoFrame, decode_s: float) -> LiveFrame | FailedFrame | None:
        if self._kept.passes_over(frame.pts):
            return None
        self._undecoded.come(frame.pts)
        if not self._good_start:
            if frame.is_corrupt and not frame.key_frame:
                return None
            self._good_start = True
        made = self._make(frame, decode_s)
        if not self.rest.resting:
            at_s = self._clock.monotonic() if self._seconds is None else self._seconds(frame.pts)
            self._skipping.decoded(at_s, frame.pict_type == PictureType.B)
        return made
