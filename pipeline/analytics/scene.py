"""`SceneAnalyser`: what one source's results say one after the other: tracks, zones, lines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipeline.analytics.lines import Counts, Line, same_place
from pipeline.analytics.scene_clock import TICK_S, SceneClock
from pipeline.analytics.tracking import Boxes, Followed, Tracker
from pipeline.analytics.zones import Zone, occupancy_of
from pipeline.contracts.analysis import Crossing, LineConfig, Point, Scene, Track, TrackingConfig, ZoneConfig
from pipeline.contracts.frame import Frame
from pipeline.contracts.ids import new_id
from pipeline.contracts.result import Detections, Result
from pipeline.contracts.source import SourceConfig

MAX_TRACKED = 1_000
"""Of so many objects of a frame it is found out which tracks they are, those first that the model is surest of: each is
compared with each."""

NO_TRACK = -1
"""The `tracker_id` of an object that is no track (yet), as supervision has it."""


_GATE_LATE_S = 1.0
"""The frame that a motion gate lets pass now and then may be so late."""

_MADE_UP = 0.1
"""A tenth of the frames that come too late for tracking is too much."""


class Wanted(NamedTuple):
    """What is asked for of one source, from its table in pipeline.toml.

    Attributes:
        tracking: how objects are tracked; None: they are not.
        zones: by name.
        lines: by name.
        still_s: up to so much time between two frames passed because nothing moved: there is a motion gate.
    """

    tracking: TrackingConfig | None = None
    zones: Mapping[str, ZoneConfig] = {}
    lines: Mapping[str, LineConfig] = {}
    still_s: float = 0.0

    @classmethod
    def of(cls, config: SourceConfig) -> "Wanted":
        """From a source's keys."""
        still_s = 0.0 if config.motion is None else config.motion.keepalive_s + _GATE_LATE_S
        return cls(config.tracking, config.zones, config.lines, still_s)

    @property
    def anything(self) -> bool:
        """Whether there is anything to do."""
        return self.tracking is not None or bool(self.zones or self.lines)


@dataclass(frozen=True, slots=True)
class Reading:
    """What an analyser knows at one moment. Never changed; read from any thread.

    Attributes:
        tracks: how many objects are tracked, None where nothing tracks.
        occupancy: see `Scene`.
        crossed: see `Scene`.
    """

    tracks: int | None
    occupancy: Mapping[str, Mapping[str, int]]
    crossed: Mapping[str, Counts]


class StayOver(NamedTuple):
    """Somebody left a zone."""

    zone: str
    class_name: str
    lasted_s: float


