"""The metrics, by the names in the README: counts are read at scrape time (`collector.py`), times are observed.

Everything hangs on a registry of its own, made for one run: two pipelines in one process do not share a number.
"""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder

from pipeline.contracts.result import Detections
from pipeline.telemetry.collector import ReadingsCollector
from pipeline.telemetry.device_families import Copies, DeviceCollector
from pipeline.telemetry.readings import Readings
from pipeline.telemetry.scene_families import DWELL_BUCKETS_S, Dwell

STAGE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
AGE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
MAX_CLASSES = 200
"""More classes than this in `detections_total` are counted together as "other": a label set must have a bound."""


class Metrics:
    """All metrics of one run. Made by the app; children are bound once by whoever observes them, from any thread."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("penstock_build", "Which Penstock this is.", registry=self._registry).info({"version": version})
        self._config = Info("penstock_config", "Which configuration is in force.", registry=self._registry)
        stage = ("stage", "source", "backend", "sink")
        self._stage_s = Histogram(
            "penstock_stage_duration_seconds",
            "Time that one frame, or one batch of results, took in one stage.",
            stage,
            buckets=STAGE_BUCKETS_S,
            registry=self._registry,
        )
        self._age_s = Histogram(
            "penstock_frame_age_seconds",
            "Time from the decoder to the stage named.",
            ("source", "stage"),
            buckets=AGE_BUCKETS_S,
            registry=self._registry,
        )
        self._batch_frames = Histogram(
            "penstock_inference_batch_frames",
            "Frames in one batch.",
            ("backend",),
            buckets=BATCH_BUCKETS,
            registry=self._registry,
        )
        self._requests = Counter(
            "penstock_backend_requests",
            "Batches given to a backend, by how they ended: ok, fatal, bug, transient or the code of the failure.",
            ("backend", "code"),
            registry=self._registry,
        )
        self._lent = Counter(
            "penstock_backend_fallback_frames",
            "Frames of a backend that its fallback inferred.",
            ("backend",),
            registry=self._registry,
        )
        self._device_fallbacks = Counter(
            "penstock_device_fallbacks",
            "How often a component went on with another device than the one it wanted.",
            ("source", "backend", "sink", "wanted", "got"),
            registry=self._registry,
        )
        self._reconnects = Counter(
            "penstock_source_reconnects",
            "Attempts to open a source again, by the code of the failure before.",
            ("source", "code"),
            registry=self._registry,
        )
        self._detections = Counter(
            "penstock_detections", "Objects found.", ("source", "class"), registry=self._registry
        )
        self._held_back = Counter(
            "penstock_sink_held_back",
            "Events and results that the sink's `limit` held back.",
            ("sink", "source"),
            registry=self._registry,
        )
        self._left_out = Counter(
            "penstock_sink_left_out",
            "Results without anything that the sink's `where` or `emit` asks for.",
            ("sink", "source"),
            registry=self._registry,
        )
        self._dwell_s = Histogram(
            "penstock_zone_dwell_seconds",
            "How long objects that left a zone had been inside.",
            ("source", "zone", "class"),
            buckets=DWELL_BUCKETS_S,
            registry=self._registry,
        )

        self._answers = Counter(
            "penstock_requests",
            "Requests of clients who use the models, by protocol and HTTP status; 499: the client did not wait.",
            ("dialect", "code"),
            registry=self._registry,
        )
        self._answer_s = Histogram(
            "penstock_request_duration_seconds",
            "Time from a request's head to its answer, the body's coming included.",
            ("dialect",),
            buckets=AGE_BUCKETS_S,
            registry=self._registry,
        )

        self._reloads = Counter(
            "penstock_config_reloads", "Attempts to reload the configuration.", ("outcome",), registry=self._registry
        )
        for outcome in ("ok", "failed"):
            self._reloads.labels(outcome)

    def set_config_hash(self, config_hash: str) -> None:
        """Say which configuration is in force."""
        self._config.info({"hash": config_hash})

    def read_from(self, readings: Readings) -> None:
        """Let every scrape read the counts from here; called once, when the pipeline is built."""
        self._registry.register(ReadingsCollector(readings))

    def read_devices(self, read: Callable[[], Mapping[str, Copies]]) -> None:
        """Let every scrape read what was copied from and to GPUs here; called once, by the app."""
        self._registry.register(DeviceCollector(read))

    def forget(self, *, source: str = "", backend: str = "", sink: str = "") -> None:
        """Remove the series of a component that is no more."""
        label, value = next(pair for pair in (("source", source), ("backend", backend), ("sink", sink)) if pair[1])
        for metric in (
            self._stage_s,
            self._age_s,
            self._batch_frames,
            self._requests,
            self._lent,
            self._device_fallbacks,
            self._reconnects,
            self._detections,
            self._held_back,
            self._left_out,
            self._dwell_s,
        ):
            if label in metric._labelnames:
                metric.remove_by_labels({label: value})

    def offer(self, dialect: str) -> None:
        """Models are offered in this protocol: show its numbers from the start."""
        self._answers.labels(dialect, "200")
        self._answer_s.labels(dialect)

    def answered(self, dialect: str, status: int, took_s: float) -> None:
        """One request of a client who uses the models is over."""
        self._answers.labels(dialect, str(status)).inc()
        self._answer_s.labels(dialect).observe(took_s)

    def count_reload(self, *, ok: bool) -> None:
        """One attempt to reload is over."""
        self._reloads.labels("ok" if ok else "failed").inc()

    def stage(self, stage: str, *, source: str = "", backend: str = "", sink: str = "") -> Histogram:
        """The child to observe seconds on: bind it once, not per frame."""
        return self._stage_s.labels(stage, source, backend, sink)

    def age(self, source: str, stage: str) -> Histogram:
        """The child to observe a frame's age on, in seconds."""
        return self._age_s.labels(source, stage)

    def batch_frames(self, backend: str) -> Histogram:
        """The child to observe batch sizes on."""
        return self._batch_frames.labels(backend)

    def requests(self, backend: str, code: str) -> Counter:
        """The counter of one way in which a batch can end."""
        return self._requests.labels(backend, code)

    def fallback_frames(self, backend: str) -> Counter:
        """The counter of a backend's frames that another one inferred."""
        return self._lent.labels(backend)

    def device_fallback(self, kind: str, name: str, wanted: str, got: str) -> Counter:
        """The counter of one component ("source", "backend" or "sink") and what it took in place of what."""
        who = (name if kind == each else "" for each in ("source", "backend", "sink"))
        return self._device_fallbacks.labels(*who, wanted, got)

    def reconnects(self, source: str, code: str) -> Counter:
        """The counter of one reason for reconnecting."""
        return self._reconnects.labels(source, code)

    def held_back(self, sink: str, source: str) -> Counter:
        """The counter of what the limit of a sink held back of a source."""
        return self._held_back.labels(sink, source)

    def left_out(self, sink: str, source: str) -> Counter:
        """The counter of a source's results in which there was nothing for a sink."""
        return self._left_out.labels(sink, source)

    def detections(self, source: str) -> "DetectionCounter":
        """What counts the objects found in one source, by class."""
        return DetectionCounter(self._detections, source)

    def dwell(self, source: str) -> Dwell:
        """What measures the stays in the zones of one source."""
        return Dwell(self._dwell_s, source)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What a scrape gets: the body and its content type, as the `Accept` header wishes."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class DetectionCounter:
    """Counts one source's objects by class, with a bound on the number of classes. Used by one thread at a time."""

    def __init__(self, counter: Counter, source: str) -> None:
        self._counter = counter
        self._source = source
        self._children: dict[int, Counter] = {}

    def count(self, found: Detections) -> None:
        """Count the objects of one frame."""
        for index, class_id in enumerate(found.class_id.tolist()):
            child = self._children.get(class_id)
            if child is None:
                if len(self._children) < MAX_CLASSES:
                    child = self._counter.labels(self._source, found.label(index))
                    self._children[class_id] = child
                else:
                    child = self._counter.labels(self._source, "other")
            child.inc()
