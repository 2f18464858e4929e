"""What a source is: something that yields frames, and never retries."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import Field

from pipeline.contracts.component import ComponentConfig, Context, Name, QueueConfig
from pipeline.contracts.frame import FailedFrame, Frame


class Source(Protocol):
    """One camera, file or folder. Built and read by its own thread; `frames` is called anew for every attempt."""

    live: bool
    """True: the newest frame wins, an end is a disconnect. False: no frame is lost, an end is the end."""

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        """Open, read, clean up: one generator with one `finally`.

        It ends at the end of the stream, or soon after `stop` is set; no call in it blocks without a time limit. It
        never yields a frame that it did not decode; a frame that it could not decode it yields as a `FailedFrame`.
        `Frame.seq` goes on where the generator before it ended.

        Raises:
            TransientError: it may work later; the runner comes again with back-off.
            FatalError: it will not work until someone acts.
        """
        ...


@runtime_checkable
class Counted(Protocol):
    """A source that knows how much is to come, for the progress bar."""

    @property
    def expected_frames(self) -> int | None:
        """How many frames it will yield in all, as well as it knows by now; None when it does not."""
        ...


class SourceConfig(ComponentConfig, ABC):
    """The keys that every source has: they are carried out by the runner around it, not by the plugin."""

    backend: Name | None = Field(default=None, description="name of the backend; may be left out while there is one")
    stride: int = Field(default=1, ge=1, description="take every n-th frame; the others are sampled out")
    max_fps: float | None = Field(default=None, gt=0, description="take at most this many frames of each second")
    max_staleness_s: float | None = Field(
        default=None, gt=0, description="drop a frame that waited longer than this for the backend"
    )
    queue: QueueConfig = Field(default=QueueConfig(), description="the bounds of the lane in front of the backend")

    @abstractmethod
    def build(self, ctx: Context) -> Source:
        """Make the source; cheap, opens nothing."""

    def reads(self) -> Sequence[Path]:
        """The files and folders that it reads, so that no sink is pointed at one of them."""
        return ()
