"""What is made of one source's results one after the other: tracks, zones, lines; and the keys that ask for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.contracts.component import FrozenModel

Direction = Literal["in", "out"]
Anchor = Literal["center", "bottom_center", "top_center", "any_corner"]
LineAnchor = Literal["center", "bottom_center", "top_center"]
Point = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]
"""x and y as shares of the picture's width and height, 0..1, from its left top corner."""


class TrackingConfig(FrozenModel):
    """A `tracking` table of a source: objects get numbers that stay with them from frame to frame."""

    type: Literal["bytetrack", "sort"] = Field(default="bytetrack", description="how boxes are matched")
    lost_after_s: float = Field(default=1.0, gt=0, le=60, description="an object not seen for so long is gone")
    min_frames: int = Field(default=2, ge=1, le=100, description="an object counts once it was seen in so many frames")
    min_confidence: float = Field(default=0.25, ge=0, le=1, description="what is less sure begins no track")


class ZoneConfig(FrozenModel):
    """A `[sources.NAME.zones.ZONE]` table: a polygon, and who counts as being inside."""

    polygon: Annotated[tuple[Point, ...], Field(min_length=3, max_length=100)] = Field(
        description="its corners, [x, y] as shares of width and height, 0..1"
    )
    classes: tuple[str, ...] | None = Field(default=None, description="only these classes; all if left out")
    anchor: Anchor = Field(default="bottom_center", description="the point of a box that must lie inside")
    min_dwell_s: float = Field(default=0.0, ge=0, description="an object counts after so many seconds inside")

    @field_validator("polygon")
    @classmethod
    def _is_an_area(cls, polygon: tuple[Point, ...]) -> tuple[Point, ...]:
        edges = list(zip(polygon, (*polygon[1:], polygon[0]), strict=True))
        if any(_cross(*one, *other) for i, one in enumerate(edges) for other in edges[:i]):
            raise ValueError("its edges cross each other: name the corners in turn, around the area")
        if abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in edges)) < _NO_AREA:
            raise ValueError("it has no area: its corners lie on one line")
        return polygon


class LineConfig(FrozenModel):
    """A `[sources.NAME.lines.LINE]` table: objects that cross it are counted, each direction by itself.

    Looking from `start` to `end`, who comes from the left and goes to the right goes "in".
    """

    start: Point = Field(description="[x, y] as shares of width and height, 0..1")
    end: Point = Field(description="[x, y] as shares of width and height, 0..1")
    classes: tuple[str, ...] | None = Field(default=None, description="only these classes; all if left out")
    anchor: LineAnchor = Field(default="bottom_center", description="the point of a box that must cross")


_NO_AREA = 1e-9


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the lines from a to b and from c to d meet inside of both."""

    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < -(_NO_AREA**2) and side(c, d, a) * side(c, d, b) < -(_NO_AREA**2)


@dataclass(frozen=True, slots=True)
class Track:
    """One tracked object, as of one frame.

    Attributes:
        event_id: 32 hex digits, the same as long as it is tracked, unlike any other ever.
        tracker_id: its number, as in `Detections.tracker_id`.
        class_id: of the model; what it was taken for most often.
        class_name: its name.
        began_at: Unix seconds of the frame in which it was first seen.
        frames: in how many frames it was seen.
        age_s: seconds since it was first seen.
        zones: since when (Unix seconds) it has been in which zones; only those that it counts in.
    """

    event_id: str
    tracker_id: int
    class_id: int
    class_name: str
    began_at: float
    frames: int
    age_s: float
    zones: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Crossing:
    """One object crossed a line with this frame.

    Attributes:
        event_id: 32 hex digits, unlike any other.
        line: its name.
        direction: see `LineConfig`.
        row: which of the frame's objects.
        track: the object.
        count: how many of its class have crossed this line in this direction so far, this one included.
    """

    event_id: str
    line: str
    direction: Direction
    row: int
    track: Track
    count: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What one source's results so far say about this frame. Made by the source's analyser, never changed.

    Attributes:
        tracks: for each object of the frame its track; None for one that counts as none (yet). Empty where nothing
            tracks.
        ended: tracks that are gone as of this frame, as they were last seen.
        crossings: what crossed a line with this frame.
        occupancy: for each zone, how many objects of each class are inside; a zone with nobody has an empty table.
            With tracking, one that was not found in this frame but is not gone yet is still inside.
        crossed: for each line and direction, how many of each class have crossed so far.
        inside: for each object of the frame the names of the zones that it counts in, tracked or not; empty where there
            are no zones.
        zone_shapes: the corners of each zone, as configured: the same table in every scene.
        line_shapes: start and end of each line, likewise.
        taken_for: of each tracked object in the frame, by its number, the name of the class that it was taken for most
            often; also of those that were left out for a sink.
    """

    tracks: tuple[Track | None, ...] = ()
    ended: tuple[Track, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    occupancy: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    crossed: Mapping[str, Mapping[Direction, Mapping[str, int]]] = field(default_factory=dict)
    inside: tuple[tuple[str, ...], ...] = ()
    zone_shapes: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    line_shapes: Mapping[str, tuple[Point, Point]] = field(default_factory=dict)
    taken_for: Mapping[int, str] = field(default_factory=dict)