class SceneAnalyser:
    """Made by the runtime for one source; `look` and `change` are called by one thread at a time.

    Args:
        wanted: what is asked for.
        next_id: gives the number of the next object that is tracked.
        crossed: what lines have counted before, by name.
    """

    def __init__(self, wanted: Wanted, next_id: Callable[[], int], crossed: Mapping[str, Counts] | None = None) -> None:
        self._next_id = next_id
        self._clock = SceneClock()
        self._tracker: Tracker | None = None
        self._zones: dict[str, Zone] = {}
        self._lines: dict[str, Line] = {}
        self._told: dict[int, Track] = {}
        self._ended: list[Track] = []
        self._last_s = 0.0
        self.sparse = 0.0
        """So many frames with objects came later after the one before than these are remembered; others make up for
        them."""
        self._over: list[StayOver] = []
        self._wanted = Wanted()
        self._shapes: dict[str, tuple[Point, ...]] = {}
        self._ends: dict[str, tuple[Point, Point]] = {}
        self._crossed: dict[str, Counts] = {}
        self.reading = Reading(None, {}, {})
        self.change(wanted, crossed)

    def change(self, wanted: Wanted, crossed: Mapping[str, Counts] | None = None) -> None:
        """Something else is asked for: what did not change goes on as it was; another line counts from 0."""
        old = self._wanted
        if wanted.tracking != old.tracking:
            self._end_tracks()
            self._tracker = None if wanted.tracking is None else Tracker(wanted.tracking, self._next_id)
        self._zones = {
            name: self._zones[name] if old.zones.get(name) == config else Zone(config)
            for name, config in wanted.zones.items()
        }
        before = crossed or {
            name: self._crossed[name]
            for name, config in old.lines.items()
            if name in wanted.lines and same_place(config, wanted.lines[name])
        }
        self._lines = {
            name: self._lines[name] if old.lines.get(name) == config else Line(config, before.get(name, {}))
            for name, config in wanted.lines.items()
        }
        self._wanted = wanted
        self._shapes = {name: config.polygon for name, config in wanted.zones.items()}
        self._ends = {name: (config.start, config.end) for name, config in wanted.lines.items()}
        self._crossed = {name: line.crossed() for name, line in self._lines.items()}
        self._note({name: zone.occupancy() for name, zone in self._zones.items()})

    def forget(self) -> None:
        """What was seen does not go on: all tracks end, and nobody is in a zone; lines keep their counts."""
        self._end_tracks()
        self._zones = {name: Zone(config) for name, config in self._wanted.zones.items()}
        self._lines = {name: Line(config, self._crossed[name]) for name, config in self._wanted.lines.items()}
        self._note({name: {} for name in self._zones})

    def stays_over(self) -> list[StayOver]:
        """Who left a zone since this was asked the last time."""
        over, self._over = self._over, []
        return over

    def look(self, result: Result) -> Result:
        """The result with its scene, and with the numbers of the objects; as it is where it has no boxes."""
        found = result.prediction
        if not isinstance(found, Detections):
            return result
        now_s, begins = self._clock.advance(result.frame)
        gap_s, self._last_s = now_s - self._last_s, now_s
        still_s = self._still_s(gap_s)
        tracking = self._wanted.tracking
        if tracking is not None and len(found):
            is_sparse = gap_s - still_s > tracking.lost_after_s + TICK_S
            self.sparse = self.sparse + 1 if is_sparse else max(0.0, self.sparse - _MADE_UP)
        if begins:
            self._end_tracks()
        if self._tracker is None:
            return replace(result, scene=self._untracked(result.frame, _Objects.of(found)))
        objects = _Objects.of(found, MAX_TRACKED)
        if still_s:
            self._tracker.stand_still(still_s)
        followed, gone = self._tracker.look(now_s, result.frame.captured_at, objects.boxes)
        self._forget(gone)
        scene = self._tracked(result.frame, now_s, objects, followed)
        numbers = np.array([NO_TRACK if track is None else track.tracker_id for track in scene.tracks], np.int32)
        return replace(result, prediction=replace(found, tracker_id=numbers), scene=scene)

    def _still_s(self, gap_s: float) -> float:
        """How much of the time since the last frame nothing moved: who stands there is not gone."""
        wanted = self._wanted
        if wanted.tracking is None or gap_s > wanted.still_s:
            return 0.0
        return max(0.0, gap_s - wanted.tracking.lost_after_s / 2)

    def _forget(self, gone: Sequence[Followed]) -> None:
        """These are gone."""
        for line in self._lines.values():
            line.forget(gone)
        for name, zone in self._zones.items():
            self._over += [StayOver(name, *stay) for stay in zone.forget(gone)]
        # What was told of is told of as ended, with the next scene.
        self._ended += [self._told.pop(followed.serial) for followed in gone if followed.serial in self._told]

    def _tracked(
        self,
        frame: Frame,
        now_s: float,
        objects: "_Objects",
        followed: list[Followed | None],
    ) -> Scene:
        size, rows = frame.picture.size, objects.rows
        known = [place for place, each in enumerate(followed) if each is not None]
        seen = [each for each in followed if each is not None]
        xyxy = objects.boxes.xyxy[known]
        for name, zone in self._zones.items():
            left = zone.look(now_s, frame.captured_at, size, xyxy, seen)
            self._over += [StayOver(name, *stay) for stay in left]
        tracks: list[Track | None] = [None] * objects.total
        for place, each in zip(known, seen, strict=True):
            if each.tracker_id:
                tracks[rows[place]] = self._told[each.serial] = self._track(each, now_s)
        crossings = []
        for name, line in self._lines.items():
            for index, direction, count in line.look(size, xyxy, seen):
                track = self._told[seen[index].serial]
                crossings.append(Crossing(new_id(), name, direction, rows[known[index]], track, count))
        if crossings:
            self._crossed = {name: line.crossed() for name, line in self._lines.items()}
        occupancy = {name: zone.occupancy() for name, zone in self._zones.items()}
        self._note(occupancy)
        ended, self._ended = tuple(self._ended), []
        return Scene(
            tuple(tracks),
            ended,
            tuple(crossings),
            occupancy,
            self._crossed,
            tuple(() if track is None else tuple(track.zones) for track in tracks) if self._zones else (),
            self._shapes,
            self._ends,
            {track.tracker_id: track.class_name for track in tracks if track is not None},
        )

    def _untracked(self, frame: Frame, objects: "_Objects") -> Scene:
        inside: list[tuple[str, ...]] = [()] * objects.total
        occupancy: dict[str, Mapping[str, int]] = {}
        for name, zone in self._zones.items():
            within = zone.untracked(frame.picture.size, objects.boxes.xyxy, objects.boxes.names)
            occupancy[name] = occupancy_of(objects.boxes.names, within)
            for row, is_inside in zip(objects.rows, within, strict=True):
                if is_inside:
                    inside[row] = (*inside[row], name)
        self._note(occupancy)
        ended, self._ended = tuple(self._ended), []
        return Scene(
            ended=ended,
            occupancy=occupancy,
            crossed=self._crossed,
            inside=tuple(inside),
            zone_shapes=self._shapes,
            line_shapes=self._ends,
        )

    def _track(self, followed: Followed, now_s: float) -> Track:
        zones = {
            name: stay.since_at for name, zone in self._zones.items() if (stay := zone.stay_of(followed)) is not None
        }
        return Track(
            followed.event_id,
            followed.tracker_id,
            followed.class_id,
            followed.class_name,
            followed.began_at,
            followed.frames,
            now_s - followed.began_s,
            zones,
        )

    def _end_tracks(self) -> None:
        self._forget([] if self._tracker is None else self._tracker.end())

    def _note(self, occupancy: Mapping[str, Mapping[str, int]]) -> None:
        tracked = None if self._tracker is None else len(self._told)
        self.reading = Reading(tracked, occupancy, self._crossed)


class _Objects(NamedTuple):
    """The objects of one frame that have a place and an extent.

    Attributes:
        boxes: of them.
        rows: which of the frame's objects they are.
        total: how many objects the frame has.
    """

    boxes: Boxes
    rows: list[int]
    total: int

    @classmethod
    def of(cls, found: Detections, most: int | None = None) -> "_Objects":
        """All, or the first `most`, but those whose numbers are none, or whose box is empty."""
        with np.errstate(invalid="ignore"):
            extent = (found.xyxy[:, 2:] > found.xyxy[:, :2]).all(axis=1)
        proper = extent & np.isfinite(found.xyxy).all(axis=1) & np.isfinite(found.confidence)
        rows: list[int] = np.flatnonzero(proper)[:most].tolist()
        boxes = Boxes(
            found.xyxy[rows].astype(np.float64),
            found.confidence[rows].astype(np.float64),
            found.class_id[rows].astype(np.int64),
            [found.label(row) for row in rows],
        )
        return cls(boxes, rows, len(found))
