"""Results with tracks, zones and crossings made by hand, as a source's analyser would make them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.contracts.analysis import Crossing, Direction, Scene, Track
from pipeline.contracts.event import ObjectEvent
from pipeline.contracts.result import Detections, Prediction, Result
from pipeline.testing import frame, result

NAMES = ("person", "car", "dog")
START = 1_700_000_000.0
BOX = (10.0, 10.0, 20.0, 30.0)


@dataclass(frozen=True)
class Thing:
    """One object in one frame; `track`: its number, None where it is of none (yet)."""

    name: str = "person"
    track: int | None = None
    box: tuple[float, float, float, float] = BOX
    confidence: float = 0.9
    zones: Mapping[str, float] | None = None
    began_s: float = 0.0


def track_of(thing: Thing, now_s: float = 0.0) -> Track:
    """The track of a thing: `event_id` and `tracker_id` come from its number."""
    number = thing.track or 0
    return Track(
        f"{number:032x}",
        number,
        NAMES.index(thing.name),
        thing.name,
        START + thing.began_s,
        1,
        now_s - thing.began_s,
        thing.zones or {},
    )


def seen(
    at_s: float,
    *things: Thing,
    tracks: bool = True,
    ended: Sequence[Thing] = (),
    crossed: Sequence[tuple[int, str, Direction]] = (),
    occupancy: Mapping[str, Mapping[str, int]] | None = None,
) -> Result:
    """The result of a frame at `at_s` seconds.

    Args:
        at_s: since the beginning; 10 frames a second.
        things: what was found.
        tracks: whether the source tracks.
        ended: tracks that are gone.
        crossed: which of the things, by number, crossed which line in which direction.
        occupancy: of the zones.
    """
    found = Detections(
        np.array([thing.box for thing in things], np.float32).reshape(-1, 4),
        np.array([thing.confidence for thing in things], np.float32),
        np.array([NAMES.index(thing.name) for thing in things], np.int32),
        NAMES,
    )
    scene = Scene(
        tracks=tuple(None if thing.track is None else track_of(thing, at_s) for thing in things) if tracks else (),
        ended=tuple(track_of(thing, at_s) for thing in ended),
        crossings=tuple(
            Crossing(f"{round(at_s * 10):016x}{row:016x}", line, direction, row, track_of(things[row], at_s), 1)
            for row, line, direction in crossed
        ),
        occupancy=occupancy or {},
        inside=tuple(tuple(thing.zones or ()) for thing in things),
    )
    return replace(said(at_s, found), scene=scene)


def said(at_s: float, prediction: Prediction) -> Result:
    """The result of a frame at `at_s` seconds, with whatever the model said and no scene."""
    plain = frame(round(at_s * 10))
    one = replace(plain, pts_s=at_s, captured_at=START + at_s, decoded_at=1000.0 + at_s)
    return replace(result(one), prediction=prediction)


def told(events: Sequence[ObjectEvent]) -> list[str]:
    """`object new person #1` for each: kind, phase, class, and the track, zone or line."""
    return [
        " ".join(
            filter(
                None,
                (
                    event.kind,
                    event.phase,
                    event.class_name,
                    None if event.tracker_id is None else f"#{event.tracker_id}",
                    event.zone,
                    event.line,
                    event.direction,
                ),
            )
        )
        for event in events
    ]
