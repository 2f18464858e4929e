"""`stdout`: results on standard output, as JSON or as text for people."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.contracts.component import Context
from pipeline.contracts.errors import EnoughError, FatalError
from pipeline.contracts.event import DaemonEvent, Event, ObjectEvent, SourceEvent
from pipeline.contracts.result import Classification, Detections, Embedding, Result, SemanticMask, Text, label_of
from pipeline.contracts.sink import SinkConfig
from pipeline.wire.results import event_line, to_line

Format = Literal["json", "text"]

_MAX_TEXT = 200  # characters of a caption in a line for people


class StdoutSinkConfig(SinkConfig):
    """One line on standard output for each result."""

    takes_events: ClassVar[bool] = True

    type: Literal["stdout"] = "stdout"
    format: Format = Field(default="json", description="json: as in the sink `jsonl`; text: short, for people")

    def build(self, ctx: Context) -> "StdoutSink":
        """Make the sink."""
        return StdoutSink(self.format)


class StdoutSink:
    """Writes lines to standard output and flushes after each batch; used by its runner's thread only."""

    wants_pictures = False

    def __init__(self, form: Format) -> None:
        self._form = to_line if form == "json" else to_text
        self._event_form = event_line if form == "json" else event_text

    def open(self) -> None:
        """See that there is a standard output.

        Raises:
            FatalError: it was closed before the program began.
        """
        if sys.stdout is None:
            raise FatalError("standard output is closed")

    def write(self, results: Sequence[Result]) -> None:
        """Print the lines.

        Raises:
            EnoughError: nobody reads any more: `| head` has seen enough.
            FatalError: the file behind it cannot be written.
        """
        self._print("".join([self._form(result) + "\n" for result in results]))

    def notice(self, event: Event) -> None:
        """Print the event's line; raises as `write` does."""
        self._print(self._event_form(event) + "\n")

    def _print(self, data: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        try:
            # A label that the terminal's encoding does not have is no reason to stop.
            sys.stdout.write(data if data.isascii() else data.encode(encoding, "replace").decode(encoding))
            sys.stdout.flush()
        except BrokenPipeError as error:
            _silence()
            raise EnoughError("standard output was closed by its reader") from error
        except (OSError, ValueError) as error:  # ValueError: the stream object itself was closed
            raise FatalError(f"standard output cannot be written: {error}") from error

    def close(self) -> None:
        """Nothing to finish: every batch was flushed."""

    def written(self) -> Sequence[str]:
        """No files."""
        return ()


def to_text(result: Result) -> str:
    """One line for people: source, number, position, and what was found. No control characters, whatever is in it."""
    frame = result.frame
    position = "" if frame.pts_s is None else f" {frame.pts_s:.3f}s"
    line = f"{frame.source} {frame.seq}{position} {_summary(result)}"
    return _printable(line)


def event_text(event: Event) -> str:
    """One line for people: source, what it is now, and why."""
    match event:
        case SourceEvent():
            why = ": ".join(part for part in (event.code, event.detail) if part)
            return _printable(f"{event.source} is {event.value}" + (f": {why}" if why else ""))
        case DaemonEvent():
            return _printable(f"{event.component}: {event.kind} {event.value}: {event.detail}")
        case ObjectEvent():
            track = "" if event.tracker_id is None else f" #{event.tracker_id}"
            return _printable(f"{event.source} {event.kind} {event.phase}: {event.class_name}{track}")


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def _summary(result: Result) -> str:
    match result.prediction:
        case Detections() as found:
            counts = Counter(found.label(index) for index in range(len(found)))
            return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        case Classification() as classes:
            if not len(classes.scores):
                return "nothing"
            best = int(classes.scores.argmax())
            name = label_of(classes.names, best)
            return f"{name} {float(classes.scores[best]):.2f}"
        case SemanticMask() as mask:
            return f"map of classes, {mask.class_map.shape[1]} x {mask.class_map.shape[0]}"
        case Embedding() as embedding:
            return f"vector of {len(embedding.vector)} numbers"
        case Text() as text:
            return text.text if len(text.text) <= _MAX_TEXT else text.text[: _MAX_TEXT - 1] + "…"


def _silence() -> None:
    """Point file descriptor 1 at nothing: what others still print must not fail, and nor must the flush at exit."""
    try:
        fd = os.open(os.devnull, os.O_WRONLY)
        os.dup2(fd, 1)
        os.close(fd)
    except OSError:
        return
