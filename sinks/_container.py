"""The formats of video files, and how they are written so that the end of the process loses at most a second."""

import os
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

Layout = Literal["hybrid", "fragmented", "plain"]

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".ts": "mpegts"}

FRAGMENT_S = 0.5

_UNITS_PER_S = 90_000
_HEAD_BYTES = 4096
_BOXES_BEFORE_FRAGMENTS = 5
_TS_PACKET_BYTES = 188  # ISO/IEC 13818-1


def muxer_options(suffix: str, layout: Layout) -> dict[str, str]:
    """For `av.open` in the format `FORMATS[suffix]`.

    What FFmpeg does by itself leaves no file that can be read after a kill: MP4 has its index at the end, and all of
    them hold back what fits into a buffer. "hybrid" MP4 is written in fragments and gets an index over all of them at
    its end, so that it is an ordinary file then (FFmpeg, movenc: `hybrid_fragmented`).
    """
    # Sound that ends before the pictures would hold them back for 10 s.
    options = {"flush_packets": "1", "max_interleave_delta": str(round(FRAGMENT_S * 1e6))}
    match FORMATS[suffix], layout:
        case "matroska", _:
            return {**options, "cluster_time_limit": str(round(FRAGMENT_S * 1e3))}
        case "mpegts", _:
            return options
        case _, "plain":
            return {"movie_timescale": str(_UNITS_PER_S)}
        case _:
            # delay_moov: else the video is moved to begin at 0. movie_timescale: with the default of 1/1000 s it is
            # moved by less than that.
            kind = "+hybrid_fragmented" if layout == "hybrid" else "+empty_moov+default_base_moof"
            return {
                **options,
                "movflags": f"{kind}+frag_keyframe+delay_moov",
                "frag_duration": str(round(FRAGMENT_S * 1e6)),
                "movie_timescale": str(_UNITS_PER_S),
            }


class _Box(NamedTuple):
    """A box of an MP4 file (ISO/IEC 14496-12, 4.2) at the top level."""

    at: int
    end: int
    name: bytes


def mend(path: Path, suffix: str) -> bool:
    """Cut off the torn end of a file that could not be written on, or whose writer is gone; whether it was torn.

    Args:
        path: the file.
        suffix: of the format that it is in.

    Raises:
        OSError: it cannot be read or written.
    """
    form = FORMATS[suffix]
    if form == "matroska":
        return False  # a cluster that is cut off is played as far as it goes
    with path.open("r+b") as file:
        length = file.seek(0, os.SEEK_END)
        if form == "mpegts":
            whole: int | None = length - length % _TS_PACKET_BYTES
        else:
            _unhide(file, length)
            whole = _whole_bytes(file, length)
        if whole is None or whole == length:
            return False
        file.truncate(whole)
    return True


def is_whole(path: Path, suffix: str, layout: Layout) -> bool:
    """Whether the file ends with what comes last in it: FFmpeg does not tell every failure to write its end.

    Raises:
        OSError: it cannot be read.
    """
    if FORMATS[suffix] not in {"mp4", "mov"}:
        return True
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        boxes = list(_boxes(file, length))
    last = b"mfra" if layout == "fragmented" else b"moov"
    return bool(boxes) and boxes[-1].end == length and boxes[-1].name == last


def _whole_bytes(file: BinaryIO, length: int) -> int | None:
    """Where the last whole fragment ends; None: there are no fragments."""
    end, fragment = None, False
    for box in _boxes(file, length):
        if box.end > length:
            break
        if box.name != b"moof" and not (box.name == b"mdat" and not fragment):
            end = box.end
        fragment = box.name == b"moof"
    return end


def _unhide(file: BinaryIO, length: int) -> None:
    """Make the fragments of a hybrid MP4 visible again whose index at the end is missing.

    When such a file is finished, its index is written, and then the fragments are hidden in one large `mdat`. A disk
    that fills up at that moment, or a power cut, may keep the second without the first.
    """
    boxes = list(islice(_boxes(file, length), _BOXES_BEFORE_FRAGMENTS))
    hiding = next((box for box in boxes if box.name == b"mdat"), None)
    if hiding is None or any(box.name in {b"moov", b"moof"} for box in boxes[: boxes.index(hiding)]):
        return
    behind = next(_boxes(file, length, hiding.end), None)
    if behind is not None and behind.name == b"moov" and behind.end <= length:
        return
    file.seek(hiding.at)
    first = file.read(_HEAD_BYTES).find(b"moov")
    if first >= 0:
        file.seek(hiding.at)
        file.write(struct.pack(">I4s", first - 4, b"free"))
        file.flush()


def _boxes(file: BinaryIO, length: int, at: int = 0) -> Iterator[_Box]:
    """The boxes from `at` on; the last may end behind the end of the file."""
    while at + 8 <= length:
        file.seek(at)
        head = file.read(16)
        size, name = struct.unpack_from(">I4s", head)
        if size == 1 and len(head) == 16:
            size = struct.unpack_from(">Q", head, 8)[0]
        if size < 8:  # 0: up to the end, which is not settled yet
            return
        yield _Box(at, at + size, name)
        at += size
