"""`Tracker`: which boxes of one source's frames are the same object: numbers that stay with them.

After ByteTrack (Zhang et al., 2022, https://arxiv.org/abs/2110.06864) and SORT (Bewley et al., 2016), with times in
seconds instead of frames, since frames may be missing, and across classes, since a model's opinion of a car changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.analytics.matching import overlap, pairs
from pipeline.analytics.prediction import Course
from pipeline.analytics.scene_clock import TICK_S
from pipeline.contracts.analysis import TrackingConfig
from pipeline.contracts.ids import new_id

Floats = npt.NDArray[np.float64]

_LEAST_OVERLAP = 0.1
"""Of what a track is thought to cover with a box that the model is sure of. As in `trackers` 2.6 (ByteTrack: 0.2)."""

_LEAST_OF_NEW = 0.3
"""The same for what is no track yet: its speed is not known, but it may be noise. As in ByteTrack."""

_LEAST_OF_UNSURE = 0.2
"""The same for a box that the model is not sure of (ByteTrack: 0.5, which loses who is half hidden)."""

_DOUBT = 0.5
"""What may be elsewhere by so much, in standard deviations, is looked for there: who is fast, or was seen once only."""

_OTHER_CLASS = 0.6
"""So much less two boxes are alike that are of different classes: a rider is not the bicycle, a car may be a truck."""

_HIDDEN = 0.5
"""So much less is what was not found for `lost_after_s` like a box: who was there just now goes first."""

_SAME_THING = 0.7
"""A box that covers a surer one so well is the same thing once more, e.g. as another class, and no track."""

MAX_FOLLOWED = 2_000
"""So many objects are followed at once; while there are so many nothing new is, as a model that is broken would have
it."""

_MOST_CLASSES = 20
"""So many opinions of one object are counted."""


@dataclass(slots=True, eq=False)
class Followed:
    """One object as its tracker knows it. Made and changed by the tracker only.

    Attributes:
        serial: unlike any other of this tracker; from the first time that it is seen.
        tracker_id: its number once it counts; 0 before.
        event_id: 32 hex digits, likewise; "" before.
        began_s: scene time at which it was first seen.
        began_at: the same in Unix seconds.
        seen_s: scene time at which it was last seen.
        frames: in how many frames it was seen.
        votes: how often it was taken for which class, by name, the first one first.
        class_ids: of these classes.
    """

    serial: int
    began_s: float
    began_at: float
    seen_s: float
    tracker_id: int = 0
    event_id: str = ""
    frames: int = 0
    votes: dict[str, int] = field(default_factory=dict)
    class_ids: dict[str, int] = field(default_factory=dict)
    class_name: str = ""

    def see(self, now_s: float, class_id: int, class_name: str) -> None:
        """It is in the frame, and is taken for that."""
        self.seen_s = now_s
        self.frames += 1
        if class_name not in self.votes and len(self.votes) >= _MOST_CLASSES:
            return
        self.votes[class_name] = self.votes.get(class_name, 0) + 1
        self.class_ids[class_name] = class_id
        if self.votes[class_name] > self.votes.get(self.class_name, 0):
            self.class_name = class_name

    @property
    def class_id(self) -> int:
        """Of the class that it was taken for most often."""
        return self.class_ids[self.class_name]


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of one frame that have a place and an extent.

    Attributes:
        xyxy: float64 (K, 4).
        confidence: float64 (K,).
        class_id: int (K,).
        names: K names of classes.
    """

    xyxy: Floats
    confidence: Floats
    class_id: npt.NDArray[np.int64]
    names: Sequence[str]


