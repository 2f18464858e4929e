"""One clip: encoded packets into a file as they are, crash-safe, and beside it what happened in it."""

import io
import json
import os
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.event import ObjectEvent
from pipeline.wire.results import event_dict, rfc3339
from sinks._container import FORMATS, muxer_options
from sinks._files import OutputFile, keep_reserve, make_folder, write_error
from sinks._leftovers import free_name
from sinks._paths import display
from sinks._rotation import base_name

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream

_NUMBERED = re.compile(r"(.+)-\d{4,6}(\.[^.]+)")

MAX_EVENTS = 1000
"""So many events are told beside one clip."""


def streams_of(header: bytes) -> "InputContainer":
    """What the header of a connection tells of its streams, for `ClipFile`; close it afterwards.

    Raises:
        TransientError: it tells nothing.
    """
    import av

    try:
        return av.open(io.BytesIO(header), "r", format="nut")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise TransientError(f"no clip: this video cannot be written into a file: {type(error).__name__}") from error


class ClipFile:
    """A file being written. Made by who records, used by the sink's thread.

    Args:
        path: its name when it is complete; with a number where that is taken.
        templates: the streams to copy, the video first.
        min_free_bytes: write nothing where less of the disk is free.
        ctx: the sink's.

    Raises:
        TransientError: no room, or the format does not allow this video: that of another source it may.
        FatalError: it cannot be written.
    """

    def __init__(self, path: Path, templates: "Sequence[Stream]", min_free_bytes: int, ctx: Context) -> None:
        import av

        make_folder(path.parent)
        keep_reserve(path.parent, min_free_bytes)
        self.path = free_name(path)
        self._min_free_bytes = min_free_bytes
        self._ctx = ctx
        self._zero_s: Fraction | None = None
        self._last_dts: dict[int, int] = {}
        self._file = OutputFile(self.path)
        self.pictures = 0
        self.last_s = 0.0  # when the last picture is shown
        self.shown_s = 0.0
        try:
            self._container, self._outputs = self._open(templates)
        except (av.FFmpegError, OSError, ValueError) as error:
            self._file.abandon(remove=True)
            raise self._error(error) from error
        except BaseException:
            self._file.abandon(remove=True)
            raise

    def write(
        self, place: int, data: bytes, *, pts: int, dts: int | None, duration: int, keyframe: bool, base: Fraction
    ) -> None:
        """Add one packet. The first one is a keyframe of the video: the clip begins with it.

        Args:
            place: which of the templates it belongs to.
            data: its bytes.
            pts: when it is shown.
            dts: when it is decoded; None: not told.
            duration: for how long it is shown, 0: not told.
            keyframe: whether decoding can begin with it.
            base: seconds of one unit of these.

        Raises:
            TransientError: no room; what is in the file can be finished.
            FatalError: it cannot be written.
        """
        import av

        output = self._outputs[place] if place < len(self._outputs) else None
        if self._zero_s is None:
            self._zero_s = pts * base
        zero = round(self._zero_s / base)
        decoded = max((pts if dts is None else dts) - zero, self._last_dts.get(place, -(2**62)) + 1)
        shown = max(pts - zero, decoded)
        if output is None or (place and shown < 0):  # sound from before the first picture
            return
        packet = av.Packet(data)
        packet.pts, packet.dts, packet.duration, packet.time_base = shown, decoded, duration, base
        packet.is_keyframe = keyframe
        packet.stream = output
        try:
            self._container.mux(packet)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._error(error) from error
        self._last_dts[place] = decoded
        if place == 0:
            self.pictures += 1
            self.last_s = max(self.last_s, float(shown * base))
            self.shown_s = max(self.shown_s, float((shown + duration) * base))

    def place_s(self, pts: int, base: Fraction) -> float:
        """How long after the first picture a packet is shown."""
        return 0.0 if self._zero_s is None else float(pts * base - self._zero_s)

    @property
    def size_bytes(self) -> int:
        """How long the file is by now."""
        return os.fstat(self._file.fd).st_size

    def check_room(self) -> None:
        """Find a disk that is nearly full.

        Raises:
            TransientError: it is.
        """
        keep_reserve(self.path.parent, self._min_free_bytes)

    def finish(self) -> None:
        """Complete the file and give it its name.

        Raises:
            FatalError, TransientError: it is not complete; the message says where the rest is.
        """
        import av

        try:
            self._container.close()
        except (av.FFmpegError, OSError, ValueError) as error:
            self._file.abandon(remove=False)
            raise FatalError(f"{self._error(error)}; the clip is only in {display(self._file.part)}") from error
        if self.pictures:
            self._file.finish()
        else:
            self._file.abandon(remove=True)

    def _open(self, templates: "Sequence[Stream]") -> "tuple[OutputContainer, list[Stream]]":
        """Write the header; without sound where the format does not allow it."""
        import av

        try:
            return self._with_header(templates)
        except (av.FFmpegError, ValueError):
            if len(templates) == 1:
                raise
        opened = self._with_header(templates[:1])
        self._ctx.warn(f"{display(self.path)} has no sound: {_codec(templates[1])} cannot stand in this format")
        return opened

    def _with_header(self, templates: "Sequence[Stream]") -> "tuple[OutputContainer, list[Stream]]":
        import av

        suffix = self.path.suffix.lower()
        options = muxer_options(suffix, "hybrid")
        container = av.open(str(self._file.part), "w", format=FORMATS[suffix], options=options)
        try:
            outputs = [container.add_stream_from_template(template) for template in templates]
            container.start_encoding()
        except BaseException:
            container.close()
            raise
        return container, outputs

    def _error(self, error: Exception) -> PenstockError:
        if isinstance(error, OSError) and error.errno:
            return write_error(self._file.part, error)
        return TransientError(f"{display(self.path)}: no clip: {type(error).__name__}: {error}")


