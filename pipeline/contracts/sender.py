"""What a sink is that sends over a network: it packs and sends; a spool in front of it keeps what is not sent yet."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, Self

from pydantic import ByteSize, Field, model_validator

from pipeline.contracts.component import Context, FrozenModel
from pipeline.contracts.errors import PenstockError, TransientError
from pipeline.contracts.event import Event
from pipeline.contracts.result import Result
from pipeline.contracts.sink import SinkConfig

ParcelKind = Literal["result", "event", "notice"]
"""result: of a frame. event: an `ObjectEvent`. notice: of a source or the daemon itself, not in the ledger."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One thing to be sent: what the spool keeps. Made by the sink that will send it, never changed.

    Attributes:
        id: `id` of the result or event: the idempotency key, the same at every attempt.
        source: name of the source: those of one source are sent in order; "" for the daemon's own.
        kind: what it is.
        body: what to send, as packed.
        picture: a JPEG that goes along, or nothing.
        about: whatever the sink wants to remember for sending it: an MQTT topic, a key. Short.
        accepted_at: Unix seconds at which the spool took it, 0.0 before; on a clock that never goes back.
    """

    id: str
    source: str
    kind: ParcelKind
    body: bytes
    picture: bytes = b""
    about: str = ""
    accepted_at: float = 0.0

    @property
    def nbytes(self) -> int:
        """What it takes of the spool's `max_bytes`."""
        return len(self.body) + len(self.picture) + len(self.about) + 100


class RefusedError(PenstockError):
    """The other side will never take this: it goes to the dead letters with what was answered.

    Of several parcels each is sent again alone, to find out which one it is.

    Args:
        message: one line, without credentials.
        answer: what the other side said, at most 1,000 characters are kept.
        delivered: so many from the front did arrive.
    """

    def __init__(self, message: str, *, answer: str = "", delivered: int = 0) -> None:
        super().__init__(message)
        self.answer = answer
        self.delivered = delivered


class UndeliveredError(TransientError):
    """Not now: it stays in the spool and is sent again with back-off; the first `delivered` did arrive."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, delivered: int = 0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.delivered = delivered


class Sender(Protocol):
    """A sink behind a spool. `open`, `pack` and `close` are called by one thread; `send` by up to `concurrency` others
    at once, never with parcels of one source twice at the same time."""

    wants_pictures: bool
    concurrency: int
    max_items: int
    """As many parcels of one source as one `send` takes."""

    max_wait_s: float
    """So long may be waited for that many."""

    def open(self) -> None:
        """Get ready, without needing the other side: results are accepted while it is away.

        Raises:
            ConfigError: what is asked for cannot be had, e.g. a certificate that cannot be read.
            FatalError: it will not work until someone acts.
        """
        ...

    def pack(self, item: Result | Event) -> Parcel:
        """What to send for it; everything that a later attempt, perhaps after a restart, will need."""
        ...

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Send 1 to `max_items` parcels of one source, in order. When it returns, the other side has them.

        Connects where it has to; waits no longer than its own time-out.

        Raises:
            TransientError: (or `UndeliveredError`) not now; tried again with back-off, `retry_after_s` is kept.
            RefusedError: never.
            FatalError: nothing more is sent until someone acts (HTTP 410); what is in the spool stays there.
        """
        ...

    def close(self) -> None:
        """Called once, after the last `send`, also after an `open` that failed."""
        ...


class BufferConfig(FrozenModel):
    """The `buffer` of a sink that sends: where results wait until the other side has them."""

    type: Literal["disk", "memory"] = Field(
        default="disk", description="disk: survives the end of the process; memory: does not"
    )
    max_bytes: Annotated[ByteSize, Field(ge=1 << 16)] = Field(
        default=ByteSize(256 << 20), description='at most so much waits, e.g. "256MiB"'
    )
    max_age_s: float | None = Field(default=None, gt=0, description="what waits longer is dropped; never if left out")
    when_full: Literal["drop_oldest", "block"] = Field(
        default="drop_oldest", description="drop_oldest: counted; block: the sources wait"
    )
    sync_interval_s: float = Field(
        default=1.0, ge=0, le=60, description="what is older survives a power cut; 0: everything that was accepted"
    )
    min_free_bytes: ByteSize = Field(default=ByteSize(64 << 20), description="leave so much of the disk free")


class RetryConfig(FrozenModel):
    """The `retry` of a sink that sends: the delay doubles from `min_s` to `max_s`, with full jitter."""

    min_s: float = Field(default=0.5, gt=0, le=3600, description="about the first delay")
    max_s: float = Field(default=60.0, gt=0, le=86_400, description="wait at most so long")
    max_attempts: int | None = Field(
        default=None, ge=1, description="then it goes to the dead letters; tried for ever if left out"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s = {self.min_s:g} must not be greater than max_s = {self.max_s:g}")
        return self


class SenderConfig(SinkConfig):
    """The keys that every sink has that sends over a network: the spool and the runner carry them out."""

    buffer: BufferConfig = Field(default=BufferConfig(), description="where results wait until they have arrived")
    retry: RetryConfig = Field(default=RetryConfig(), description="the delays between attempts")
    order: Literal["oldest_first", "newest_first", "live_first"] = Field(
        default="oldest_first",
        description="what is sent first after an interruption; live_first: what comes does not wait for the backlog",
    )
    drain_rate: float | None = Field(
        default=None, gt=0, description="send at most so many of a backlog a second; as fast as it goes if left out"
    )

    @abstractmethod
    def build(self, ctx: Context) -> Sender:  # type: ignore[override]  # the topology puts a spool in front
        """Make the sender; cheap, opens nothing."""
