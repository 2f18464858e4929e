"""What a sink is: somewhere results go, one thread and one bounded queue each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pydantic import Field

from pipeline.contracts.component import ComponentConfig, Context, Name, QueueConfig
from pipeline.contracts.result import Result


class Sink(Protocol):
    """Where results go. All three methods are called by one thread, its own, and `write` never after `close`."""

    wants_pictures: bool
    """False: frames come without pixels (`NoPicture`), so that a long queue holds no memory."""

    def open(self) -> None:
        """Get ready.

        Raises:
            ConfigError: what is asked for cannot be had, e.g. a folder that cannot be written.
            TransientError: not ready yet.
            FatalError: it will not work until someone acts.
        """
        ...

    def write(self, results: Sequence[Result]) -> None:
        """Deliver 1 or more results, oldest first. When it returns, they count as delivered.

        Raises:
            TransientError: these were not delivered (counted as failed), the next may be.
            FatalError: this sink is done for.
        """
        ...

    def close(self) -> None:
        """Finish what was begun (files complete under their final name). Called once, also after an `open` that failed.

        Raises:
            FatalError: what was written is not complete.
        """
        ...

    def written(self) -> Sequence[str]:
        """What there is to show for it, for the summary at the end: file names, as the user named them."""
        ...


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """Something about a source that is no result: it went away, came back, or shows other pictures than it did.

    Attributes:
        id: unique to this event and the same in every sink: 32 hex digits.
        source: name of the source in pipeline.toml.
        kind: "state": the connection, "content": what the pictures show.
        value: the state that it is in now, e.g. "reconnecting", "running", "frozen".
        code: why, for a source that failed.
        detail: one line for people, without credentials.
        at: Unix seconds.
    """

    id: str
    source: str
    kind: Literal["state", "content"]
    value: str
    code: str | None
    detail: str
    at: float


@runtime_checkable
class Attentive(Protocol):
    """A sink that can be told of its sources' events, in order with their results."""

    wants_events: bool
    """False: it is told of none."""

    def notice(self, event: SourceEvent) -> None:
        """Deliver one event; called like `write`, by the same thread, and raises the same."""
        ...


@runtime_checkable
class Releasing(Protocol):
    """A sink that keeps something open for each of its sources."""

    def release(self, source: str) -> None:
        """Finish what was begun for this source: it was removed, or goes elsewhere, and its last result was written.

        Called like `write`, by the same thread, and raises the same. Should the source come back, `write` is called
        with its results again.
        """
        ...


class SinkConfig(ComponentConfig, ABC):
    """The keys that every sink has: they are carried out by the runner around it."""

    sources: tuple[Name, ...] | None = Field(default=None, description="only results of these sources; all if left out")
    queue: QueueConfig = Field(default=QueueConfig(), description="the bounds of the queue in front of the sink")

    @abstractmethod
    def build(self, ctx: Context) -> Sink:
        """Make the sink; cheap, opens nothing."""

    def writes(self, source: str) -> Sequence[Path]:
        """The files that it writes for one source, as far as known now: two sinks, or a sink and a source, on one
        file are a config error."""
        return ()
