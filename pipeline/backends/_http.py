"""What the backends elsewhere share: one `HttpBackend` around a dialect that knows its protocol and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.result import Prediction
from pipeline.wire.http import Part


@dataclass(frozen=True, slots=True)
class Sent:
    """One frame's picture as it goes out: shrunk, encoded. Made by `HttpBackend`, in a worker's thread.

    Attributes:
        frame: where it comes from.
        data: the JPEG or PNG file.
        media_type: "image/jpeg" or "image/png".
        size: width and height as sent; boxes in the answer count in these pixels.
    """

    frame: Frame
    data: bytes
    media_type: str
    size: Size


@dataclass(frozen=True, slots=True)
class Request:
    """One request; its body is rebuilt for each attempt.

    Attributes:
        method: of HTTP.
        path: behind the configured `url`, "" for the URL itself; or a whole URL on the same server.
        query: in order; values that are None are left out.
        headers: on top of the configured ones; `Authorization` is added by the machinery where the config says so.
        body: the bytes, or the parts of a multipart form.
        json: in place of `body`: an object to be sent as application/json.
        retry: False: what could have happened on the server may not happen twice.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str | None]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Sequence[Part] | None = None
    json: Any = None
    retry: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer with a status below 300, within `max_response_bytes`."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """Of `Content-Type`, in lower case, without parameters; "" without."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


class Client(Protocol):
    """Sends requests for a dialect, on the main loop: retries, back-off, circuit, budgets, limits, counts."""

    async def send(self, request: Request, *, deadline: float | None = None) -> Response:
        """The answer.

        Args:
            request: what to send.
            deadline: monotonic seconds after which it is worth nothing; None: the configured time-out alone.

        Raises:
            TransientError: with a `BackendErrorCode`, after as many attempts as there was time for.
            UnavailableError: circuit open, budget used up, model loading.
        """
        ...


class Dialect(Protocol):
    """One protocol. Made by a plugin's `build`; `open` and `infer` run on the main loop."""

    model: str
    """What the model is called: stands in every result. Settled by `open`."""
    max_batch: int
    """Pictures in one request, at most; the config's `max_batch_size` bounds it further. Settled by `open`."""

    async def open(self, client: Client) -> ModelInfo | None:
        """Ask the server about the model; called until it succeeds. None: it does not say.

        Raises:
            TransientError: not yet. ConfigError: never, with the key to blame.
        """
        ...

    async def infer(self, client: Client, pictures: Sequence[Sent], deadline: float | None) -> Sequence[Prediction]:
        """A prediction for each picture, in pixels of what was sent: `HttpBackend` scales it back to the frame.

        Raises:
            TransientError: with code BAD_ANSWER where the answer makes no sense (wire codecs raise ValueError, which
                `HttpBackend` turns into that by itself); or what `Client.send` raises.
        """
        ...

    def describe(self) -> str:
        """Which model where, in a few words, without secrets."""
        ...

    async def close(self, client: Client) -> None:
        """End what is under way on the server."""
        ...
