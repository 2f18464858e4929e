"""`HttpBackend`: one model elsewhere, whatever the protocol that its dialect speaks."""

import asyncio
import concurrent.futures
from collections.abc import Sequence

from pipeline.backends._http import Dialect, Sent
from pipeline.backends._http_budget import Budget
from pipeline.backends._http_call import Call, Counts
from pipeline.backends._http_circuit import CircuitBreaker, Ticket, Verdict, verdict_of
from pipeline.backends._http_client import HttpClient
from pipeline.backends._http_config import HttpBackendConfig
from pipeline.backends._http_exchange import LOOP_MARGIN_S, WAITS, Exchange
from pipeline.backends._http_window import Window
from pipeline.contracts.backend import BackendReading, ModelInfo
from pipeline.contracts.component import Context
from pipeline.contracts.errors import BackendErrorCode, FatalError, PenstockError, TransientError, UnavailableError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Prediction
from pipeline.contracts.tls import unverified

_CLOSES_WITHIN_S = 2.0
_OPENING_TAKES = 6  # times `timeout_s`: a dialect may ask several things, one after the other


class HttpBackend:
    """A model elsewhere. Made by a plugin's `build`; `infer` is called by `concurrency` threads at once.

    The threads encode pictures and check answers; what is sent and received is on the main loop, in one session.

    Args:
        config: the plugin's.
        ctx: the component's.
        dialect: the protocol.
    """

    def __init__(self, config: HttpBackendConfig, ctx: Context, dialect: Dialect) -> None:
        self.model = dialect.model or config.type
        # More threads than requests: while all requests are under way, the next pictures are encoded. Measured with 8
        # requests of 50 ms: 0.84 of the ideal rate without, 0.92 with.
        self.concurrency = config.max_concurrent_requests + max(1, config.max_concurrent_requests // 4)
        self.max_batch = max(1, min(config.max_batch_size, dialect.max_batch))
        self.patience_s = WAITS * config.timeout_s + LOOP_MARGIN_S  # a server that hangs is not a thread that does
        self._config = config
        self._ctx = ctx
        self._clock = ctx.clock
        self._dialect = dialect
        self._info: ModelInfo | None = None
        self._warned = False
        self._counts = Counts()
        self._budget = Budget.of(ctx, config.max_requests_per_day, config.max_bytes_per_day)
        self._window = Window(config.max_concurrent_requests, adaptive=config.adaptive, now_s=ctx.clock.monotonic)
        self._circuit = CircuitBreaker(
            config.circuit,
            config.where,
            ctx.clock.monotonic,
            lambda state, detail, well: ctx.tell(state, detail, well=well),
        )
        self._client = HttpClient(
            config,
            clock=ctx.clock,
            budget=self._budget,
            window=self._window,
            counts=self._counts,
            hold=self._circuit.hold,
        )
        self._exchange = Exchange(config, ctx, dialect)
        self._is_open = self._was_opened = False

    def open(self) -> None:
        """Ask the server about the model. May be called again after it failed.

        Raises:
            TransientError: the server is not there yet, or has no such model.
            ConfigError: with the key to blame.
        """
        config = self._config
        tls = config.tls()
        if tls is not None and not config.verify_tls and not self._warned:
            self._warned = True
            self._ctx.warn(unverified(config.where))
        self._budget.load()
        call = Call(self._client, self._counts, timeout_s=config.timeout_s, each=True)

        async def opening() -> ModelInfo | None:
            await self._client.open(tls)
            self._was_opened = True
            return await self._exchange.tracked(self._dialect.open(call), _OPENING_TAKES * config.timeout_s)

        fault: PenstockError | None = None
        try:
            self._info = self._ctx.call(opening(), _OPENING_TAKES * config.timeout_s + LOOP_MARGIN_S)
        except PenstockError as error:
            fault = error
            raise
        except (TimeoutError, concurrent.futures.CancelledError) as error:
            fault = TransientError(f"{config.where} takes too long to open", code=BackendErrorCode.TIMEOUT)
            raise fault from error
        except ValueError as error:
            fault = self._exchange.bad_answer(error)
            raise fault from error
        finally:
            call.settle(fault)
            self._budget.save(at_once=True)
        self._is_open = True
        self._circuit.release()
        self.model = self._dialect.model or config.type
        self.max_batch = max(1, min(config.max_batch_size, self._dialect.max_batch))

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        """Predictions for 1 to `max_batch` frames: same length, same order, in pixels of the frames.

        Raises:
            TransientError: with a `BackendErrorCode`.
            UnavailableError: the same, where the next frames will fare no better.
        """
        if not self._is_open:
            raise FatalError("the backend is not open")
        now = self._clock.monotonic()
        stale_at = min((frame.stale_at for frame in batch if frame.stale_at is not None), default=None)
        try:
            self._exchange.check_age(stale_at, now)
            self._budget.check()
            ticket = self._circuit.enter()
            if ticket.probe:
                self._probe(batch[0], ticket)
        except TransientError as error:
            self._counts.note(error.code or BackendErrorCode.STALE)
            raise
        call = self._call(batch, stale_at, ticket)
        verdict: Verdict = "failed"
        fault: PenstockError | None = None
        try:
            answer = self._exchange.ask(call, batch, now)
            verdict = "well"
        except PenstockError as error:
            fault, verdict = error, self._verdict(error, call)
            raise
        finally:
            call.settle(fault)
            self._circuit.leave(ticket, verdict, str(fault or ""))
            self._budget.save()
        return answer

    def describe(self) -> str:
        """Which model where, in a few words."""
        return self._dialect.describe()

    def info(self) -> ModelInfo:
        """About the model.

        Raises:
            TransientError: the server does not say.
        """
        if self._info is None:
            raise TransientError(f"{self._config.where} does not say what its model does")
        return self._info

    def read(self) -> BackendReading:
        """See `Measured`; from any thread."""
        return BackendReading(
            circuit=self._circuit.state,
            window=float(int(self._window.limit)),
            in_flight=self._window.in_flight,
            bytes_sent=self._counts.bytes_sent,
            requests=self._counts.outcomes(),
            retries=self._counts.retries,
            requests_today=self._budget.requests,
            bytes_today=self._budget.bytes,
        )

    def close(self) -> None:
        """End what is under way, on the server too, within two seconds; let the session go."""
        if not self._was_opened:
            return
        was_open, self._is_open, self._was_opened = self._is_open, False, False
        self._budget.save(at_once=True)
        self._ctx.call(self._close(farewell=was_open), _CLOSES_WITHIN_S + LOOP_MARGIN_S)

    def _call(self, batch: Sequence[Frame], stale_at: float | None, ticket: Ticket) -> Call:
        # A time-out that came soon, because the frame had waited long, says nothing about the server.
        timeout_s = whole_s = self._config.timeout_s
        for frame in batch:
            if frame.stale_at is not None:
                whole_s = min(whole_s, frame.stale_at - frame.decoded_at)
        call = Call(
            self._client,
            self._counts,
            timeout_s=timeout_s,
            stale_at=stale_at,
            whole_s=whole_s,
            pictures=len(batch),
            check=lambda: self._circuit.check(ticket),
            failed=lambda error: self._circuit.leave(ticket, self._verdict(error, call), str(error)),
        )
        return call

    def _verdict(self, error: PenstockError, call: Call) -> Verdict:
        unfair = error.code is BackendErrorCode.TIMEOUT and not call.is_fair
        return "neither" if unfair else verdict_of(error.code)

    def _probe(self, frame: Frame, ticket: Ticket) -> None:
        """Ask a server that failed about a copy of the frame, and do not wait for it: the frame itself is refused.

        A server that hangs would else hold up, by a time-out at each try, all results that wait behind this frame's.

        Raises:
            UnavailableError: always, unless it is a bug.
        """
        started = False
        try:
            sent = self._exchange.encode([frame])
            self._ctx.call(self._begin_probe(self._call([], None, ticket), sent, ticket), LOOP_MARGIN_S)
            started = True
        finally:
            if not started:
                self._circuit.leave(ticket, "neither")
        raise UnavailableError(
            f"{self._config.where} failed: it is tried with a copy of this frame",
            code=BackendErrorCode.CIRCUIT_OPEN,
            retry_after_s=0.1,
        )

    async def _begin_probe(self, call: Call, sent: Sequence[Sent], ticket: Ticket) -> None:
        self._exchange.begin(self._finish_probe(call, sent, ticket))

    async def _finish_probe(self, call: Call, sent: Sequence[Sent], ticket: Ticket) -> None:
        exchange = self._exchange
        verdict: Verdict = "neither"
        fault: PenstockError | None = None
        try:
            exchange.scaled_back(await exchange.infer(call, sent, self._config.timeout_s), sent)
            verdict = "well"
        except PenstockError as error:
            fault, verdict = error, verdict_of(error.code)
        except Exception as error:  # noqa: BLE001  (a bug: raised by the next frame's own request, were it let through)
            fault, verdict = exchange.bad_answer(error), "failed"
        finally:
            call.settle(fault)
            self._circuit.leave(ticket, verdict, str(fault or ""))

    async def _close(self, *, farewell: bool) -> None:
        self._exchange.cancel()
        call = Call(self._client, self._counts, timeout_s=_CLOSES_WITHIN_S)
        try:
            async with asyncio.timeout(_CLOSES_WITHIN_S):
                await self._exchange.ended()
                if farewell:
                    await self._dialect.close(call)
        except (TimeoutError, PenstockError, ValueError) as error:
            self._ctx.warn(f"{self._config.where} was left without a farewell: {error or 'too late'}")
        finally:
            call.settle(None)
            await self._client.close()
