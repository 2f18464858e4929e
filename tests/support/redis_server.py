"""A real redis-server for tests: started, killed and started again on the same port, with what it had on its disk."""

import shutil
from pathlib import Path

from observed import until
from server_process import ServerProcess

MISSING = None if shutil.which("redis-server") else "redis-server is not installed: run `just setup-rigs`"


class RedisServer(ServerProcess):
    """One server on 127.0.0.1 that writes every command to its disk; a context manager: then it is gone.

    `options` are further options, as on its command line.
    """

    name = "redis-server"

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.options = options

    def start(self) -> None:
        """Start it, and wait until it answers."""
        usual = ["--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", "--appendonly", "yes"]
        port = [] if "--tls-port" in self.options else ["--port", str(self.port)]
        (self.folder / "log").touch()
        before = self.log().count("Ready to accept connections")
        self._launch(["redis-server", *port, *usual, "--appendfsync", "always", *self.options])
        until("redis-server is ready", lambda: self._ready() > before, 10)

    def _ready(self) -> int:
        self._lives()
        return self.log().count("Ready to accept connections")
