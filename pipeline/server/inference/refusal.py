"""`RefusedError`: a request that is not carried out, before a dialect has written it in its own form."""

from typing import Final

from pipeline.runtime.asking import AskError, AskFault

_STATUS_OF: Final[dict[AskFault, int]] = {
    "unknown": 404,
    "loading": 503,
    "unloaded": 503,
    "busy": 503,
    "late": 504,
    "failed": 500,
    "unsupported": 501,
    "stopping": 503,
}
_RETRY_AFTER_S = 1.0


class RefusedError(Exception):
    """A request that is not carried out; the dialect writes it in its own form.

    Attributes:
        status: of HTTP.
        message: what the client did wrong, or what is the matter; nothing about insides.
        retry_after_s: goes into `Retry-After`.
        kind: for dialects that name their errors; the `AskFault` where the models gave no answer.
    """

    def __init__(
        self, status: int, message: str, *, retry_after_s: float | None = None, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.kind = kind


def refusal_of(error: AskError) -> RefusedError:
    """How a client is told that the models gave no answer. All that is 503 may be worth another try."""
    status = _STATUS_OF[error.fault]
    retry_after_s = error.retry_after_s
    if status == 503 and retry_after_s is None:
        retry_after_s = _RETRY_AFTER_S
    return RefusedError(status, str(error), retry_after_s=retry_after_s, kind=error.fault)


def busy(message: str) -> RefusedError:
    """Too much is under way already; it is worth another try in a second."""
    return RefusedError(503, message, retry_after_s=_RETRY_AFTER_S, kind="busy")
