"""`SourceRunner`: the thread around one source: sampling, retries, state, and its page of the ledger."""

import threading
from contextlib import closing

from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.source import Source
from pipeline.runtime.backoff import Backoff, BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.ledger import FrameOutcome, Page
from pipeline.runtime.queue import Lane
from pipeline.runtime.sampling import Sampler
from pipeline.telemetry.readings import SourceReading, SourceState

GOOD_SPELL_S = 60.0
"""After so long without a failure, the next one backs off from the beginning."""


class SourceRunner:
    """Made by the topology, started and joined by the supervisor; everything private runs in the runner's thread."""

    def __init__(
        self,
        name: str,
        source: Source,
        *,
        lane: Lane[Frame],
        page: Page,
        sampler: Sampler,
        surroundings: Surroundings,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self.source = source
        self.state = SourceState.STARTING
        self.error: PenstockError | None = None
        self._lane = lane
        self._page = page
        self._sampler = sampler
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._on_change = surroundings.changed
        self._backoff = backoff or Backoff()
        self._bugs = BugAllowance()
        self._reconnects = {code: surroundings.metrics.reconnects(name, code) for code in SourceErrorCode}
        self._decode_s = surroundings.metrics.stage("decode", source=name)
        self._stop = threading.Event()
        self._last_frame_at: float | None = None
        self._running_since = 0.0
        self._thread = threading.Thread(target=self._run, name=f"source-{name}", daemon=True)

    @property
    def ended(self) -> bool:
        """True once no frame will come any more."""
        return self.state in (SourceState.ENDED, SourceState.FAILED, SourceState.STOPPED)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the source to end soon; what it has given goes on. May be called again; instead of `start`, too."""
        self._stop.set()
        if self._thread.ident is None:
            self._lane.close()
            self._change(SourceState.STOPPED)

    def abandon(self) -> None:
        """The same as `stop`: a source holds nothing that could be given up."""
        self.stop()

    def close_lane(self) -> None:
        """Let the consumer see the end, whether or not the source has noticed."""
        self._lane.close()

    @property
    def threads(self) -> list[threading.Thread]:
        """The thread to join, once it was started."""
        return [self._thread]

    def read(self) -> SourceReading:
        """The source at this moment, for metrics and status."""
        account = self._page.read()
        return SourceReading(
            name=self.name,
            state=self.state,
            decoded=account.entered,
            outcomes=account.outcomes,
            in_flight=account.open,
            queued=len(self._lane),
            queue_capacity=self._lane.limits.max_items,
            last_frame_at=self._last_frame_at,
        )

    def _run(self) -> None:
        try:
            final = self._read_for_ever()
        except Exception as error:  # noqa: BLE001  (Penstock's own bug: this source is over, all others go on)
            self._events.bug(f"source {self.name}", error)
            final = self._failed(FatalError("internal error", code=SourceErrorCode.INTERNAL))
        self._lane.close()
        self._change(final)

    def _read_for_ever(self) -> SourceState:
        while not self._stop.is_set():
            try:
                consumed = self._read_once()
            except TransientError as error:
                self._wait_to_retry(error)
            except (FatalError, ConfigError) as error:
                return self._failed(error)
            except Exception as error:  # noqa: BLE001  (a plugin's bug: restarted a few times, then fatal)
                self._events.bug(f"source {self.name}", error)
                bug = TransientError(f"{type(error).__name__}: {error}", code=SourceErrorCode.INTERNAL)
                # A file read again from its beginning would give its frames twice: only a live source is restarted.
                if not self.source.live or not self._bugs.spend(self._clock.monotonic()):
                    return self._failed(bug)
                self._wait_to_retry(bug)
            else:
                if not consumed or self._stop.is_set():
                    break
                if not self.source.live:
                    self._events.source_ended(self.name, self._page.read().entered)
                    return SourceState.ENDED
                self._wait_to_retry(
                    TransientError("the stream ended", code=SourceErrorCode.CONNECTION_FAILED)
                )  # for a camera an end is a disconnect
        self._events.source_stopped(self.name, self._page.read().entered)
        return SourceState.STOPPED

    def _read_once(self) -> bool:
        """Read until the source ends; False when nobody takes the frames any more."""
        monotonic = self._clock.monotonic
        with closing(iter(self.source.frames(self._stop))) as frames:  # type: ignore[type-var]
            while self._lane.wait_for_room():
                asked_at = monotonic()
                item = next(frames, None)
                if item is None:
                    return True
                if isinstance(item, FailedFrame):
                    self._page.enter_settled(FrameOutcome.FAILED_DECODE)
                    self._events.frame_not_decoded(self.name, item.detail, item.file)
                    continue
                self._decode_s.observe(monotonic() - asked_at)
                self._last_frame_at = self._clock.wall()
                if self.state is not SourceState.RUNNING:
                    self._running_since = asked_at
                    self.error = None
                    self._change(SourceState.RUNNING)
                    self._events.source_up(self.name, None)
                if item.source != self.name:
                    raise RuntimeError(f"a frame of {item.source!r} came out of it")
                if not self._sampler.takes(item):
                    self._page.enter_settled(FrameOutcome.SAMPLED_OUT)
                    continue
                nbytes, decoded_at = item.picture.nbytes, item.decoded_at
                self._page.enter()
                if not self._lane.put(item, nbytes, decoded_at):
                    return False
                del item  # the lane's now: what waits for room holds no picture
            return False

    def _wait_to_retry(self, error: TransientError) -> None:
        if self.state is SourceState.RUNNING and self._clock.monotonic() - self._running_since > GOOD_SPELL_S:
            self._backoff.reset()
        delay_s = self._backoff.next_s(error.retry_after_s)
        self.error = error
        self._change(SourceState.RECONNECTING)
        self._reconnects[error.code or SourceErrorCode.INTERNAL].inc()
        self._events.source_down(self.name, _code_of(error), delay_s, error)
        self._stop.wait(delay_s)

    def _failed(self, error: PenstockError) -> SourceState:
        self.error = error
        self._events.source_failed(self.name, _code_of(error), error)
        return SourceState.FAILED

    def _change(self, state: SourceState) -> None:
        self.state = state
        self._on_change()


def _code_of(error: PenstockError) -> str:
    return (error.code or SourceErrorCode.INTERNAL).value
