"""The three deliberate errors: the class of an error is the decision what to do about it.

Anything else that a plugin raises is a bug: the runner logs a traceback, restarts the plugin up to five times in a
minute, and then treats it as fatal.
"""

from enum import StrEnum


class SourceErrorCode(StrEnum):
    """Why a source failed: a bounded set, used as a metric label."""

    CONNECTION_FAILED = "CONNECTION_FAILED"
    AUTH_FAILED = "AUTH_FAILED"
    TLS = "TLS"
    TIMEOUT = "TIMEOUT"
    NOT_FOUND = "NOT_FOUND"
    CODEC_UNSUPPORTED = "CODEC_UNSUPPORTED"
    STALLED = "STALLED"
    CORRUPT = "CORRUPT"
    INTERNAL = "INTERNAL"


class BackendErrorCode(StrEnum):
    """Why a backend elsewhere gave no answer: a bounded set, the `code` label of `penstock_backend_requests_total`."""

    TIMEOUT = "timeout"  # no answer within the deadline
    CONNECTION = "connection"  # refused, reset, cut off, no such host
    TLS = "tls"
    AUTH = "auth"  # 401, 403, 402
    NOT_FOUND = "not_found"  # 404, 410: no such model, or no such path
    REJECTED = "rejected"  # another 4xx: it does not want what it was sent
    RATE_LIMITED = "rate_limited"  # 429
    LOADING = "loading"  # 503 that says so: the model is on its way
    SERVER_ERROR = "server_error"  # another 5xx
    BAD_ANSWER = "bad_answer"  # 200, and nothing that can be used
    TOO_LARGE = "too_large"  # an answer over the limit
    CIRCUIT_OPEN = "circuit_open"  # not even asked: it failed too often
    BUDGET = "budget"  # not even asked: as much as may be was sent today
    STALE = "stale"  # not asked (again): the frame would be too old


class PenstockError(Exception):
    """What all deliberate errors have in common: a message for the operator, and a code for the metrics.

    Args:
        message: one line, without credentials, that says what is wrong and where.
        code: one of `SourceErrorCode` for sources, of `BackendErrorCode` for backends elsewhere; `None` otherwise.
    """

    def __init__(self, message: str, *, code: SourceErrorCode | BackendErrorCode | None = None) -> None:
        super().__init__(message)
        self.code = code

    @property
    def source_code(self) -> SourceErrorCode:
        """The code as a source's: INTERNAL where it has none."""
        return self.code if isinstance(self.code, SourceErrorCode) else SourceErrorCode.INTERNAL


class ConfigError(PenstockError):
    """The configuration (or the command line) is wrong: exit code 78, one line, no traceback.

    Args:
        message: what is wrong, and what would be right.
        key: the key inside the component's own table that is to blame, e.g. `"classes"`; `None` if it is all of it.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class TransientError(PenstockError):
    """It may work later: the runner tries again with back-off.

    Args:
        message: as in `PenstockError`.
        code: as in `PenstockError`.
        retry_after_s: the other side's own wish, in seconds; at least this long is waited.
    """

    def __init__(
        self,
        message: str,
        *,
        code: SourceErrorCode | BackendErrorCode | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class UnavailableError(TransientError):
    """The backend will not answer for a while, and says so without being asked: its circuit is open, its model is
    loading, its budget is used up. Frames go to its `fallback`, if it has one."""


class FatalError(PenstockError):
    """It will not work until someone acts: this component stops, all others go on."""


class EnoughError(FatalError):
    """Whoever takes the results wants no more of them (`| head -1`): this sink ends, and that is no failure."""
