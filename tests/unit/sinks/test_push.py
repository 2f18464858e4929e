import base64
import contextlib
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import trustme
from daemon import free_port
from pydantic import ValidationError

from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.result import Result
from pipeline.models.picture import from_rgb
from pipeline.testing import MovableClock, PluginContext, detections, frame, result
from sinks._pushing import can_send
from sinks.push import PushSink, PushSinkConfig

GREYS = [40 + 5 * index for index in range(30)]


class Viewer:
    """A server made of FFmpeg that one sender can send to: the mean brightness of each picture that comes."""

    def __init__(self, url: str, form: str, options: dict[str, str]) -> None:
        self.greys: list[float] = []
        self._thread = threading.Thread(target=self._watch, args=(url, form, options))
        self._thread.start()

    def _watch(self, url: str, form: str, options: dict[str, str]) -> None:
        with (
            contextlib.suppress(av.FFmpegError),  # the sender hangs up
            av.open(url, format=form, options=options, timeout=(20, 20)) as container,
        ):
            for picture in container.decode(video=0):
                self.greys.append(float(picture.reformat(format="gray8").to_ndarray().mean()))

    def end(self) -> list[float]:
        """What came until the sender hung up."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.greys


def opened(ctx: PluginContext, url: str, **keys: Any) -> PushSink:
    sink = PushSinkConfig.model_validate({"url": url, "timeout_s": 2, **keys}).build(ctx)
    sink.open()
    return sink


def send(sink: PushSink, greys: list[int], clock: MovableClock, first: int = 0) -> None:
    """Send pictures; the first is tried again until the server is there."""
    limit = time.monotonic() + 20
    for number, grey in enumerate(greys, first):
        one = result(frame(number, width=320, height=240, grey=grey), detections())
        while True:
            try:
                sink.write([one])
                break
            except TransientError:
                if number > first or time.monotonic() > limit:
                    raise
                clock.advance(60)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def moved(tmp_path: Path, clock: MovableClock) -> PluginContext:
    return PluginContext("out", tmp_path / "data", clock)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_pictures_arrive_over_rtsp(moved: PluginContext, clock: MovableClock, codec: str) -> None:
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    viewer = Viewer(url, "rtsp", {"rtsp_flags": "listen", "listen_timeout": "15"})
    sink = opened(moved, url, codec=codec, encoder="software")
    send(sink, GREYS, clock)
    sink.close()
    seen = viewer.end()
    # The first pictures may have come before the viewer had looked into the stream.
    assert len(seen) > len(GREYS) // 2
    assert seen == pytest.approx(GREYS[-len(seen) :], abs=4)


RTMP_VIEWER = """
import sys, av, time
greys = []
try:
    with av.open(sys.argv[1], format="flv", options={"listen": "1"}, timeout=(20, 20)) as container:
        for picture in container.decode(video=0):
            greys.append(float(picture.reformat(format="gray8").to_ndarray().mean()))
            time.sleep(float(sys.argv[2]))
except av.FFmpegError:
    pass  # the sender hangs up
