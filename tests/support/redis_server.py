"""A real redis-server for tests: started, killed and started again on the same port, with what it had on its disk."""

import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from daemon import free_port
from observed import until

MISSING = None if shutil.which("redis-server") else "redis-server is not installed: run `just setup-rigs`"


class RedisServer:
    """One server on 127.0.0.1 that writes every command to its disk; a context manager: then it is gone.

    `options` are further options, as on its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        usual = ["--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", "--appendonly", "yes"]
        port = [] if "--tls-port" in self.options else ["--port", str(self.port)]
        (self.folder / "log").touch()
        before = self.log().count("Ready to accept connections")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["redis-server", *port, *usual, "--appendfsync", "always", *self.options], stdout=log, stderr=log
            )
        until("redis-server is ready", lambda: self._ready() > before, 10)

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

    def _ready(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, f"redis-server ended: {self.log()[-500:]}"
        return self.log().count("Ready to accept connections")
