"""What a backend is: something that turns a batch of frames into a batch of predictions."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import Field, StringConstraints

from pipeline.contracts.component import ComponentConfig, Context, Name
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.result import Embedding, Prediction

Task = Literal[
    "object-detection",
    "instance-segmentation",
    "keypoint-detection",
    "classification",
    "multi-label-classification",
    "semantic-segmentation",
    "embedding",
    "text",
]
"""What a model does, in Roboflow's words; `embedding`: picture to vector (CLIP), `text`: picture to text."""

TextsAre = Literal["labels", "question"]
"""What `Wishes.texts` are to a model: what it chooses from; or a question, which comes first, and behind it what was
asked and answered before, in turns."""

MAX_TEXTS = 1000
"""So many texts may go with one picture, or into one `embed_texts`."""

MAX_TEXT_CHARS = 10_000
"""So long may each of them be."""

Alias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,3}$", max_length=200)]
"""A model's id as clients elsewhere call it: `coco/9`, `facebook/detr-resnet-50`."""


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


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What others need to know of an open backend's model, to offer it to clients.

    Attributes:
        task: what it does.
        labels: names of its classes; () where it has none.
        input_size: width and height that it is fed; None where it takes any.
        keypoints: names of the keypoints.
        texts: what `Wishes.texts` are to it; None: it does not look at them (or it is a `TextEncoder`, which compares).
    """

    task: Task
    labels: tuple[str, ...] = ()
    input_size: Size | None = None
    keypoints: tuple[str, ...] = ()
    texts: TextsAre | None = None


@runtime_checkable
class Servable(Protocol):
    """A backend whose model can be offered to clients."""

    def info(self) -> ModelInfo:
        """About the model; called once it is open."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """A backend that puts texts into the same space as pictures, as CLIP does."""

    def embed_texts(self, texts: Sequence[str]) -> Sequence[Embedding]:
        """A vector for each text, in their order; called like `infer`, by the same threads.

        Raises:
            TransientError: as `infer`.
        """
        ...


@runtime_checkable
class Grouping(Protocol):
    """A backend that runs only frames of one kind together; what it takes at once is of one kind, then."""

    def kind_of(self, frame: Frame) -> Hashable:
        """The frame's kind; cheap, from any thread, also before `open`: the queue asks with its lock held."""
        ...


@runtime_checkable
class Located(Protocol):
    """A backend that runs on a device of this machine."""

    device: str
    """Which one: "cpu", "cuda:0", "cuda:0,cuda:1"; settled by `open`, and another one after a fallback."""


class Circuit(StrEnum):
    """Whether a backend elsewhere is asked at all: the `state` label of `penstock_backend_circuit_state`."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BackendReading(NamedTuple):
    """A backend elsewhere, at one moment.

    Attributes:
        circuit: whether it is asked.
        window: how many requests may be under way just now (adaptive).
        in_flight: how many are.
        bytes_sent: of request bodies, since the start, retries included.
        requests: that were sent, retries included, by what became of them: "ok" or a `BackendErrorCode`.
        retries: how many of them were not the first attempt.
        requests_today: counted against `max_requests_per_day`.
        bytes_today: counted against `max_bytes_per_day`.
    """

    circuit: Circuit
    window: float
    in_flight: int
    bytes_sent: int
    requests: "dict[str, int]"
    retries: int
    requests_today: int
    bytes_today: int


@runtime_checkable
class Measured(Protocol):
    """A backend that can be looked at, at every scrape, from any thread."""

    def read(self) -> BackendReading:
        """How it is; never waits."""
        ...


@runtime_checkable
class Patient(Protocol):
    """A backend that waits for somebody else, and gives up by itself: it is not stuck before that."""

    @property
    def patience_s(self) -> float:
        """Seconds that one `infer` may wait."""
        ...


class BackendConfig(ComponentConfig, ABC):
    """The keys that every backend has."""

    fallback: Name | None = Field(
        default=None, description="the backend that gets the frames which this one cannot answer"
    )
    serve: bool = Field(default=True, description="offer the model to clients of the HTTP server")
    aliases: tuple[Alias, ...] = Field(
        default=(), description='what clients may call the model besides its name, for example "coco/9"'
    )

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
