"""What the pipeline says of itself: alive, ready, and the whole status as JSON-ready data."""

from typing import Any, NamedTuple

from pipeline.contracts.clock import Clock
from pipeline.runtime.supervisor import Supervisor
from pipeline.telemetry.readings import SourceState


class Check(NamedTuple):
    """One thing that must hold, and what is wrong if it does not."""

    name: str
    ok: bool
    detail: str = ""


class Status:
    """Made by the app for one supervisor; asked by the HTTP server, in the main thread."""

    def __init__(self, supervisor: Supervisor, version: str, clock: Clock) -> None:
        self._supervisor = supervisor
        self._version = version
        self._clock = clock
        self._began_at = clock.monotonic()

    def live(self) -> list[Check]:
        """Is the process worth keeping? The loop answers, and no core worker has failed for good."""
        topology = self._supervisor.topology
        return [
            Check(f"backend {backend.name}", backend.error is None, str(backend.error or ""))
            for backend in topology.backends.values()
        ]

    def ready(self) -> list[Check]:
        """Can it do its work? Backends warm, sinks open, a source that has not failed, not stopping, not over."""
        topology = self._supervisor.topology
        sources = topology.sources.values()
        return [
            *(
                Check(f"backend {name}", backend.ready and backend.error is None, str(backend.error or "not warm yet"))
                for name, backend in topology.backends.items()
            ),
            *(
                Check(f"sink {name}", sink.opened and sink.error is None, str(sink.error or "not open yet"))
                for name, sink in topology.sinks.items()
            ),
            Check(
                "sources", not all(source.state is SourceState.FAILED for source in sources), "every source has failed"
            ),
            Check("running", not self._supervisor.stopping, "stopping, or all sources have ended"),
        ]

    def whole(self) -> dict[str, Any]:
        """Everything: sources, backends and sinks with their counts."""
        supervisor = self._supervisor
        return {
            "version": self._version,
            "config_hash": supervisor.settings.config_hash,
            "uptime_s": round(self._clock.monotonic() - self._began_at, 3),
            "stopping": supervisor.stopping,
            "sources": [
                {
                    "name": reading.name,
                    "state": reading.state.value,
                    "error": _text(supervisor.topology.sources[reading.name].error),
                    "decoded": reading.decoded,
                    "outcomes": dict(reading.outcomes),
                    "in_flight": reading.in_flight,
                    "queued": reading.queued,
                    "last_frame_at": reading.last_frame_at,
                }
                for reading in supervisor.read_sources()
            ],
            "backends": [
                {
                    "name": name,
                    "model": backend.backend.model,
                    "ready": backend.ready,
                    "error": _text(backend.error),
                }
                for name, backend in supervisor.topology.backends.items()
            ],
            "sinks": [
                {
                    "name": reading.name,
                    "open": supervisor.topology.sinks[reading.name].opened,
                    "error": _text(supervisor.topology.sinks[reading.name].error),
                    "accepted": reading.accepted,
                    "outcomes": dict(reading.outcomes),
                    "pending": reading.pending,
                }
                for reading in supervisor.read_sinks()
            ],
        }


def _text(error: object) -> str | None:
    return None if error is None else str(error)
