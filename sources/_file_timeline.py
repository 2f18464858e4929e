"""Where the frames of files are in time: `Timeline`, `Window`, and `Foresight`, which knows what will be wanted."""

import copy
import threading
from typing import TYPE_CHECKING, Literal, Protocol

from pipeline.contracts.component import Context
from pipeline.contracts.sampling import Sampling

if TYPE_CHECKING:
    from sources._file_frames import DecodedFrame, SkippedFrame

TIME_TOLERANCE_S = 1e-6
"""Time stamps are sums and products of fractions as floats: this much is no difference."""

Where = Literal["before", "inside", "behind"]


class Timeline:
    """The time stamps of several files, and of several rounds, on one line; keeps pace with it if wanted."""

    def __init__(self, ctx: Context, stop: threading.Event, *, realtime: bool) -> None:
        self.started_at = ctx.clock.wall()
        self._clock = ctx.clock
        self._stop = stop
        self._realtime = realtime
        self._pts_s_at_zero: float | None = None  # monotonic seconds at which pts_s = 0 is due
        self._offset_s: float | None = 0.0  # None: the next frame settles it
        self._end_s: float | None = None

    def begin_file(self) -> None:
        """What comes now goes on where the file before it ended."""
        self._offset_s = 0.0 if self._end_s is None else None

    def offset_s(self, first_pts_s: float) -> float:
        """How far the file is moved, of which this is the first frame that counts."""
        return (self._end_s or 0.0) - first_pts_s if self._offset_s is None else self._offset_s

    def place(self, frame: "DecodedFrame | SkippedFrame") -> float:
        """Seconds on the common line."""
        self._offset_s = self.offset_s(frame.pts_s)
        pts_s = frame.pts_s + self._offset_s
        self._end_s = max(self._end_s or 0.0, pts_s + frame.shown_s)
        return pts_s

    def wait_until(self, pts_s: float) -> bool:
        """Wait until it is time for `pts_s`, if in real time; False when stopped."""
        if self._realtime:
            now_s = self._clock.monotonic()
            if self._pts_s_at_zero is None:
                self._pts_s_at_zero = now_s - pts_s
            wait_s = self._pts_s_at_zero + pts_s - now_s
            self._stop.wait(min(max(0.0, wait_s), threading.TIMEOUT_MAX))  # damaged time stamps know no bounds
        return not self._stop.is_set()


class WindowConfig(Protocol):
    """The keys of `FileSourceConfig` that a window is made of."""

    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float | None: ...
    @property
    def start_frame(self) -> int: ...
    @property
    def end_frame(self) -> int | None: ...
    @property
    def num_frames(self) -> int | None: ...
    @property
    def duration_s(self) -> float | None: ...


class Window:
    """Which frames of one file are played, by their number and time. One for each pass over a file."""

    def __init__(self, config: WindowConfig) -> None:
        self._config = config
        self._index = self._taken = 0
        self._end_s = config.end_s

    @property
    def has_begun(self) -> bool:
        """Whether the first frames, which are left out, are behind us."""
        return self._index >= self._config.start_frame

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be inside."""
        return self._taken == self._config.num_frames or self._index == self._config.end_frame

    def place(self, pts_s: float) -> Where:
        """Where the next frame is."""
        config = self._config
        if self.is_full:
            return "behind"
        self._index += 1
        if self._index <= config.start_frame or pts_s < config.start_s - TIME_TOLERANCE_S:
            return "before"
        if self._taken == 0 and config.duration_s is not None:
            duration_end_s = pts_s + config.duration_s
            self._end_s = duration_end_s if self._end_s is None else min(self._end_s, duration_end_s)
        if self._end_s is not None and pts_s >= self._end_s - TIME_TOLERANCE_S:
            return "behind"
        self._taken += 1
        return "inside"


class Foresight:
    """Knows which frames `stride` and `max_fps` will leave out, file by file. Made and used by one source's thread.

    It asks the same questions as the sampler behind the source, ahead of it, and keeps in step with it where it is not
    asked: whatever is given to the sampler goes through `gave`.
    """

    def __init__(self, config: WindowConfig, sampling: Sampling, timeline: Timeline) -> None:
        self._config = config
        self._timeline = timeline
        self._sampling = self._before = sampling
        self._next = self._first = 0
        self._window = Window(config)
        self._offset_s: float | None = None

    def begin_file(self, seq: int) -> None:
        """A file begins, and its first frame that counts will have this number."""
        self._first = seq
        self._before = copy.copy(self._sampling)
        self.restart()

    def restart(self) -> None:
        """See `sources._decode.Foresight`."""
        self._sampling = copy.copy(self._before)
        self._window = Window(self._config)
        self._next = self._first
        self._offset_s = None

    def wants(self, pts_s: float) -> bool:
        """See `sources._decode.Foresight`."""
        where = self._window.place(pts_s)
        if where != "inside":
            return where == "behind"  # it tells that the end has come: else all the rest of the file would be read
        if self._offset_s is None:
            self._offset_s = self._timeline.offset_s(pts_s)
        self._next += 1
        return self._sampling.takes(self._next - 1, pts_s + self._offset_s)

    def gave(self, seq: int, pts_s: float) -> None:
        """The source gave this frame, which may be one that nobody asked about before."""
        if seq >= self._next:
            self._next = seq + 1
            self._sampling.takes(seq, pts_s)