class Tracker:
    """Made for one source by its analyser; used by one thread at a time.

    Args:
        config: how.
        next_id: gives the number of the next object that counts.
    """

    def __init__(self, config: TrackingConfig, next_id: Callable[[], int]) -> None:
        self._config = config
        self._next_id = next_id
        self._course = Course()
        self._followed: list[Followed] = []
        self._serial = 0
        self._now_s = 0.0

    @property
    def followed(self) -> Sequence[Followed]:
        """All that is not gone, also what does not count yet."""
        return self._followed

    def look(self, now_s: float, at: float, boxes: Boxes) -> tuple[list[Followed | None], list[Followed]]:
        """What is in the next frame.

        Args:
            now_s: its scene time, not before that of the frame before.
            at: its Unix seconds.
            boxes: what the model found.

        Returns:
            For each box what it is, None for one that is nothing; and what is gone.
        """
        gone = self._let_go(now_s)
        unseen = np.array([followed.seen_s < self._now_s for followed in self._followed], np.bool_)
        self._course.advance(now_s - self._now_s, unseen)
        self._now_s = now_s
        once = ~_said_before(boxes.xyxy)
        sure = once & (boxes.confidence >= self._config.min_confidence)
        seen = self._match(boxes, sure, once & ~sure)
        rows = sorted(seen)
        self._course.correct(np.array([seen[row] for row in rows], np.intp), boxes.xyxy[rows])
        found: list[Followed | None] = [None] * len(boxes.xyxy)
        for row in rows:
            followed = found[row] = self._followed[seen[row]]
            followed.see(now_s, int(boxes.class_id[row]), boxes.names[row])
        strangers = [row for row in np.flatnonzero(sure).tolist() if row not in seen]
        for row in strangers[: max(0, MAX_FOLLOWED - len(self._followed))]:
            found[row] = self._begin(now_s, at, boxes, row)
        for followed in filter(None, found):
            if not followed.tracker_id and followed.frames >= self._config.min_frames:
                followed.tracker_id, followed.event_id = self._next_id(), new_id()
        return found, gone

    def stand_still(self, still_s: float) -> None:
        """So much time passed since the last frame, and nothing moved: all is as if that had been so much later."""
        self._now_s += still_s
        for followed in self._followed:
            followed.seen_s += still_s

    def end(self) -> list[Followed]:
        """Nothing of what was seen goes on: all of it is gone, and returned."""
        gone, self._followed, self._course = self._followed, [], Course()
        return gone

    def _let_go(self, now_s: float) -> list[Followed]:
        lost = [now_s - followed.seen_s > self._config.lost_after_s + TICK_S for followed in self._followed]
        if not any(lost):
            return []
        gone = [followed for followed, is_lost in zip(self._followed, lost, strict=True) if is_lost]
        self._followed = [followed for followed, is_lost in zip(self._followed, lost, strict=True) if not is_lost]
        self._course.keep(~np.array(lost, np.bool_))
        return gone

    def _match(self, boxes: Boxes, sure: npt.NDArray[np.bool_], unsure: npt.NDArray[np.bool_]) -> dict[int, int]:
        """For the rows of boxes that are something known, its place in the list."""
        if not self._followed or not len(boxes.xyxy):
            return {}
        likeness = overlap(self._course.xyxy, boxes.xyxy, _DOUBT * self._course.doubt)
        theirs = np.array([followed.class_id for followed in self._followed], np.int64)
        likeness = np.where(theirs[:, None] == boxes.class_id[None, :], likeness, _OTHER_CLASS * likeness)
        counts = np.array([followed.tracker_id > 0 for followed in self._followed], np.bool_)
        seen_s = np.array([followed.seen_s for followed in self._followed])
        hidden = np.minimum((self._now_s - seen_s) / self._config.lost_after_s, 1.0)
        likeness *= 1 - _HIDDEN * hidden[:, None]
        seen: dict[int, int] = {}
        self._pair(likeness, counts, sure, _LEAST_OVERLAP, seen)
        if self._config.type == "bytetrack":
            fresh = seen_s >= seen_s.max()  # as of the last frame in which anything was found
            self._pair(likeness, counts & fresh, unsure, _LEAST_OF_UNSURE, seen)
        self._pair(likeness, ~counts, sure, _LEAST_OF_NEW, seen)
        return seen

    def _pair(
        self,
        likeness: Floats,
        these: npt.NDArray[np.bool_],
        those: npt.NDArray[np.bool_],
        least: float,
        seen: dict[int, int],
    ) -> None:
        """Pair what is left of these followed with what is left of those boxes."""
        left, free = these.copy(), those.copy()
        left[list(seen.values())] = False
        free[list(seen)] = False
        places, rows = np.flatnonzero(left), np.flatnonzero(free)
        if len(places) and len(rows):
            found, row = pairs(likeness[np.ix_(places, rows)], least)
            seen.update(zip(rows[row].tolist(), places[found].tolist(), strict=True))

    def _begin(self, now_s: float, at: float, boxes: Boxes, row: int) -> Followed:
        self._serial += 1
        followed = Followed(self._serial, now_s, at, now_s)
        followed.see(now_s, int(boxes.class_id[row]), boxes.names[row])
        self._followed.append(followed)
        self._course.add(boxes.xyxy[row : row + 1])
        return followed


def _said_before(xyxy: Floats) -> npt.NDArray[np.bool_]:
    """Which boxes cover one before them, which the model is surer of, so well that they are the same thing."""
    said: npt.NDArray[np.bool_] = np.any(np.triu(overlap(xyxy, xyxy) >= _SAME_THING, 1), axis=0)
    return said