print(*greys)
"""


@contextlib.contextmanager
def rtmp_viewer(url: str, sleep_s: float = 0.0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RTMP_VIEWER, url, str(sleep_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewer:
        try:
            yield viewer
        finally:
            viewer.kill()


def test_pictures_arrive_over_rtmp(moved: PluginContext, clock: MovableClock) -> None:
    url = f"rtmp://127.0.0.1:{free_port()}/live/gate"
    with rtmp_viewer(url) as viewer:
        sink = opened(moved, url, encoder="software")
        send(sink, GREYS, clock)
        sink.close()
        seen = [float(grey) for grey in viewer.communicate(timeout=30)[0].split()]
    assert len(seen) > len(GREYS) // 2
    assert seen == pytest.approx(GREYS[-len(seen) :], abs=4)


class RtspServer:
    """Answers as `script` says, status and headers for each method, keeps what it was asked, and reads no media."""

    def __init__(self, script: dict[str, list[str]], tls: Any = None) -> None:
        self.asked: list[str] = []
        self._script = script
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            if self._tls is not None:
                try:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                except OSError:  # it does not like our certificate
                    connection.close()
                    continue
            self._connections.append(connection)
            with contextlib.suppress(OSError):
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = connection.recv(4096)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            text = head.decode()
            length = int((re.search(r"Content-Length: (\d+)", text) or [0, 0])[1])
            while len(data) < length:
                data += connection.recv(4096)
            self.asked.append(text + "\r\n\r\n" + data[:length].decode())
            data = data[length:]
            method = text.split(" ", 1)[0]
            answers = self._script.get(method, ["200 OK"])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            number = re.search(r"CSeq: (\d+)", text)
            assert number
            connection.sendall(f"RTSP/1.0 {answer}\r\nCSeq: {number[1]}\r\nSession: 42;timeout=60\r\n\r\n".encode())
            if method == "RECORD":
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def serving(script: dict[str, list[str]] | None = None, tls: Any = None) -> Iterator[RtspServer]:
    server = RtspServer(script or {}, tls)
    try:
        yield server
    finally:
        server.close()


def noise(number: int) -> Result:
    pixels = np.random.default_rng(number).integers(0, 255, (240, 320, 3), np.uint8)
    return result(replace(frame(number), picture=from_rgb(pixels)), detections())


def until_it_fails(sink: PushSink) -> tuple[PenstockError, float]:
    """Send until that fails: how, and how long the last write took."""
    for number in range(2000):
        began = time.monotonic()
        try:
            sink.write([noise(number)])
        except PenstockError as error:
            return error, time.monotonic() - began
    raise AssertionError("it never failed")


def test_an_rtsp_server_that_reads_no_more_is_given_up_in_time(moved: PluginContext) -> None:
    with serving() as server:
        sink = opened(moved, f"rtsp://127.0.0.1:{server.port}/live", timeout_s=0.5, crf=1)
        error, took_s = until_it_fails(sink)
        assert isinstance(error, TransientError)
        assert "in time" in str(error)
        assert took_s < 3
        began = time.monotonic()
        with pytest.raises(TransientError, match="is away; asked again in 1 s"):
            sink.write([noise(0)])
        sink.close()
        assert time.monotonic() - began < 1, "while it waits, nothing blocks"
    assert [line.split(" ")[0] for line in server.asked] == ["OPTIONS", "ANNOUNCE", "SETUP", "RECORD"]
    assert moved.told[0][0::2] == ("disconnected", False)


def test_an_rtmp_server_that_reads_no_more_is_given_up_in_time(moved: PluginContext, clock: MovableClock) -> None:
    url = f"rtmp://127.0.0.1:{free_port()}/live/gate"
    with rtmp_viewer(url, sleep_s=60):
        sink = opened(moved, url, timeout_s=1.5, crf=1)
        send(sink, GREYS[:10], clock)
        error, took_s = until_it_fails(sink)
        assert isinstance(error, TransientError)
        assert "timed out" in str(error)
        assert 0.4 < took_s < 5
        sink.close()


def test_it_comes_again_later_and_later_and_says_so_once(moved: PluginContext, clock: MovableClock) -> None:
    sink = opened(moved, f"rtsp://127.0.0.1:{free_port()}/live")
    waits = []
    with pytest.raises(TransientError, match="cannot be reached"):
        sink.write([result(frame(0))])
    for _ in range(7):
        wait_s, said = 0.0, "is away"
        while "is away" in said:
            clock.advance(0.5)
            wait_s += 0.5
            with pytest.raises(TransientError) as caught:
                sink.write([result(frame(0))])
            said = str(caught.value)
        waits.append(wait_s)
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert [state for state, _, _ in moved.told] == ["disconnected"]


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [
        ('Basic realm="x"', "Basic " + base64.b64encode(b"cam:p@ss").decode()),
        # RFC 2617: MD5(MD5(cam:x:p@ss):abc:MD5(OPTIONS:rtsp://...))
        ('Digest realm="x", nonce="abc"', 'Digest username="cam", realm="x", nonce="abc"'),
    ],
)
def test_it_logs_in_when_it_is_asked_to(moved: PluginContext, challenge: str, expected: str) -> None:
    script = {"OPTIONS": [f"401 Unauthorized\r\nWWW-Authenticate: {challenge}", "200 OK"]}
    with serving(script) as server:
        sink = opened(moved, f"rtsp://cam:p%40ss@127.0.0.1:{server.port}/live")
        sink.write([result(frame(0, width=320, height=240))])
        sink.close()
    assert "Authorization" not in server.asked[0]
    assert all(f"Authorization: {expected}" in one for one in server.asked[1:4])
    assert "p@ss" not in "".join(server.asked)
    assert "p%40ss" not in "".join(server.asked)


def test_a_refusal_is_told_without_the_password(moved: PluginContext) -> None:
    with serving({"OPTIONS": ["401 Go\x1baway"]}) as server:
        sink = opened(moved, f"rtsp://cam:s3cret@127.0.0.1:{server.port}/live")
        with pytest.raises(TransientError, match=r"127\.0\.0\.1:\d+ answers 401 Go away to OPTIONS") as caught:
            sink.write([result(frame(0))])
        sink.close()
    assert "s3cret" not in str(caught.value) + str(moved.told)


def test_rtsps_wants_a_certificate_that_it_knows(moved: PluginContext, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with serving(tls=tls) as server:
        url = f"rtsps://127.0.0.1:{server.port}/live"
        stranger = opened(moved, url)
        with pytest.raises(TransientError, match="certificate is not accepted"):
            stranger.write([result(frame(0, width=320, height=240))])
        stranger.close()
        known = opened(moved, url, ca_file=str(tmp_path / "ca.pem"))
        known.write([result(frame(0, width=320, height=240))])
        known.close()


def test_a_protocol_that_this_ffmpeg_does_not_speak_is_a_config_error(moved: PluginContext) -> None:
    if can_send("srt"):
        pytest.skip("this FFmpeg speaks SRT")
    with pytest.raises(ConfigError, match="does not speak srt") as caught:
        PushSinkConfig.model_validate({"url": "srt://127.0.0.1:9000"}).check()
    assert caught.value.key == "url"


def test_two_sources_need_a_place_for_their_names(moved: PluginContext, clock: MovableClock) -> None:
    with pytest.raises(ConfigError, match=r"put \{source\} into it"):
        PushSinkConfig.model_validate({"url": "rtsp://h/live", "sources": ["a", "b"]}).check()
    sink = opened(moved, "udp://127.0.0.1:9")
    sink.write([result(frame(0, source="a", width=320, height=240))])
    with pytest.raises(FatalError, match="a and b go to one URL"):
        sink.write([result(frame(0, source="b", width=320, height=240))])
    sink.release("a")
    clock.advance(60)
    sink.write([result(frame(1, source="b", width=320, height=240))])
    sink.close()


@pytest.mark.parametrize("url", ["http://h/x", "file:///tmp/x", "rtsp:///x"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"must begin with rtsp://|is no URL"):
        PushSinkConfig.model_validate({"url": url})
