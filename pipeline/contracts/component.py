"""What every plugin has: a frozen config class that builds it, and the `Context` that is all it gets from the core."""

import math
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pipeline.contracts.clock import Clock
from pipeline.contracts.packets import PacketRing

T = TypeVar("T")

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
"""The name of a source, backend or sink: also a metric label, a thread name and part of file names."""


def endless_is_none(value: object) -> object:
    """For a key where None means "for ever" or "never": TOML has no null, but it has `inf`; a variable only text."""
    return None if (isinstance(value, float) and value == math.inf) or value == "inf" else value


WhenFull = Literal["block", "drop_oldest", "drop_newest"]
"""What a full queue does with one more: wait, let the oldest go, or refuse the new one (both counted)."""


class Context(Protocol):
    """All that a plugin gets from the core. Made by the core, one for each component; usable from any thread."""

    @property
    def name(self) -> str:
        """The component's name in pipeline.toml."""
        ...

    @property
    def clock(self) -> Clock:
        """The clocks to use: plugins never ask `time` themselves."""
        ...

    @property
    def data_dir(self) -> Path:
        """A folder for state that must survive a restart; made on first use by who needs it."""
        ...

    @property
    def continues(self) -> bool:
        """True at a reload, for a sink that takes the place of one which wrote the same files: nothing of what that
        one wrote may be lost."""
        ...

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run a coroutine on the main loop and wait for it, from a worker thread.

        Raises:
            TimeoutError: after `timeout_s` seconds; the coroutine is cancelled.
        """
        ...

    def packets(self, source: str) -> PacketRing:
        """The ring of a source's encoded packets: its own for a source that has some, any of its sources' for a sink
        that records them."""
        ...

    def warn(self, message: str) -> None:
        """Tell the operator something once that is no failure: one log line under the component's name."""
        ...

    def fell_back(self, wanted: str, got: str, reason: str) -> None:
        """Tell the operator that a device could not be had, and what is used in its place ("cuda:0", "cpu", why): one
        log line each time, and a count."""
        ...

    def tell(self, state: str, detail: str, *, well: bool) -> None:
        """Tell the operator that the component's state changed ("circuit open", why): one log line, an event."""
        ...


class FrozenModel(BaseModel):
    """A piece of configuration: unknown keys are errors, values never change, equality is by value."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True
    )


class QueueConfig(FrozenModel):
    """The bounds of one source's lane in front of its backend, or of one sink's queue.

    What is not set is chosen by the runner: files wait (`block`), live sources let the oldest go (`drop_oldest`).
    """

    max_frames: int | None = Field(default=None, ge=1, le=10_000, description="at most this many frames")
    max_bytes: int | None = Field(default=None, ge=1, description="at most this many bytes of pictures")
    when_full: WhenFull | None = Field(default=None, description="block, drop_oldest or drop_newest")

    def merged(self, default: Self) -> Self:
        """This one, with `default`'s values where nothing is set."""
        return default.model_copy(update=self.model_dump(exclude_none=True))


class Finding(NamedTuple):
    """One thing that `penstock doctor` looked at.

    Attributes:
        ok: False when somebody should change something.
        subject: what was looked at, in a word or two.
        detail: what was found, and what to change where it is not ok; one line.
    """

    ok: bool
    subject: str
    detail: str


class ComponentConfig(FrozenModel):
    """The table of one component in pipeline.toml. A subclass narrows `type` to its literal and adds its keys."""

    type: str

    def check(self) -> None:
        """Find what is wrong without opening anything for long, importing anything heavy or changing anything.

        Called by `penstock check` and at every start, before the first component is opened.

        Raises:
            ConfigError: with the key to blame.
        """

    @classmethod
    def examine(cls) -> Sequence[Finding]:
        """Look at what a component of this type needs of the machine: libraries, devices; for `penstock doctor`."""
        return ()
