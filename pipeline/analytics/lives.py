"""`Lives`: events that begin, go on and end, as messages: what is told of each, and how often."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.analytics.limits import Limits
from pipeline.contracts.analysis import Crossing
from pipeline.contracts.event import Best, ObjectEvent, ObjectEventKind, Phase
from pipeline.contracts.frame import Frame
from pipeline.contracts.ids import derived_id, new_id
from pipeline.contracts.result import Result
from pipeline.contracts.sink import LimitConfig

Box = tuple[float, float, float, float]

BETTER = 1.5
"""An update is due when the best picture became better by this factor since the last message, and"""

BETTER_EVERY_S = 0.5
"""so much time has passed."""

MAX_TOLD, MAX_KNOWN = 1_000, 10_000
"""So many events go on at once at the most: told, and together with those that are held back."""


class Seen(NamedTuple):
    """One object, or one class, in one frame."""

    class_name: str
    confidence: float
    xyxy: Box
    tracker_id: int | None = None
    zones: tuple[str, ...] = ()
    number: int | None = None
    """How many there are, of a class."""

    @property
    def score(self) -> float:
        """How well it is seen: confidence times area, in square pixels."""
        left, top, right, bottom = self.xyxy
        return self.confidence * max(0.0, right - left) * max(0.0, bottom - top)


class Now(NamedTuple):
    """The frame that is looked at."""

    result: Result
    at_s: float
    frame: Frame
    """Without its pixels, for who keeps it."""


@dataclass(slots=True)
class Going:
    """One event that goes on.

    Attributes:
        event_id: see `ObjectEvent`, as `kind`, `zone`, `class_name`, `began_at` and `best`.
        silent: nothing is told of it.
        seen: what it looked like in the last frame in which it was seen,
        seen_s: and when that was, in seconds of the `SceneClock`.
        frame: that frame, without its pixels.
        score: of the best frame.
        told_s: when something was told last,
        told_score: and how good the best frame was that was told.
    """

    event_id: str
    kind: ObjectEventKind
    zone: str | None
    class_name: str
    began_at: float
    silent: bool
    seen: Seen
    seen_s: float
    frame: Frame
    best: Best
    score: float
    told_s: float
    told_score: float


class Lives:
    """Made for one sink and source, used by one thread at a time.

    The best frame is the one in which confidence times area was greatest. What the limit holds back is counted once and
    silent for all its life.
    """

    def __init__(self, limit: LimitConfig, *, update_every_s: float | None, held_back: Callable[[], object]) -> None:
        self.told = self.known = 0
        self._limits = Limits(limit)
        self._update_every_s = update_every_s
        self._held_back = held_back
        self._over: OrderedDict[str, None] = OrderedDict()  # ids that ended here, and may come again

    @property
    def have_room(self) -> bool:
        """Whether one more may begin."""
        return self.known < MAX_KNOWN

    def begin(self, now: Now, seen: Seen, event_id: str, began_at: float, *, zone: str | None = None) -> Going:
        """Something begins; held back where the limit says so. `tell` it as "new"."""
        kind: ObjectEventKind = "presence" if seen.number is not None else "object" if zone is None else "zone"
        silent = self.told >= MAX_TOLD or not self._limits.allow((kind, zone, seen.class_name), now.at_s)
        if silent:
            self._held_back()
        if event_id in self._over:  # its end was told when the source went away
            event_id = derived_id(now.frame.captured_at, event_id, now.result.id)
        self.known += 1
        self.told += not silent
        return Going(
            event_id,
            kind,
            zone,
            seen.class_name,
            began_at,
            silent,
            seen,
            now.at_s,
            now.frame,
            best=_as_best(now, seen),
            score=seen.score,
            told_s=now.at_s,
            told_score=seen.score,
        )

    def go_on(self, now: Now, going: Going, seen: Seen) -> Iterator[ObjectEvent]:
        """It is seen again; told where it is time for that, or worth it."""
        going.seen, going.seen_s, going.frame = seen, now.at_s, now.frame
        if going.silent:
            return
        score = seen.score
        if score > going.score:
            going.score, going.best = score, _as_best(now, seen)
        if self._update_every_s is None:
            return
        waited_s = now.at_s - going.told_s
        is_better = score == going.score and score >= BETTER * going.told_score and waited_s >= BETTER_EVERY_S
        if waited_s >= self._update_every_s or is_better:
            going.told_s = now.at_s
            if is_better:
                going.told_score = score
            yield from self.tell(going, "update", now)

    def silence(self, going: Going) -> None:
        """Tell no more of it."""
        if not going.silent:
            going.silent = True
            self.told -= 1
            self._note_over(going.event_id)

    def finish(self, going: Going) -> Iterator[ObjectEvent]:
        """It is over."""
        self.known -= 1
        self.told -= not going.silent
        if not going.silent:
            self._note_over(going.event_id)
        yield from self.tell(going, "end", None)

    def tell(self, going: Going, phase: Phase, now: Now | None) -> Iterator[ObjectEvent]:
        """The message, unless it is held back; without `now` it is about the last frame in which it was seen."""
        if going.silent:
            return
        seen, frame = going.seen, going.frame if now is None else now.result.frame
        yield ObjectEvent(
            id=new_id(),
            event_id=going.event_id,
            phase=phase,
            kind=going.kind,
            source=frame.source,
            class_name=going.class_name,
            tracker_id=seen.tracker_id,
            began_at=going.began_at,
            at=frame.captured_at,
            frame=frame,
            confidence=seen.confidence,
            xyxy=seen.xyxy,
            best=going.best,
            zone=going.zone,
            count=seen.number,
            zones=seen.zones,
            result=None if now is None else now.result,
        )

    def happen(self, now: Now, seen: Seen, crossing: Crossing) -> Iterator[ObjectEvent]:
        """Something that takes no time, unless the limit holds it back."""
        if not self._limits.allow(("crossing", crossing.line, seen.class_name), now.at_s):
            self._held_back()
            return
        at = now.frame.captured_at
        yield ObjectEvent(
            id=new_id(),
            event_id=crossing.event_id,
            phase="once",
            kind="crossing",
            source=now.frame.source,
            class_name=seen.class_name,
            tracker_id=seen.tracker_id,
            began_at=at,
            at=at,
            frame=now.result.frame,
            confidence=seen.confidence,
            xyxy=seen.xyxy,
            best=_as_best(now, seen),
            line=crossing.line,
            direction=crossing.direction,
            count=crossing.count,
            zones=seen.zones,
            result=now.result,
        )

    def _note_over(self, event_id: str) -> None:
        self._over[event_id] = None
        if len(self._over) > MAX_TOLD:
            self._over.popitem(last=False)


def _as_best(now: Now, seen: Seen) -> Best:
    frame = now.frame
    return Best(now.result.id, frame.seq, frame.pts_s, frame.captured_at, seen.confidence, seen.xyxy)