class Account:
    """What happened in a clip: the last message of each event, and when. Made with each clip, used by its thread."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._events: dict[str, ObjectEvent] = {}
        self._more = 0

    def note(self, event: ObjectEvent) -> None:
        """It is in the clip."""
        if event.event_id in self._events or len(self._events) < MAX_EVENTS:
            self._events[event.event_id] = event
        elif event.phase in ("new", "once"):
            self._more += 1

    def write(self, clip: Path, length_s: float, pre_roll_s: float) -> None:
        """Write it beside the clip.

        Raises:
            TransientError, FatalError: it cannot be written.
        """
        told = {
            "clip": clip.name,
            "source": self._source,
            "length_s": round(length_s, 3),
            "pre_roll_s": pre_roll_s,
            "first_event_at": rfc3339(min((event.began_at for event in self._events.values()), default=0.0)),
            "events": [event_dict(event) for event in self._events.values()],
            "more_events": self._more,
        }
        file = OutputFile(sidecar(clip))
        try:
            with open(file.fd, "w", encoding="utf-8", closefd=False) as stream:
                json.dump(told, stream, ensure_ascii=False, allow_nan=False)
                stream.write("\n")
        except OSError as error:
            file.abandon(remove=True)
            raise write_error(sidecar(clip), error) from error
        file.finish()


def made_from(name: str) -> tuple[str, bool]:
    """For `Archive`: the name that the template gave a file, without the number or time that was put behind it."""
    found = _NUMBERED.fullmatch(name)
    base, is_piece = base_name(name if found is None else found[1] + found[2])
    return base, is_piece or found is not None


def sidecar(clip: Path) -> Path:
    """Where it is told what happened in a clip."""
    return clip.with_suffix(".json")


def combined(failures: Sequence[PenstockError]) -> PenstockError:
    """One error for several: final if one of them is."""
    text = "; ".join(str(failure) for failure in failures[:3])
    return FatalError(text) if any(isinstance(failure, FatalError) for failure in failures) else TransientError(text)


def _codec(stream: "Stream") -> str:
    return "unknown" if stream.codec_context is None else stream.codec_context.name
