"""Looks at the cameras of a configuration: reads each for a few seconds, all at once, and says what it saw."""

import queue
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.contracts.clock import Clock, SystemClock
from pipeline.contracts.component import Finding
from pipeline.contracts.errors import PenstockError, SourceErrorCode
from pipeline.contracts.frame import FailedFrame, Frame, Size
from pipeline.contracts.packets import PacketRing
from pipeline.contracts.source import Described, LiveSourceConfig

T = TypeVar("T")

MAX_THREADS = 32
LOOK_S = 5.0
PATIENCE_S = 25.0
"""For one camera from the first attempt to the last frame: longer than any of its own time limits by default."""

MAX_DAMAGED_RATIO = 0.01
MAX_CLOCK_OFFSET_S = 5.0
MAX_KEYFRAME_INTERVAL_S = 10.0

_ADVICE: Mapping[SourceErrorCode, str] = {
    SourceErrorCode.AUTH_FAILED: "correct user and password",
    SourceErrorCode.NOT_FOUND: "correct the path of the url, or wait until the camera has the stream",
    SourceErrorCode.CONNECTION_FAILED: "see whether it is on, and whether host and port are right",
    SourceErrorCode.TIMEOUT: "see whether it is on, and whether a firewall is between",
    SourceErrorCode.STALLED: "it answers but sends no pictures: restart it, or try the other transport",
    SourceErrorCode.TLS: "see ca_file and verify",
    SourceErrorCode.CODEC_UNSUPPORTED: "use what this FFmpeg reads: H.264, H.265 or MJPEG, over RTSP, HTTP or RTMP",
}


@dataclass(slots=True)
class Sight:
    """What was seen of one camera; filled by its thread, read when that is done or out of time."""

    frames: int = 0
    failed: int = 0
    damaged: int = 0
    first_after_s: float | None = None
    last_after_s: float = 0.0
    sizes: dict[Size, None] = field(default_factory=dict)
    time_source: str = ""
    clock_offset_s: float | None = None
    details: Mapping[str, str | int | float] = field(default_factory=dict)
    error: BaseException | None = None
    warnings: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class _ProbeContext:
    """The `Context` of a source that is only looked at."""

    name: str
    clock: Clock
    data_dir: Path
    sight: Sight
    continues: bool = False

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """There is no loop here."""
        coroutine.close()
        raise RuntimeError("no pipeline runs: this source is only looked at")

    def packets(self, source: str) -> PacketRing:
        """One that nobody reads."""
        return PacketRing()

    def warn(self, message: str) -> None:
        """Keep it for the finding."""
        self.sight.warnings.append(message)

    def fell_back(self, wanted: str, got: str, reason: str) -> None:
        """Nobody asked."""

    def tell(self, state: str, detail: str, *, well: bool) -> None:
        """Keep it for the finding."""
        if not well:
            self.sight.warnings.append(f"{state}: {detail}")


