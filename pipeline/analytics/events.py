"""`EventSelection`: what the objects in front of one camera do, as events with a beginning and an end."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline.analytics.lives import Going, Lives, Now, Seen
from pipeline.analytics.scene_clock import SceneClock
from pipeline.analytics.wanted import Unknown, Wanted, kinds_of
from pipeline.contracts.analysis import Crossing, Scene, Track
from pipeline.contracts.event import ObjectEvent
from pipeline.contracts.ids import derived_id
from pipeline.contracts.result import Classification, Detections, Result
from pipeline.contracts.sink import LimitConfig, WhereConfig

PRESENCE_LOST_S = 1.0
"""Where nothing tracks, a class is gone when it was not seen for so long."""

TRACK_LOST_S = 120.0
"""A track that was not seen for so long is gone, also where nobody said so: its analyser was exchanged."""


class EventSelection:
    """`emit = "events"`. Made for one sink and source; called by one thread at a time, with every result in order.

    * Each tracked object is an event of the kind "object", each of its stays in a zone one of the kind "zone", each
      crossing of a line a "crossing". Where nothing tracks, each class that is there is a "presence".
    * An event begins in the first frame in which the object is as `where` asks, and ends with the track or the stay,
      not when the object fits no more: a score that wavers makes one event, not many.
    * Every "new" has one "end", which tells of the last frame in which it was seen.
    * What the limit holds back is counted and silent for all its life. Each class, and for it each kind, zone and
      line, counts by itself.
    * Texts, vectors and maps of classes have no objects, and no events.
    """

    def __init__(
        self,
        where: WhereConfig,
        limit: LimitConfig,
        *,
        update_every_s: float | None,
        held_back: Callable[[], object],
        unknown: Unknown = lambda *_: None,
    ) -> None:
        self._wanted = Wanted(where, unknown)
        # Who names zones and lines asks for stays in the ones and crossings of the others.
        self._of_lines = self._wanted if where.lines is None else Wanted(where.model_copy(update={"zones": None}))
        self._kinds = frozenset(kinds_of(where))
        self._lives = Lives(limit, update_every_s=update_every_s, held_back=held_back)
        self._clock = SceneClock()
        self._tracks: dict[str, dict[str | None, Going]] = {}  # by the track's event_id, then by zone; None: itself
        self._classes: dict[str, Going] = {}
        self._looked_s = 0.0

    def pick(self, result: Result) -> Sequence[ObjectEvent]:
        """The events of this result, the oldest first."""
        frame = result.frame
        now = Now(result, self._clock.advance(frame).now_s, frame.released() if frame.picture.nbytes else frame)
        events: list[ObjectEvent] = []
        match result.prediction:
            case Detections() as found:
                rows = self._wanted.rows(result, found)
                if result.scene is not None:
                    events += self._gone(result.scene.ended)
                if result.scene is not None and result.scene.tracks:
                    events += self._tracked(now, result.scene, found, frozenset(rows))
                elif len(found):  # nothing tracks, or not any more: nobody will tell how tracks end
                    events += self._end_tracks()
                    if "presence" in self._kinds:
                        events += self._present(now, _by_class(result, found, rows))
                if result.scene is not None and result.scene.crossings and "crossing" in self._kinds:
                    crossers = frozenset(self._of_lines.rows(result, found))
                    events += self._crossed(now, result.scene.crossings, found, crossers)
            case Classification() as classes if "presence" in self._kinds:
                size = frame.picture.size
                whole = (0.0, 0.0, float(size.width), float(size.height))
                said = self._wanted.said(classes)
                events += self._present(now, {name: Seen(name, score, whole, number=1) for name, score in said})
        events += self._lost(now.at_s)
        return events

    def end(self) -> Sequence[ObjectEvent]:
        """The ends of all that goes on; should one of these objects come again, it is another event."""
        going = self._all()
        self._tracks.clear()
        self._classes.clear()
        return [event for each in going for event in self._lives.finish(each)]

    def forget(self, event_id: str) -> None:
        """The sink did not take this event: it shall hear no more of it."""
        for going in self._all():
            if going.event_id == event_id:
                self._lives.silence(going)

    def _end_tracks(self) -> list[ObjectEvent]:
        ending = [going for stays in self._tracks.values() for going in _inside_out(stays)]
        self._tracks.clear()
        return [event for going in ending for event in self._lives.finish(going)]

    def _all(self) -> list[Going]:
        return [*(going for stays in self._tracks.values() for going in _inside_out(stays)), *self._classes.values()]

    # Where objects are tracked

    def _tracked(self, now: Now, scene: Scene, found: Detections, wanted: frozenset[int]) -> Iterator[ObjectEvent]:
        boxes, scores = found.xyxy.tolist(), found.confidence.tolist()
        for row, track in enumerate(scene.tracks):
            box = tuple(boxes[row])
            if track is None or not math.isfinite(sum(box) + scores[row]):
                continue
            stays = self._tracks.get(track.event_id)
            if stays is None:
                if row not in wanted:
                    continue
                stays = self._tracks[track.event_id] = {}
            seen = Seen(track.class_name, scores[row], box, track.tracker_id, tuple(track.zones))
            for zone in [zone for zone in stays if zone is not None]:
                if track.zones.get(zone) != stays[zone].began_at:
                    yield from self._lives.finish(stays.pop(zone))
            if "object" in self._kinds:
                yield from self._follow(now, stays, None, seen, track, begins=row in wanted)
            if "zone" in self._kinds:
                for zone in track.zones:
                    if self._wanted.has_zone(zone):
                        yield from self._follow(now, stays, zone, seen, track, begins=row in wanted)
            if not stays:
                del self._tracks[track.event_id]

    def _follow(
        self, now: Now, stays: dict[str | None, Going], zone: str | None, seen: Seen, track: Track, *, begins: bool
    ) -> Iterator[ObjectEvent]:
        going = stays.get(zone)
        if going is not None:
            yield from self._lives.go_on(now, going, seen)
        elif begins and self._lives.have_room:
            event_id, began_at = track.event_id, track.began_at
            if zone is not None:
                began_at = track.zones[zone]
                event_id = derived_id(began_at, track.event_id, zone, repr(began_at))
            going = stays[zone] = self._lives.begin(now, seen, event_id, began_at, zone=zone)
            yield from self._lives.tell(going, "new", now)

    def _gone(self, ended: Sequence[Track]) -> Iterator[ObjectEvent]:
        for track in ended:
            for going in _inside_out(self._tracks.pop(track.event_id, {})):
                yield from self._lives.finish(going)

    def _crossed(
        self, now: Now, crossings: Sequence[Crossing], found: Detections, wanted: frozenset[int]
    ) -> Iterator[ObjectEvent]:
        for crossing in crossings:
            row, track = crossing.row, crossing.track
            if row not in wanted or not self._wanted.has_line(crossing.line):
                continue
            left, top, right, bottom = found.xyxy[row].tolist()
            box = (left, top, right, bottom)
            seen = Seen(track.class_name, float(found.confidence[row]), box, track.tracker_id, tuple(track.zones))
            yield from self._lives.happen(now, seen, crossing)

    # Where nothing tracks

    def _present(self, now: Now, there: dict[str, Seen]) -> Iterator[ObjectEvent]:
        for name, seen in there.items():
            going = self._classes.get(name)
            if going is not None:
                yield from self._lives.go_on(now, going, seen)
            elif self._lives.have_room:
                began_at = now.frame.captured_at
                event_id = derived_id(began_at, now.result.id, name)
                going = self._classes[name] = self._lives.begin(now, seen, event_id, began_at)
                yield from self._lives.tell(going, "new", now)

    def _lost(self, now_s: float) -> Iterator[ObjectEvent]:
        """What nobody says is gone."""
        for name in [name for name, going in self._classes.items() if now_s - going.seen_s >= PRESENCE_LOST_S]:
            yield from self._lives.finish(self._classes.pop(name))
        if now_s - self._looked_s < 1.0:
            return
        self._looked_s = now_s
        for event_id, stays in list(self._tracks.items()):
            if all(now_s - going.seen_s >= TRACK_LOST_S for going in stays.values()):
                for going in _inside_out(self._tracks.pop(event_id)):
                    yield from self._lives.finish(going)


def _inside_out(stays: Mapping[str | None, Going]) -> list[Going]:
    """In the order in which they end: a stay before its object."""
    return sorted(stays.values(), key=lambda going: (going.zone is None, going.zone))


def _by_class(result: Result, found: Detections, rows: Sequence[int]) -> dict[str, Seen]:
    """For each class the object that is seen best, and how many there are."""
    boxes, scores = found.xyxy.tolist(), found.confidence.tolist()
    inside = () if result.scene is None else result.scene.inside
    best: dict[str, Seen] = {}
    counts: dict[str, int] = {}
    for row in rows:
        left, top, right, bottom = boxes[row]
        name = found.label(row)
        seen = Seen(name, scores[row], (left, top, right, bottom), None, inside[row] if inside else ())
        counts[name] = counts.get(name, 0) + 1
        if name not in best or seen.score > best[name].score:
            best[name] = seen
    return {name: seen._replace(number=counts[name]) for name, seen in best.items()}
