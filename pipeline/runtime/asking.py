"""What clients of the server may ask of the running pipeline's models: the interface between the two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.frame import Picture, Wishes
from pipeline.contracts.result import Embedding, Prediction

AskFault = Literal["unknown", "loading", "unloaded", "busy", "late", "failed", "unsupported", "stopping"]
"""Why there is no answer: no such model; not open yet; taken out by `unload`; too many wait already; it took too long;
the backend failed; the model does not do that; the program is on its way out."""


class AskError(Exception):
    """There is no answer.

    Attributes:
        fault: why.
        retry_after_s: when it may be worth to ask again; None: who knows.
    """

    def __init__(self, fault: AskFault, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Served:
    """One model that clients may use.

    Attributes:
        name: of the backend in pipeline.toml.
        aliases: what else it is called.
        type: the backend's type: "onnx", "roboflow".
        state: whether it answers.
        model: what the backend calls its model.
        info: about the model; None until it is ready for the first time.
        max_batch: how many pictures go into one run.
        texts: it puts texts into the same space as pictures.
        removable: `unload` may take it out: it is one of `[models]`, not one that cameras use.
    """

    name: str
    aliases: tuple[str, ...]
    type: str
    state: Literal["ready", "loading", "failed", "unloaded"]
    model: str
    info: ModelInfo | None
    max_batch: int
    texts: bool
    removable: bool

    @property
    def ids(self) -> tuple[str, ...]:
        """All that it is called, the aliases first: what clients of other servers know it by."""
        return (*self.aliases, self.name)


class Answer(NamedTuple):
    """What a model said about one picture.

    Attributes:
        prediction: what it said.
        backend: which backend answered; its fallback's name where that did.
        model: what that backend calls its model.
        inference_s: seconds that the backend spent on the picture.
    """

    prediction: Prediction
    backend: str
    model: str
    inference_s: float


class Asking(Protocol):
    """Called on the main loop."""

    def served(self) -> Sequence[Served]:
        """All models that clients may use, in the order of the file."""
        ...

    def find(self, model_id: str) -> Served | None:
        """The model that goes by this name or alias."""
        ...

    async def infer(
        self, model_id: str, pictures: Sequence[Picture], wishes: Wishes | None = None, *, timeout_s: float
    ) -> list[Answer]:
        """An answer for each picture, in their order. All share the model's queue with the cameras.

        Raises:
            AskError: there is none.
        """
        ...

    async def embed_texts(self, model_id: str, texts: Sequence[str], *, timeout_s: float) -> list[Embedding]:
        """A vector for each text.

        Raises:
            AskError: `unsupported` where the model takes no texts; or as `infer`.
        """
        ...

    async def load(self, model_id: str) -> Served:
        """Have a model that was unloaded loaded again; waits until it is ready.

        Raises:
            AskError: `unknown`, or it failed.
        """
        ...

    async def unload(self, model_id: str) -> Served:
        """Take a model out and free its memory.

        Raises:
            AskError: `unknown`; `unsupported` where cameras use it.
        """
        ...
