"""`Condition`: what state a source is in and what its pictures are like; told to log, sinks and metrics."""

from typing import Literal

from pipeline.contracts.errors import PenstockError, SourceErrorCode, TransientError
from pipeline.contracts.event import SourceEvent
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.ids import new_id
from pipeline.contracts.scene import ContentState
from pipeline.contracts.source import REST_SHARE
from pipeline.runtime.context import Surroundings
from pipeline.runtime.route import Route
from pipeline.telemetry.readings import SourceReading, SourceState


class Condition:
    """Made by a source's runner and written by its thread; `check_silence` and the readings belong to the main thread.

    Going down is said once, and coming up again once; what fails in between only through the log's limiter.

    Attributes:
        state: what the source is doing.
        error: why it is down, or has failed.
        running_since: monotonic; of the first frame since it was down.
    """

    def __init__(self, name: str, route: Route, surroundings: Surroundings, silence_s: float | None) -> None:
        """`silence_s`: a source that is running and gives no frame for longer has stalled; None: it may."""
        self.state = SourceState.STARTING
        self.error: PenstockError | None = None
        self.running_since = 0.0
        self._name = name
        self._route = route
        self._silence_s = silence_s
        self._events = surroundings.events
        self._clock = surroundings.clock
        self._on_change = surroundings.changed
        self._reconnects = {code: surroundings.metrics.reconnects(name, code) for code in SourceErrorCode}
        self._last_frame_at: float | None = None  # Unix seconds
        self._heard_at = 0.0  # monotonic, of the last frame
        self._down_since: float | None = None
        self._content = ContentState.OK
        self._corrupt = self._time_jumps = 0
        self._clock_offset_s: float | None = None

    @property
    def has_run(self) -> bool:
        """Whether there ever was a frame."""
        return self._last_frame_at is not None

    @property
    def silent_s(self) -> float | None:
        """Seconds since the last frame, on the monotonic clock; None before the first."""
        return max(0.0, self._clock.monotonic() - self._heard_at) if self.has_run else None

    def change(self, state: SourceState) -> None:
        """It is doing something else now."""
        self.state = state
        self._on_change()

    def note(self, frame: Frame, content: ContentState | None) -> None:
        """A frame came, and its pictures look like this; None: nobody looks."""
        self._last_frame_at, self._heard_at = self._clock.wall(), self._clock.monotonic()
        if self.state is not SourceState.RUNNING:
            self._come_up()
        if frame.corrupt:
            self._corrupt += 1
            self._events.frame_corrupt(self._name)
        if frame.time_jump:
            self._time_jumps += 1
            self._events.time_jumped(self._name)
        if frame.clock_offset_s is not None:
            self._clock_offset_s = frame.clock_offset_s
        if content is not None and content is not self._content:
            before, self._content = self._content, content
            self._events.source_content(self._name, content.value, before.value)
            self._tell("content", content.value)

    def note_failed(self, failed: FailedFrame) -> None:
        """A frame could not be decoded."""
        self._corrupt += failed.corrupt
        self._events.frame_not_decoded(self._name, failed.detail, failed.file)

    def pause(self) -> None:
        """Somebody paused it, and nothing is read any more."""
        self.change(SourceState.PAUSED)
        self._tell("state", SourceState.PAUSED.value)

    def retry(self, error: TransientError, delay_s: float) -> None:
        """It failed, and is tried again after so long."""
        self._reconnects[error.source_code].inc()
        self._go_down(error, delay_s)

    def fail(self, error: PenstockError) -> SourceState:
        """It failed for good."""
        self.error, self.state = error, SourceState.FAILED  # whoever reads the log may ask at once
        self._events.source_failed(self._name, _code_of(error), error)
        self._tell("state", SourceState.FAILED.value, error)
        return SourceState.FAILED

    def check_silence(self, *, resting: bool) -> None:
        """Take it for lost when there was no frame for too long and it has not noticed itself."""
        if self._silence_s is None or self.state is not SourceState.RUNNING:
            return
        silent_s = self._clock.monotonic() - self._heard_at
        if silent_s < self._silence_s * (1 + REST_SHARE if resting else 1) + 0.5:
            return
        self._go_down(TransientError(f"no frame for {silent_s:.1f} s", code=SourceErrorCode.STALLED), 0.0)

    def read(self, *, queued: int, queue_capacity: int) -> SourceReading:
        """The source at this moment, for metrics and status."""
        account = self._route.page.read()
        return SourceReading(
            name=self._name,
            state=self.state,
            decoded=account.entered,
            outcomes=account.outcomes,
            in_flight=account.open,
            queued=queued,
            queue_capacity=queue_capacity,
            last_frame_at=self._last_frame_at,
            content=self._content,
            corrupt=self._corrupt,
            time_jumps=self._time_jumps,
            clock_offset_s=self._clock_offset_s,
            skipped=account.skipped,
        )

    def _come_up(self) -> None:
        now = self._clock.monotonic()
        away_s = None if self._down_since is None else now - self._down_since
        self.running_since, self._down_since, self.error = now, None, None
        self.change(SourceState.RUNNING)
        self._events.source_up(self._name, away_s)
        self._tell("state", SourceState.RUNNING.value)

    def _go_down(self, error: TransientError, delay_s: float) -> None:
        code, was_down = _code_of(error), self._down_since is not None
        if not was_down:  # since its last picture, not since it was noticed
            self._down_since = self._heard_at if self.has_run else self._clock.monotonic()
        self.error = error
        self.change(SourceState.RECONNECTING)
        if was_down:
            self._events.source_still_down(self._name, code, delay_s, error)
            return
        self._events.source_down(self._name, code, delay_s, error)
        self._tell("state", SourceState.RECONNECTING.value, error)

    def _tell(self, kind: Literal["state", "content"], value: str, error: PenstockError | None = None) -> None:
        """Let the sinks know that want to."""
        code, detail = (None, "") if error is None else (_code_of(error), self._events.mask(str(error)))
        self._route.tell(SourceEvent(new_id(), self._name, kind, value, code, detail, self._clock.wall()))


def _code_of(error: PenstockError) -> str:
    return error.source_code.value