def probe(cameras: Mapping[str, LiveSourceConfig], data_dir: Path, *, look_s: float = LOOK_S) -> Iterator[Finding]:
    """One finding for each camera, in their order; all are read at once, by a bounded number of threads."""
    clock, stop = SystemClock(), threading.Event()
    sights = {name: Sight() for name in cameras}
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in cameras:
        waiting.put(name)

    def work() -> None:
        while not stop.is_set():
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            context = _ProbeContext(name, clock, data_dir / name, sights[name])
            _look(cameras[name], context, stop, look_s)

    count = min(len(cameras), MAX_THREADS)
    threads = [threading.Thread(target=work, name=f"probe-{number}", daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    rounds = -(-len(cameras) // MAX_THREADS)
    deadline_s = clock.monotonic() + rounds * (look_s + PATIENCE_S)
    try:
        for name, sight in sights.items():
            in_time = sight.done.wait(max(0.0, deadline_s - clock.monotonic()))
            yield judge(name, sight, in_time=in_time)
    finally:
        stop.set()
        for thread in threads:  # one that is stuck in C is a daemon's: the process may leave it
            thread.join(2.0)


def judge(name: str, sight: Sight, *, in_time: bool = True) -> Finding:
    """What the sight of a camera means; pure."""
    subject = f"source {name}"
    if sight.error is not None:
        return Finding(False, subject, _error_line(sight.error))
    if not in_time or sight.first_after_s is None:
        return Finding(False, subject, "no picture in time: it hangs, or is too busy to answer")
    faults = list(_faults(sight))
    text = ", ".join(_facts(sight))
    return Finding(not faults, subject, "; ".join([text, *faults, *sight.warnings]))


def _look(config: LiveSourceConfig, context: _ProbeContext, stop: threading.Event, look_s: float) -> None:
    sight, began_at = context.sight, time.monotonic()
    enough = threading.Event()
    try:
        # All that the camera sends is to be seen, not what sampling would leave of it.
        source = config.model_copy(update={"max_fps": None, "stride": 1}).build(context)
        with closing(iter(source.frames(enough))) as items:  # type: ignore[type-var]
            for item in items:
                now_s = time.monotonic() - began_at
                _note(sight, item, now_s)
                first = sight.first_after_s
                late = now_s > PATIENCE_S if first is None else now_s - first > look_s
                if late or stop.is_set():
                    enough.set()
                    break
            if isinstance(source, Described):
                sight.details = dict(source.details())
    except Exception as error:  # noqa: BLE001  (whatever a camera or its plugin does is what is to be told)
        # A camera that gave pictures and then went away was seen, and is at fault.
        sight.error = error
    finally:
        sight.done.set()


def _note(sight: Sight, item: Frame | FailedFrame, now_s: float) -> None:
    if isinstance(item, FailedFrame):
        sight.failed += 1
        sight.damaged += item.corrupt
        return
    if sight.first_after_s is None:
        sight.first_after_s = now_s
    sight.last_after_s = now_s
    sight.frames += 1
    sight.damaged += item.corrupt
    sight.sizes[item.picture.size] = None
    sight.time_source = item.time_source
    if item.clock_offset_s is not None:
        sight.clock_offset_s = item.clock_offset_s


def _facts(sight: Sight) -> Iterator[str]:
    details = sight.details
    if "codec" in details:
        yield str(details["codec"]) + (f" over {details['transport']}" if "transport" in details else "")
    yield " then ".join(f"{size.width}x{size.height}" for size in sight.sizes)
    lasted_s = sight.last_after_s - (sight.first_after_s or 0.0)
    if sight.frames > 1 and lasted_s > 0:
        yield f"{(sight.frames - 1) / lasted_s:.1f} fps"
    interval_s = details.get("keyframe_interval_s")
    if isinstance(interval_s, int | float):
        yield f"a keyframe every {interval_s:.1f} s"
    yield f"first picture after {sight.first_after_s or 0.0:.1f} s"
    yield f"time from {sight.time_source}" + (
        "" if sight.clock_offset_s is None else f" ({_apart(sight.clock_offset_s)})"
    )
    if sight.failed or sight.damaged:
        yield f"{sight.failed} frames not decoded, {sight.damaged} damaged, of {sight.frames + sight.failed}"


def _apart(offset_s: float) -> str:
    return f"{abs(offset_s):.2f} s {'behind' if offset_s >= 0 else 'ahead of'} ours"


def _faults(sight: Sight) -> Iterator[str]:
    total = sight.frames + sight.failed
    if total and (sight.failed + sight.damaged) / total > MAX_DAMAGED_RATIO:
        yield 'pictures are lost: see the network, or use transport = "tcp"'
    if sight.clock_offset_s is not None and abs(sight.clock_offset_s) > MAX_CLOCK_OFFSET_S:
        yield "its clock is wrong: give it a time server (NTP)"
    interval_s = sight.details.get("keyframe_interval_s")
    if isinstance(interval_s, int | float) and interval_s > MAX_KEYFRAME_INTERVAL_S:
        yield "keyframes are too rare, so each reconnect takes that long: set the camera to one every 1 to 2 s"


def _error_line(error: BaseException) -> str:
    if not isinstance(error, PenstockError):
        return f"the plugin has a bug: {type(error).__name__}: {error}"
    code = error.source_code
    advice = _ADVICE.get(code)
    return f"{code.value}: {error}" + (f"; {advice}" if advice else "")
