"""`Line`: who crosses one line, in which direction, each crossing once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.analytics.geometry import Floats, anchors, beside, in_pixels
from pipeline.analytics.tracking import Followed
from pipeline.contracts.analysis import Direction, LineConfig
from pipeline.contracts.frame import Size

_BEYOND_AT = 0.1
"""Who crosses is on the other side once the anchor was beyond the line by this share of the box's longer side twice in
a row: boxes tremble, and who stands on a line has not crossed it."""

_FAR_AT = 0.5
"""Beyond by so much, once is enough: who is fast may not be seen there again."""

MAX_CLASSES = 200
"""More classes than this are counted together as "other": a model elsewhere may make up names."""

Counts = Mapping[Direction, Mapping[str, int]]


@dataclass(slots=True)
class _Way:
    """One object's way as this line sees it.

    Attributes:
        side: on which side it is for sure, -1 left, 1 right; 0 while that is not known.
        seen: on which side it was clearly seen the last time; 0: on neither.
        across: how far from the line it was seen last, in pixels, positive on the right.
        along: its place along the line then, 0 at the start, 1 at the end.
        through: where along the line it last went over the endless line.
        held: crossings from before the object counts.
    """

    side: int = 0
    seen: int = 0
    across: float = 0.0
    along: float = 0.0
    through: float = 0.0
    held: list[Direction] = field(default_factory=list)


class Line:
    """One line of one source, made by its analyser; used by one thread at a time.

    Args:
        config: where it is.
        counts: what was counted before.
    """

    def __init__(self, config: LineConfig, counts: Counts) -> None:
        self.config = config
        self._counts: dict[Direction, dict[str, int]] = {
            "in": dict(counts.get("in", {})),
            "out": dict(counts.get("out", {})),
        }
        self._ways: dict[int, _Way] = {}

    def crossed(self) -> Counts:
        """How many of each class have crossed so far."""
        return {"in": dict(self._counts["in"]), "out": dict(self._counts["out"])}

    def look(self, size: Size, xyxy: Floats, found: Sequence[Followed]) -> list[tuple[int, Direction, int]]:
        """Objects were seen, float64 (K, 4) xyxy for the K of them.

        Returns:
            Which of them crossed, in which direction, and how many of its class have by now.
        """
        start, end = in_pixels((self.config.start, self.config.end), size)
        across, along = beside(anchors(xyxy, self.config.anchor)[:, 0, :], start, end)
        beyond = _BEYOND_AT * (xyxy[:, 2:] - xyxy[:, :2]).max(axis=1, initial=0.0)
        crossings: list[tuple[int, Direction, int]] = []
        places = zip(found, across.tolist(), along.tolist(), beyond.tolist(), strict=True)
        for row, (followed, where, share, least) in enumerate(places):
            way = self._ways.get(followed.serial)
            if way is None:
                way = self._ways[followed.serial] = _Way(across=where, along=share)
            direction = _follow(way, where, share, least)
            if direction is not None and self._is_meant(followed.class_name):
                way.held.append(direction)
            if followed.tracker_id:
                crossings += [(row, held, self._count(held, followed.class_name)) for held in way.held]
                way.held.clear()
        return crossings

    def _count(self, direction: Direction, class_name: str) -> int:
        counts = self._counts[direction]
        name = class_name if class_name in counts or len(counts) < MAX_CLASSES else "other"
        counts[name] = counts.get(name, 0) + 1
        return counts[name]

    def forget(self, gone: Iterable[Followed]) -> None:
        """These are gone."""
        for followed in gone:
            self._ways.pop(followed.serial, None)

    def _is_meant(self, class_name: str) -> bool:
        return self.config.classes is None or class_name in self.config.classes


def same_place(one: LineConfig, other: LineConfig) -> bool:
    """Whether what one has counted is what the other would have, as far as both count it."""
    return (one.start, one.end, one.anchor) == (other.start, other.end, other.anchor)


def _follow(way: _Way, across: float, along: float, beyond: float) -> Direction | None:
    """The object is there now: whether it crossed. It must go over the line itself, not past its ends."""
    if (way.across < 0) != (across < 0):
        share = way.across / (way.across - across)
        way.through = way.along + share * (along - way.along)
    way.across, way.along = across, along
    before, side = way.seen, 0 if abs(across) <= beyond else 1 if across > 0 else -1
    way.seen = side
    if side in {0, way.side} or (way.side and side != before and abs(across) <= beyond * _FAR_AT / _BEYOND_AT):
        return None
    came_from, way.side = way.side, side
    if not came_from or not 0.0 <= way.through <= 1.0:
        return None
    return "in" if way.side > 0 else "out"
