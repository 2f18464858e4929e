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


class PenstockError(Exception):
    """What all deliberate errors have in common: a message for the operator, and a code for the metrics.

    Args:
        message: one line, without credentials, that says what is wrong and where.
        code: one of `SourceErrorCode` for sources; `None` elsewhere.
    """

    def __init__(self, message: str, *, code: SourceErrorCode | None = None) -> None:
        super().__init__(message)
        self.code = code


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
        self, message: str, *, code: SourceErrorCode | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class FatalError(PenstockError):
    """It will not work until someone acts: this component stops, all others go on."""
