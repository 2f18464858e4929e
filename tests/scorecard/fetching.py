"""Row 37: URLs in requests, in a network of its own: what is inside is never reached."""

import ctypes
import json
import os
import socketserver
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from asking import picture_file
from daemon import JSONL, ONNX, Daemon

from tests.scorecard.operation import synthetic, tool
from tests.scorecard.table import Figures, NotRunError

PUBLIC = "93.184.216.34"
_NEW_NETWORK, _NEW_MOUNTS, _PRIVATE = 0x4000_0000, 0x0002_0000, 0x4_4000
NAMES = {
    "public.test": PUBLIC,
    "internal.test": "127.0.0.1",
    "meta.test": "169.254.169.254",
    "ten.test": "10.0.0.1",
}


def _network_of_its_own(folder: Path) -> None:
    """This process, and what it starts, in a network with one public address, and with name servers of its own.

    Raises:
        NotRunError: that is not allowed here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK | _NEW_MOUNTS) or libc.mount(None, b"/", None, _PRIVATE, None):
        raise NotRunError(f"may not make a network namespace: {os.strerror(ctypes.get_errno())}")
    ip = tool("ip")
    subprocess.run([ip, "link", "set", "lo", "up"], check=True)
    for address in (f"{PUBLIC}/32", "169.254.169.254/32", "10.0.0.1/32"):
        subprocess.run([ip, "addr", "add", address, "dev", "lo"], check=True)
    servers = folder / "resolv.conf"
    servers.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    subprocess.run([tool("mount"), "--bind", str(servers), "/etc/resolv.conf"], check=True)


class Names(socketserver.BaseRequestHandler):
    """Answers for `NAMES`; `rebound.test` is public and inside by turns, and so are both of its addresses at once."""

    asked: ClassVar[dict[str, int]] = {}

    def handle(self) -> None:
        data, connection = self.request
        labels, at = [], 12
        while length := data[at]:
            labels.append(data[at + 1 : at + 1 + length].decode("latin-1"))
            at += 1 + length
        question, name = data[12 : at + 5], ".".join(labels).lower()
        (kind,) = struct.unpack(">H", data[at + 1 : at + 3])
        addresses = self._addresses(name) if kind == 1 else []
        answers = b"".join(
            struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + bytes(map(int, address.split("."))) for address in addresses
        )
        code = 0x8180 if name in NAMES or "rebound" in name or "both" in name else 0x8183
        head = data[:2] + struct.pack(">HHHHH", code, 1, len(addresses), 0, 0)
        connection.sendto(head + question + answers, self.client_address)

    def _addresses(self, name: str) -> list[str]:
        if name == "both.test":
            return [PUBLIC, "127.0.0.1"]
        if name.startswith("rebound"):
            self.asked[name] = self.asked.get(name, 0) + 1
            return [PUBLIC if self.asked[name] % 2 else "127.0.0.1"]
        return [NAMES[name]] if name in NAMES else []


class Web(BaseHTTPRequestHandler):
    """One server for both sides: what it is asked on any address but the public one is a hit inside."""

    inside: ClassVar[list[str]] = []
    outside: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        here = self.connection.getsockname()[0]
        (self.outside if here in (PUBLIC, f"::ffff:{PUBLIC}") else self.inside).append(f"{here}{self.path}")
        port = self.connection.getsockname()[1]
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2].replace("PORT", str(port)))
            self.end_headers()
            return
        playlist = f"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:{port}/segment.ts\n".encode()
        body = playlist if "m3u8" in self.path else picture_file()
        self.send_response(200)
        self.send_header(
            "Content-Type", "application/vnd.apple.mpegurl" if self.path.endswith("m3u8") else "image/jpeg"
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[socketserver.BaseServer]:
    thread = threading.Thread(target=server.serve_forever, name="rig")
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Both(ThreadingHTTPServer):
    """Listens on every address of either kind."""

    address_family = 10  # AF_INET6, which takes IPv4 too
    daemon_threads = True


URLS = [
    "http://127.0.0.1:PORT/a",
    "http://internal.test:PORT/a",
    "http://[::ffff:127.0.0.1]:PORT/a",
    "http://[::1]:PORT/a",
    "http://2130706433:PORT/a",
    "http://0x7f.1:PORT/a",
    "http://127.1:PORT/a",
    "http://0.0.0.0:PORT/a",
    "http://public.test\\@127.0.0.1:PORT/a",
    "http://public.test@127.0.0.1:PORT/a",
    "http://meta.test:PORT/latest/meta-data",
    "http://localhost.:PORT/a",
    "http://localhost:PORT/a",
    "http://10.0.0.1:PORT/a",
    "http://ten.test:PORT/a",
    "http://[::]:PORT/a",
    "file:///etc/passwd",
    "ftp://public.test:PORT/a",
    "http://public.test:PORT/redirect?http://127.0.0.1:PORT/a",
    "http://public.test:PORT/redirect?//internal.test:PORT/a",
    "http://public.test:PORT/redirect?file:///etc/passwd",
    "http://public.test:PORT/redirect?http://public.test:PORT/redirect?http://10.0.0.1:PORT/a",
    "http://public.test:PORT/list.m3u8",
    "http://public.test:PORT/list.m3u8.jpg",
    "http://nowhere.test:PORT/a",
    "http://public.test:1/a",
]


def row_37(folder: Path) -> Figures:
    """URLs of the internal network in 26 spellings, redirects, playlists and rebound names: none is reached."""
    _network_of_its_own(folder)
    Web.inside.clear()
    Web.outside.clear()
    with ExitStack() as stack:
        stack.enter_context(_running(socketserver.ThreadingUDPServer(("127.0.0.1", 53), Names)))
        web = _Both(("::", 0), Web)
        stack.enter_context(_running(web))
        port = str(web.server_address[1])
        daemon = stack.enter_context(
            Daemon(folder, synthetic("cam") + ONNX + JSONL, server="[server.inference]\nallow_urls = true\n")
        )
        daemon.ready().wait_frames("cam", 5)

        def ask(url: str) -> list[tuple[int, str]]:
            url = url.replace("PORT", port)
            image = {"type": "url", "value": url}
            return [
                daemon.request(f"/model/1?image={quote(url, safe='')}"),
                daemon.request("/infer/object_detection", "POST", {"model_id": "model", "image": image}),
                daemon.request("/sly/inference_image_url", "POST", {"state": {"image_url": url}}),
            ]

        good = ask("http://public.test:PORT/picture.jpg")
        assert [status for status, _ in good[1:]] == [200, 200], f"the rig itself does not work: {good}"
        fetched = len(Web.outside)
        refused: dict[int, set[str]] = {1: set(), 2: set()}
        asked = 0
        for url in URLS:
            for place, (status, body) in enumerate(ask(url)):
                asked += 1
                assert 400 <= status < 500, f"{url}: {status} {body}"
                if place and "m3u8.jpg" not in url:
                    refused[place].add(body)
        # The public one of their addresses may be used, and has the picture; the other one never.
        turning = [f"http://{name}.test:PORT/picture.jpg" for name in ("rebound1", "rebound2", "rebound3", "both")]
        for url in turning * 6:
            ask(url)
            asked += 3
        assert all(Names.asked[f"rebound{number}.test"] > 6 for number in (1, 2, 3)), Names.asked
        assert Web.inside == [], f"reached: {Web.inside}"
        assert all(len(texts) == 1 for texts in refused.values()), f"the reasons can be told apart: {refused}"
        assert fetched >= 2, Web.outside
        daemon.wait_frames("cam", 5)
        daemon.stop()
    texts = [json.loads(text) for each in refused.values() for text in each]
    assert not any("127.0.0.1" in str(text) for text in texts)
    return {
        "URLs": len(URLS) + len(turning),
        "requests": asked,
        "hits inside": len(Web.inside),
        "hits outside": len(Web.outside),
    }
