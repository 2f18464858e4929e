"""`Kept`: the packets of the group at hand that were not decoded, in case that they are wanted after all."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

MOST_PACKETS = 600
MOST_BYTES = 16 << 20


class Kept:
    """Made by a connection, used by its thread only. All in it begins with a keyframe that was decoded by itself.

    Frames are told by their time stamps: a decoder gives them in another order than it takes packets.
    """

    def __init__(self) -> None:
        self.packets: list[Packet[VideoStream]] = []
        self._nbytes = 0
        self._given: set[int | None] = set()  # came out already
        self._passed: set[int] = set()  # shall not come out
        self._key_pts: int | None = None  # the decoder knows nothing from before it
        self._leads = False  # whether what comes may still be shown before the keyframe
        self._keyframes_since = 0

    @property
    def is_full(self) -> bool:
        """Whether no more should be kept."""
        return len(self.packets) >= MOST_PACKETS or self._nbytes >= MOST_BYTES

    def begin(self, keyframe: "Packet[VideoStream]") -> None:
        """A keyframe was decoded by itself, and its frame was given."""
        self._key_pts, self._leads = keyframe.pts, True
        self.add(keyframe)
        self._given = {keyframe.pts}

    def add(self, packet: "Packet[VideoStream]") -> None:
        """Keep one more."""
        self.is_leading(packet)
        self.packets.append(packet)
        self._nbytes += packet.size

    def gave(self, packet: "Packet[VideoStream]") -> None:
        """The frame of this one was looked at and given."""
        self._given.add(packet.pts)

    def end(self) -> int:
        """The group is over, or will be no more; how many of the packets were never decoded."""
        left = sum(packet.pts not in self._given for packet in self.packets)
        self.packets, self._nbytes, self._key_pts = [], 0, None
        self._keyframes_since += 1
        if self._keyframes_since > 1:  # whatever the decoder held back has come by now
            self._passed.clear()
        return left

    def wake(self, trigger: "Packet[VideoStream]") -> tuple[list["Packet[VideoStream]"], int]:
        """From `trigger` on everything is wanted.

        Returns:
            What to decode before it, and how many of these are only decoded because others build on them.
        """
        packets, self.packets, self._nbytes = self.packets, [], 0
        self._passed = {
            packet.pts
            for packet in packets
            if packet.pts is not None
            and (trigger.pts is None or packet.pts < trigger.pts or packet.pts in self._given or self._precedes(packet))
        }
        self._keyframes_since = 0
        return [packet for packet in packets if not self._precedes(packet)], len(self._passed - self._given)

    def passes_over(self, pts: int | None) -> bool:
        """Whether this frame is not wanted: it was there before something happened, or it was given."""
        return pts in self._passed

    def is_leading(self, packet: "Packet[VideoStream]") -> bool:
        """Whether it is shown before the group's keyframe, so that it may build on what was never decoded."""
        # They come first, behind it: what is earlier later on has jumped.
        self._leads = self._leads and (packet.pts == self._key_pts or self._precedes(packet))
        return self._leads and packet.pts != self._key_pts

    def _precedes(self, packet: "Packet[VideoStream]") -> bool:
        return self._key_pts is not None and packet.pts is not None and packet.pts < self._key_pts
