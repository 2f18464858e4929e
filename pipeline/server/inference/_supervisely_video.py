"""A video that a client sent: its frames by their numbers, forward and backward, decoded where and when wanted."""

import bisect
import contextlib
import io
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final

import av
from av.codec.context import ThreadType
from av.container import InputContainer

from pipeline.contracts.frame import Picture
from pipeline.models.picture import RotationDeg, VideoPicture
from pipeline.server.inference.refusal import RefusedError

MAX_PACKETS = 2_000_000

_DEFAULT_FPS = 25.0
_MAX_FAILURES_IN_A_ROW = 1000
_MAX_READ_FAILURES_IN_A_ROW = 20
# Containers that hold their own pictures. A demuxer that reads something else (playlists, hosts, devices) is none.
_FORMATS: Final = (
    "asf",
    "avi",
    "flv",
    "h264",
    "hevc",
    "matroska",
    "mov",
    "mp4",
    "mpeg",
    "mpegts",
    "m4v",
    "ogg",
    "webm",
)
# What FFmpeg and PyAV raise on hostile media: besides FFmpegError also UnicodeDecodeError (a ValueError), IndexError
# (a LookupError), numbers that do not fit (ArithmeticError), and sizes that do not (MemoryError).
_MEDIA_ERRORS = (
    *(av.FFmpegError, OSError, ValueError, LookupError, ArithmeticError),
    *(MemoryError, RuntimeError, AssertionError),
)
_ROTATIONS: Final[dict[int, RotationDeg]] = {0: 0, 90: 90, 180: 180, 270: 270}


