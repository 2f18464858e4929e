"""`Wanted`: which objects of a result a sink asks for, as its `where` says."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.contracts.analysis import Scene
from pipeline.contracts.event import ObjectEventKind
from pipeline.contracts.result import Classification, Detections, Result, label_of
from pipeline.contracts.sink import WhereConfig

YES = 0.5
"""From this score on a multi-label classifier says yes to a class."""

ALL_KINDS: tuple[ObjectEventKind, ...] = ("object", "presence", "zone", "crossing")


_MOST_MODELS = 10  # whose classes are compared with what is asked for: a fallback takes over again and again

Unknown = Callable[[Sequence[str], Sequence[str]], None]
"""Told of the classes that are asked for in vain, and of those that the model has."""


class Wanted:
    """Made for one sink and source, used by one thread at a time. What is no number is never wanted.

    A tracked object is of the class for which it was taken most often. Results without objects (texts, vectors, maps of
    classes) have nothing to choose from.
    """

    def __init__(self, where: WhereConfig, unknown: Unknown = lambda *_: None) -> None:
        """`unknown`: told, once for each model, of classes that are asked for and that it does not have."""
        self._classes = None if where.classes is None else frozenset(where.classes)
        self._min_confidence = where.min_confidence
        self._areas = (where.min_area_ratio, where.max_area_ratio)
        self._min_age_s = where.min_age_s
        self._zones = None if where.zones is None else frozenset(where.zones)
        self._lines = None if where.lines is None else frozenset(where.lines)
        self._unknown = unknown
        self._names: tuple[str, ...] | None = None
        self._learned: set[tuple[str, ...]] = set()
        self._wanted_ids: dict[int, bool] = {}

    def has_class(self, name: str) -> bool:
        """Whether this class is asked for."""
        return self._classes is None or name in self._classes

    def has_zone(self, name: str) -> bool:
        """Whether this zone is asked for."""
        return self._zones is None or name in self._zones

    def has_line(self, name: str) -> bool:
        """Whether this line is asked for."""
        return self._lines is None or name in self._lines

    def rows(self, result: Result, found: Detections) -> list[int]:
        """Which of the objects that were `found` are asked for."""
        self._learn(found.names)
        if not len(found):
            return []
        keep = np.isfinite(found.xyxy).all(axis=1) & (found.confidence >= self._min_confidence)
        if self._areas != (0.0, 1.0):
            ratio = _area_ratios(found, result)
            keep &= (ratio >= self._areas[0]) & (ratio <= self._areas[1])
        rows: list[int] = keep.nonzero()[0].tolist()
        if self._classes is not None:
            ids = found.class_id.tolist()
            tracks = () if result.scene is None else result.scene.tracks
            rows = [
                row
                for row in rows
                if (
                    self.has_class(track.class_name)
                    if tracks and (track := tracks[row])
                    else self._has_id(found, ids[row])
                )
            ]
        if self._zones is not None or self._min_age_s > 0:
            scene = result.scene
            rows = [] if scene is None else [row for row in rows if self.fits(scene, row)]
        return rows

    def said(self, found: Classification) -> list[tuple[str, float]]:
        """The classes that a classifier says yes to, with their scores, and that are asked for."""
        self._learn(found.names)
        scores = found.scores.tolist()
        if found.multi_label:
            yes = [index for index, score in enumerate(scores) if score >= YES]
        else:
            yes = [max(range(len(scores)), key=scores.__getitem__)] if scores else []
        return [
            (name, scores[index])
            for index in yes
            if math.isfinite(scores[index]) and scores[index] >= self._min_confidence
            if self.has_class(name := label_of(found.names, index))
        ]

    def part_of(self, result: Result) -> Result | None:
        """The result with only those objects; None where there are none."""
        match result.prediction:
            case Detections() as found:
                rows = self.rows(result, found)
                if len(rows) == len(found):
                    return result if rows else None
                return only(result, found, rows) if rows else None
            case Classification() as classes:
                return result if self.said(classes) else None
            case _:
                return result

    def _learn(self, names: tuple[str, ...]) -> None:
        """Another model may number its classes otherwise."""
        if names is self._names:
            return
        self._names, self._wanted_ids = names, {}
        if self._classes is None or names in self._learned or len(self._learned) >= _MOST_MODELS:
            return
        self._learned.add(names)
        strangers = [name for name in self._classes if not _may_be(name, names)]
        if strangers:
            self._unknown(sorted(strangers), names)

    def _has_id(self, found: Detections, class_id: int) -> bool:
        wanted = self._wanted_ids.get(class_id)
        if wanted is None:
            wanted = self._wanted_ids[class_id] = self.has_class(label_of(found.names, class_id))
        return wanted

    def fits(self, scene: Scene, row: int) -> bool:
        """Whether an object is in the right place, and has been there for long enough."""
        if self._zones is not None and not (scene.inside and self._zones.intersection(scene.inside[row])):
            return False
        track = scene.tracks[row] if scene.tracks else None
        return self._min_age_s <= 0 or (track is not None and track.age_s >= self._min_age_s)


def kinds_of(where: WhereConfig) -> Collection[ObjectEventKind]:
    """Which events are asked for; who names zones or lines, and no kinds, asks for what is about them."""
    if where.kinds is not None:
        return where.kinds
    named: list[ObjectEventKind] = []
    if where.zones is not None:
        named += ["zone", "presence"]
    if where.lines is not None:
        named += ["crossing"]
    return named or ALL_KINDS


def only(result: Result, found: Detections, rows: list[int]) -> Result:
    """The result with only these of its objects, and its scene with what belongs to them."""
    scene = result.scene
    if scene is not None:
        place = {row: number for number, row in enumerate(rows)}
        scene = replace(
            scene,
            tracks=tuple(scene.tracks[row] for row in rows) if scene.tracks else (),
            inside=tuple(scene.inside[row] for row in rows) if scene.inside else (),
            crossings=tuple(
                replace(crossing, row=place[crossing.row]) for crossing in scene.crossings if crossing.row in place
            ),
        )
    unfiltered = result.prediction if result.unfiltered is None else result.unfiltered
    return replace(result, prediction=found.picked(rows), scene=scene, unfiltered=unfiltered)


def _may_be(name: str, names: Sequence[str]) -> bool:
    """Whether a model with these labels can say this one; what has no label is told by its number."""
    return name in names or (not names and name.startswith("class_"))


def _area_ratios(found: Detections, result: Result) -> npt.NDArray[np.float64]:
    """Share of the picture that each box takes, what lies outside of it left out."""
    size = result.frame.picture.size
    boxes = found.xyxy.astype(np.float64)
    with np.errstate(invalid="ignore"):
        sides = np.minimum(boxes[:, 2:], (size.width, size.height)) - np.maximum(boxes[:, :2], 0)
        areas: npt.NDArray[np.float64] = np.maximum(sides, 0).prod(axis=1)
    return areas / max(1, size.width * size.height)
