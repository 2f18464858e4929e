"""What a live source hands to those who record it: the packets of one connection as they come, into a ring."""

import io
from fractions import Fraction
from typing import TYPE_CHECKING

import av

from pipeline.contracts.packets import Connection, EncodedPacket, PacketRing, PacketWriter, StreamInfo
from sources._open import MEDIA_ERRORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

_ARRIVAL_BASE = Fraction(1, 90_000)
_MAX_UNSTAMPED = 100  # packets at the beginning, before the first one that has a time stamp
_MAX_FPS = 1000
_BACK_S, _LEAP_S = 1.0, 10.0  # time stamps that go back, or leap ahead of what passed, by more have jumped
_NOT_ENCODED = frozenset(["rawvideo", "v210", "wrapped_avframe"])


class Tap:
    """Made by a connection, used by its thread. Where nobody records, it costs a look at a flag for each packet.

    Args:
        ring: where the packets go.
        streams: the video, and the sound where there is some.
        stamped: whether the time stamps are the stream's own; if not, the time of arrival is taken.
    """

    def __init__(self, ring: PacketRing, streams: "Sequence[Stream]", *, stamped: bool) -> None:
        self._ring = ring
        self._streams = streams
        self._stamped = stamped
        rate = streams[0].average_rate or streams[0].guessed_rate
        self._interval_s = float(1 / rate) if rate and 0 < rate <= _MAX_FPS else 0.0
        self._place = {stream.index: place for place, stream in enumerate(streams)}
        self._writer: PacketWriter | None = None
        self._began_at_s = 0.0
        self._last_s: tuple[float, float] | None = None  # of the video: its last time stamp, and when that came
        self._unstamped: list[EncodedPacket] = []
        self._off = False

    def put(self, packet: "Packet[VideoStream]", at_s: float) -> None:
        """Hand it on, where somebody records; from the first keyframe on."""
        if not self._ring.wanted or self._off:
            if self._writer is not None:
                self.close()
            return
        place = self._place[packet.stream_index]
        is_key = bool(packet.is_keyframe)
        if place == 0 and self._stamped and self._has_jumped(packet, at_s):
            self.close()  # no file holds both: what follows is like another connection
        if self._writer is None:
            if place != 0 or not is_key:
                return
            self._begin(packet, at_s)
            if self._writer is None:
                return
        pts, dts = (
            (packet.pts, packet.dts) if self._stamped else (round((at_s - self._began_at_s) / _ARRIVAL_BASE), None)
        )
        encoded = EncodedPacket(place, bytes(packet), pts or 0, dts, packet.duration or 0, is_key, at_s)
        if pts is None:
            self._hold(encoded)
        else:
            if self._unstamped:
                self._release(encoded)
            self._writer.put(encoded)

    def close(self) -> None:
        """The connection is over."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._unstamped.clear()

    def _has_jumped(self, packet: "Packet[VideoStream]", at_s: float) -> bool:
        """Whether the camera's clock was set since the packet before."""
        stamp = packet.pts if packet.dts is None else packet.dts
        if stamp is None or packet.time_base is None:
            return False
        before, self._last_s = self._last_s, (stamp * packet.time_base.numerator / packet.time_base.denominator, at_s)
        if before is None:
            return False
        step_s, passed_s = self._last_s[0] - before[0], at_s - before[1]
        return step_s < -_BACK_S or step_s > passed_s + _LEAP_S

    def _begin(self, packet: "Packet[VideoStream]", at_s: float) -> None:
        self._began_at_s = at_s
        header = None if self._codec(self._streams[0]) in _NOT_ENCODED else _header(self._streams, bytes(packet))
        if header is None:  # nothing that a file could hold
            self._off = True
            return
        infos = tuple(
            StreamInfo(
                "video" if stream.type == "video" else "audio",
                self._codec(stream),
                Fraction(stream.time_base or _ARRIVAL_BASE) if self._stamped else _ARRIVAL_BASE,
            )
            for stream in self._streams
        )
        self._writer = self._ring.begin(Connection(infos, header))

    def _hold(self, packet: EncodedPacket) -> None:
        """The first packets of RTSP have no time stamp: the first one that has one tells those before it."""
        if len(self._unstamped) < _MAX_UNSTAMPED:
            self._unstamped.append(packet)

    def _release(self, stamped: EncodedPacket) -> None:
        if self._writer is None or stamped.stream != 0:
            return
        base = self._writer.connection.streams[0].time_base
        held = [packet for packet in self._unstamped if packet.stream == 0]
        for count, packet in zip(range(len(held), 0, -1), held, strict=True):
            # They come in a burst: when they came tells little.
            ago_s = count * self._interval_s or stamped.at_s - packet.at_s
            self._writer.put(packet._replace(pts=stamped.pts - max(count, round(ago_s / float(base)))))
        self._unstamped.clear()

    @staticmethod
    def _codec(stream: "Stream") -> str:
        return "unknown" if stream.codec_context is None else stream.codec_context.name


def _header(streams: "Sequence[Stream]", keyframe: bytes) -> bytes | None:
    """A NUT file with these streams and one keyframe, from which its reader knows all that a muxer needs."""
    file = io.BytesIO()
    try:
        with av.open(file, "w", format="nut") as container:
            first, *_ = [container.add_stream_from_template(stream) for stream in streams]
            packet = av.Packet(keyframe)
            packet.pts = packet.dts = 0
            packet.time_base = _ARRIVAL_BASE
            packet.is_keyframe = True
            packet.stream = first
            container.mux(packet)
    except MEDIA_ERRORS:
        return None
    return file.getvalue()
