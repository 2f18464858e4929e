"""A real RTSP camera for tests, with faults on demand: in a thread of the test, or as a process that can be killed.

As a process: `python tests/support/rtsp_server.py PORT /cam=clip.mp4 /safe=clip.mp4,user=u,password=p,audio`. It prints
`ready PORT`, obeys lines on standard input (`freeze 1`, `drop 0.05`, `status 404 Not Found`, `status off`, `closeall`,
`switch /cam other.mp4`) and ends when standard input does.
"""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from camera_clip import CameraClip
from rtsp_faults import Counts, Faults
from rtsp_session import Mount, Session

START_LIMIT_S = 10.0


class RtspServer:
    """A camera, or many behind one port: TCP and UDP, Digest and Basic, H.264, H.265 and JPEG, optional PCMU.

    Used as a context manager by the test's thread; a thread of its own runs the loop. `fault` and `counts` may be used
    from any thread. Every reader gets the clip from its beginning, looped, in real time.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None, seed: int = 1
    ) -> None:
        self.host, self.port = host, port
        self.fault, self.counts = Faults(), Counts()
        self.mounts: dict[str, Mount] = {}
        self._tls = tls
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rtsp-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.fault.silent = self.fault.stall_describe = False
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_LIMIT_S)
        self._loop.close()

    def add(self, path: str, clip: Path | str, **settings: Any) -> str:
        """Serve a clip at a path; `settings` are the fields of `Mount`. The camera's URL comes back."""
        self.mounts[path] = Mount(CameraClip(clip), **settings)
        return self.url(path)

    def switch(self, path: str, clip: Path | str) -> None:
        """Go on with another clip in mid-stream: another size, other codec parameters."""
        self.mounts[path].clip = CameraClip(clip)

    def url(self, path: str, credentials: bool = True) -> str:
        """The camera's URL, with its user and password where it wants them."""
        mount = self.mounts.get(path)
        login = ""
        if credentials and mount is not None and mount.user is not None:
            login = f"{quote(mount.user, safe='')}:{quote(mount.password, safe='')}@"
        return f"{'rtsps' if self._tls else 'rtsp'}://{login}{self.host}:{self.port}{path}"

    def kill(self) -> None:
        """What the death of the process looks like: nobody listens, every connection ends."""
        self._do(self._close())

    def restart(self) -> None:
        """Listen again, on the same port."""
        self._do(self._listen())

    def close_all(self) -> None:
        """Reset every connection (RST) and go on listening."""
        self._do(self._reset())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_LIMIT_S)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._client, self.host, self.port, ssl=self._tls, reuse_address=True, backlog=200
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts.add("connections")
        task = asyncio.current_task()
        assert task is not None
        self._writers.add(writer)
        self._clients.add(task)
        try:
            await Session(self.mounts, self.fault, self.counts, reader, writer, chance=self._chance).serve()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        except asyncio.CancelledError:
            pass  # the server ends: a handler that ends cancelled would be reported as an error of the loop
        finally:
            self._writers.discard(writer)
            self._clients.discard(task)

    async def _reset(self) -> None:
        for writer in list(self._writers):
            peer = writer.get_extra_info("socket")
            if peer is not None and peer.fileno() >= 0 and self._tls is None:  # its reader may have gone just now
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        clients = list(self._clients)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn, before which it must not be stopped


def main(arguments: list[str]) -> None:
    """Serve until standard input ends."""
    host, _, port = arguments[0].rpartition(":")
    with RtspServer(host or "127.0.0.1", int(port)) as server:
        for argument in arguments[1:]:
            path, _, rest = argument.partition("=")
            clip, *options = rest.split(",")
            pairs = [option.partition("=")[::2] for option in options]
            server.add(path, clip, **{name: value or True for name, value in pairs})
        sys.stdout.write(f"ready {server.port}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            name, _, value = line.strip().partition(" ")
            if name == "closeall":
                server.close_all()
            elif name == "switch":
                server.switch(*value.split(" ", 1))
            elif name:
                server.fault.set(name, value)


if __name__ == "__main__":
    main(sys.argv[1:])
