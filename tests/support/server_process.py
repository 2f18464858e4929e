"""A server of somebody else's in a process of its own, that tests start, freeze and kill."""

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from daemon import free_port


class ServerProcess:
    """What the real brokers of the tests have in common: a port of 127.0.0.1, a folder and a log. A context manager:
    then it is gone. `name` is its program's."""

    name: str

    def __init__(self, folder: Path, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def signal(self, number: int) -> None:
        """SIGSTOP freezes it, SIGCONT lets it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def log(self) -> str:
        """What it said."""
        return (self.folder / "log").read_text(errors="replace")

    def _launch(self, command: Sequence[str]) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def _lives(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} ended: {self.log()[-500:]}"

    def _listens(self) -> bool:
        self._lives()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True
