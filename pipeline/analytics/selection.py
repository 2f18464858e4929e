"""What one sink wants of one source's results, as its `emit`, `where` and `limit` say: results, or what objects do."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.analytics.events import EventSelection
from pipeline.analytics.limits import Limits
from pipeline.analytics.scene_clock import SceneClock
from pipeline.analytics.wanted import Unknown, Wanted, only
from pipeline.contracts.analysis import Scene
from pipeline.contracts.event import ObjectEvent
from pipeline.contracts.result import Classification, Detections, Embedding, Result, SemanticMask, Text, label_of
from pipeline.contracts.sink import Emit, LimitConfig, WhereConfig

Count = Callable[[], object]

EVERYTHING = WhereConfig()
NO_LIMIT = LimitConfig()

_LOST_S = 120.0
"""A track that was not seen for so long is gone, whether or not somebody said so."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The keys of a sink that say what it wants."""

    emit: Emit = "frames"
    where: WhereConfig | None = None
    limit: LimitConfig = NO_LIMIT
    update_every_s: float | None = 5.0

    @property
    def takes_all(self) -> bool:
        """Whether every result goes to the sink as it is."""
        return self.emit == "frames" and self.where in (None, EVERYTHING) and not Limits(self.limit).active


class Selection(Protocol):
    """Chooses for one sink from one source's results; called by one thread at a time, in their order."""

    def pick(self, result: Result) -> Iterable[Result | ObjectEvent]:
        """What to hand to the sink."""
        ...

    def end(self) -> Sequence[ObjectEvent]:
        """Nothing comes for a while, or never again: the ends of all that was going on."""
        ...

    def forget(self, event_id: str) -> None:
        """The sink did not take this event: it shall hear no more of it."""
        ...


def selection_of(choice: Choice, *, held_back: Count, left_out: Count, unknown: Unknown = lambda *_: None) -> Selection:
    """What carries out the choice.

    Args:
        choice: the sink's keys.
        held_back: called for each result, and each event, that the limit holds back.
        left_out: called for each result in which there is nothing for the sink.
        unknown: see `Wanted`.
    """
    where = choice.where or EVERYTHING
    if choice.emit == "events":
        return EventSelection(
            where, choice.limit, update_every_s=choice.update_every_s, held_back=held_back, unknown=unknown
        )
    kind = ChangeSelection if choice.emit == "changes" else FrameSelection
    return kind(
        Wanted(where, unknown), choice.limit, filters=where != EVERYTHING, held_back=held_back, left_out=left_out
    )


class FrameSelection:
    """`emit = "frames"`: each result, with only the objects that are asked for; none where there are none.

    The limit counts for each class of object by itself: a result goes on as long as one of its classes may.
    """

    def __init__(self, wanted: Wanted, limit: LimitConfig, *, filters: bool, held_back: Count, left_out: Count) -> None:
        self._wanted = wanted
        self._filters = filters
        self._limits = Limits(limit)
        self._clock = SceneClock()
        self._held_back = held_back
        self._left_out = left_out

    def pick(self, result: Result) -> Iterable[Result]:
        """See `Selection`."""
        part = self._wanted.part_of(result) if self._filters else result
        now_s = self._clock.advance(result.frame).now_s if self._limits.active else 0.0
        if part is None:
            self._left_out()
            return ()
        if self._limits.active:
            allowed = [self._limits.allow(name, now_s) for name in self._classes(part)]
            if not any(allowed):
                self._held_back()
                return ()
        return (part,)

    def end(self) -> Sequence[ObjectEvent]:
        """See `Selection`."""
        return ()

    def forget(self, event_id: str) -> None:
        """See `Selection`."""

    def _classes(self, result: Result) -> set[str]:
        """The classes for which the limit counts; one without a name where there is none."""
        match result.prediction:
            case Detections() as found:
                return {found.label(row) for row in range(len(found))} or {""}
            case Classification() as classes:
                return {name for name, _ in self._wanted.said(classes)} or {""}
            case _:
                return {""}


