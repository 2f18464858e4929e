"""Encoded video on its way beside the frames: a ring of packets that a live source fills where a sink records them."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Literal, NamedTuple, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream of what a source reads.

    Attributes:
        kind: "video" or "audio".
        codec: FFmpeg's name of it.
        time_base: seconds of one unit of its packets' time stamps.
    """

    kind: Literal["video", "audio"]
    codec: str
    time_base: Fraction


class EncodedPacket(NamedTuple):
    """One packet as it came, never decoded.

    Attributes:
        stream: which of the connection's streams.
        data: its bytes.
        pts: when it is shown, in the stream's time base.
        dts: when it is decoded; None where the source does not say.
        duration: for how long, 0 where the source does not say.
        keyframe: whether decoding can begin with it.
        at_s: monotonic seconds at which it came: not later than `Frame.decoded_at` of its picture.
    """

    stream: int
    data: bytes
    pts: int
    dts: int | None
    duration: int
    keyframe: bool
    at_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """What all packets of one connection have in common; the next connection has another.

    Attributes:
        streams: the first is the video.
        header: a NUT file (FFmpeg's own format) that begins with these streams: what a muxer needs to know of them.
    """

    streams: tuple[StreamInfo, ...]
    header: bytes


class Taken(NamedTuple):
    """What a reader got.

    Attributes:
        packets: with their connections, in order.
        lost: so many are missing before them, because the reader was too slow.
    """

    packets: list[tuple[Connection, EncodedPacket]]
    lost: int


class PacketRing:
    """The last packets of one source. Made by the topology; written by the source's thread, read by sinks' threads.

    It never makes the source wait: what is older than all readers want, or more than `max_bytes`, goes, a whole group
    of pictures at a time, so that it always begins with a keyframe. It holds nothing where there is no reader.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: tuple[PacketReader, ...] = ()
        self._entries: deque[tuple[Connection, EncodedPacket]] = deque()
        self._first = 0  # the number of the first entry; they are counted since the beginning
        self._keyframes: deque[int] = deque()  # the numbers of those of the video
        self._nbytes = 0
        self._keep_s = 0.0
        self._max_bytes = 0
        self._writer: PacketWriter | None = None
        self.wanted = False
        """Whether anybody reads; looked at for every packet."""
        self.wants_audio = False
        """Whether anybody wants sound; looked at when a connection is opened."""

    def reader(self, *, keep_s: float, max_bytes: int, audio: bool) -> "PacketReader":
        """From now on keep the last `keep_s` seconds, as long as they fit; until the reader is closed."""
        reader = PacketReader(self, keep_s=keep_s, max_bytes=max_bytes, audio=audio)
        with self._lock:
            self._set_readers((*self._readers, reader))
            reader.number = self._first + len(self._entries)
        return reader

    def begin(self, connection: Connection) -> "PacketWriter":
        """What comes from now on is of this connection. Of two that write at once, the later one is heard."""
        writer = PacketWriter(self, connection)
        with self._lock:
            self._writer = writer
        return writer

    # For its readers and writers

    def put(self, writer: "PacketWriter", packet: EncodedPacket) -> None:
        """See `PacketWriter.put`."""
        with self._lock:
            is_key = packet.stream == 0 and packet.keyframe
            if self._writer is None and is_key:  # the one that took over is gone, e.g. a source that was only tried
                self._writer = writer
            if self._writer is not writer or not self._readers or not (is_key or self._keyframes):
                return
            if is_key:
                self._keyframes.append(self._first + len(self._entries))
            self._entries.append((writer.connection, packet))
            self._nbytes += len(packet.data)
            self._trim(packet.at_s)

    def end(self, writer: "PacketWriter") -> None:
        """See `PacketWriter.close`."""
        with self._lock:
            if self._writer is writer:
                self._writer = None

    def take(self, reader: "PacketReader", until_s: float | None) -> Taken:
        """See `PacketReader.take`."""
        with self._lock:
            lost = max(0, self._first - reader.number)
            start = max(0, reader.number - self._first)
            packets = []
            for connection, packet in islice(self._entries, start, None):
                if until_s is not None and packet.at_s > until_s:
                    break
                packets.append((connection, packet))
            reader.number = self._first + start + len(packets)
            return Taken(packets, lost)

    def seek(self, reader: "PacketReader", at_s: float) -> bool:
        """See `PacketReader.seek`."""
        with self._lock:
            before = [number for number in self._keyframes if self._entries[number - self._first][1].at_s <= at_s]
            if not self._keyframes:
                return False
            reader.number = before[-1] if before else self._keyframes[0]
            return True

    def newest_s(self) -> float | None:
        """Monotonic seconds at which the last packet came; None where there is none."""
        with self._lock:
            return self._entries[-1][1].at_s if self._entries else None

    def leave(self, reader: "PacketReader") -> None:
        """See `PacketReader.close`."""
        with self._lock:
            self._set_readers(tuple(other for other in self._readers if other is not reader))

    def _set_readers(self, readers: "tuple[PacketReader, ...]") -> None:
        self._readers = readers
        self._keep_s = max((reader.keep_s for reader in readers), default=0.0)
        self._max_bytes = max((reader.max_bytes for reader in readers), default=0)
        self.wants_audio = any(reader.audio for reader in readers)
        self.wanted = bool(readers)
        if not readers:
            self._drop(len(self._entries))

    def _trim(self, now_s: float) -> None:
        """Let go of whole groups of pictures at the front."""
        while len(self._keyframes) > 1:
            second = self._keyframes[1] - self._first
            if self._entries[second][1].at_s > now_s - self._keep_s and self._nbytes <= self._max_bytes:
                return
            self._drop(second)
        if self._nbytes > self._max_bytes:  # one group alone is too much: from the next keyframe on
            self._drop(len(self._entries))

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._nbytes -= len(self._entries.popleft()[1].data)
        self._first += count
        while self._keyframes and self._keyframes[0] < self._first:
            self._keyframes.popleft()


class PacketWriter:
    """One connection's way into a ring. Made by the source, used by its thread."""

    def __init__(self, ring: PacketRing, connection: Connection) -> None:
        self._ring = ring
        self.connection = connection

    def put(self, packet: EncodedPacket) -> None:
        """Add a packet; never waits for anybody."""
        self._ring.put(self, packet)

    def close(self) -> None:
        """Nothing more comes of this connection."""
        self._ring.end(self)


