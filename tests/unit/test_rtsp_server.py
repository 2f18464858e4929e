"""The test camera itself: what it promises to send and to do wrong is what a reader meets."""

import itertools
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from av.video.frame import VideoFrame
from media import camera_clip, video
from rtsp_server import RtspServer

SUPPORT = Path(__file__).parents[1] / "support"
OPTIONS = {"timeout": "1000000", "allowed_media_types": "video", "analyzeduration": "200000"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return camera_clip(tmp_path_factory.mktemp("clip") / "cam.mkv", frames=25)


@pytest.fixture
def server() -> Iterator[RtspServer]:
    with RtspServer() as server:
        yield server


def opened(url: str, transport: str = "tcp") -> Any:
    return av.open(url, options={"rtsp_transport": transport, **OPTIONS}, timeout=(3.0, 1.0), metadata_errors="ignore")


def frames_of(container: Any) -> Iterator[VideoFrame]:
    for packet in container.demux(video=0):
        yield from packet.decode()


def taken(url: str, number: int, transport: str = "tcp") -> list[VideoFrame]:
    with opened(url, transport) as container:
        return [frame for frame, _ in zip(frames_of(container), range(number), strict=False)]


@pytest.mark.parametrize("codec", ["h264", "h265", "mjpeg"])
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_whole_clip_comes_undamaged(server: RtspServer, tmp_path: Path, codec: str, transport: str) -> None:
    url = server.add("/cam", camera_clip(tmp_path / "cam.mkv", codec=codec, frames=25, width=160, height=112))
    frames = taken(url, 30, transport)
    assert len(frames) == 30
    assert {(frame.width, frame.height) for frame in frames} == {(160, 112)}
    assert not any(frame.is_corrupt for frame in frames)


@pytest.mark.parametrize("basic_only", [False, True])
def test_only_the_right_password_opens(server: RtspServer, clip: Path, basic_only: bool) -> None:
    url = server.add("/cam", clip, user="us er", password="p@ss/:1", basic_only=basic_only)  # noqa: S106 - the test's own
    assert len(taken(url, 3)) == 3
    with pytest.raises(av.error.HTTPUnauthorizedError):
        taken(url.replace("p%40ss", "wrong"), 1)


def test_a_missing_path_is_not_found(server: RtspServer) -> None:
    with pytest.raises(av.error.HTTPNotFoundError):
        taken(server.url("/nobody"), 1)


def test_a_killed_server_ends_the_stream_and_comes_back_on_its_port(server: RtspServer, clip: Path) -> None:
    url = server.add("/cam", clip)
    with opened(url) as container:
        frames = frames_of(container)
        next(frames)
        server.kill()
        assert len(list(frames)) < 25
    with pytest.raises(OSError, match="refused"):
        taken(url, 1)
    server.restart()
    assert len(taken(url, 3)) == 3


def test_a_frozen_server_sends_nothing_and_stays_connected(server: RtspServer, clip: Path) -> None:
    with opened(server.add("/cam", clip)) as container:
        frames = frames_of(container)
        next(frames)
        server.fault.freeze = True
        start = time.monotonic()
        with pytest.raises((av.error.ExitError, av.error.TimeoutError)):
            list(frames)
        assert time.monotonic() - start > 1
        assert server.counts.overrun == 0


def test_a_clip_is_exchanged_in_mid_stream(server: RtspServer, clip: Path, tmp_path: Path) -> None:
    other = camera_clip(tmp_path / "small.mkv", frames=25, width=160, height=112)
    with opened(server.add("/cam", clip)) as container:
        frames = frames_of(container)
        assert next(frames).width == 320
        server.switch("/cam", other)
        assert next(frame.width for frame in frames if frame.width != 320) == 160


def test_lost_packets_damage_pictures(server: RtspServer, tmp_path: Path) -> None:
    big = camera_clip(tmp_path / "big.mkv", frames=50, width=640, height=368)
    url = server.add("/cam", big)
    server.fault.drop = 0.05
    damaged = sum(frame.is_corrupt for frame in taken(url, 40, "udp"))
    assert server.counts.dropped > 0
    assert damaged > 0


def test_sender_reports_tell_the_camera_s_clock(server: RtspServer, clip: Path) -> None:
    url = server.add("/cam", clip)
    server.fault.ntp_offset_s = 3600.0
    with opened(url) as container:
        for packet in container.demux(video=0):
            if packet.has_sidedata("prft"):
                at_s = struct.unpack("<q", bytes(packet.get_sidedata("prft"))[:8])[0] / 1e6
                break
    assert at_s - time.time() == pytest.approx(3600, abs=2)
    assert server.counts.reports > 0


def test_pictures_out_of_order_keep_their_time_stamps(server: RtspServer, tmp_path: Path) -> None:
    pictures = [VideoFrame(160, 112, "yuv420p") for _ in range(25)]
    with_b = video(tmp_path / "b.mp4", pictures, options={"bf": "2", "g": "25"})
    times = [frame.time for frame in taken(server.add("/cam", with_b), 40) if frame.time is not None]
    steps = {round(after - before, 3) for before, after in itertools.pairwise(times)}
    assert steps == {0.04}


def test_the_server_runs_as_a_process_and_obeys_lines(clip: Path) -> None:
    command = [sys.executable, str(SUPPORT / "rtsp_server.py"), "0", f"/cam={clip},user=u,password=p"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = process.stdout.readline().split()[1]
        assert len(taken(f"rtsp://u:p@127.0.0.1:{port}/cam", 2)) == 2
        process.stdin.write("status 503 Service Unavailable\n")
        process.stdin.flush()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                taken(f"rtsp://u:p@127.0.0.1:{port}/cam", 1)
            except av.error.HTTPServerError:
                break
        else:
            pytest.fail("the line was not obeyed")
        process.stdin.close()
        assert process.wait(10) == 0
