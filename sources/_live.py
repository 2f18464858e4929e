"""`LiveSource`: anything live that PyAV can open, from its address to frames."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.contracts.component import Context
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.secret import SecretUrl
from sources._decoding import Decoding
from sources._live_clock import StreamClock
from sources._live_tls import Tls
from sources._live_undecoded import Undecoded

if TYPE_CHECKING:
    from sources._live_frames import LiveFrame
    from sources._live_reader import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to open one live stream, and its limits. Made by a config's `build`, never changed.

    Attributes:
        address: what FFmpeg is to open.
        shown: what messages call it: without credentials, in one line.
        transport: how it comes, for status pages: "tcp", "udp", "tls", "http", "v4l2".
        rest_keepalive_s: while nothing moves keyframes will do, and a frame this often; None: they will not.
        demuxer: FFmpeg's name of the format, where it is not left to FFmpeg.
        options: FFmpeg's own options.
        tls: how the other side proves who it is, where that is asked.
        open_timeout_s: for connecting, asking and seeing the first data.
        first_frame_timeout_s: from there to the first picture.
        stall_timeout_s: from one picture to the next.
        decoding: how its pictures are decoded.
        on_corrupt: what becomes of a frame whose damage was concealed.
        max_fps: how many frames a second are wanted, where not all of them need to be decoded.
    """

    address: SecretUrl | Path
    shown: str
    transport: str
    open_timeout_s: float
    first_frame_timeout_s: float
    stall_timeout_s: float
    decoding: Decoding
    on_corrupt: Literal["flag", "skip"]
    max_fps: float | None = None
    rest_keepalive_s: float | None = None
    demuxer: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None

    def with_sound(self) -> "Plan":
        """The same, with the sound that is left out otherwise."""
        if "allowed_media_types" not in self.options:
            return self
        return replace(self, options={**self.options, "allowed_media_types": "video+audio"})


class LiveSource:
    """A camera or a stream. Built by its config, read by its runner's thread; `details` may be asked by any.

    It takes every packet as soon as it comes: a reader that waits for anybody else would see an ever older picture,
    without an error. Dropping is up to the lane behind it. `seq` and `pts_s` go on over reconnects.
    """

    live = True

    def __init__(self, plan: Plan, ctx: Context) -> None:
        self._plan = plan
        self._ctx = ctx
        self._seq = 0
        self._times = StreamClock()
        self._undecoded = Undecoded()
        self._ring = ctx.packets(ctx.name)
        self._details: Mapping[str, str | int | float] = {"transport": plan.transport}
        self._connection: Connection | None = None

    @property
    def skipped_frames(self) -> int:
        """Frames that were not decoded, over all connections: see `Undecoded`."""
        return self._undecoded.count

    @property
    def resting(self) -> bool:
        """Whether keyframes only are decoded because nothing moves: see `Resting`."""
        return self._connection is not None and self._connection.resting

    def rest(self, for_s: float) -> None:
        """What the motion gate saw in the last frame: see `Resting`."""
        if self._connection is not None:
            self._connection.judge(for_s)

    def details(self) -> Mapping[str, str | int | float]:
        """Codec, decoder, transport, size and rate, as far as they are known."""
        return self._details

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        """One connection, to its end. See `Source`.

        Raises:
            TransientError: it cannot be opened, ended, or stalled. Nothing that a camera does is final.
        """
        from sources._live_reader import Connection

        if stop.is_set():
            return
        plan = self._plan.with_sound() if self._ring.wants_audio else self._plan
        with (
            closing(Connection(plan, self._ctx.clock, self._ring, self._ctx.fell_back, self._undecoded)) as connection,
            closing(connection.items(stop)) as items,
        ):
            self._times.begin_connection(connection.interval_s)
            self._connection = connection
            try:
                for item in items:
                    self._details = connection.details
                    if isinstance(item, FailedFrame):
                        yield item
                    else:
                        yield self._frame(item)
            finally:
                self._connection = None

    def _frame(self, item: "LiveFrame") -> Frame:
        stamp = self._times.stamp(
            raw_s=item.raw_s, camera_s=item.camera_s, at_s=item.at_s, wall_s=self._ctx.clock.wall()
        )
        self._seq += 1
        return Frame(
            source=self._ctx.name,
            seq=self._seq - 1,
            pts_s=stamp.pts_s,
            captured_at=stamp.captured_at,
            time_source=stamp.time_source,
            picture=item.take_picture(),
            decoded_at=item.at_s,
            corrupt=item.corrupt,
            time_jump=stamp.time_jump,
            clock_offset_s=stamp.clock_offset_s,
            decode_s=item.decode_s,
        )
