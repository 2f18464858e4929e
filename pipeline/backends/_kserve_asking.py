"""What both kinds of KServe models share: the keys of the config, and how a model is asked."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol
from urllib.parse import quote

from pydantic import Field, Strict, StringConstraints

from pipeline.backends._http import Client, Request, Sent
from pipeline.backends._http_config import HttpBackendConfig
from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.result import Prediction
from pipeline.models.families import FamilyName
from pipeline.models.preprocess import PreprocessConfig
from pipeline.wire.kserve import HEADER, InferRequest, InferResponse, decode_response, encode_request, header_length
from pipeline.wire.kserve_models import Metadata

_NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,3}$"
_VERSION = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"

Side = Annotated[int, Field(ge=32, le=8192)]


class KserveKeys(HttpBackendConfig, ABC):
    """All keys but `type`; `KserveBackendConfig` is made of it."""

    model_name: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NAME)] = Field(
        description="as the server calls it"
    )
    model_version: Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=_VERSION)] | None = Field(
        default=None, description="which version; the server's choice if left out"
    )
    binary: bool = Field(
        default=True, description="send tensors as raw buffers; false: as JSON, which all servers take"
    )
    confidence: float | None = Field(default=None, ge=0, le=1, description="boxes with a lower score are dropped")
    iou_threshold: float | None = Field(default=None, ge=0, le=1, description="boxes that overlap more are one object")
    max_detections: int | None = Field(default=None, ge=1, le=10_000, description="at most this many boxes a frame")
    class_agnostic_nms: bool | None = Field(
        default=None, description="boxes of different classes suppress each other, too"
    )
    keypoint_confidence: float | None = Field(
        default=None, ge=0, le=1, description="keypoints with a lower score were not found"
    )
    classes: tuple[Annotated[int, Strict()] | str, ...] | None = Field(
        default=None, min_length=1, description="names or numbers of the classes to keep; all if left out"
    )
    labels: ConfigPath | tuple[str, ...] | None = Field(
        default=None, description="class names, or a text file with one a line; the server's own if left out"
    )
    keypoints: tuple[str, ...] | None = Field(
        default=None, min_length=1, max_length=1000, description="names of the keypoints; the server's if left out"
    )
    task: Task | None = Field(default=None, description="what the model does, where the server does not say")
    family: Literal["auto"] | FamilyName = Field(default="auto", description="how the output of a bare model is read")
    input_size: Side | tuple[Side, Side] | None = Field(
        default=None, description="side, or [width, height], that a bare model with a dynamic input is fed"
    )
    preprocess: PreprocessConfig = Field(
        default=PreprocessConfig(), description="where a bare model wants something else than its family"
    )

    @property
    def path(self) -> str:
        """Of the model on its server."""
        version = "" if self.model_version is None else f"/versions/{quote(self.model_version, safe='')}"
        return f"/v2/models/{quote(self.model_name)}{version}"


@dataclass(frozen=True, slots=True)
class Described:
    """What a server says about its model.

    Attributes:
        metadata: inputs and outputs.
        said: the texts among the parameters of its configuration; empty where it tells none.
        max_batch: what it takes at once; None where it does not say.
    """

    metadata: Metadata
    said: Mapping[str, str]
    max_batch: int | None


class Asker(Protocol):
    """One kind of model. Made by `open` of the dialect; its coroutine runs on the main loop."""

    info: ModelInfo
    """About the model."""
    max_batch: int
    """Pictures in one request."""
    sends_files: bool
    """Pictures go out as JPEG or PNG files; else as the numbers that the model is fed."""

    async def infer(self, client: Client, pictures: Sequence[Sent], deadline: float | None) -> Sequence[Prediction]:
        """See `Dialect`."""
        ...

    def describe(self) -> str:
        """What it does and how it is fed, in a few words."""
        ...


async def ask(client: Client, config: KserveKeys, request: InferRequest, deadline: float | None) -> InferResponse:
    """One request for inference. Blocks for as long as encoding and decoding take: for small ones, or in pieces.

    Raises:
        TransientError: as `Client.send`.
        ValueError: the answer is none.
    """
    body = encode_request(request, binary=config.binary)
    headers = {"Content-Type": body.media_type}
    if body.header_length is not None:
        headers[HEADER] = str(body.header_length)
    response = await client.send(
        Request("POST", f"{config.path}/infer", headers=headers, body=body.data), deadline=deadline
    )
    return decode_response(response.body, length_of(response.headers))


def length_of(headers: Mapping[str, str]) -> int | None:
    """What `HEADER` says, however it is spelled. Raises ValueError."""
    return header_length(next((value for name, value in headers.items() if name.lower() == HEADER.lower()), None))