class ChangeSelection:
    """`emit = "changes"`: the results that say something else than the last one handed over, and the first.

    What counts, of the objects that are asked for: which tracked ones are there (one that is missed in a frame, or
    hardly seen, is there until its track ends or it leaves the zones), or how many of each class where nothing tracks;
    how many of each class are in each zone; the classes of a classification or of a map; a text. An embedding is always
    something else.
    """

    def __init__(self, wanted: Wanted, limit: LimitConfig, *, filters: bool, held_back: Count, left_out: Count) -> None:
        self._wanted = wanted
        self._filters = filters
        self._limits = Limits(limit)
        self._clock = SceneClock()
        self._held_back = held_back
        self._left_out = left_out
        self._last: Mapping[str, Hashable] | None = None
        self._there: dict[str, tuple[str, float]] = {}  # event_id of a track: its class, and when it was seen last

    def pick(self, result: Result) -> Iterable[Result]:
        """See `Selection`."""
        now_s = self._clock.advance(result.frame).now_s
        part, says = self._look(result, now_s)
        last = self._last
        if last is not None and says == last:
            self._left_out()
            return ()
        before: Mapping[str, Hashable] = last or {}
        changed = [name for name in {**before, **says} if before.get(name) != says.get(name)] or [""]
        allowed = [self._limits.allow(name, now_s) for name in changed]
        if not any(allowed):
            self._held_back()  # and told as soon as may be, if it still is so then
            return ()
        self._last = says
        return (part,)

    def end(self) -> Sequence[ObjectEvent]:
        """See `Selection`. The next result is told, whatever it says."""
        self._last = None
        self._there.clear()
        return ()

    def forget(self, event_id: str) -> None:
        """See `Selection`."""

    def _look(self, result: Result, now_s: float) -> tuple[Result, Mapping[str, Hashable]]:
        """The result with what is asked for alone, and what it says."""
        match result.prediction:
            case Detections() as found:
                rows = self._wanted.rows(result, found) if self._filters else list(range(len(found)))
                part = only(result, found, rows) if len(rows) < len(found) else result
                return part, self._objects(result, found, rows, now_s)
            case Classification() as classes:
                return result, dict.fromkeys((name for name, _ in self._wanted.said(classes)), 1)
            case SemanticMask() as mask:
                there = np.flatnonzero(np.bincount(np.maximum(mask.class_map, 0).ravel())).tolist()
                return result, dict.fromkeys((label_of(mask.names, class_id) for class_id in there), 1)
            case Text() as text:
                return result, {"": text.text}
            case Embedding():
                return result, {"": result.id}

    def _objects(self, result: Result, found: Detections, rows: list[int], now_s: float) -> Mapping[str, Hashable]:
        scene = result.scene
        says: dict[str, list[Hashable]] = {}
        if len(found) and (scene is None or not scene.tracks):
            self._there.clear()  # nothing tracks any more: nobody would say who is gone
        if scene is not None and (scene.tracks or self._there):
            self._follow(scene, frozenset(rows), now_s)
            for event_id in sorted(self._there):
                says.setdefault(self._there[event_id][0], []).append(event_id)
        else:
            for row in rows:
                says.setdefault(found.label(row), []).append("")
        for zone, counts in {} if scene is None else scene.occupancy.items():
            if self._wanted.has_zone(zone):
                for name, count in counts.items():
                    if count and self._wanted.has_class(name):
                        says.setdefault(name, []).append((zone, count))
        return {name: tuple(told) for name, told in says.items()}

    def _follow(self, scene: Scene, wanted: frozenset[int], now_s: float) -> None:
        """Keep account of which tracks are there: a score that wavers is no change."""
        for track in scene.ended:
            self._there.pop(track.event_id, None)
        for row, each in enumerate(scene.tracks):
            if each is not None and (row in wanted or (each.event_id in self._there and self._wanted.fits(scene, row))):
                self._there[each.event_id] = (each.class_name, now_s)
            elif each is not None:
                self._there.pop(each.event_id, None)
        if any(now_s - seen_s > _LOST_S for _, seen_s in self._there.values()):
            self._there = {key: kept for key, kept in self._there.items() if now_s - kept[1] <= _LOST_S}