class VideoReader:
    """The frames of one video. Made by a session; its calls block and come from one thread at a time.

    Args:
        data: the file.
        max_pixels: a video with larger frames is refused.

    Attributes:
        frames: how many there are, by the packets in the file.
        fps: a second.
        cancelled: set it, and a call under way ends early.

    Raises:
        RefusedError: 400: there is no video in it.
    """

    def __init__(self, data: bytes, max_pixels: int) -> None:
        self._data = data
        self._max_pixels = max_pixels
        self.cancelled = False
        self._container = self._open()
        self._stream = self._container.streams.video[0]
        self._next = 0
        self._failures = 0
        self._sought = False
        self._decoding: Iterator[tuple[int, av.VideoFrame]] = iter(())
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate and 0 < rate < 10_000 else _DEFAULT_FPS
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._stamps, self._keyframes = self._index()
            if not self.frames:
                raise RefusedError(400, "the video has no frames")
            self._restart(0)
            undo.pop_all()

    @property
    def frames(self) -> int:
        """How many there are, by the packets in the file."""
        return len(self._stamps)

    @property
    def frame_bytes(self) -> int:
        """What one decoded frame holds, roughly."""
        return self._stream.codec_context.width * self._stream.codec_context.height * 3 // 2

    def read(self, wanted: Sequence[int]) -> list[tuple[int, Picture]]:
        """The frames of these numbers, in the order of `wanted`; those that cannot be decoded are left out.

        Raises:
            RefusedError: 400: nothing can be decoded any more.
        """
        found = self._collect(wanted)
        if len(found) < len(wanted) and self._sought and not self.cancelled:
            # Either they are damaged, or the file's index is: from now on all of it is decoded.
            self._keyframes = []
            self._restart(0)
            found |= self._collect(wanted)
        return [(number, found[number]) for number in wanted if number in found]

    def close(self) -> None:
        """Let the file go; frames that were handed out stay good."""
        self._container.close()

    def _collect(self, wanted: Sequence[int]) -> dict[int, Picture]:
        if not wanted:
            return {}
        first, last, numbers = min(wanted), max(wanted), set(wanted)
        key = self._keyframe_before(first)
        # Decoding on is cheaper than going back to a keyframe, unless one lies between here and there.
        if first < self._next or key > self._next:
            self._restart(key)
        found: dict[int, Picture] = {}
        for number, frame in self._decoding:
            self._next = number + 1
            if number in numbers:
                found[number] = VideoPicture(frame, _ROTATIONS.get(-frame.rotation % 360, 0))
            if number >= last or self.cancelled:
                break
        else:
            self._next = self.frames
        return found

    def _open(self) -> InputContainer:
        formats = ",".join(name for name in sorted(av.formats_available) if set(name.split(",")) & set(_FORMATS))
        try:
            container = av.open(
                io.BytesIO(self._data),
                "r",
                options={"max_pixels": str(self._max_pixels)},
                container_options={"protocol_whitelist": "none", "format_whitelist": formats},
                metadata_errors="ignore",
            )
        except _MEDIA_ERRORS as error:
            raise RefusedError(400, "the video cannot be read: it is none, or of an unknown kind") from error
        if not container.streams.video:
            container.close()
            raise RefusedError(400, "there are no pictures in the video")
        return container

    def _index(self) -> "tuple[array[int], list[int]]":
        """When each frame is shown, in order, and the numbers of the keyframes; nothing is decoded for it."""
        stamps: list[tuple[int, int]] = []
        keys: set[int] = set()
        exact = True
        with contextlib.suppress(*_MEDIA_ERRORS):  # what lies behind a damaged place is not there
            for packet in self._container.demux(self._stream):
                if not packet.size or packet.is_discard:
                    continue
                if len(stamps) >= MAX_PACKETS:
                    raise RefusedError(413, f"the video has more than {MAX_PACKETS} frames")
                exact = exact and packet.pts is not None
                stamp = len(stamps) if packet.pts is None else packet.pts
                stamps.append((stamp, len(stamps)))
                if packet.is_keyframe:
                    keys.add(len(stamps) - 1)
        self._exact = exact and len({stamp for stamp, _ in stamps}) == len(stamps)
        if self._exact:
            stamps.sort()
        return array("q", [stamp for stamp, _ in stamps]), [
            number for number, (_, packet) in enumerate(stamps) if packet in keys
        ]

    def _keyframe_before(self, number: int) -> int:
        """Where decoding must begin for this frame."""
        if not self._exact:
            return 0
        at = bisect.bisect_right(self._keyframes, number)
        return self._keyframes[at - 1] if at else 0

    def _restart(self, key: int) -> None:
        """Decode from this keyframe on; from the beginning where the file cannot go there."""
        self.close()
        self._container = self._open()
        self._stream = self._container.streams.video[0]
        context = self._stream.codec_context
        context.options = {"max_pixels": str(self._max_pixels)}
        context.thread_type, context.thread_count = ThreadType.NONE, 1
        self._sought = key > 0
        if key:
            with contextlib.suppress(*_MEDIA_ERRORS):
                self._container.seek(self._stamps[key], stream=self._stream)
        self._next = key
        self._decoding = self._decoded()

    def _decoded(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their numbers, from here to the end of the file; what is damaged is left out."""
        counted = 0
        for packet in self._packets():
            for frame in self._frames_in(packet):
                number = self._number_of(frame.pts, counted)
                counted += 1
                if number is not None and not frame.is_corrupt:
                    yield number, frame

    def _packets(self) -> "Iterator[av.Packet[Any] | None]":
        """All packets, and None at the end: what the decoder holds back comes out then."""
        failures = 0
        while not self.cancelled and failures < _MAX_READ_FAILURES_IN_A_ROW:
            try:
                for packet in self._container.demux(self._stream):
                    failures = 0
                    if packet.size:
                        yield packet
            except _MEDIA_ERRORS:  # raised by the demuxer, which can go on behind the bad place
                failures += 1
            else:
                break
        yield None

    def _frames_in(self, packet: "av.Packet[Any] | None") -> list[av.VideoFrame]:
        try:
            frames = self._stream.codec_context.decode(packet)
        except _MEDIA_ERRORS as error:
            self._failures += 1
            if self._failures >= _MAX_FAILURES_IN_A_ROW:
                raise RefusedError(400, "the video is damaged: nothing in it can be decoded any more") from error
            return []
        self._failures = 0 if frames else self._failures
        return frames

    def _number_of(self, stamp: int | None, counted: int) -> int | None:
        if not self._exact:
            return counted
        if stamp is None:
            return None
        at = bisect.bisect_left(self._stamps, stamp)
        return at if at < len(self._stamps) and self._stamps[at] == stamp else None
