"""`Analysing`: the analyser of one source in the running pipeline: what it keeps, measures and tells."""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.analytics.lines import Counts, same_place
from pipeline.analytics.scene import SceneAnalyser, Wanted
from pipeline.contracts.result import Detections, Result
from pipeline.runtime.backoff import BugAllowance
from pipeline.runtime.checkpoint import LineState, NotOurs, Numbers, SceneFile, SceneState
from pipeline.runtime.context import Surroundings
from pipeline.telemetry.readings import SceneReading

SAVE_EVERY_S = 10.0
"""What was counted is in the file after so long at the latest."""

SAVE_IDLE_S = 60.0
"""Where nothing was counted, so often is kept when the last frame was."""

SPARSE = 10
"""After so many frames that come too far apart for tracking, those that do not weighed against them, it is told."""

MAX_CLASSES = 50
"""Classes of objects that a source's metrics have from the start, as far as they were seen; the bound of a label."""


class Analysing:
    """Made by `Scenes`, called by whoever delivers the results of its source; read from any thread.

    A bug in the analysis loses no result: it passes as it is.

    Args:
        source: its name.
        wanted: what is asked for.
        folder: where what it knows is kept.
        surroundings: clock, log, metrics.
        resumes: whether lines go on with what they counted before; a file that is read again would count twice.
    """

    def __init__(
        self, source: str, wanted: Wanted, folder: Path, surroundings: Surroundings, *, resumes: bool = True
    ) -> None:
        self.source = source
        self.resumed_after_s: float | None = None
        """For how long nothing was counted before this run went on with the counts of the one before."""
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._spent_s = surroundings.metrics.stage("analytics", source=source)
        self._dwell = surroundings.metrics.dwell(source)
        self._file = SceneFile(folder, source)
        self._lock = threading.Lock()
        self._file_lock = threading.Lock()
        self._states = self._written = 0  # how many were made; which of them is in the file
        self._bugs = BugAllowance()
        self._off = self._told_boxless = self._told_sparse = False
        self._wanted = wanted
        self._classes: dict[str, None] = {}
        self._saved_at_s = -SAVE_IDLE_S
        self._saved: SceneState | None = None
        self._saved_crossed: Mapping[str, Counts] = {}
        state = self._read()
        self._last_frame_at = state.last_frame_at
        before = self._counts_of(state, wanted) if resumes and not state.complete else {}
        self._resumes = state if any(any(counts.values()) for counts in before.values()) else None
        self._numbers = Numbers(state.next_tracker_id, self._reserve)
        self._analyser = SceneAnalyser(wanted, self._numbers.take, before)

    # The thread that delivers

    def look(self, result: Result) -> Result:
        """See `Analyser`."""
        if self._off:
            return result
        began_s = self._clock.monotonic()
        with self._lock:
            try:
                if self._resumes is not None:
                    self._tell_resumed(self._resumes)
                self._last_frame_at = self._clock.wall()
                looked_at = self._analyser.look(result)
                self._note(looked_at)
            except Exception as error:  # noqa: BLE001  (Penstock's own bug: the result goes on as it is)
                self._fail(error)
                return result
        self._spent_s.observe(self._clock.monotonic() - began_s)
        return looked_at

    def _note(self, result: Result) -> None:
        if not isinstance(result.prediction, Detections):
            if not self._told_boxless:
                self._told_boxless = True
                message = "tracking, zones and lines need boxes, and the model gives none"
                self._events.note(f"source {self.source}", message)
            return
        if self._analyser.sparse >= SPARSE and not self._told_sparse:
            self._told_sparse = True
            message = "frames come further apart than lost_after_s: objects cannot be followed from one to the next"
            self._events.note(f"source {self.source}", message)
        for over in self._analyser.stays_over():
            self._dwell.observe(over.zone, over.class_name, over.lasted_s)
        scene = result.scene
        if scene is None or len(self._classes) >= MAX_CLASSES:
            return
        for track in scene.tracks:
            if track is not None:
                self._classes.setdefault(track.class_name)
        for occupancy in scene.occupancy.values():
            self._classes |= dict.fromkeys(occupancy)

    def _fail(self, error: Exception) -> None:
        self._events.bug(f"source {self.source}", error)
        self._analyser.forget()
        if not self._bugs.spend(self._clock.monotonic()):
            self._off = True
            message = "tracking, zones and lines are off until they are configured anew: too many bugs"
            self._events.note(f"source {self.source}", message)

    # The main thread, and those that save

    def change(self, wanted: Wanted) -> None:
        """Another configuration is in force."""
        with self._lock:
            moved = [
                name
                for name, line in wanted.lines.items()
                if name in self._wanted.lines and not same_place(line, self._wanted.lines[name])
            ]
            self._wanted = wanted
            self._analyser.change(wanted)
            self._off, self._bugs = False, BugAllowance()
            self._saved_at_s = -SAVE_IDLE_S
        for name in moved:
            self._tell_moved(name)

    @property
    def wanted(self) -> Wanted:
        """What is asked for."""
        return self._wanted

    @property
    def keeps(self) -> bool:
        """Whether there is anything to keep."""
        return self._wanted.tracking is not None

    def save(self, *, at_once: bool = False, complete: bool = False) -> None:
        """Keep the counts where it is time to, or `at_once`; called by one thread at a time."""
        if not self.keeps:
            return
        now_s = self._clock.monotonic()
        with self._lock:
            if not at_once and not self._is_due(now_s):
                return
            # The last time nothing more is given out, and nothing need be left out in the next run.
            number, state = self._state(self._numbers.next if at_once else self._numbers.ahead, complete=complete)
            self._saved_at_s = now_s
        self._write(number, state)
        with self._lock:
            self._numbers.reserved = max(self._numbers.reserved, state.next_tracker_id)

    def _is_due(self, now_s: float) -> bool:
        if self._saved is None:
            return True
        waited_s = now_s - self._saved_at_s
        if waited_s < SAVE_EVERY_S:
            return False
        changed = self._analyser.reading.crossed != self._saved_crossed or self._numbers.low
        return changed or (waited_s >= SAVE_IDLE_S and self._last_frame_at != self._saved.last_frame_at)

    def read(self, *, shown: bool) -> SceneReading:
        """What it knows at this moment; `shown`: whether what was seen last is what is there."""
        reading, wanted = self._analyser.reading, self._wanted
        classes = tuple(self._classes)
        zones = {
            name: _filled(reading.occupancy.get(name, {}), config.classes or classes)
            for name, config in wanted.zones.items()
            if shown
        }
        lines = {
            name: {way: _filled(counts, config.classes or classes) for way, counts in reading.crossed[name].items()}
            for name, config in wanted.lines.items()
            if name in reading.crossed  # it is just being changed
        }
        return SceneReading(self.source, reading.tracks if shown else None, zones, lines, self.resumed_after_s)

    # The file

    def _read(self) -> SceneState:
        if self.keeps:
            try:
                return self._file.read()
            except NotOurs as error:
                self._events.note(f"source {self.source}", f"{error}; its lines count from 0")
            except OSError as error:
                message = f"{self._file.path} cannot be read: {error.strerror}; its lines count from 0"
                self._events.note(f"source {self.source}", message)
        return SceneState(source=self.source)

    def _counts_of(self, state: SceneState, wanted: Wanted) -> dict[str, Counts]:
        """What the lines that are still in their place have counted."""
        found: dict[str, Counts] = {}
        for name, config in wanted.lines.items():
            kept = state.lines.get(name)
            if kept is not None and same_place(kept.line, config):
                found[name] = kept.counts
            elif kept is not None:
                self._tell_moved(name)
        return found

    def _state(self, next_tracker_id: int, *, complete: bool = False) -> tuple[int, SceneState]:
        """What to keep, and the how-manieth that is; with the lock held."""
        crossed = self._saved_crossed = self._analyser.reading.crossed
        lines = {
            name: LineState(line=config, counts={way: dict(counts) for way, counts in crossed[name].items()})
            for name, config in self._wanted.lines.items()
        }
        self._states += 1
        self._saved = SceneState(
            source=self.source,
            next_tracker_id=next_tracker_id,
            last_frame_at=self._last_frame_at,
            complete=complete,
            lines=lines,
        )
        return self._states, self._saved

    def _reserve(self, up_to: int) -> None:
        """Numbers ran out before more were reserved in time; with the lock held."""
        self._write(*self._state(up_to))

    def _write(self, number: int, state: SceneState) -> None:
        """Keep it, unless a later one is kept already."""
        with self._file_lock:
            if number < self._written:
                return
            self._written = number
            try:
                self._file.write(state)
            except OSError as error:
                self._events.counts_not_kept(self.source, error.strerror or str(error))

    # What is told

    def _tell_resumed(self, state: SceneState) -> None:
        self._resumes = None
        away_s = 0.0 if state.last_frame_at is None else max(0.0, self._clock.wall() - state.last_frame_at)
        self.resumed_after_s = away_s
        self._events.counts_resumed(self.source, away_s, len(state.lines))

    def _tell_moved(self, line: str) -> None:
        self._events.note(f"source {self.source}", f"line {line} is in another place: it counts from 0")


def _filled(counts: Mapping[str, int], classes: Iterable[str]) -> dict[str, int]:
    """With a 0 for each class that could have been counted, so that its first one is an increase."""
    return {**dict.fromkeys(classes, 0), **counts}
