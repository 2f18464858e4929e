"""Whether two subjects found the same: their boxes, frame by frame, against each other. Standard library, pure."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

SAME_IOU = 0.5
LEAST_AGREEMENT = 0.95
"""Of the boxes of both, so many have their like in the other. The rest stands close to the confidence threshold: a
decoder's other colours, another filter of the resize, and another shape of the input move some boxes over it."""
MOST_SHIFT_PX = 2.0
"""The median distance between the middles of two that are alike, in pixels of the frame."""


class Box(NamedTuple):
    """What was found at one place: its class and its sides in pixels of the frame."""

    class_id: int
    left: float
    top: float
    right: float
    bottom: float


class Agreement(NamedTuple):
    """How far two runs agree.

    Attributes:
        frames: that both have.
        ours: boxes of the first.
        theirs: boxes of the second.
        alike: pairs of the same class with an IoU of at least `SAME_IOU`.
        shift_px: the median distance between the middles of a pair.
    """

    frames: int
    ours: int
    theirs: int
    alike: int
    shift_px: float

    @property
    def share(self) -> float:
        """Of all boxes of both, how many have their like (Dice, or F1)."""
        both = self.ours + self.theirs
        return 2 * self.alike / both if both else 1.0

    @property
    def holds(self) -> bool:
        """The same work was done."""
        return self.share >= LEAST_AGREEMENT and self.shift_px <= MOST_SHIFT_PX


def read(path: Path) -> dict[int, list[Box]]:
    """The boxes of a file of JSON lines, by frame."""
    frames = {}
    with path.open() as file:
        for row in file:
            document = json.loads(row)
            frames[int(document["frame_id"])] = [
                Box(
                    int(one["class_id"]),
                    one["x"] - one["width"] / 2,
                    one["y"] - one["height"] / 2,
                    one["x"] + one["width"] / 2,
                    one["y"] + one["height"] / 2,
                )
                for one in document["predictions"]
            ]
    return frames


def compare(ours: dict[int, list[Box]], theirs: dict[int, list[Box]]) -> Agreement:
    """Match the boxes of each frame that both have, the best pairs first."""
    shared = ours.keys() & theirs.keys()
    shifts: list[float] = []
    for number in sorted(shared):
        shifts += _shifts(ours[number], theirs[number])
    shifts.sort()
    return Agreement(
        len(shared),
        sum(len(ours[number]) for number in shared),
        sum(len(theirs[number]) for number in shared),
        len(shifts),
        shifts[len(shifts) // 2] if shifts else 0.0,
    )


def _shifts(ours: Sequence[Box], theirs: Sequence[Box]) -> Iterable[float]:
    pairs = sorted(
        ((iou(one, other), i, j) for i, one in enumerate(ours) for j, other in enumerate(theirs)), reverse=True
    )
    taken_ours: set[int] = set()
    taken_theirs: set[int] = set()
    for overlap, i, j in pairs:
        if overlap < SAME_IOU:
            break
        if i not in taken_ours and j not in taken_theirs:
            taken_ours.add(i)
            taken_theirs.add(j)
            yield _distance(ours[i], theirs[j])


def iou(one: Box, other: Box) -> float:
    """Intersection over union; 0 for boxes of different classes."""
    wide = min(one.right, other.right) - max(one.left, other.left)
    high = min(one.bottom, other.bottom) - max(one.top, other.top)
    if one.class_id != other.class_id or wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    return both / (_area(one) + _area(other) - both)


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)


def _distance(one: Box, other: Box) -> float:
    across = (one.left + one.right - other.left - other.right) / 2
    down = (one.top + one.bottom - other.top - other.bottom) / 2
    return float((across**2 + down**2) ** 0.5)
