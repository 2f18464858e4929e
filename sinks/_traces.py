"""The ways that tracked objects came, for drawing them: remembered for each source, for as long as they are shown."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.contracts.result import Detections, Result
from sinks._draw import Path

_MAX_TRACKS = 1000  # of one source
_MAX_POINTS = 500  # of one track
_JUMP_S = 10.0


@dataclass(slots=True)
class _Source:
    ways: dict[int, deque[tuple[float, float, float]]] = field(default_factory=dict)
    last_s: float = 0.0


class Traces:
    """Where the objects of each source were. Made and used by who draws, in one thread.

    Args:
        length_s: how long a place is remembered, in seconds of the source's own time.
    """

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._sources: dict[str, _Source] = {}

    def follow(self, result: Result) -> Mapping[int, Path]:
        """Note where everything is now; by row of the detections, float (N, 2) in pixels, where it came from."""
        found = result.prediction
        source = self._sources.setdefault(result.frame.source, _Source())
        now_s = result.frame.captured_at if result.frame.pts_s is None else result.frame.pts_s
        if not -1.0 < now_s - source.last_s < _JUMP_S:
            source.ways.clear()
        source.last_s = now_s
        paths: dict[int, Path] = {}
        if isinstance(found, Detections) and found.tracker_id is not None:
            boxes = found.xyxy.tolist()
            for row, track in enumerate(found.tracker_id.tolist()):
                if track < 0 or not np.isfinite(boxes[row]).all():
                    continue
                left, _, right, bottom = boxes[row]
                way = source.ways.setdefault(track, deque(maxlen=_MAX_POINTS))
                way.append((now_s, (left + right) / 2, bottom))
                paths[row] = np.array([(x, y) for at_s, x, y in way if now_s - at_s <= self._length_s])
        self._forget(source, now_s)
        return paths

    def forget(self, source: str) -> None:
        """This source is over."""
        self._sources.pop(source, None)

    def _forget(self, source: _Source, now_s: float) -> None:
        gone = [track for track, way in source.ways.items() if now_s - way[-1][0] > self._length_s]
        gone += list(source.ways)[: max(0, len(source.ways) - len(gone) - _MAX_TRACKS)]
        for track in gone:
            source.ways.pop(track, None)
