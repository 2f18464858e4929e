"""Owns what a test camera can do wrong, and the counts of what it did."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field, fields


@dataclass
class Faults:
    """Switches, read at every packet and request; set from any thread, at any time."""

    freeze: bool = False
    """Nothing is sent any more, no sender reports either; connections stay open and requests are answered."""
    silent: bool = False
    """As `freeze`, and requests are not answered either: what a stopped process looks like."""
    video_freeze: bool = False
    """Video stops; sender reports and audio go on."""
    drop: float = 0.0
    """Share of the video's RTP packets that are not sent; 1 stops RTP while sender reports go on."""
    corrupt: float = 0.0
    """Share of the video's RTP packets with eight wrong bits."""
    stall_describe: bool = False
    """DESCRIBE is not answered until this is taken back."""
    status: str | None = None
    """Every request is answered with this, as `404 Not Found`."""
    location: str | None = None
    """With `status = "302 Found"`: where to."""
    garbage: bool = False
    """Every request is answered with 4 KiB of random bytes."""
    no_sender_reports: bool = False
    ntp_offset_s: float = 0.0
    """What the camera's clock is ahead of ours."""
    pts_offset_s: float = 0.0
    """Added to the RTP time stamps of video: changed in mid-stream, time jumps."""

    def set(self, name: str, value: str) -> None:
        """Set one switch from text, as typed on standard input."""
        kind = {item.name: item.type for item in fields(self)}[name]
        parsed: object = value
        if kind in (bool, "bool"):
            parsed = value not in ("", "0", "off", "false")
        elif kind in (float, "float"):
            parsed = float(value)
        elif value in ("", "off", "none"):
            parsed = None
        setattr(self, name, parsed)


@dataclass
class Counts:
    """What the server saw and did; written by its thread only, `changed` wakes who waits for it."""

    connections: int = 0
    plays: int = 0
    packets: int = 0
    dropped: int = 0
    corrupted: int = 0
    reports: int = 0
    refused: int = 0
    """Requests with missing or wrong credentials."""
    overrun: int = 0
    """Readers cut off because they did not read."""
    requests: dict[str, int] = field(default_factory=dict)
    connected_at: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    """When the last connections were made, monotonic."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, name: str) -> None:
        """Count one."""
        with self.changed:
            setattr(self, name, getattr(self, name) + 1)
            if name == "connections":
                self.connected_at.append(time.monotonic())
            self.changed.notify_all()

    def request(self, method: str) -> None:
        """Count one request."""
        with self.changed:
            self.requests[method] = self.requests.get(method, 0) + 1
            self.changed.notify_all()

    def wait_for(self, name: str, at_least: int, timeout_s: float = 10.0) -> None:
        """Wait until a count has come that far.

        Raises:
            TimeoutError: It has not.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: getattr(self, name) >= at_least, timeout_s):
                raise TimeoutError(f"{name} is {getattr(self, name)} after {timeout_s} s, not {at_least}")
