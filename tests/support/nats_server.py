"""A real NATS server with JetStream for tests: started, killed and started again on the same port, with its streams."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from observed import until
from server_process import ServerProcess

_BINARY = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
MISSING = None if _BINARY else "nats-server is not installed: uv sync"


class NatsServer(ServerProcess):
    """One server on 127.0.0.1 that keeps its streams in `folder`; a context manager: then it is gone.

    `more` is further text of its configuration.
    """

    name = "nats-server"

    def __init__(self, folder: Path, more: str = "") -> None:
        super().__init__(folder)
        self.configure(more)

    def configure(self, more: str) -> None:
        """Write its configuration; it takes effect at the next start."""
        text = f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self.folder}", sync_interval: always }}\n'
        (self.folder / "nats.conf").write_text(text + more)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        assert _BINARY is not None
        self._launch([_BINARY, "-c", str(self.folder / "nats.conf")])
        until("nats-server listens", self._listens, 10)

    def make_stream(self, name: str, *subjects: str, **keys: Any) -> None:
        """Make a stream."""

        async def make(stream: Any) -> None:
            await stream.add_stream(name=name, subjects=list(subjects), **keys)

        asyncio.run(self._with(make))

    def messages(self, name: str) -> list[dict[str, Any]]:
        """All messages of a stream: their lines, with `_subject` and `_id` added."""

        async def read(stream: Any) -> list[dict[str, Any]]:
            state = (await stream.stream_info(name)).state
            found = []
            for number in range(state.first_seq, state.last_seq + 1):
                message = await stream.get_msg(name, number)
                about = {"_subject": message.subject, "_id": (message.headers or {}).get("Nats-Msg-Id")}
                found.append(json.loads(message.data) | about)
            return found

        found: list[dict[str, Any]] = asyncio.run(self._with(read))
        return found

    async def _with(self, what: Any) -> Any:
        from nats.aio.client import Client

        client = Client()
        await client.connect(f"nats://127.0.0.1:{self.port}", allow_reconnect=False)
        try:
            return await what(client.jetstream())
        finally:
            await client.close()

    def _listens(self) -> bool:
        return super()._listens() and "Server is ready" in self.log()
