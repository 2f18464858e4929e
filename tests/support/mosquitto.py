"""A real Mosquitto for tests: started, killed, frozen and started again on the same port, with what it kept."""

import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from observed import until
from server_process import ServerProcess

MISSING = None if shutil.which("mosquitto") else "mosquitto is not installed: run `just setup-rigs`"


class Mosquitto(ServerProcess):
    """One broker on 127.0.0.1 that keeps its sessions and messages in `folder`; a context manager: then it is gone.

    `lines` are further lines of its configuration; `listener` stands in place of "listener PORT 127.0.0.1".
    """

    name = "mosquitto"

    def __init__(self, folder: Path, *lines: str, anonymous: bool = True, port: int | None = None) -> None:
        super().__init__(folder, port)
        self.configure(*lines, anonymous=anonymous)

    def configure(self, *lines: str, anonymous: bool = True) -> None:
        """Write its configuration; it takes effect at the next start."""
        text = [
            "per_listener_settings false",
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'true' if anonymous else 'false'}",
            "persistence true",
            f"persistence_location {self.folder}/",
            "max_inflight_messages 0",
            "max_queued_messages 0",
            "queue_qos0_messages true",
            "log_type error",
            "log_type warning",
            "log_type notice",
            *(["user root"] if _is_root() else []),
            *lines,
        ]
        (self.folder / "mosquitto.conf").write_text("\n".join(text) + "\n")

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._launch(["mosquitto", "-c", str(self.folder / "mosquitto.conf")])
        until("mosquitto listens", self._listens, 10)

    @property
    def running(self) -> bool:
        """Whether it was started and not killed or stopped since."""
        return self._process is not None

    def stop(self) -> None:
        """SIGTERM: it keeps what it has."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
        self._process = None

    def save(self) -> None:
        """Have it write its sessions to the disk now, as a kill would lose them; waits for it."""
        store = self.folder / "mosquitto.db"
        before = store.stat().st_mtime_ns if store.exists() else 0
        self.signal(signal.SIGUSR1)
        until("mosquitto has saved", lambda: store.exists() and store.stat().st_mtime_ns != before, 10)

    def publish(self, topic: str, body: bytes) -> None:
        """Tell it something with QoS 1, as a client of its own."""
        command = ["mosquitto_pub", "-p", str(self.port), "-q", "1", "-t", topic, "-s"]
        subprocess.run(command, input=body, check=True, timeout=20)

    def passwords(self, users: Sequence[tuple[str, str]]) -> Path:
        """A password file for `password_file`."""
        path = self.folder / "passwords"
        path.unlink(missing_ok=True)
        path.touch(0o600)
        for user, password in users:
            subprocess.run(["mosquitto_passwd", "-b", str(path), user, password], check=True, timeout=20)
        return path


def _is_root() -> bool:
    import os

    return os.geteuid() == 0
