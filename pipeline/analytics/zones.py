"""`Zone`: who is inside of one polygon, since when, and how many of each class."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.analytics.geometry import Floats, anchors, distance_to_edge, in_pixels, inside
from pipeline.analytics.scene_clock import TICK_S
from pipeline.analytics.tracking import Followed
from pipeline.contracts.analysis import ZoneConfig
from pipeline.contracts.frame import Size

_LEAVES_AT = 0.05
"""Who is inside has left once the anchor is outside by this share of the box's longer side: boxes tremble."""


class Stay(NamedTuple):
    """One object is inside.

    Attributes:
        since_s: scene time of the frame in which it was first seen there.
        since_at: the same in Unix seconds.
        class_name: what it counts as; "" while it does not count, because it has not been there for long enough.
    """

    since_s: float
    since_at: float
    class_name: str = ""


class Zone:
    """One zone of one source, made by its analyser; used by one thread at a time.

    With tracking each object has a stay, which goes on while the object is not found but not gone either, and while
    it is outside by less than its box trembles.
    """

    def __init__(self, config: ZoneConfig) -> None:
        self.config = config
        self._stays: dict[int, Stay] = {}
        self._size = Size(0, 0)
        self._polygon: Floats = np.zeros((0, 2))

    def stay_of(self, followed: Followed) -> Stay | None:
        """Since when an object counts in here; None: it does not."""
        stay = self._stays.get(followed.serial)
        return stay if stay is not None and stay.class_name else None

    def occupancy(self) -> dict[str, int]:
        """How many of each class count in here."""
        counts: dict[str, int] = {}
        for stay in self._stays.values():
            if stay.class_name:
                counts[stay.class_name] = counts.get(stay.class_name, 0) + 1
        return counts

    def look(
        self, now_s: float, at: float, size: Size, xyxy: Floats, found: Sequence[Followed]
    ) -> list[tuple[str, float]]:
        """Objects were seen: float64 (K, 4) xyxy for the K of them. Returns whose stay ended: class and seconds."""
        was_inside = np.array([followed.serial in self._stays for followed in found], np.bool_)
        is_inside = self._stays_inside(size, xyxy, was_inside)
        left = []
        for followed, within in zip(found, is_inside.tolist(), strict=True):
            stay = self._stays.get(followed.serial)
            if not within or not self._is_meant(followed.class_name):
                if stay is not None and stay.class_name:
                    left.append((stay.class_name, now_s - stay.since_s))
                self._stays.pop(followed.serial, None)
                continue
            stay = stay or Stay(now_s, at)
            counts = followed.tracker_id > 0 and now_s - stay.since_s > self.config.min_dwell_s - TICK_S
            self._stays[followed.serial] = stay._replace(class_name=followed.class_name if counts else "")
        return left

    def forget(self, gone: Iterable[Followed]) -> list[tuple[str, float]]:
        """These are gone; returns class and seconds of those that were inside, up to when they were last seen."""
        left = []
        for followed in gone:
            stay = self._stays.pop(followed.serial, None)
            if stay is not None and stay.class_name:
                left.append((stay.class_name, followed.seen_s - stay.since_s))
        return left

    def untracked(self, size: Size, xyxy: Floats, names: Sequence[str]) -> list[bool]:
        """Which of the boxes of a frame are inside, float64 (K, 4) xyxy, where nothing tracks."""
        nobody = np.zeros(len(xyxy), np.bool_)
        within = self._stays_inside(size, xyxy, nobody).tolist()
        return [is_inside and self._is_meant(name) for is_inside, name in zip(within, names, strict=True)]

    def _is_meant(self, class_name: str) -> bool:
        return self.config.classes is None or class_name in self.config.classes

    def _stays_inside(self, size: Size, xyxy: Floats, was_inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        if size != self._size:
            self._size, self._polygon = size, in_pixels(self.config.polygon, size)
        points = anchors(xyxy, self.config.anchor)
        within: npt.NDArray[np.bool_] = np.any(inside(points, self._polygon), axis=1)
        at_the_edge = was_inside & ~within
        if at_the_edge.any():
            boxes = xyxy[at_the_edge]
            near = distance_to_edge(points[at_the_edge], self._polygon).min(axis=1)
            within[at_the_edge] = near <= _LEAVES_AT * (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        return within


def occupancy_of(names: Sequence[str], within: Sequence[bool]) -> Mapping[str, int]:
    """How many of each class are inside, where nothing tracks."""
    counts: dict[str, int] = {}
    for name, is_inside in zip(names, within, strict=True):
        if is_inside:
            counts[name] = counts.get(name, 0) + 1
    return counts
