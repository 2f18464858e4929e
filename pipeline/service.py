"""Talks to systemd: sd_notify over `NOTIFY_SOCKET`, the watchdog, and the line that `systemctl status` shows.

The protocol is that of sd_notify(3): datagrams of `KEY=value` lines to a Unix socket. Nothing here raises or waits: a
service manager that went away is no reason for a pipeline to stop.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

from pipeline.contracts.clock import Clock
from pipeline.telemetry.readings import SourceReading, SourceState

MAX_TICK_S = 1.0
"""The watchdog is fed this often at least."""
LOOK_S = 0.5
"""How old what `stuck` says may be: the supervisor looks this often."""
MAX_NAME_AFTER_S = 10.0
"""The status line names what has been stuck for so long, or for half of `WatchdogSec`."""
STATUS_EVERY_S = 5.0
START_GRACE_S = 60.0
"""What a start that is still under way asks for, again and again: a model may take minutes to load."""
MAX_STATUS_CHARS = 400
MAX_SHOWN_NAMES = 3
MAX_OWED = 8


class Notifier:
    """What the service manager is told. Made by the app, used on the main loop; does nothing where there is none.

    Attributes:
        watchdog_s: the service manager kills the process when it heard nothing for so long; None: it does not watch.
    """

    def __init__(self, address: str | bytes | None = None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s if address else None
        self._address = address
        self._socket: socket.socket | None = None
        self._owed: list[bytes] = []  # what must arrive (a READY that is lost is a start that failed), but did not yet
        self._status = ""
        self._is_ready = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int | None = None) -> Self:
        """The one that `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` describe.

        Args:
            environ: the environment.
            pid: this process, if it is not the one that runs.
        """
        path = environ.get("NOTIFY_SOCKET", "")
        if path.startswith("@"):
            return cls(b"\0" + os.fsencode(path[1:]), _watchdog_s(environ, pid or os.getpid()))
        return cls(path if path.startswith("/") else None, _watchdog_s(environ, pid or os.getpid()))

    @property
    def active(self) -> bool:
        """Whether there is a service manager."""
        return self._address is not None

    @property
    def is_ready(self) -> bool:
        """Whether the service manager was told that the start is over."""
        return self._is_ready

    def ready(self, status: str = "") -> None:
        """The start, or the reload, is over: backends are warm and sinks are open."""
        self._is_ready = True
        self._send("READY=1", *self._status_lines(status), must_arrive=True)

    def reloading(self) -> None:
        """A reload begins; `ready` ends it, however it went."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={usec}", must_arrive=True)

    def stopping(self, status: str = "") -> None:
        """The shutdown begins."""
        self._send("STOPPING=1", *self._status_lines(status), must_arrive=True)

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows; sent when it changed."""
        if lines := self._status_lines(text):
            self._send(*lines)

    def watchdog(self) -> None:
        """A sign of life."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def bite(self) -> None:
        """Be ended as if no sign of life had come (systemd 243 and later): a stage is stuck, though the loop is not."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=trigger")

    def more_time(self) -> None:
        """Until it is ready: the start goes on, `TimeoutStartSec` shall not end it."""
        if not self._is_ready:
            self._send(f"EXTEND_TIMEOUT_USEC={START_GRACE_S * 1e6:.0f}")

    def close(self) -> None:
        """Let the socket go; nothing is sent any more."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._address = None

    def _status_lines(self, text: str) -> tuple[str, ...]:
        text = " ".join(text.split())[:MAX_STATUS_CHARS]  # a line break would begin another key
        if not text or text == self._status:
            return ()
        self._status = text
        return (f"STATUS={text}",)

    def _send(self, *lines: str, must_arrive: bool = False) -> None:
        if self._address is None:
            return
        message = "\n".join(lines).encode(errors="replace")
        if must_arrive and len(self._owed) < MAX_OWED:
            self._owed.append(message)
        while self._owed and self._post(self._owed[0]):
            del self._owed[0]
        if not must_arrive and not self._owed:
            self._post(message)

    def _post(self, message: bytes) -> bool:
        assert self._address is not None  # noqa: S101  (for the type checker: _send asked)
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.sendto(message, self._address)
        except OSError:  # its buffer is full, or it is gone: what must arrive is tried again with the next message
            return False
        return True


class StatusLine:
    """Makes "3 of 4 sources up, 27.1 frames/s; down: gate" of readings. Made by the app, asked on the main loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked_at = clock.monotonic()
        self._inferred: dict[str, int] = {}

    def text(self, sources: Iterable[SourceReading], stuck: Sequence[str] = ()) -> str:
        """The line now; the rate is that since the last call.

        Args:
            sources: all sources as they are now.
            stuck: stages that have work and make no progress.
        """
        now, readings = self._clock.monotonic(), list(sources)
        inferred = {reading.name: reading.outcomes.get("inferred", 0) for reading in readings}
        # A source that is new, or was made anew by a reload, counts from 0.
        fresh = sum(max(0, count - self._inferred.get(name, 0)) for name, count in inferred.items())
        rate = fresh / (now - self._asked_at) if now > self._asked_at else 0.0
        self._asked_at, self._inferred = now, inferred
        up = [reading for reading in readings if reading.state is SourceState.RUNNING]
        down = [reading.name for reading in readings if reading.state in (SourceState.RECONNECTING, SourceState.FAILED)]
        line = f"{len(up)} of {len(readings)} sources up, {rate:.1f} frames/s"
        if down:
            line += f"; down: {_some(down)}"
        return f"{line}; STUCK: {_some(stuck)}" if stuck else line


async def keep(
    notifier: Notifier,
    *,
    stuck: Callable[[float], Sequence[str]],
    status: Callable[[Sequence[str]], str],
    clock: Clock,
) -> None:
    """Feed the watchdog and keep the status line fresh, until cancelled. Returns at once without a service manager.

    The watchdog is fed until a stage that has work has made no progress for `WatchdogSec`, less the time that it takes
    to see it; then the service manager is asked to end the process, as if the loop itself had hung. A camera that is
    down, or nothing to do, is not being stuck.

    Args:
        notifier: where to.
        stuck: the stages that have had work and made no progress for so many seconds, e.g. "backend local".
        status: makes the status line, given what is stuck; called about every five seconds.
        clock: for the time between status lines.
    """
    if not notifier.active:
        return
    watchdog_s = notifier.watchdog_s or 4 * MAX_TICK_S
    tick_s, name_after_s = min(MAX_TICK_S, watchdog_s / 6), min(MAX_NAME_AFTER_S, watchdog_s / 2)
    bite_after_s = max(watchdog_s / 2, watchdog_s - 2 * LOOK_S)
    said_at, said = clock.monotonic() - STATUS_EVERY_S, False
    while True:
        # Stages that are slow, each in its own time, are never all found moving at one moment: what counts is how long
        # one of them has stood still.
        if stuck(bite_after_s):
            notifier.bite()
        else:
            notifier.watchdog()
        notifier.more_time()
        names = stuck(name_after_s)
        if clock.monotonic() - said_at >= STATUS_EVERY_S or bool(names) != said:
            notifier.status(status(names))
            said_at, said = clock.monotonic(), bool(names)
        await asyncio.sleep(tick_s)


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds from `WATCHDOG_USEC`, unless it is meant for another process."""
    usec, meant_for = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or (meant_for and meant_for != str(pid)):
        return None
    return int(usec) / 1e6


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_SHOWN_NAMES])
    return shown if len(names) <= MAX_SHOWN_NAMES else f"{shown} and {len(names) - MAX_SHOWN_NAMES} more"
