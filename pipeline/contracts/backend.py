"""What a backend is: something that turns a batch of frames into a batch of predictions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from pydantic import Field

from pipeline.contracts.component import ComponentConfig, Context
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Prediction


class Backend(Protocol):
    """One model, here or elsewhere. `open` and `close` are called once each and never while `infer` runs;
    `infer` is called by `concurrency` threads at once."""

    model: str
    """What the backend calls its model: stands in every result. Settled by `open`."""
    concurrency: int
    """How many `infer` calls may overlap: cores on a CPU, two on a GPU, the request window for HTTP."""
    max_batch: int
    """How many frames one `infer` call takes at the most."""

    def open(self) -> None:
        """Load and warm up; when it returns, the first frame is served at full speed.

        Raises:
            ConfigError: what is asked for cannot be had: no such model, unknown class name, no such device.
            TransientError: a server is not there yet.
            FatalError: it will not work until someone acts.
        """
        ...

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        """Predictions for 1 to `max_batch` frames: same length, same order.

        Raises:
            TransientError: this batch failed (counted), the next may not.
            FatalError: this backend is done for.
        """
        ...

    def describe(self) -> str:
        """What it runs and where, in a few words for the log; called once it is open."""
        ...

    def close(self) -> None:
        """Let everything go; called once after the last `infer` returned, also after an `open` that failed."""
        ...


class BackendConfig(ComponentConfig, ABC):
    """The keys that every backend has."""

    max_wait_s: float = Field(
        default=0.0, ge=0, le=10, description="wait so long for a batch to fill up with frames of all sources"
    )

    @abstractmethod
    def build(self, ctx: Context) -> Backend:
        """Make the backend; cheap, loads nothing."""

    def inspect(self) -> Sequence[str]:
        """What there is to know about the model without running the pipeline, as lines for `penstock inspect`.

        Raises:
            ConfigError: the model cannot be used, and why.
        """
        return ()
