"""What the pipeline says of itself: alive, ready, and the whole status as JSON-ready data."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.contracts.clock import Clock
from pipeline.runtime.supervisor import Supervisor
from pipeline.telemetry.readings import SceneReading, SourceState, SpoolReading

STUCK_S = 30.0
"""A stage that has had work for so long and made no progress is not coming back."""

_GIVING = (SourceState.RUNNING, SourceState.ENDED)
_BRIEF = ("name", "state", "code", "last_frame_age_s", "required")


class Check(NamedTuple):
    """One thing that must hold, what is wrong if it does not, and what there is to say although it does."""

    name: str
    ok: bool
    detail: str = ""
    note: str = ""


class Status:
    """Made by the app for one supervisor; asked by the HTTP server, in the main thread.

    `redact` takes secrets out of what components say.
    """

    def __init__(
        self, supervisor: Supervisor, version: str, clock: Clock, redact: Callable[[str], str] = lambda text: text
    ) -> None:
        self._supervisor = supervisor
        self._version = version
        self._clock = clock
        self._redact = redact
        self._began_at = clock.monotonic()

    def live(self) -> list[Check]:
        """Is the process worth keeping? The loop answers, and no core worker has failed for good or is stuck."""
        supervisor = self._supervisor
        stuck = supervisor.watch.stuck(STUCK_S)
        return [
            *(
                Check(f"backend {backend.name}", backend.error is None, self._text(backend.error) or "")
                for backend in supervisor.topology.backends.values()
            ),
            Check("progress", not stuck, f"has work and does not move: {', '.join(stuck)}"),
        ]

    def ready(self) -> list[Check]:
        """Can it do its work? Backends warm, sinks open, required sources running, not stopping, not over."""
        topology = self._supervisor.topology
        configured = self._supervisor.settings.sources
        return [
            *(
                Check(
                    f"backend {name}",
                    (backend.covered or backend.unloaded) and backend.error is None,
                    self._text(backend.error) or "not warm yet",
                    "unloaded" if backend.unloaded else "on its fallback" * backend.on_fallback,
                )
                for name, backend in topology.backends.items()
            ),
            *(
                Check(
                    f"sink {name}",
                    sink.opened and sink.error is None,
                    self._text(sink.error) or "not open yet",
                    "" if sink.trouble is None else f"degraded: {self._redact(sink.trouble)[:200]}",
                )
                for name, sink in topology.sinks.items()
            ),
            Check(
                "sources",
                not topology.sources
                or not all(source.state is SourceState.FAILED for source in topology.sources.values()),
                "every source has failed",
            ),
            *(
                Check(f"source {name}", source.state in _GIVING, f"required, and {source.state.value}")
                for name, source in topology.sources.items()
                if name in configured and configured[name].required
            ),
            Check("running", not self._supervisor.stopping, "stopping, or all sources have ended"),
        ]

    def brief_sources(self) -> list[dict[str, Any]]:
        """For each source what a probe wants to know."""
        return [{key: source[key] for key in _BRIEF} for source in self._sources()]

    def whole(self) -> dict[str, Any]:
        """Everything: sources, backends and sinks with their counts."""
        supervisor = self._supervisor
        return {
            "version": self._version,
            "config_hash": supervisor.settings.config_hash,
            "uptime_s": round(self._clock.monotonic() - self._began_at, 3),
            "stopping": supervisor.stopping,
            "sources": list(self._sources()),
            "backends": [
                {
                    "name": name,
                    "model": backend.backend.model,
                    "ready": backend.ready,
                    "error": self._text(backend.error),
                    "on_fallback": backend.on_fallback,
                    "devices": list(backend.devices),
                }
                for name, backend in supervisor.topology.backends.items()
            ],
            "sinks": [
                {
                    "name": reading.name,
                    "open": supervisor.topology.sinks[reading.name].opened,
                    "state": reading.state.value,
                    "error": self._text(supervisor.topology.sinks[reading.name].error),
                    "trouble": self._text(supervisor.topology.sinks[reading.name].trouble),
                    "accepted": reading.accepted,
                    "restored": reading.restored,
                    "outcomes": dict(reading.outcomes),
                    "pending": reading.pending,
                    "spool": None if reading.spool is None else self._spool(reading.spool),
                }
                for reading in supervisor.read_sinks()
                if reading.name in supervisor.topology.sinks
            ],
        }

    def _sources(self) -> Iterator[dict[str, Any]]:
        settings, topology = self._supervisor.settings, self._supervisor.topology
        scenes = {scene.source: _scene(scene) for scene in self._supervisor.read_scenes()}
        for reading in self._supervisor.read_sources():
            runner, config = topology.sources.get(reading.name), settings.sources.get(reading.name)
            if runner is None or config is None:  # it is just being removed
                continue
            silent_s = runner.silent_s
            yield {
                "name": reading.name,
                "type": config.type,
                "state": reading.state.value,
                "code": None if runner.error is None else runner.error.source_code.value,
                "error": self._text(runner.error),
                "content": reading.content.value,
                "required": config.required,
                "backend": settings.backend_of(reading.name),
                "last_frame_at": reading.last_frame_at,
                "last_frame_age_s": None if silent_s is None else round(silent_s, 3),
                "decoded": reading.decoded,
                "skipped": reading.skipped,
                "outcomes": dict(reading.outcomes),
                "in_flight": reading.in_flight,
                "queued": reading.queued,
                "queue_capacity": reading.queue_capacity,
                "scene": scenes.get(reading.name),
                "details": {
                    key: self._redact(value) if isinstance(value, str) else value
                    for key, value in runner.details().items()
                },
            }

    def _spool(self, spool: SpoolReading) -> dict[str, Any]:
        age_s = None if spool.oldest_at is None else max(0.0, self._clock.wall() - spool.oldest_at)
        return {
            "bytes": spool.nbytes,
            "capacity_bytes": spool.capacity_bytes,
            "oldest_at": spool.oldest_at,
            "oldest_age_s": None if age_s is None else round(age_s, 3),
            "dead_letters": spool.letters,
            "dead_letters_dropped": spool.letters_dropped,
            "corrupt": spool.corrupt,
        }

    def _text(self, error: object) -> str | None:
        return None if error is None else self._redact(str(error))


def _scene(reading: SceneReading) -> dict[str, Any]:
    return {
        "tracks": reading.tracks,
        "zones": {zone: _present(counts) for zone, counts in reading.zones.items()},
        "lines": {line: {way: _present(c) for way, c in ways.items()} for line, ways in reading.lines.items()},
        "resumed_after_s": None if reading.resumed_after_s is None else round(reading.resumed_after_s, 3),
    }


def _present(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}
