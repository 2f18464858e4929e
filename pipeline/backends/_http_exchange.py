"""`Exchange`: what is sent of a batch, what comes back of it, and the tasks on the main loop that do it."""

import asyncio
import concurrent.futures
import struct
import zlib
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.backends._http import Dialect, Sent
from pipeline.backends._http_call import Call
from pipeline.backends._http_config import HttpBackendConfig
from pipeline.backends._http_pictures import encode, scaled_back
from pipeline.contracts.component import Context
from pipeline.contracts.errors import BackendErrorCode, TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Prediction, Timings
from pipeline.wire.http import shorten

T = TypeVar("T")

LOOP_MARGIN_S = 5.0
WAITS = 4  # times `timeout_s`, for a place in the window: there are a few more threads than places
_GRACE_S = 0.25  # the requests' own limits come first: they know what was waited for
# What a codec raises that trips over a document instead of refusing it. That is a bug of ours, but one that a server
# can bring about as often as it likes: it costs the frame, never the backend.
_TRIPPED = (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, struct.error, zlib.error)


class Exchange:
    """Made by `HttpBackend`, which decides whether there is one at all: circuit, budget and window are its own.

    `encode` and `ask` belong to the workers; what is `async`, `begin` and `cancel` to the main loop; the rest to both.
    """

    def __init__(self, config: HttpBackendConfig, ctx: Context, dialect: Dialect) -> None:
        self._config = config
        self._ctx = ctx
        self._clock = ctx.clock
        self._dialect = dialect
        self._under_way: set[asyncio.Task[Any]] = set()

    def check_age(self, stale_at: float | None, now: float) -> None:
        """Ask only what somebody still wants.

        Raises:
            TransientError: it is too late.
        """
        if stale_at is not None and stale_at <= now:
            raise TransientError(f"too late to ask {self._config.where}", code=BackendErrorCode.STALE)

    def ask(self, call: Call, batch: Sequence[Frame], began_at: float) -> Sequence[Prediction]:
        """Encode the batch, ask, check the answer; from a worker, which waits for it.

        Raises:
            TransientError: with a `BackendErrorCode`.
        """
        sent = self.encode(batch)
        encoded_at = self._clock.monotonic()
        self.check_age(call.stale_at, encoded_at)
        longest_s = WAITS * self._config.timeout_s if call.stale_at is None else call.stale_at - encoded_at
        try:
            found = self._ctx.call(self.infer(call, sent, longest_s), longest_s + LOOP_MARGIN_S)
        except TimeoutError as error:
            raise self._late() from error
        except concurrent.futures.CancelledError as error:
            raise TransientError("the backend is being closed", code=BackendErrorCode.CONNECTION) from error
        answered_at = self._clock.monotonic()
        answer = self.scaled_back(found, sent)
        share = 1 / len(batch)
        timings = Timings(
            (encoded_at - began_at) * share,
            (answered_at - encoded_at) * share,
            (self._clock.monotonic() - answered_at) * share,
        )
        return [replace(each, timings=timings) for each in answer]

    def encode(self, batch: Sequence[Frame]) -> list[Sent]:
        """What is sent of these frames; from a worker."""
        config = self._config
        if not getattr(self._dialect, "sends_files", True):  # it makes what it sends of the frames themselves
            return [Sent(frame, b"", "", frame.picture.size) for frame in batch]
        return [encode(frame, config.max_size, config.format, config.jpeg_quality) for frame in batch]

    def scaled_back(self, found: Sequence[Prediction], sent: Sequence[Sent]) -> list[Prediction]:
        """The predictions in pixels of the frames.

        Raises:
            TransientError: they are no answer to what was sent.
        """
        try:
            if len(found) != len(sent):
                raise self.bad_answer(ValueError(f"{len(found)} results for {len(sent)} pictures"))
            return [scaled_back(one, its.size, its.frame.picture.size) for one, its in zip(found, sent, strict=True)]
        except ValueError as error:
            raise self.bad_answer(error) from error

    async def infer(self, call: Call, sent: Sequence[Sent], longest_s: float) -> Sequence[Prediction]:
        """What the dialect makes of the answer, unchecked; what it trips over as an error of the frame."""
        deadline = call.announce(self._clock.monotonic())
        try:
            return await self.tracked(self._dialect.infer(call, sent, deadline), longest_s)
        except TimeoutError as error:
            raise self._late() from error
        except ValueError as error:
            raise self.bad_answer(error) from error
        except _TRIPPED as error:
            if not call.was_answered:
                raise
            raise self.bad_answer(error) from error

    def _late(self) -> TransientError:
        return TransientError(f"no answer from {self._config.where} in time", code=BackendErrorCode.TIMEOUT)

    async def tracked(self, work: Coroutine[Any, Any, T], limit_s: float) -> T:
        """Do it in a task that `cancel` can end, within the limit."""
        task = self.begin(work)
        async with asyncio.timeout(limit_s + _GRACE_S):
            return await task

    def bad_answer(self, fault: Exception) -> TransientError:
        """What is told where an answer cannot be used."""
        name = "" if isinstance(fault, ValueError) else f"{type(fault).__name__}: "
        message = f"the answer of {self._config.where} cannot be used: {name}{shorten(str(fault))}"
        return TransientError(message, code=BackendErrorCode.BAD_ANSWER)

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do it in a task that `cancel` can end."""
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    def cancel(self) -> None:
        """End what is under way."""
        for task in self._under_way:
            task.cancel()

    async def ended(self) -> None:
        """Wait until nothing is under way."""
        if self._under_way:
            await asyncio.wait(self._under_way)
