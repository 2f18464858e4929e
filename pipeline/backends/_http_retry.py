"""What a failed attempt means and what is done about it: codes and waits. Pure."""

import random
import re
from collections.abc import Mapping

from pipeline.backends._http_config import RetryConfig
from pipeline.contracts.errors import BackendErrorCode, TransientError, UnavailableError
from pipeline.wire.http import retry_after, seconds_in, words_of

_LOADING = re.compile(r"\bloading\b", re.IGNORECASE)
_RETRIED_STATUS = frozenset({408, 429, 502, 503, 504})
# Whoever answers so has not begun: safe to repeat whatever it was.
_NOT_BEGUN_STATUS = frozenset({429})
_CODES = {
    401: BackendErrorCode.AUTH,
    402: BackendErrorCode.AUTH,
    403: BackendErrorCode.AUTH,
    404: BackendErrorCode.NOT_FOUND,
    408: BackendErrorCode.TIMEOUT,
    410: BackendErrorCode.NOT_FOUND,
    429: BackendErrorCode.RATE_LIMITED,
}


class FailedAttemptError(Exception):
    """One attempt failed. Raised and caught within the machinery.

    Attributes:
        error: what is raised if there is no other attempt.
        code: why.
        again: another attempt may go better.
        retry_after_s: the server's own wish.
        reached: False: nothing of the request can have been looked at.
        overloaded: it was too much for the server.
    """

    def __init__(
        self,
        error: TransientError,
        code: BackendErrorCode,
        *,
        again: bool,
        retry_after_s: float | None = None,
        reached: bool = True,
        overloaded: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.code = code
        self.again = again
        self.retry_after_s = retry_after_s
        self.reached = reached
        self.overloaded = overloaded

    @property
    def is_answer(self) -> bool:
        """The server said something."""
        return self.code not in {BackendErrorCode.TIMEOUT, BackendErrorCode.CONNECTION, BackendErrorCode.STALE}


def failed(
    message: str, code: BackendErrorCode, *, again: bool = False, reached: bool = True, overloaded: bool = False
) -> FailedAttemptError:
    """An attempt that no status tells of."""
    error = TransientError(message, code=code)
    return FailedAttemptError(error, code, again=again, reached=reached, overloaded=overloaded)


def judge(where: str, status: int, headers: Mapping[str, str], body: bytes, wall_s: float) -> FailedAttemptError:
    """What an answer with a status of 300 or more means.

    Args:
        where: the server.
        status: of HTTP.
        headers: of the answer, found whatever their case.
        body: of the answer, or its beginning.
        wall_s: Unix seconds, for a Retry-After that is a date.
    """
    words, document = words_of(headers, body)
    estimate_s = seconds_in(document.get("estimated_time"))
    retry_after_s = retry_after(headers.get("Retry-After"), wall_s)
    said = f": {words}" if words else ""
    if status == 503 and (estimate_s is not None or _LOADING.search(words)):
        # An estimate is when to come back at the latest: it is tried before, as the other waits say.
        error: TransientError = UnavailableError(
            f"{where} is loading the model{said}",
            code=BackendErrorCode.LOADING,
            retry_after_s=retry_after_s or estimate_s,
        )
        return FailedAttemptError(error, BackendErrorCode.LOADING, again=True, retry_after_s=retry_after_s)
    code = _CODES.get(status)
    if code is None:
        code = BackendErrorCode.SERVER_ERROR if status >= 500 else BackendErrorCode.REJECTED
    if status < 400:
        said = ", a redirection, which is not followed"
    error = TransientError(f"{where} answered {status}{said}", code=code, retry_after_s=retry_after_s)
    return FailedAttemptError(
        error,
        code,
        again=status in _RETRIED_STATUS,
        retry_after_s=retry_after_s if status in _RETRIED_STATUS else None,
        reached=status not in _NOT_BEGUN_STATUS,
        overloaded=status in {429, 503, 504},
    )


def wait_s(retries: RetryConfig, attempt: int, wish_s: float | None, rng: random.Random) -> float:
    """How long to wait after attempt number `attempt` (from 1): full jitter, never less than the server's own wish."""
    ceiling_s = min(retries.max_s, 2 * retries.min_s * 2 ** min(attempt - 1, 32))
    return max(rng.uniform(0.0, ceiling_s), wish_s or 0.0)
