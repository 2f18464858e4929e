"""`Call`: the `Client` that a dialect is given for one `infer` or `open`; and `Counts`, what became of requests."""

import threading
from collections.abc import Callable
from typing import Protocol

from pipeline.backends._http import Request, Response
from pipeline.contracts.errors import BackendErrorCode, PenstockError, TransientError

OK = "ok"
_FAIR_SHARE = 0.5


class Session(Protocol):
    """What sends in the end: `HttpClient`."""

    async def send(self, request: Request, call: "Call", limit: float | None) -> Response:
        """See `HttpClient.send`."""
        ...


class Counts:
    """What was sent and what became of it, read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes = dict.fromkeys([OK, *BackendErrorCode], 0)
        self.retries = 0
        self.bytes_sent = 0

    def note(self, outcome: object) -> None:
        """One request, or one frame that was not even asked about, ended so."""
        with self._lock:
            self._outcomes[outcome] += 1

    def note_sent(self, size_bytes: int, *, again: bool) -> None:
        """One attempt is on its way."""
        with self._lock:
            self.bytes_sent += size_bytes
            self.retries += again

    def outcomes(self) -> dict[str, int]:
        """By outcome: "ok" or a `BackendErrorCode`; all of them, from the start."""
        with self._lock:
            return {str(outcome): count for outcome, count in self._outcomes.items()}


class Call:
    """What a dialect may send for one `infer` or `open`: the `Client` that it is given. Lives on the main loop.

    Args:
        client: the session.
        counts: where the outcome of each request is noted.
        timeout_s: for all requests together, from the first one's start.
        stale_at: monotonic seconds; nothing is sent or waited for beyond it.
        whole_s: of how much time a fair share must be left for a time-out to say something about the server.
        pictures: in the request, to compare like with like; None: it is no inference.
        check: raises `UnavailableError` where nothing may be sent any more.
        failed: told of a failure that is final while its place in the window is still taken.
        each: the time-out is for each request, not for all together.
    """

    def __init__(
        self,
        client: Session,
        counts: Counts,
        *,
        timeout_s: float,
        stale_at: float | None = None,
        whole_s: float = 0.0,
        pictures: int | None = None,
        check: Callable[[], None] = lambda: None,
        failed: Callable[[TransientError], None] = lambda _: None,
        each: bool = False,
    ) -> None:
        self.stale_at = stale_at
        self.pictures = pictures
        self.check = check
        self.failed = failed
        self.is_fair = True
        self._client = client
        self._counts = counts
        self._timeout_s = timeout_s
        self._whole_s = whole_s
        self._each = each
        self._deadline: float | None = None
        self._announced: float | None = None
        self._answers = 0
        self._counted: PenstockError | None = None

    def announce(self, now: float) -> float:
        """The deadline that the dialect is told of, as if the first request began now.

        The dialect hands it back with its requests: then it means nothing else than the call's own.
        """
        self._announced = self._until(now)
        return self._announced

    def begin(self, now: float, *, anew: bool) -> float:
        """The deadline of a request that has a place now.

        Args:
            now: monotonic seconds.
            anew: it is its first attempt.
        """
        if self._deadline is None or (self._each and anew):
            self._deadline = self._until(now)
            self.is_fair = self._deadline - now >= _FAIR_SHARE * self._whole_s
        return self._deadline

    def _until(self, now: float) -> float:
        until = now + self._timeout_s
        return until if self.stale_at is None else min(until, self.stale_at)

    async def send(self, request: Request, *, deadline: float | None = None) -> Response:
        """See `Client.send`."""
        try:
            return await self._client.send(request, self, None if deadline == self._announced else deadline)
        except PenstockError as error:
            self._counted = error
            raise

    @property
    def was_answered(self) -> bool:
        """At least one request was."""
        return self._answers > 0

    def note_answer(self) -> None:
        """A request was answered. Whether the answer is any good turns out later."""
        self._answers += 1

    def settle(self, error: PenstockError | None) -> None:
        """All is over: answers count as "ok", but the last one as what was found to be wrong with it."""
        code = error.code if error is not None and error is not self._counted else None
        if isinstance(code, BackendErrorCode):
            self._answers = max(0, self._answers - 1)
            self._counts.note(code)
        for _ in range(self._answers):
            self._counts.note(OK)
        self._answers = 0
