"""The metrics that are read at the moment of a scrape: what the ledger and its like have counted."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pipeline.contracts.scene import ContentState
from pipeline.telemetry.backend_families import backend_families
from pipeline.telemetry.readings import Readings, SinkState, SourceState
from pipeline.telemetry.scene_families import scene_families


class ReadingsCollector(Collector):
    """Turns what the pipeline counts into metric families. Made by `Metrics`; called by the thread that scrapes."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are not clashing, and the first scrape tells them."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, each with one sample for each source or sink."""
        yield from self._source_families()
        yield from self._picture_families()
        yield from self._stuck_families()
        yield from scene_families(self._readings.read_scenes())
        yield from self._sink_families()
        yield from backend_families(self._readings.read_backends())

    def _source_families(self) -> Iterator[Metric]:
        decoded = CounterMetricFamily(
            "penstock_frames_decoded", "Frames that a source decoded or tried to.", labels=["source"]
        )
        skipped = CounterMetricFamily(
            "penstock_frames_skipped",
            "Frames never decoded, as they would have been sampled out or nothing moved.",
            labels=["source"],
        )
        frames = CounterMetricFamily("penstock_frames", "Frames, by how they ended.", labels=["source", "outcome"])
        in_flight = GaugeMetricFamily("penstock_frames_in_flight", "Frames on their way.", labels=["source"])
        up = GaugeMetricFamily("penstock_source_up", "1 while the source gives frames.", labels=["source"])
        state = GaugeMetricFamily("penstock_source_state", "1 for the state that it is in.", labels=["source", "state"])
        last = GaugeMetricFamily(
            "penstock_source_last_frame_timestamp_seconds", "When the last frame was decoded.", labels=["source"]
        )
        queued = GaugeMetricFamily("penstock_queue_frames", "Frames waiting for the backend.", labels=["source"])
        capacity = GaugeMetricFamily("penstock_queue_capacity_frames", "How many may wait.", labels=["source"])
        for reading in self._readings.read_sources():
            name = [reading.name]
            decoded.add_metric(name, reading.decoded)
            skipped.add_metric(name, reading.skipped)
            for outcome, count in reading.outcomes.items():
                frames.add_metric([reading.name, outcome], count)
            in_flight.add_metric(name, reading.in_flight)
            up.add_metric(name, reading.state is SourceState.RUNNING)
            for each in SourceState:
                state.add_metric([reading.name, each.value], reading.state is each)
            if reading.last_frame_at is not None:
                last.add_metric(name, reading.last_frame_at)
            queued.add_metric(name, reading.queued)
            capacity.add_metric(name, reading.queue_capacity)
        yield from (decoded, skipped, frames, in_flight, up, state, last, queued, capacity)

    def _picture_families(self) -> Iterator[Metric]:
        content = GaugeMetricFamily(
            "penstock_source_content", "1 for what the source's pictures look like.", labels=["source", "content"]
        )
        corrupt = CounterMetricFamily(
            "penstock_frames_corrupt", "Frames in which the decoder concealed damage.", labels=["source"]
        )
        jumps = CounterMetricFamily(
            "penstock_source_time_jumps", "Jumps of the camera's time stamps.", labels=["source"]
        )
        offset = GaugeMetricFamily(
            "penstock_source_clock_offset_seconds",
            "By how much the camera's clock is behind ours, transport included.",
            labels=["source"],
        )
        decoder = GaugeMetricFamily(
            "penstock_source_decoder_info", "1 for what decodes the source.", labels=["source", "decoder"]
        )
        for reading in self._readings.read_sources():
            if reading.decoder is not None:
                decoder.add_metric([reading.name, reading.decoder], 1)
            for each in ContentState:
                content.add_metric([reading.name, each.value], reading.content is each)
            corrupt.add_metric([reading.name], reading.corrupt)
            jumps.add_metric([reading.name], reading.time_jumps)
            if reading.clock_offset_s is not None:
                offset.add_metric([reading.name], reading.clock_offset_s)
        yield from (content, corrupt, jumps, offset, decoder)

    def _stuck_families(self) -> Iterator[Metric]:
        stuck = GaugeMetricFamily(
            "penstock_stuck_seconds", "For how long a stage has had work and made no progress.", labels=["kind", "name"]
        )
        for (kind, name), stuck_s in self._readings.read_stuck().items():
            stuck.add_metric([kind, name], stuck_s)
        yield stuck

    def _sink_families(self) -> Iterator[Metric]:
        results = CounterMetricFamily(
            "penstock_sink_results", "Results that a sink accepted, and how they ended.", labels=["sink", "outcome"]
        )
        pending = GaugeMetricFamily("penstock_sink_pending", "Results waiting for the sink.", labels=["sink"])
        state = GaugeMetricFamily("penstock_sink_state", "1 for the state that it is in.", labels=["sink", "state"])
        nbytes = GaugeMetricFamily("penstock_sink_spool_bytes", "What waits in the sink's spool.", labels=["sink"])
        capacity = GaugeMetricFamily("penstock_sink_spool_capacity_bytes", "How much may wait.", labels=["sink"])
        oldest = GaugeMetricFamily(
            "penstock_sink_spool_oldest_timestamp_seconds", "Since when the oldest result waits.", labels=["sink"]
        )
        letters = GaugeMetricFamily("penstock_sink_dead_letters", "Dead letters in the sink's spool.", labels=["sink"])
        corrupt = CounterMetricFamily(
            "penstock_spool_corrupt", "Results in the sink's spool that could not be read.", labels=["sink"]
        )
        dropped = CounterMetricFamily(
            "penstock_sink_dead_letters_dropped", "Dead letters that went to make room for others.", labels=["sink"]
        )
        mended = CounterMetricFamily(
            "penstock_sink_mended", "Torn ends that a crash left in the sink's files, cut off.", labels=["sink"]
        )
        for reading in self._readings.read_sinks():
            mended.add_metric([reading.name], reading.mended)
            results.add_metric([reading.name, "accepted"], reading.accepted)
            results.add_metric([reading.name, "restored"], reading.restored)
            for outcome, count in reading.outcomes.items():
                results.add_metric([reading.name, outcome], count)
            pending.add_metric([reading.name], reading.pending)
            for each in SinkState:
                state.add_metric([reading.name, each.value], reading.state is each)
            spool = reading.spool
            if spool is not None:
                nbytes.add_metric([reading.name], spool.nbytes)
                capacity.add_metric([reading.name], spool.capacity_bytes)
                if spool.oldest_at is not None:
                    oldest.add_metric([reading.name], spool.oldest_at)
                letters.add_metric([reading.name], spool.letters)
                corrupt.add_metric([reading.name], spool.corrupt)
                dropped.add_metric([reading.name], spool.letters_dropped)
        yield from (results, pending, state, nbytes, capacity, oldest, letters, corrupt, dropped, mended)
