"""What can be told besides results: a source's state, the daemon's, and what objects do."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.contracts.frame import Frame

if TYPE_CHECKING:
    from pipeline.contracts.result import Result

Phase = Literal["new", "update", "end", "once"]
"""Where in its life an event is; "once": it has no duration, like the crossing of a line."""

ObjectEventKind = Literal["object", "presence", "zone", "crossing"]
"""object: one tracked object is there. presence: some object of a class is there (nothing tracks). zone: one tracked
object is inside of a zone. crossing: one tracked object crossed a line."""


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """Something about a source that is no result: it went away, came back, or shows other pictures than it did.

    Attributes:
        id: unique to this event and the same in every sink: 32 hex digits.
        source: name of the source in pipeline.toml.
        kind: "state": the connection, "content": what the pictures show.
        value: the state that it is in now, e.g. "reconnecting", "running", "frozen".
        code: why, for a source that failed.
        detail: one line for people, without credentials.
        at: Unix seconds.
    """

    id: str
    source: str
    kind: Literal["state", "content"]
    value: str
    code: str | None
    detail: str
    at: float


@dataclass(frozen=True, slots=True)
class DaemonEvent:
    """Something about the daemon itself: a fallback taken, a reload, a spool that is full, a sink that fails.

    Attributes:
        id: unique to this event and the same in every sink: 32 hex digits.
        component: who it is about, e.g. "backend local", "sink alerts", "penstock".
        kind: a bounded word: "fallback", "reload", "spool", "sink", "start", "stop".
        value: what it is now, e.g. "taken", "left", "ok", "failed", "full".
        detail: one line for people, without credentials.
        at: Unix seconds.
    """

    id: str
    component: str
    kind: str
    value: str
    detail: str
    at: float


@dataclass(frozen=True, slots=True)
class Best:
    """The frame in which an object was seen best: a reference, no pixels.

    Attributes:
        result_id: `Result.id` of it.
        frame_id: `Frame.seq` of it.
        pts_s: as in the frame.
        captured_at: as in the frame.
        confidence: of the object there.
        xyxy: left, top, right, bottom there, in pixels of the original frame.
    """

    result_id: str
    frame_id: int
    pts_s: float | None
    captured_at: float
    confidence: float
    xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectEvent:
    """One message about one thing that happens in front of a camera. Made by a sink's selector, never changed.

    Attributes:
        id: unique to this message, 32 hex digits.
        event_id: the same from "new" to "end", and in every sink, 32 hex digits.
        phase: where in its life the event is.
        kind: what sort of event it is.
        source: name of the source in pipeline.toml.
        class_name: of the object.
        tracker_id: of the object; None where nothing tracks.
        began_at: Unix seconds of the frame with which the event began.
        at: Unix seconds of the frame that this message is about.
        frame: that frame; its picture is a `NoPicture` in sinks that want none.
        confidence: of the object in that frame; for an end, in the last one in which it was seen.
        xyxy: left, top, right, bottom in pixels of the original frame, likewise.
        best: where it was seen best up to now.
        zone: name of the zone that it is about, or None.
        line: name of the line that it is about, or None.
        direction: "in" or "out" over the line, or None.
        count: how many objects of the class are there (presence), or have crossed the line so far in this direction.
        zones: all zones that the object is in.
        result: the result of `frame` with all that was found in it, for who shows its picture.
    """

    id: str
    event_id: str
    phase: Phase
    kind: ObjectEventKind
    source: str
    class_name: str
    tracker_id: int | None
    began_at: float
    at: float
    frame: Frame
    confidence: float
    xyxy: tuple[float, float, float, float]
    best: Best
    zone: str | None = None
    line: str | None = None
    direction: Literal["in", "out"] | None = None
    count: int | None = None
    zones: tuple[str, ...] = ()
    result: "Result | None" = None

    @property
    def duration_s(self) -> float:
        """Seconds since it began, never negative."""
        return max(0.0, self.at - self.began_at)


Event = SourceEvent | DaemonEvent | ObjectEvent
