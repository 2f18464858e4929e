"""What the metrics read from the running pipeline at the moment of a scrape: counts kept elsewhere, never twice."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

from pipeline.contracts.backend import BackendReading
from pipeline.contracts.scene import ContentState


class SourceState(StrEnum):
    """What a source is doing: the `state` label of `penstock_source_state`."""

    STARTING = "starting"
    RUNNING = "running"
    RECONNECTING = "reconnecting"
    PAUSED = "paused"
    ENDED = "ended"
    FAILED = "failed"
    STOPPED = "stopped"


class SourceReading(NamedTuple):
    """One source at one moment: `decoded` = sum of `outcomes` + `in_flight`."""

    name: str
    state: SourceState
    decoded: int
    outcomes: Mapping[str, int]
    in_flight: int
    queued: int
    queue_capacity: int
    last_frame_at: float | None  # Unix seconds
    content: ContentState = ContentState.OK
    corrupt: int = 0
    time_jumps: int = 0
    clock_offset_s: float | None = None


class SinkReading(NamedTuple):
    """One sink at one moment: `accepted` = sum of `outcomes` + `pending`."""

    name: str
    accepted: int
    outcomes: Mapping[str, int]
    pending: int


class ClientReading(Protocol):
    """Pictures that clients asked a backend about: `entered` = sum of `outcomes` + `open`."""

    @property
    def entered(self) -> int:
        """All of them."""
        ...

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How they ended."""
        ...

    @property
    def open(self) -> int:
        """Those on their way."""
        ...


class BackendState(NamedTuple):
    """One backend at one moment.

    Attributes:
        name: in pipeline.toml.
        elsewhere: how a backend elsewhere is; None for one that runs here.
        on_fallback: another one answers for it.
        clients: what clients asked of it; None while none did.
    """

    name: str
    elsewhere: BackendReading | None
    on_fallback: bool
    clients: ClientReading | None


class Readings(Protocol):
    """Whoever can be read: the supervisor."""

    def read_sources(self) -> Iterable[SourceReading]:
        """All sources."""
        ...

    def read_sinks(self) -> Iterable[SinkReading]:
        """All sinks."""
        ...

    def read_backends(self) -> Iterable[BackendState]:
        """All backends."""
        ...

    def read_stuck(self) -> Mapping[tuple[str, str], float]:
        """By kind and name of a stage: for how many seconds it has had work and made no progress."""
        ...
