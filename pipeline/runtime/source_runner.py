"""`SourceRunner`: the thread around one source: sampling, gating, retries, state, and its page of the ledger."""

import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from pipeline.analytics.liveness import ContentWatch
from pipeline.analytics.motion import MotionGate
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.scene import ContentState
from pipeline.contracts.sink import SourceEvent
from pipeline.contracts.source import Described, LiveSourceConfig, Source, SourceConfig
from pipeline.runtime.backoff import Backoff, BugAllowance
from pipeline.runtime.context import Surroundings
from pipeline.runtime.ledger import FrameOutcome
from pipeline.runtime.orders import Orders
from pipeline.runtime.port import Port
from pipeline.runtime.route import Route, Waiting
from pipeline.runtime.sampling import Sampler
from pipeline.telemetry.readings import SourceReading, SourceState

GOOD_SPELL_S = 60.0
"""After so long without a failure, the next one backs off from the beginning."""


@dataclass(frozen=True, slots=True)
class Handling:
    """What the runner does with a source's frames and failures, as its table says."""

    sampler: Sampler
    gate: MotionGate | None = None
    content: ContentWatch | None = None
    backoff: Backoff | None = None
    give_up_at_once: bool = False
    silence_s: float | None = None

    @classmethod
    def of(cls, config: SourceConfig, source: Source) -> "Handling":
        """From the keys that every source has, and those of live ones."""
        sampler = Sampler(config.stride, config.max_fps)
        gate = MotionGate(config.motion) if config.motion is not None else None
        content = ContentWatch(config.liveness) if source.live and config.liveness.enabled else None
        if not isinstance(config, LiveSourceConfig):
            return cls(sampler, gate, content)
        backoff = Backoff(config.reconnect.min_s, config.reconnect.max_s)
        give_up_at_once = config.on_startup_error == "error"
        return cls(sampler, gate, content, backoff, give_up_at_once, config.stall_timeout_s)


