"""The metrics of tracks, zones and lines, and `Dwell`, which measures how long somebody stayed in a zone."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pipeline.telemetry.readings import SceneReading

DWELL_BUCKETS_S = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14_400.0)
OTHER = "other"
MAX_CLASSES = 50
"""More classes than this in one zone or line are told together as "other": a label must have a bound."""


def scene_families(readings: Iterable[SceneReading]) -> Iterator[Metric]:
    """How many are tracked, inside and across."""
    tracks = GaugeMetricFamily("penstock_tracks", "Objects that are tracked.", labels=["source"])
    inside = GaugeMetricFamily(
        "penstock_zone_occupancy", "Objects inside of a zone.", labels=["source", "zone", "class"]
    )
    across = CounterMetricFamily(
        "penstock_line_crossings",
        "Objects that crossed a line; the count goes on over restarts.",
        labels=["source", "line", "direction", "class"],
    )
    for reading in readings:
        if reading.tracks is not None:
            tracks.add_metric([reading.source], reading.tracks)
        for zone, counts in reading.zones.items():
            for name, count in _bounded(counts):
                inside.add_metric([reading.source, zone, name], count)
        for line, directions in reading.lines.items():
            for direction, counts in directions.items():
                for name, count in _bounded(counts):
                    across.add_metric([reading.source, line, direction, name], count)
    yield from (tracks, inside, across)


def _bounded(counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    named = [(name, count) for name, count in counts.items() if name != OTHER]
    rest = named[MAX_CLASSES:]
    yield from named[:MAX_CLASSES]
    if rest or OTHER in counts:
        yield OTHER, sum(count for _, count in rest) + counts.get(OTHER, 0)


class Dwell:
    """Measures the stays in the zones of one source. Used by one thread at a time."""

    def __init__(self, histogram: Histogram, source: str) -> None:
        self._histogram = histogram
        self._source = source
        self._children: dict[tuple[str, str], Histogram] = {}

    def observe(self, zone: str, class_name: str, lasted_s: float) -> None:
        """Somebody left."""
        child = self._children.get((zone, class_name))
        if child is None:
            name = class_name if len(self._children) < MAX_CLASSES else OTHER
            child = self._histogram.labels(self._source, zone, name)
            if name == class_name:
                self._children[zone, class_name] = child
        child.observe(lasted_s)
