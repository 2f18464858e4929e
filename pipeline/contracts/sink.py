"""What a sink is: somewhere results go, one thread and one bounded queue each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol, Self, runtime_checkable

from pydantic import BeforeValidator, Field, model_validator

from pipeline.contracts.component import ComponentConfig, Context, FrozenModel, Name, QueueConfig, endless_is_none
from pipeline.contracts.event import Event, ObjectEventKind
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


@runtime_checkable
class Attentive(Protocol):
    """A sink that takes events, in order with the results of their source: only what its configuration asks for."""

    def notice(self, event: Event) -> None:
        """Deliver one event; called like `write`, by the same thread, and raises the same."""
        ...


@runtime_checkable
class Ticking(Protocol):
    """A sink that has something to do now and then although nothing comes: to rotate, to flush, to look at the disk."""

    def tick(self) -> None:
        """Called like `write`, by the same thread, about once a second; raises the same."""
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


@runtime_checkable
class Mending(Protocol):
    """A sink that repairs what a crash tore in its files, and counts it."""

    @property
    def mended(self) -> int:
        """How many torn ends it cut off since it was made; read from any thread."""
        ...


Emit = Literal["frames", "events", "changes"]
"""What goes to a sink: the result of each frame; what objects do (`ObjectEvent`); or the results that differ from the
one before."""

Notices = Literal["sources", "daemon"]


class WhereConfig(FrozenModel):
    """The `where` of a sink: which objects it is about; what is left out asks for nothing."""

    classes: tuple[str, ...] | None = Field(default=None, description="only these classes")
    min_confidence: float = Field(default=0.0, ge=0, le=1, description="only what the model is so sure of")
    zones: tuple[Name, ...] | None = Field(
        default=None, description="only what is inside of one of these zones; of events: stays in them"
    )
    lines: tuple[Name, ...] | None = Field(default=None, description="of events: only crossings of these lines")
    kinds: tuple[ObjectEventKind, ...] | None = Field(
        default=None,
        description='of events: only "object", "presence", "zone" or "crossing"; what `zones` and `lines` name if left '
        "out, or all where these are left out, too",
    )
    min_area_ratio: float = Field(default=0.0, ge=0, le=1, description="only boxes of this share of the picture")
    max_area_ratio: float = Field(default=1.0, gt=0, le=1, description="no larger boxes")
    min_age_s: float = Field(default=0.0, ge=0, description="only what has been tracked for so long")

    @model_validator(mode="after")
    def _some_area(self) -> Self:
        if self.min_area_ratio > self.max_area_ratio:
            raise ValueError(
                f"min_area_ratio = {self.min_area_ratio:g} must not be greater than max_area_ratio = "
                f"{self.max_area_ratio:g}"
            )
        return self


class LimitConfig(FrozenModel):
    """The `limit` of a sink: how often, for each source and class; what is held back is counted."""

    cooldown_s: float = Field(default=0.0, ge=0, description="after one, no other for so long")
    per_minute: float | None = Field(default=None, gt=0, description="at most so many in a minute")


class SinkConfig(ComponentConfig, ABC):
    """The keys that every sink has: they are carried out by the runner around it."""

    takes_events: ClassVar[bool] = False
    """Whether it is `Attentive`: only then may `emit = "events"` and `notices` be asked of it."""

    file_per_source: ClassVar[bool] = False
    """Whether two sources cannot go into one file, as two cameras cannot into one video."""

    sources: tuple[Name, ...] | None = Field(default=None, description="only results of these sources; all if left out")
    queue: QueueConfig = Field(default=QueueConfig(), description="the bounds of the queue in front of the sink")
    emit: Emit = Field(
        default="frames",
        description='"frames": the result of each; "events": what objects do; "changes": results with something new',
    )
    where: WhereConfig | None = Field(default=None, description="only some objects; frames without any are left out")
    limit: LimitConfig = Field(default=LimitConfig(), description="how often, for each source and class")
    update_every_s: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(endless_is_none)] = Field(
        default=5.0, description="of events: how often it is told that one goes on, and what it looks like; inf: never"
    )
    notices: tuple[Notices, ...] = Field(
        default=(), description='tell it also what becomes of its "sources" (down, frozen), or of the "daemon" itself'
    )

    @abstractmethod
    def build(self, ctx: Context) -> Sink:
        """Make the sink; cheap, opens nothing."""

    def writes(self, source: str) -> Sequence[Path]:
        """The files that it writes for one source, as far as known now: two sinks, or a sink and a source, on one
        file are a config error."""
        return ()