class SourceRunner:
    """Made by the topology, started and joined by the supervisor; what is private runs in the runner's own thread.

    At a reload a source is tried while the one that it will replace still runs: `start` without a port. It is opened,
    its first frame is held, and `go` says where to; an error before that is kept in `trial_error`.
    """

    def __init__(
        self, name: str, source: Source, *, route: Route, handling: Handling, surroundings: Surroundings
    ) -> None:
        self.name = name
        self.source = source
        self.state = SourceState.STARTING
        self.error: PenstockError | None = None
        self.trial_error: PenstockError | None = None
        self.primed = False
        self._route = route
        self._page = route.page
        self._handling = handling
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._on_change = surroundings.changed
        self._backoff = handling.backoff or Backoff()
        self._bugs = BugAllowance()
        self._reconnects = {code: surroundings.metrics.reconnects(name, code) for code in SourceErrorCode}
        self._decode_s = surroundings.metrics.stage("decode", source=name)
        self._orders = Orders()
        self._port: Port[Waiting] | None = None
        self._go = threading.Event()
        self._last_frame_at: float | None = None
        self._heard_at = 0.0  # monotonic; of the last frame, or of the moment from which one could be expected
        self._running_since = 0.0
        self._down_since: float | None = None
        self._content = ContentState.OK
        self._corrupt = self._time_jumps = 0
        self._clock_offset_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"source-{name}", daemon=True)

    @property
    def ended(self) -> bool:
        """True once no frame will come any more."""
        return self.state in (SourceState.ENDED, SourceState.FAILED, SourceState.STOPPED)

    def start(self, port: Port[Waiting] | None = None) -> None:
        """Begin to read; without a port as a trial."""
        if port is not None:
            self.go(port)
        self._thread.start()

    def go(self, port: Port[Waiting]) -> None:
        """The frames go there from now on."""
        self._port = port
        self._go.set()

    @property
    def is_paused(self) -> bool:
        """Whether somebody paused it."""
        return self._orders.paused

    @property
    def port(self) -> Port[Waiting] | None:
        """Where the frames go; None before `go`."""
        return self._port

    def stop(self) -> None:
        """Ask the source to end soon; what it has given goes on. May be called again; instead of `start`, too."""
        self._orders.stop()
        self._go.set()
        if self._thread.ident is None:
            self.close_lane()
            self._change(SourceState.STOPPED)

    def pause(self) -> None:
        """Read no more until `resume`; a live source is closed, a file is held where it is."""
        self._orders.pause(interrupt=self.source.live)
        self._events.source_paused(self.name)

    def resume(self) -> None:
        """Go on reading."""
        self._orders.resume()
        self._events.source_resumed(self.name)

    def restart(self) -> None:
        """Open a live source anew, now."""
        self._orders.interrupt()
        self._events.source_restarted(self.name)

    def abandon(self) -> None:
        """The same as `stop`: a source holds nothing that could be given up."""
        self.stop()

    def close_lane(self) -> None:
        """Let the consumer see the end, whether or not the source has noticed."""
        if self._port is not None:
            self._port.close()

    def check_silence(self) -> None:
        """Take a live source for lost that has not given a frame for too long and has not noticed; main thread."""
        limit_s = self._handling.silence_s
        silent_s = self._clock.monotonic() - self._heard_at
        if limit_s is None or self.state is not SourceState.RUNNING or silent_s < limit_s + 0.5:
            return
        stalled = TransientError(f"no frame for {silent_s:.1f} s", code=SourceErrorCode.STALLED)
        self._goes_down(stalled, 0.0)

    @property
    def threads(self) -> list[threading.Thread]:
        """The thread to join, once it was started."""
        return [self._thread]

    def read(self) -> SourceReading:
        """The source at this moment, for metrics and status."""
        account = self._page.read()
        lane = self._port.lane if self._port is not None else None
        return SourceReading(
            name=self.name,
            state=self.state,
            decoded=account.entered,
            outcomes=account.outcomes,
            in_flight=account.open,
            queued=0 if lane is None else len(lane),
            queue_capacity=0 if lane is None else lane.limits.max_items,
            last_frame_at=self._last_frame_at,
            content=self._content,
            corrupt=self._corrupt,
            time_jumps=self._time_jumps,
            clock_offset_s=self._clock_offset_s,
        )

    @property
    def silent_s(self) -> float | None:
        """Seconds since the last frame, on the monotonic clock; None before the first."""
        return None if self._last_frame_at is None else max(0.0, self._clock.monotonic() - self._heard_at)

    def details(self) -> Mapping[str, str | int | float]:
        """What the source says of what it reads."""
        return self.source.details() if isinstance(self.source, Described) else {}

    # The runner's own thread

    def _run(self) -> None:
        try:
            final = self._read_for_ever()
        except Exception as error:  # noqa: BLE001  (Penstock's own bug: this source is over, all others go on)
            self._events.bug(f"source {self.name}", error)
            final = self._failed(FatalError("internal error", code=SourceErrorCode.INTERNAL))
        self.close_lane()
        self._change(final)

    def _read_for_ever(self) -> SourceState:
        while (interrupt := self._next_attempt()) is not None:
            try:
                consumed = self._read_once(interrupt)
            except TransientError as error:
                failure: PenstockError = error
            except (FatalError, ConfigError) as error:
                failure = error
            except Exception as error:  # noqa: BLE001  (a plugin's bug: restarted a few times, then fatal)
                self._events.bug(f"source {self.name}", error)
                failure = TransientError(f"{type(error).__name__}: {error}", code=SourceErrorCode.INTERNAL)
                # A file read again from its beginning would give its frames twice: only a live source is restarted.
                if not self.source.live or not self._bugs.spend(self._clock.monotonic()):
                    failure = FatalError(str(failure), code=SourceErrorCode.INTERNAL)
            else:
                if not consumed:
                    break
                if interrupt.is_set():
                    continue
                if not self.source.live:
                    self._events.source_ended(self.name, self._page.read().entered)
                    return SourceState.ENDED
                # for a camera an end is a disconnect
                failure = TransientError("the stream ended", code=SourceErrorCode.CONNECTION_FAILED)
            if interrupt.is_set() and isinstance(failure, TransientError):
                continue  # an order closed it
            self._hold_as_trial(failure)
            gave_up = self._handling.give_up_at_once and self._last_frame_at is None
            if not isinstance(failure, TransientError) or gave_up:
                return self._failed(failure)
            self._wait_to_retry(failure, interrupt)
        self._events.source_stopped(self.name, self._page.read().entered)
        return SourceState.STOPPED

    def _next_attempt(self) -> threading.Event | None:
        """What interrupts the next attempt, once it is wanted; None: there shall be none."""
        if self._orders.paused and not self._orders.stopping:
            self._change(SourceState.PAUSED)
            self._tell("state", SourceState.PAUSED.value)
        interrupt = self._orders.next_attempt()
        if self.state is SourceState.PAUSED and interrupt is not None:
            self._change(SourceState.STARTING)
        return interrupt

    def _read_once(self, interrupt: threading.Event) -> bool:
        """Read until the source ends; False when nobody takes the frames any more."""
        monotonic = self._clock.monotonic
        with closing(iter(self.source.frames(interrupt))) as frames:  # type: ignore[type-var]
            while self._is_wanted():
                asked_at = monotonic()
                item = next(frames, None)
                if item is None:
                    return True
                if not self._go.is_set() and self._is_only_tried():
                    continue
                if self._port is None:
                    return False  # a trial that came to nothing
                if isinstance(item, FailedFrame):
                    self._page.enter_settled(FrameOutcome.FAILED_DECODE)
                    self._note_damage(item)
                    continue
                self._decode_s.observe(monotonic() - asked_at)
                self._note(item)
                outcome = self._left_out(item)
                if outcome is not None:
                    self._page.enter_settled(outcome)
                    continue
                nbytes, decoded_at = item.picture.nbytes, item.decoded_at
                self._page.enter()
                refused = self._port.put(Waiting(item, self._route), nbytes, decoded_at)
                del item  # the lane's now: what waits for room holds no picture
                if refused is not None:
                    self._page.settle(refused)
                    return False
            return False

    def _is_wanted(self) -> bool:
        """Wait until there is room, and while a file is paused; False when no more will be taken."""
        if not self.source.live and self._orders.paused:
            self._change(SourceState.PAUSED)
            if not self._orders.wait_while_paused():
                return False
            self._change(SourceState.RUNNING)
        return self._port is None or self._port.wait_for_room()

    def _left_out(self, frame: Frame) -> FrameOutcome | None:
        """Why the frame is not inferred, decided before any pixel is converted."""
        if not self._handling.sampler.takes(frame):
            return FrameOutcome.SAMPLED_OUT
        if self._handling.gate is not None and not self._handling.gate.passes(frame):
            return FrameOutcome.GATED
        return None

    def _note(self, frame: Frame) -> None:
        """What a frame says of its source."""
        if frame.source != self.name:
            raise RuntimeError(f"a frame of {frame.source!r} came out of it")
        self._last_frame_at = self._clock.wall()
        self._heard_at = self._clock.monotonic()
        if self.state is not SourceState.RUNNING:
            self._comes_up()
        if frame.corrupt:
            self._corrupt += 1
            self._events.frame_corrupt(self.name)
        if frame.time_jump:
            self._time_jumps += 1
            self._events.time_jumped(self.name)
        if frame.clock_offset_s is not None:
            self._clock_offset_s = frame.clock_offset_s
        content = self._handling.content.look(frame) if self._handling.content is not None else self._content
        if content is not self._content:
            before, self._content = self._content, content
            self._events.source_content(self.name, content.value, before.value)
            self._tell("content", content.value)

    def _note_damage(self, failed: FailedFrame) -> None:
        self._corrupt += failed.corrupt
        self._events.frame_not_decoded(self.name, failed.detail, failed.file)

    def _is_only_tried(self) -> bool:
        """During a trial: whether this frame goes nowhere. A file is held; a camera that waits would fall behind."""
        if not self.source.live:
            self._hold_as_trial(None)
            return False
        if not self.primed:
            self.primed = True
            self._on_change()
        self._page.enter_settled(FrameOutcome.SAMPLED_OUT)
        return True

    def _hold_as_trial(self, error: PenstockError | None) -> None:
        """During a trial: say how it went, and wait for what is decided; at any other time nothing."""
        if not self._go.is_set():
            self.trial_error, self.primed = error, error is None
            self._on_change()
            self._go.wait()
            self.trial_error = None

    def _comes_up(self) -> None:
        now = self._clock.monotonic()
        away_s = None if self._down_since is None else now - self._down_since
        self._running_since, self._down_since, self.error = now, None, None
        self._change(SourceState.RUNNING)
        self._events.source_up(self.name, away_s)
        self._tell("state", SourceState.RUNNING.value)

    def _goes_down(self, error: TransientError, delay_s: float) -> None:
        code, was_down = _code_of(error), self._down_since is not None
        self._down_since = self._down_since if was_down else self._clock.monotonic()
        self.error = error
        self._change(SourceState.RECONNECTING)
        if was_down:
            self._events.source_still_down(self.name, code, delay_s, error)
            return
        self._events.source_down(self.name, code, delay_s, error)
        self._tell("state", SourceState.RECONNECTING.value, error)

    def _wait_to_retry(self, error: TransientError, interrupt: threading.Event) -> None:
        now = self._clock.monotonic()
        if self.state is SourceState.RUNNING and now - self._running_since > GOOD_SPELL_S:
            self._backoff.reset()
        # A wrong password tried every second locks the account.
        delay_s = self._backoff.next_s(error.retry_after_s, longest=error.code is SourceErrorCode.AUTH_FAILED)
        self._reconnects[error.code or SourceErrorCode.INTERNAL].inc()
        self._goes_down(error, delay_s)
        interrupt.wait(delay_s)

    def _failed(self, error: PenstockError) -> SourceState:
        self.error = error
        self._events.source_failed(self.name, _code_of(error), error)
        self._tell("state", SourceState.FAILED.value, error)
        return SourceState.FAILED

    def _tell(self, kind: Literal["state", "content"], value: str, error: PenstockError | None = None) -> None:
        """Let the sinks know that want to."""
        code = None if error is None else _code_of(error)
        detail = "" if error is None else self._events.mask(str(error))
        self._route.tell(SourceEvent(uuid4().hex, self.name, kind, value, code, detail, self._clock.wall()))

    def _change(self, state: SourceState) -> None:
        self.state = state
        self._on_change()


def _code_of(error: PenstockError) -> str:
    return (error.code or SourceErrorCode.INTERNAL).value
