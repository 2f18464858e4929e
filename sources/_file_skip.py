"""`Lookahead`: which packets of a file need no decoding because nobody will want their frames; nothing else changes."""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from av.video.stream import VideoStream

from sources._nal import begins_anew, length_size, temporal_layers
from sources._open import MEDIA_ERRORS

if TYPE_CHECKING:
    from av.packet import Packet

# H.264 and H.265 hold back 16 pictures at most: after so many more packets a frame's place in the display is certain.
_MOST_REORDERED = 16
# Of packets that are read ahead, to see how a group of pictures ends: 8 s of a camera with 4 Mbit/s.
_MOST_AHEAD_BYTES = 4 * 2**20
_INTRA_ONLY = 1  # AV_CODEC_PROP_INTRA_ONLY
# Their frames build on one frame before them, or on none: after a keyframe on nothing from before it.
_ONE_REFERENCE = frozenset(["mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "h263", "flv1", "wmv1", "wmv2"])
_SHOWN_KEYFRAMES = frozenset(["vp8", "vp9", "av1"])
_KNOWN_REFERENCES = frozenset(["h264", "mpeg4", "mpeg2video", "mpeg1video"])  # the decoder knows what others build on


class Ask(Enum):
    """What to ask of the decoder for a packet: its frame, its frame only if others build on it, or nothing."""

    FRAME = "frame"
    REFERENCE = "reference"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be left out of a codec's packets. Made by `rules_of`.

    Attributes:
        intra: each packet is whole by itself.
        begins_anew: whether nothing from this keyframe on builds on anything before it; None: it never can be told.
        knows_references: the decoder skips what nobody builds on, told to.
    """

    intra: bool
    begins_anew: "Callable[[Packet[VideoStream]], bool] | None"
    knows_references: bool


def rules_of(stream: VideoStream) -> Rules | None:
    """The rules for a stream; None: everything has to be decoded."""
    context = stream.codec_context
    name, extradata = context.codec.canonical_name, context.extradata
    if stream.start_time is None or stream.time_base is None:
        return None
    if int(context.codec.properties) & _INTRA_ONLY:
        return Rules(True, lambda _: True, False)
    if name in ("h264", "hevc"):
        size_bytes = length_size(name, extradata)
        # With several temporal layers a frame that none of its own layer builds on may serve a higher one.
        known = name == "h264" or temporal_layers(extradata) == 1
        return Rules(False, lambda packet: begins_anew(name, bytes(packet), size_bytes), known)
    closed = name in _SHOWN_KEYFRAMES or (name in _ONE_REFERENCE and not context.has_b_frames)
    known = name in _KNOWN_REFERENCES
    return Rules(False, (lambda _: True) if closed else None, known) if closed or known else None


@dataclass(slots=True, order=True)
class _Place:
    """A frame's place in the display."""

    pts: int
    duration: int = field(compare=False)
    wanted: bool | None = field(compare=False, default=None)


@dataclass(slots=True)
class _Ahead:
    """A packet that was read and not decoded yet."""

    packet: "Packet[VideoStream]"
    place: _Place | None  # None: the container says that it is not shown
    begins_anew: bool


class Lookahead:
    """Reads a file's packets ahead and says which frames are needed. Made and used by the file's thread.

    A frame that is not wanted is left out where no other builds on it, and with it the rest of its group of pictures
    where none of that is wanted. The first thing that is not as expected ends it, for the rest of the file: a packet
    without a time stamp or with damage, one that is out of order, a wanted frame that does not come.

    Args:
        rules: for the codec.
        wants: whether a frame of this time stamp is wanted; asked once for each, in the order of display.
    """

    def __init__(self, rules: Rules, wants: Callable[[int], bool]) -> None:
        self._rules = rules
        self._wants = wants
        self._ahead: deque[_Ahead] = deque()
        self._ahead_bytes = 0
        self._heap: list[_Place] = []
        self._places: deque[_Place] = deque()
        self._last_pts: int | None = None
        self.gave_up = False

    def asked(self, packets: "Iterable[Packet[VideoStream]]") -> "Iterator[tuple[Packet[VideoStream], Ask]]":
        """Each packet with what to ask of the decoder, in their order, some time after it was read."""
        try:
            for packet in packets:
                if self.gave_up or not packet.size:
                    yield from self._rest()
                    yield packet, Ask.FRAME
                    continue
                self._read(packet)
                del packet
                yield from self._ready()
        except MEDIA_ERRORS:
            self.give_up()
            yield from self._rest()
            raise
        yield from self._rest()

    def skipped_before(self, pts: int | None) -> list[tuple[int, int]]:
        """A frame came out of the decoder: time stamp and duration of those before it that were left out.

        Args:
            pts: of the frame; None: no more will come.
        """
        skipped = []
        while self._places and self._places[0].wanted is not None and (pts is None or self._places[0].pts < pts):
            place = self._places.popleft()
            if place.wanted and not self.gave_up:
                self.give_up()  # it should have come
            elif not place.wanted:
                skipped.append((place.pts, place.duration))
        if pts is not None and self._places and self._places[0].pts == pts:
            self._places.popleft()
        return skipped

    def left_out(self) -> int:
        """How many of the frames that did not come yet were left out."""
        return sum(place.wanted is False for place in self._places)

    def give_up(self) -> None:
        """From here on everything is decoded."""
        self.gave_up = True

    def _read(self, packet: "Packet[VideoStream]") -> None:
        begins = self._rules.begins_anew
        anew = self._rules.intra or (begins is not None and packet.is_keyframe and begins(packet))
        if packet.pts is None or packet.is_corrupt or (anew and not self._is_latest(packet.pts)):
            self.give_up()
            self._ahead.append(_Ahead(packet, None, begins_anew=False))
            return
        place = None if packet.is_discard else _Place(packet.pts, packet.duration or 0)
        if anew:  # all that were read before are shown before it
            self._settle(0)
        if place is not None:
            heapq.heappush(self._heap, place)
            self._settle(_MOST_REORDERED)
            if self._rules.intra:
                self._settle(0)
        self._ahead.append(_Ahead(packet, place, anew))
        self._ahead_bytes += packet.size

    def _is_latest(self, pts: int) -> bool:
        return all(place.pts < pts for place in self._heap) and (self._last_pts is None or self._last_pts < pts)

    def _settle(self, but: int) -> None:
        """Ask about the earliest frames, until so many are left whose place is not certain."""
        while len(self._heap) > but and not self.gave_up:
            place = heapq.heappop(self._heap)
            if self._last_pts is not None and place.pts <= self._last_pts:
                self.give_up()
                return
            self._last_pts = place.pts
            place.wanted = self._wants(place.pts)
            self._places.append(place)

    def _ready(self) -> "Iterator[tuple[Packet[VideoStream], Ask]]":
        """The packets about which enough is known: a whole group of pictures, or one more than fits."""
        if self.gave_up:
            yield from self._rest()
            return
        while len(self._ahead) > 1 and self._ahead[-1].begins_anew:
            yield from self._group(len(self._ahead) - 1)
        if self._rules.intra:
            return
        most_bytes = 0 if self._rules.begins_anew is None else _MOST_AHEAD_BYTES
        while self._ahead_bytes > most_bytes and self._is_settled(self._ahead[0]):
            yield self._next(needed=True)

    def _group(self, packets: int) -> "Iterator[tuple[Packet[VideoStream], Ask]]":
        """So many packets, with nothing behind them that builds on them."""
        needed = [index for index in range(packets) if self._is_wanted(self._ahead[index])]
        last = needed[-1] if needed else -1
        for index in range(packets):
            yield self._next(needed=index <= last)

    def _next(self, *, needed: bool) -> "tuple[Packet[VideoStream], Ask]":
        """The first packet.

        Args:
            needed: others behind it may build on it.
        """
        first = self._ahead.popleft()
        self._ahead_bytes -= first.packet.size
        if self._is_wanted(first):
            return first.packet, Ask.FRAME
        return first.packet, (Ask.REFERENCE if self._rules.knows_references else Ask.FRAME) if needed else Ask.NOTHING

    def _rest(self) -> "Iterator[tuple[Packet[VideoStream], Ask]]":
        """All packets that were read: at the end of the file, or where looking ahead ends."""
        if not self.gave_up:
            self._settle(0)
        if not self.gave_up:
            yield from self._group(len(self._ahead))
        while self._ahead:
            yield self._ahead.popleft().packet, Ask.FRAME
        self._ahead_bytes = 0

    def _is_wanted(self, ahead: _Ahead) -> bool:
        return self.gave_up or (ahead.place is not None and ahead.place.wanted is not False)

    @staticmethod
    def _is_settled(ahead: _Ahead) -> bool:
        return ahead.place is None or ahead.place.wanted is not None
