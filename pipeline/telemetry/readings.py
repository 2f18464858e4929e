"""What the metrics read from the running pipeline at the moment of a scrape: counts kept elsewhere, never twice."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

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
    decoder: str | None = None  # "cpu", "cuda:0"; None where nothing is decoded, or not yet
    skipped: int = 0  # never decoded, because nobody would have wanted them


class SinkState(StrEnum):
    """What a sink is doing: the `state` label of `penstock_sink_state`."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPED = "stopped"


class SpoolReading(NamedTuple):
    """One spool at one moment.

    Attributes:
        nbytes: what waits takes of the capacity.
        capacity_bytes: `max_bytes`.
        oldest_at: Unix seconds; since when the oldest waits; None: nothing does.
        letters: dead letters.
        corrupt: how often something in it could not be read.
        letters_dropped: how many dead letters went to make room for others.
    """

    nbytes: int
    capacity_bytes: int
    oldest_at: float | None
    letters: int
    corrupt: int
    letters_dropped: int


class SinkReading(NamedTuple):
    """One sink at one moment: `accepted` + `restored` = sum of `outcomes` + `pending`."""

    name: str
    accepted: int
    outcomes: Mapping[str, int]
    pending: int
    restored: int = 0
    state: SinkState = SinkState.READY
    spool: SpoolReading | None = None
    mended: int = 0


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
        devices: of this machine that it runs on: "cpu", "cuda:0"; none before it is open, and for one elsewhere.
        max_batch: how many frames go into one run at the most, just now; None before it is open.
    """

    name: str
    elsewhere: BackendReading | None
    on_fallback: bool
    clients: ClientReading | None
    devices: tuple[str, ...] = ()
    max_batch: int | None = None


class SceneReading(NamedTuple):
    """What the results of one source said so far, at one moment; classes that could be there have a 0.

    Attributes:
        source: in pipeline.toml.
        tracks: how many objects are tracked; None: nothing tracks, or nobody knows.
        zones: for each zone how many of each class are inside; empty while nobody knows.
        lines: for each line and direction how many of each class have crossed.
        resumed_after_s: for how long nothing was counted before this run went on with the counts of the one before.
    """

    source: str
    tracks: int | None
    zones: Mapping[str, Mapping[str, int]]
    lines: Mapping[str, Mapping[Literal["in", "out"], Mapping[str, int]]]
    resumed_after_s: float | None


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

    def read_scenes(self) -> Iterable[SceneReading]:
        """All sources with tracking, zones or lines."""
        ...
