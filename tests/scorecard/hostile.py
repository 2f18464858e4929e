"""Rows 38, 39 and 46: clients that are slow, that send bombs, and that send anything. Each drives the real program."""

import base64
import contextlib
import gzip
import io
import os
import re
import select
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import quantiles

from asking import picture_file
from daemon import JSONL, ONNX, Daemon

from tests.scorecard.operation import RIGS, synthetic
from tests.scorecard.table import Figures, NotRunError

CLOSED_WITHIN_S = 15.0
SCRAPE_P99_S = 0.2
EACH_LIMIT_S = 1.0
RSS_LIMIT_MIB = 200.0
CONNECTIONS = 256
"""As many as the server keeps; those over it are closed at once."""

ACCEPTED_AT_ONCE = 100
"""asyncio takes so many from the kernel in one turn, before any of them is counted."""

_HEAD = b"POST /infer/object_detection HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Slow:
    """One client that sends something, may go on by the drop, and waits until it is closed."""

    def __init__(self, port: int, sent: bytes, drop: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.socket.setblocking(False)
        self.socket.send(sent) if sent else None
        self.drop = drop
        self.began_at = time.monotonic()
        self.took_s: float | None = None

    def look(self) -> None:
        """Send a drop, and see whether the server has closed."""
        try:
            if self.drop:
                self.socket.send(self.drop)
            if select.select([self.socket], [], [], 0)[0] and not self.socket.recv(65_536):
                self.took_s = time.monotonic() - self.began_at
        except BlockingIOError:
            return
        except OSError:
            self.took_s = time.monotonic() - self.began_at

    def close(self) -> None:
        self.socket.close()


KINDS: dict[str, tuple[bytes, bytes]] = {
    "connects only": (b"", b""),
    "half a head": (b"POST /infer/object_detection HTTP/1.1\r\nHost: lo", b""),
    "a head that drips": (b"POST /hf/object-detection HTTP/1.1\r\nHost: localhost\r\n", b"X-A: b\r\n"),
    "half a body": (_HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * 1000, b""),
    "a body that drips": (_HEAD + b"Content-Length: 100000\r\n\r\n", b"x"),
    "chunks that drip": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "idle after an answer": (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
    "packed body that drips": (_HEAD + b"Content-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n\x1f\x8b\x08\0", b"\0"),
}


def row_38(folder: Path) -> Figures:
    """200 slow clients of eight kinds at once, then 400 connections: closed within 15 s, scrapes meanwhile."""
    with Daemon(folder, synthetic("cam", fps=5) + ONNX + JSONL) as daemon:
        daemon.ready().wait_frames("cam", 5)
        daemon.scrape()
        before = daemon.usage()
        slow = {kind: [Slow(daemon.port, *KINDS[kind]) for _ in range(25)] for kind in KINDS}
        every = [client for clients in slow.values() for client in clients]
        scrapes_s, next_drop_at = [], 0.0
        ends_at = time.monotonic() + 2 * CLOSED_WITHIN_S
        while any(client.took_s is None for client in every) and time.monotonic() < ends_at:
            began_at = time.monotonic()
            daemon.scrape()
            scrapes_s.append(time.monotonic() - began_at)
            if time.monotonic() >= next_drop_at:
                next_drop_at = time.monotonic() + 0.5
                for client in every:
                    if client.took_s is None:
                        client.look()
            time.sleep(0.02)
        longest = {kind: max(client.took_s or 999.0 for client in clients) for kind, clients in slow.items()}
        for client in every:
            client.close()
        assert max(longest.values()) <= CLOSED_WITHIN_S, f"closed after {longest}"
        p99_s = quantiles(scrapes_s, n=100)[98]
        assert p99_s < SCRAPE_P99_S, f"/metrics took {p99_s:.3f} s"
        most = _many_connections(daemon, before.descriptors)
        daemon.wait_frames("cam", 5)
        after = daemon.usage()
        assert after.descriptors <= before.descriptors + 5, f"{before} before, {after} after"
        daemon.stop()
    return {
        "slow clients": len(every),
        "longest s": max(longest.values()),
        "scrape p99 ms": p99_s * 1000,
        "most descriptors": most,
    }


def _many_connections(daemon: Daemon, before: int) -> int:
    """400 at once: the program's descriptors stay bounded, and it answers again when they are gone."""
    clients = []
    for _ in range(400):
        with contextlib.suppress(OSError):
            clients.append(socket.create_connection(("127.0.0.1", daemon.port), timeout=5))
    time.sleep(0.5)  # the program accepts them at its own pace
    most = daemon.usage().descriptors
    for client in clients:
        client.close()
    assert most <= before + CONNECTIONS + ACCEPTED_AT_ONCE + 10, f"{most} descriptors"
    ends_at = time.monotonic() + 5
    while daemon.request("/livez")[0] != 200:
        assert time.monotonic() < ends_at, "it does not answer any more"
    return most


_PARTS = {"Content-Type": "multipart/form-data; boundary=b"}


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _packed(size_bytes: int, wbits: int) -> bytes:
    packer, block = zlib.compressobj(9, wbits=wbits), bytes(1 << 20)
    return b"".join([packer.compress(block) for _ in range(size_bytes >> 20)]) + packer.flush()


def _pictures() -> Iterator[tuple[str, bytes]]:
    """Picture bombs: small files that claim to be, or are, gigabytes of pixels."""
    yield "5 GB of PNG", _png(40_000, 42_000, _packed(1 << 30, 15))
    yield "PNG that claims", _png(2**31 - 1, 2**31 - 1, b"")
    jpeg = bytearray(picture_file())
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    yield "JPEG that claims", bytes(jpeg)
    yield "JPEG of scans", picture_file()[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 5_000 + b"\xff\xd9"
    yield "WebP that claims", b"RIFF\x64\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff" + bytes(80)
    bmp = bytearray(picture_file(kind="BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    yield "BMP that claims", bytes(bmp)
    tiff = io.BytesIO()
    tiff.write(b"II*\0\x08\0\0\0" + struct.pack("<H", 4))
    for tag, value in ((256, 70_000), (257, 70_000), (258, 8), (262, 1)):
        tiff.write(struct.pack("<HHII", tag, 4, 1, value))
    yield "TIFF that claims", tiff.getvalue() + bytes(100)
    yield "half a JPEG", picture_file()[:3000]
    yield "half a PNG", picture_file(2000, 2000, "PNG")[:5000]


def _bombs() -> Iterator[tuple[str, str, bytes | Callable[[], Iterator[bytes]], dict[str, str]]]:
    """Name, path, body and headers of each request."""
    roboflow, plain = "/infer/object_detection", "/model/1"
    yield "70 MiB in chunks", roboflow, lambda: (bytes(1 << 20) for _ in range(70)), {}
    yield "5 GB claimed", roboflow, b"x", {"Content-Length": str(5 << 30)}
    for kind, wbits in (("gzip", 31), ("deflate", 15), ("deflate", -15)):
        yield f"1 GiB in {kind} {wbits}", roboflow, _packed(1 << 30, wbits), {"Content-Encoding": kind}
    yield "gzip in gzip", roboflow, gzip.compress(_packed(1 << 30, 31)), {"Content-Encoding": "gzip"}
    for path in (roboflow, "/workflows/run", "/hf/object-detection", "/sly/inference_image", "/v2/models/model/infer"):
        for name, body in (
            ("[", b"[" * 500_000),
            ("{", b'{"a":' * 500_000),
            ("nested and closed", b"[" * 100_000 + b"]" * 100_000),
            ("long number", b'{"a": ' + b"9" * 1_000_000 + b"}"),
            ("NaN", b'{"a": NaN}'),
            ("20 MB of empty lists", b"[" + b"[]," * 7_000_000 + b"0]"),
        ):
            yield f"{name} to {path}", path, body, {"Content-Type": "application/json"}
    yield "200 headers", roboflow, b"{}", {f"X-{number}": "y" for number in range(200)}
    yield "a long header", roboflow, b"{}", {"X": "y" * 20_000}
    yield "parts without end", "/sly/inference_image", b"--b\r\n\r\n\r\n" * 4_000_000, _PARTS
    for name, picture in _pictures():
        text = base64.b64encode(picture)
        image = b'{"model_id":"model","image":{"type":"base64","value":"' + text + b'"}}'
        yield f"{name} to Roboflow", roboflow, image, {"Content-Type": "application/json"}
        yield f"{name} to Roboflow's old route", plain, text, {"Content-Type": "application/x-www-form-urlencoded"}
        yield f"{name} to Hugging Face", "/hf/object-detection/model", picture, {"Content-Type": "image/jpeg"}
        part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + picture + b"\r\n"
        state = b'--b\r\nContent-Disposition: form-data; name="state"\r\n\r\n{}\r\n--b--\r\n'
        yield f"{name} to Supervisely", "/sly/inference_image", part + state, _PARTS


def row_39(folder: Path) -> Figures:
    """Bodies too long, gzip bombs, deep JSON, 200 headers, picture bombs of 5 GB: 4xx at once, in little memory."""
    with Daemon(folder, synthetic("cam", fps=5) + ONNX + JSONL) as daemon:
        daemon.ready().wait_frames("cam", 5)
        image = base64.b64encode(picture_file()).decode()
        good = {"model_id": "model", "image": {"type": "base64", "value": image}}
        assert daemon.request("/infer/object_detection", "POST", good)[0] == 200
        assert daemon.request("/sly/get_session_info", "POST", {"state": {}})[0] == 200
        before_mib = daemon.usage().rss_mib
        Path(f"/proc/{daemon.pid()}/clear_refs").write_text("5")  # the peak counts from here
        count, longest_s, slowest = 0, 0.0, ""
        for name, path, body, headers in _bombs():
            began_at = time.monotonic()
            status = _send(daemon, path, body, headers)
            took_s = time.monotonic() - began_at
            assert 400 <= status < 500, f"{name}: {status}"
            assert took_s < EACH_LIMIT_S, f"{name}: {took_s:.2f} s"
            count += 1
            if took_s > longest_s:
                longest_s, slowest = took_s, name
        peak_mib = _peak_mib(daemon.pid()) - before_mib
        assert peak_mib < RSS_LIMIT_MIB, f"{peak_mib:.0f} MiB more"
        assert daemon.request("/infer/object_detection", "POST", good)[0] == 200
        daemon.wait_frames("cam", 5)
        daemon.stop()
        assert "Traceback" not in daemon.log(), daemon.log()[-2000:]
    print(f"slowest: {slowest}")
    return {"bombs": count, "longest s": longest_s, "peak MiB": peak_mib}


def _peak_mib(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _send(daemon: Daemon, path: str, body: bytes | Callable[[], Iterator[bytes]], headers: dict[str, str]) -> int:
    """The status of one request; 0 where the connection ends without one."""
    request = urllib.request.Request(  # noqa: S310 - our own URL
        daemon.url + path, body if isinstance(body, bytes) else body(), headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except urllib.error.URLError as error:
        # It was refused before all of it was sent, and the answer went down with the connection.
        if isinstance(error.reason, ConnectionError):
            return _send_and_listen(daemon, path, body, headers)
        return 0


def _send_and_listen(
    daemon: Daemon, path: str, body: bytes | Callable[[], Iterator[bytes]], headers: dict[str, str]
) -> int:
    """The same by hand: an answer that comes while the body is being sent is heard."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as client:
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
        if isinstance(body, bytes):
            lines += [] if "Content-Length" in headers else [f"Content-Length: {len(body)}"]
            pieces: Iterator[bytes] = (body[at : at + 65_536] for at in range(0, len(body), 65_536))
        else:
            lines.append("Transfer-Encoding: chunked")
            pieces = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in body())
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        for piece in pieces:
            if select.select([client], [], [], 0)[0]:
                break
            try:
                client.sendall(piece)
            except ConnectionError:
                break
        with contextlib.suppress(ConnectionError):
            head = client.recv(64)
            return int(head.split()[1]) if head.startswith(b"HTTP/1.") else 0
    return 0


SCHEMATHESIS = RIGS / "venvs/schemathesis/bin/schemathesis"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501", "503"]
"""


def row_46(folder: Path) -> Figures:
    """Schemathesis, 50 examples for each operation: nothing is an internal error, and answers keep to the schema."""
    if not SCHEMATHESIS.exists():
        raise NotRunError("schemathesis is not installed (just setup-scorecard)")
    with Daemon(folder, synthetic("cam", fps=5) + ONNX + JSONL) as daemon:
        daemon.ready().wait_frames("cam", 5)
        (folder / "schemathesis.toml").write_text(CONFIG)
        began_at = time.monotonic()
        done = subprocess.run(
            [
                str(SCHEMATHESIS),
                *("--config-file", "schemathesis.toml", "run", f"{daemon.url}/api/v1/openapi.json"),
                *("--max-examples", "50", "--checks", CHECKS, "--phases", "examples,fuzzing"),
                *("--seed", "1", "--workers", "2", "--request-timeout", "20", "--suppress-health-check", "all"),
                *("--report", "ndjson", "--report-ndjson-path", "report.ndjson", "--no-color"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        took_s = time.monotonic() - began_at
        daemon.alive()
        samples = daemon.scrape()
        codes = {code: int(samples.of("penstock_requests_total", code=code)) for code in ("500", "501", "503", "504")}
        assert codes["500"] == codes["504"] == 0, f"answers by status: {codes}"
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
        daemon.stop()
        assert "Traceback" not in daemon.log(), daemon.log()[-3000:]
    found = re.search(r"(\d+) generated", done.stdout)
    operations = re.search(r"[Ss]elected:? (\d+)", done.stdout) or re.search(r"Operations: +(\d+)", done.stdout)
    return {
        "cases": int(found[1]) if found else 0,
        "operations": int(operations[1]) if operations else 0,
        "501 (not here)": codes["501"],
        "503 (not now)": codes["503"],
        "took s": took_s,
    }
