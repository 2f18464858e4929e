"""A service manager for tests: the other end of `NOTIFY_SOCKET`, a real datagram socket that keeps what it is told."""

import socket
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self


class Message(NamedTuple):
    """One datagram: when it came (monotonic) and its lines as keys and values."""

    at: float
    fields: dict[str, str]


class ServiceManager:
    """Made by a test, used in its thread. Told things by a process, or by a `Notifier` in the same process."""

    def __init__(self, folder: Path, *, abstract: bool = False) -> None:
        name = str(folder / "notify")
        self.address = f"@{name}" if abstract else name
        self.messages: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}" if abstract else name)

    def environment(self, watchdog_s: float | None = None) -> dict[str, str]:
        """What the process is to find in its environment."""
        watchdog = {} if watchdog_s is None else {"WATCHDOG_USEC": str(round(watchdog_s * 1e6))}
        return {"NOTIFY_SOCKET": self.address, **watchdog}

    def next(self, timeout_s: float = 20.0) -> Message:
        """The next datagram.

        Raises:
            TimeoutError: there was none.
        """
        self._socket.settimeout(max(timeout_s, 1e-3))
        text = self._socket.recv(65_536).decode()
        message = Message(time.monotonic(), dict(line.split("=", 1) for line in text.splitlines()))
        self.messages.append(message)
        return message

    def wait_for(self, key: str, contains: str = "", timeout_s: float = 20.0) -> Message:
        """The next datagram with this key, and this text in its value.

        Raises:
            TimeoutError: there was none.
        """
        ends_at = time.monotonic() + timeout_s
        while True:
            message = self.next(ends_at - time.monotonic())
            if key in message.fields and contains in message.fields[key]:
                return message

    def drain(self) -> list[Message]:
        """What has come already and was not looked at."""
        found = []
        while True:
            try:
                found.append(self.next(0.0))
            except TimeoutError:
                return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._socket.close()
