"""`SourceRunner`: the thread around one source: sampling, gating, retries, state, and its page of the ledger."""

import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

from pipeline.contracts.errors import FatalError, PenstockError, SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.source import Described, Resting, Source, Sparing
from pipeline.runtime.backoff import Backoff, BugAllowance
from pipeline.runtime.condition import Condition
from pipeline.runtime.context import Surroundings
from pipeline.runtime.handling import Handling
from pipeline.runtime.ledger import FrameOutcome
from pipeline.runtime.orders import Orders
from pipeline.runtime.port import Port
from pipeline.runtime.route import Route, Waiting
from pipeline.telemetry.readings import SourceReading, SourceState

HANDOVER_S = 10.0
"""What is exchanged has so long to end before the new one begins without waiting for it."""

AWAY_S = 2.0
"""After so long without a frame what went on in front of a camera that is down has ended."""

GOOD_SPELL_S = 60.0
"""After so long without a failure, the next one backs off from the beginning."""


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
        self._decode_s = surroundings.metrics.stage("decode", source=name)
        self._condition = Condition(name, route, surroundings, handling.silence_s)
        self._sparing = source if isinstance(source, Sparing) else None
        self._resting = source if isinstance(source, Resting) and handling.rests else None
        self._skipped_told = 0
        self._orders = Orders()
        self._replaced = False
        self._port: Port[Waiting] | None = None
        self._go = threading.Event()
        self._before: threading.Thread | None = None
        self._thread = threading.Thread(target=self._run, name=f"source-{name}", daemon=True)

    @property
    def state(self) -> SourceState:
        """What the source is doing."""
        return self._condition.state

    @property
    def error(self) -> PenstockError | None:
        """Why it is down, or has failed."""
        return self._condition.error

    @property
    def silent_s(self) -> float | None:
        """Seconds since the last frame, on the monotonic clock; None before the first."""
        return self._condition.silent_s

    @property
    def ended(self) -> bool:
        """True once no frame will come any more."""
        return self.state in (SourceState.ENDED, SourceState.FAILED, SourceState.STOPPED)

    def start(self, port: Port[Waiting] | None = None, *, after: "SourceRunner | None" = None) -> None:
        """Begin to read; without a port as a trial. `after`: once that one, which was told to stop, has let go."""
        if port is not None:
            self.go(port)
        self._before = None if after is None or after._thread.ident is None else after._thread
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

    def stop(self, *, replaced: bool = False) -> None:
        """Ask the source to end soon; what it has given goes on. May be called again; instead of `start`, too.

        `replaced`: another one of its name goes on, and there is nothing to tell.
        """
        self._replaced = self._replaced or replaced
        self._orders.stop()
        self._go.set()
        if self._thread.ident is None:
            self.close_lane()
            self._condition.change(SourceState.STOPPED)

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
        self._condition.check_silence(resting=self._resting is not None and self._resting.resting)

    def tell_if_away(self) -> None:
        """Let the sinks know that nothing comes for a while, once all that came was delivered; main thread."""
        down = self.state in (SourceState.RECONNECTING, SourceState.PAUSED) and (self.silent_s or 0.0) > AWAY_S
        if (down or self.ended) and self._page.read().open == 0:
            self._route.pause()

    @property
    def threads(self) -> list[threading.Thread]:
        """The thread to join, once it was started."""
        return [self._thread]

    def read(self) -> SourceReading:
        """The source at this moment, for metrics and status."""
        lane = self._port.lane if self._port is not None else None
        decoder = self.details().get("decoder")
        return self._condition.read(
            queued=0 if lane is None else len(lane), queue_capacity=0 if lane is None else lane.limits.max_items
        )._replace(decoder=None if decoder is None else str(decoder))

    def details(self) -> Mapping[str, str | int | float]:
        """What the source says of what it reads."""
        return self.source.details() if isinstance(self.source, Described) else {}

    # The runner's own thread

    def _run(self) -> None:
        try:
            if self._before is not None:
                self._before.join(HANDOVER_S)
                self._before = None
            final = self._read_for_ever()
        except Exception as error:  # noqa: BLE001  (Penstock's own bug: this source is over, all others go on)
            self._events.bug(f"source {self.name}", error)
            final = self._condition.fail(FatalError("internal error", code=SourceErrorCode.INTERNAL))
        self.close_lane()
        self._condition.change(final)

    def _read_for_ever(self) -> SourceState:
        while (interrupt := self._next_attempt()) is not None:
            ending = self._attempt(interrupt)
            if ending is None or (interrupt.is_set() and isinstance(ending, TransientError)):
                continue  # an order closed it
            self._hold_as_trial(None if isinstance(ending, SourceState) else ending)
            if self._port is None:
                break  # a trial that came to nothing: how it went is nobody's news
            if ending is SourceState.ENDED:
                self._events.source_ended(self.name, self._page.read().entered)
            if isinstance(ending, SourceState):
                return ending
            gave_up = self._handling.give_up_at_once and not self._condition.has_run
            if not isinstance(ending, TransientError) or gave_up:
                return self._condition.fail(ending)
            self._wait_to_retry(ending, interrupt)
        return self._stopped()

    def _attempt(self, interrupt: threading.Event) -> PenstockError | SourceState | None:
        """Read as long as may be: the failure that ended it, the state that it is left in for good, or an order."""
        try:
            try:
                wanted = self._read_once(interrupt)
            finally:
                self._note_skipped()  # what the source noticed at its end
        except PenstockError as error:
            return error
        except Exception as error:  # noqa: BLE001  (a plugin's bug: restarted a few times, then fatal)
            self._events.bug(f"source {self.name}", error)
            # A file read again from its beginning would give its frames twice: only a live source is restarted.
            may_pass = self.source.live and self._bugs.spend(self._clock.monotonic())
            kind = TransientError if may_pass else FatalError
            return kind(f"{type(error).__name__}: {error}", code=SourceErrorCode.INTERNAL)
        if not wanted:
            return self._stopped()
        if interrupt.is_set():
            return None
        if self.source.live:  # for a camera an end is a disconnect
            return TransientError("the stream ended", code=SourceErrorCode.CONNECTION_FAILED)
        return SourceState.ENDED

    def _stopped(self) -> SourceState:
        if self._port is not None and not self._replaced:  # what was only tried is nobody's source
            self._events.source_stopped(self.name, self._page.read().entered)
        return SourceState.STOPPED

    def _next_attempt(self) -> threading.Event | None:
        """What interrupts the next attempt, once it is wanted; None: there shall be none."""
        if self._orders.paused and not self._orders.stopping:
            self._condition.pause()
        interrupt = self._orders.next_attempt()
        if self.state is SourceState.PAUSED and interrupt is not None:
            self._condition.change(SourceState.STARTING)
        return interrupt

    def _read_once(self, interrupt: threading.Event) -> bool:
        """Read until the source ends; False when nobody takes the frames any more."""
        monotonic = self._clock.monotonic
        with closing(iter(self.source.frames(interrupt))) as frames:  # type: ignore[type-var]
            while self._is_wanted():
                asked_at = monotonic()
                item = next(frames, None)
                self._note_skipped()
                if item is None:
                    return True
                if not self._go.is_set() and self._is_only_tried(item):
                    continue
                if self._port is None:
                    return False  # a trial that came to nothing
                if isinstance(item, FailedFrame):
                    self._page.enter_settled(FrameOutcome.FAILED_DECODE)
                    self._condition.note_failed(item)
                    continue
                self._observe_decoding(item, monotonic() - asked_at)
                self._note(item)
                outcome = self._left_out(item)
                if outcome is not None:
                    self._page.enter_settled(outcome)
                    continue
                nbytes, decoded_at = item.picture.nbytes, item.decoded_at
                if self._handling.max_staleness_s is not None:
                    item = replace(item, stale_at=decoded_at + self._handling.max_staleness_s)
                self._page.enter()
                refused = self._port.put(Waiting(item, self._route), nbytes, decoded_at)
                del item  # the lane's now: what waits for room holds no picture
                if refused is not None:
                    self._page.settle(refused)
                    return False
            return False

    def _note_skipped(self) -> None:
        """Into the ledger with what the source left undecoded; of a file that is only tried nothing is entered."""
        if self._sparing is None or (self._port is None and not self.source.live):
            return
        skipped = self._sparing.skipped_frames
        if skipped != self._skipped_told:
            self._page.skip(skipped - self._skipped_told)
            self._skipped_told = skipped

    def _is_wanted(self) -> bool:
        """Wait until there is room, and while a file is paused; False when no more will be taken."""
        if not self.source.live and self._orders.paused:
            self._condition.change(SourceState.PAUSED)
            if not self._orders.wait_while_paused():
                return False
            self._condition.change(SourceState.RUNNING)
        return self._port is None or self._port.wait_for_room()

    def _observe_decoding(self, frame: Frame, waited_s: float) -> None:
        """A live source waits for its frames: only it knows how long it decoded."""
        decode_s = waited_s if frame.decode_s is None and not self.source.live else frame.decode_s
        if decode_s is not None:
            self._decode_s.observe(decode_s)

    def _left_out(self, frame: Frame) -> FrameOutcome | None:
        """Why the frame is not inferred, decided before any pixel is converted."""
        gate, resting = self._handling.gate, self._resting
        # Of every n-th frame a keyframe is hardly ever one: while the source rests, the gate looks at each.
        any_place = self._handling.stride > 1 and resting is not None and resting.resting
        if not self._handling.sampler.takes(frame) and not any_place:
            return FrameOutcome.SAMPLED_OUT
        if gate is None:
            return None
        passes = gate.passes(frame)
        if resting is not None:
            resting.rest(gate.still_s)
        return None if passes else FrameOutcome.GATED

    def _note(self, frame: Frame) -> None:
        """What a frame says of its source."""
        if frame.source != self.name:
            raise RuntimeError(f"a frame of {frame.source!r} came out of it")
        watch = self._handling.content
        self._condition.note(frame, None if watch is None else watch.look(frame))

    def _is_only_tried(self, item: Frame | FailedFrame) -> bool:
        """During a trial: whether this frame goes nowhere. A file is held; a camera that waits would fall behind."""
        if not self.source.live:
            self._hold_as_trial(None)
            return False
        if isinstance(item, FailedFrame):
            self._page.enter_settled(FrameOutcome.FAILED_DECODE)
            return True
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

    def _wait_to_retry(self, error: TransientError, interrupt: threading.Event) -> None:
        condition = self._condition
        good_s = self._clock.monotonic() - condition.running_since
        if condition.state is SourceState.RUNNING and good_s > GOOD_SPELL_S:
            self._backoff.reset()
        # A wrong password tried every second locks the account.
        delay_s = self._backoff.next_s(error.retry_after_s, longest=error.code is SourceErrorCode.AUTH_FAILED)
        condition.retry(error, delay_s)
        interrupt.wait(delay_s)