class PacketReader:
    """One sink's view of a ring. Made by `PacketRing.reader`; belongs to one sink. It stands behind what was there
    when it was made, until it is told to `seek`."""

    def __init__(self, ring: PacketRing, *, keep_s: float, max_bytes: int, audio: bool) -> None:
        self._ring = ring
        self.keep_s = keep_s
        self.max_bytes = max_bytes
        self.audio = audio
        self.number = 0
        """Of the entry that it gets next; belongs to the ring."""

    def seek(self, at_s: float) -> bool:
        """Go to the last keyframe that came at or before `at_s`, monotonic, or to the oldest; False: there is none."""
        return self._ring.seek(self, at_s)

    def take(self, until_s: float | None = None) -> Taken:
        """What is there from here on, as far as it came until then; it is behind it afterwards."""
        return self._ring.take(self, until_s)

    @property
    def newest_s(self) -> float | None:
        """When the last packet came, monotonic seconds."""
        return self._ring.newest_s()

    def close(self) -> None:
        """It wants nothing any more."""
        self._ring.leave(self)


class PacketRings:
    """The rings of all sources, by name. Made by the topology, used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rings: dict[str, PacketRing] = {}

    def of(self, source: str) -> PacketRing:
        """The ring of a source; made when it is first asked for."""
        with self._lock:
            return self._rings.setdefault(source, PacketRing())

    def forget(self, source: str) -> None:
        """The source was removed."""
        with self._lock:
            self._rings.pop(source, None)


@runtime_checkable
class Recording(Protocol):
    """A sink that takes encoded packets (`Context.packets`): it is told its sources before anything comes of them."""

    def attach(self, source: str) -> None:
        """Results of this source will come, too. Called by the main thread, also before `open`; it takes no time."""
        ...


def codecs_of(streams: Sequence[StreamInfo]) -> str:
    """For messages: "h264 and aac"."""
    return " and ".join(stream.codec for stream in streams)
