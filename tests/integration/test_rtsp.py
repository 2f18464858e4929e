"""The source `rtsp` against a real server: what cameras send, and all the ways in which they go away."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trustme
from media import camera_clip, moving, video
from rtsp_server import RtspServer

from pipeline.contracts.errors import PenstockError, SourceErrorCode
from pipeline.contracts.frame import FailedFrame, Frame, Size
from pipeline.testing import PluginContext
from sources._live import LiveSource
from sources.rtsp import RtspSourceConfig

FRAME_S = 0.04


@dataclass
class Seen:
    """What one connection gave, and how it ended."""

    frames: list[Frame] = field(default_factory=list)
    failures: list[FailedFrame] = field(default_factory=list)
    error: PenstockError | None = None
    ended_at_s: float = 0.0

    @property
    def code(self) -> SourceErrorCode | None:
        return self.error.source_code if self.error else None

    @property
    def sizes(self) -> list[Size]:
        return list(dict.fromkeys(frame.picture.size for frame in self.frames))


def camera(url: str, **keys: Any) -> LiveSource:
    config = RtspSourceConfig.model_validate({"type": "rtsp", "url": url, "stall_timeout_s": 1.0, **keys})
    return config.build(PluginContext("cam"))


def watch(
    source: LiveSource, items: int, *, then: Callable[[], None] | None = None, after: int = 10, keep: bool = True
) -> Seen:
    """Read one connection to its end, or until so many frames and failures; `then` is called after some of them."""
    seen, stop = Seen(), threading.Event()
    count = 0
    try:
        for item in source.frames(stop):
            count += 1
            if isinstance(item, Frame):
                seen.frames.append(item if keep else item.released())
            else:
                seen.failures.append(item)
            if count == after and then is not None:
                then()
            if count >= items:
                stop.set()
    except PenstockError as error:
        seen.error = error
    seen.ended_at_s = time.monotonic()
    return seen


@dataclass
class Clips:
    h264: Path
    h265: Path
    mjpeg: Path
    small: Path
    short_gop: Path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = tmp_path_factory.mktemp("clips")
    options = {"preset": "ultrafast", "g": "5", "bf": "0"}
    return Clips(
        h264=camera_clip(folder / "h264.mp4"),
        h265=camera_clip(folder / "h265.mp4", codec="h265"),
        mjpeg=camera_clip(folder / "mjpeg.mkv", codec="mjpeg"),
        small=camera_clip(folder / "small.mp4", width=160, height=128),
        short_gop=video(folder / "short.mp4", [moving(number) for number in range(50)], options=options),
    )


@pytest.fixture
def server(clips: Clips) -> Iterator[RtspServer]:
    with RtspServer() as server:
        server.add("/cam", clips.h264)
        yield server


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("codec", ["h264", "h265", "mjpeg"])
def test_every_codec_comes_over_every_transport(server: RtspServer, clips: Clips, codec: str, transport: str) -> None:
    url = server.add("/one", getattr(clips, codec))
    source = camera(url, transport=transport)
    seen = watch(source, 25)
    assert seen.error is None
    assert seen.failures == []
    assert [frame.seq for frame in seen.frames] == list(range(25))
    gaps_s = [b.pts_s - a.pts_s for a, b in pairwise(seen.frames) if a.pts_s is not None and b.pts_s is not None]
    assert gaps_s == pytest.approx([FRAME_S] * 24, abs=0.002)
    assert seen.sizes == [Size(320, 240)]
    assert not any(frame.corrupt or frame.time_jump for frame in seen.frames)
    assert seen.frames[-1].time_source == "rtcp"
    offset_s = seen.frames[-1].clock_offset_s
    assert offset_s is not None
    assert 0 <= offset_s < 0.5
    name = {"h264": "h264", "h265": "hevc", "mjpeg": "mjpeg"}[codec]
    details = dict(source.details())
    if codec == "mjpeg":  # every picture is a keyframe
        assert details.pop("keyframe_interval_s") == pytest.approx(FRAME_S, abs=0.03)
    assert details == {
        "codec": name,
        "decoder": "cpu",
        "decoding": "all",
        "transport": transport,
        "width": 320,
        "height": 240,
        "fps": pytest.approx(25, abs=2),
    }


def test_sound_is_ignored_and_does_not_hide_that_the_picture_stands_still(server: RtspServer, clips: Clips) -> None:
    source = camera(server.add("/sound", clips.h264, audio=True))
    faulty_at_s = 0.0

    def freeze() -> None:
        nonlocal faulty_at_s
        faulty_at_s = time.monotonic()
        server.fault.video_freeze = True

    seen = watch(source, 500, then=freeze)
    assert len(seen.frames) >= 10
    assert seen.code is SourceErrorCode.STALLED
    assert seen.ended_at_s - faulty_at_s < 2.0


@pytest.mark.parametrize(
    ("fault", "transport", "codec"),
    [
        ("freeze", "tcp", "h264"),
        ("freeze", "tcp", "mjpeg"),
        ("freeze", "udp", "h265"),
        ("silent", "tcp", "h264"),
        ("drop", "tcp", "h264"),  # RTP stops, sender reports go on
        ("drop", "udp", "mjpeg"),
    ],
)
def test_a_frozen_camera_is_seen_within_its_limit(
    server: RtspServer, clips: Clips, fault: str, transport: str, codec: str
) -> None:
    url = server.add("/one", getattr(clips, codec))
    faulty_at_s = 0.0

    def break_it() -> None:
        nonlocal faulty_at_s
        faulty_at_s = time.monotonic()
        setattr(server.fault, fault, 1.0 if fault == "drop" else True)

    seen = watch(camera(url, transport=transport), 500, then=break_it, after=20)
    assert seen.code is SourceErrorCode.STALLED
    assert 0.9 < seen.ended_at_s - faulty_at_s < 1.5
    assert time.monotonic() - seen.frames[-1].decoded_at < 1.5


@pytest.mark.parametrize("fault", ["stall_describe", "garbage", "silent", "freeze"])
def test_a_server_that_says_nothing_of_use_is_a_time_out_and_never_a_hang(server: RtspServer, fault: str) -> None:
    setattr(server.fault, fault, True)
    started_s = time.monotonic()
    seen = watch(camera(server.url("/cam"), open_timeout_s=2, first_frame_timeout_s=1), 1)
    assert seen.frames == []
    assert seen.code in (SourceErrorCode.TIMEOUT, SourceErrorCode.CORRUPT)
    assert seen.ended_at_s - started_s < 4.0


def test_a_stream_that_ends_is_a_lost_connection_at_once_and_the_next_one_goes_on(server: RtspServer) -> None:
    source = camera(server.url("/cam"))
    died_at_s = 0.0

    def kill() -> None:
        nonlocal died_at_s
        died_at_s = time.monotonic()
        server.kill()

    first = watch(source, 500, then=kill)
    assert first.code is SourceErrorCode.CONNECTION_FAILED
    assert "closed the connection" in str(first.error)
    assert first.ended_at_s - died_at_s < 0.5
    absent = watch(source, 1)
    assert absent.code is SourceErrorCode.CONNECTION_FAILED
    assert absent.frames == []
    server.restart()
    second = watch(source, 10)
    frames = first.frames + second.frames
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    stamps_s = [frame.pts_s for frame in frames if frame.pts_s is not None]
    assert all(earlier < later for earlier, later in pairwise(stamps_s))
    away_s = second.frames[0].decoded_at - first.frames[-1].decoded_at
    assert stamps_s[len(first.frames)] - stamps_s[len(first.frames) - 1] == pytest.approx(away_s, abs=0.01)


def test_a_user_may_stand_in_the_url_or_in_keys_of_its_own(server: RtspServer, clips: Clips) -> None:
    url = server.add("/safe", clips.h264, user="us er", password="p@s/s:%x")  # noqa: S106
    assert watch(camera(url), 1).error is None
    plain = server.url("/safe", credentials=False)
    assert watch(camera(plain, user="us er", password="p@s/s:%x"), 1).error is None  # noqa: S106


def test_a_wrong_password_and_a_wrong_path_are_told_apart_and_the_password_never(
    server: RtspServer, clips: Clips
) -> None:
    server.add("/safe", clips.h264, user="guard", password="right")  # noqa: S106
    refused = watch(camera(server.url("/safe", credentials=False), user="guard", password="geheim"), 1)  # noqa: S106
    assert refused.code is SourceErrorCode.AUTH_FAILED
    assert refused.error is not None
    assert refused.error.__cause__ is None
    assert refused.error.__context__ is None
    in_url = watch(camera(server.url("/safe", credentials=False).replace("//", "//guard:geheim@")), 1)
    assert in_url.code is SourceErrorCode.AUTH_FAILED
    assert "geheim" not in f"{refused.error!r} {in_url.error!r}"
    assert watch(camera(server.url("/nothing")), 1).code is SourceErrorCode.NOT_FOUND


def test_a_transport_that_the_camera_does_not_have_is_refused(server: RtspServer, clips: Clips) -> None:
    url = server.add("/udp_only", clips.h264, tcp=False)
    assert watch(camera(url), 1).code is SourceErrorCode.CONNECTION_FAILED
    assert watch(camera(url, transport="udp"), 3).error is None


def test_a_new_size_in_mid_stream_goes_on(server: RtspServer, clips: Clips) -> None:
    source = camera(server.url("/cam"))
    seen = watch(source, 60, then=lambda: server.switch("/cam", clips.small), after=20)
    assert seen.error is None
    assert seen.failures == []
    assert seen.sizes == [Size(320, 240), Size(160, 128)]
    assert seen.frames[-1].picture.rgb().shape == (128, 160, 3)
    assert (source.details()["width"], source.details()["height"]) == (160, 128)


def test_a_new_codec_in_mid_stream_is_found_by_a_new_connection(server: RtspServer, clips: Clips) -> None:
    source = camera(server.url("/cam"))
    seen = watch(source, 1000, then=lambda: server.switch("/cam", clips.h265), after=20)
    assert seen.code is SourceErrorCode.STALLED
    assert seen.failures
    assert watch(source, 5).error is None
    assert source.details()["codec"] == "hevc"


@pytest.mark.parametrize("on_corrupt", ["flag", "skip"])
def test_damage_that_the_decoder_conceals_is_told(server: RtspServer, on_corrupt: str) -> None:
    server.fault.drop = 0.1
    seen = watch(camera(server.url("/cam"), transport="udp", on_corrupt=on_corrupt), 60)
    flagged = [frame for frame in seen.frames if frame.corrupt]
    skipped = [failure for failure in seen.failures if failure.corrupt]
    assert bool(flagged) is (on_corrupt == "flag")
    assert bool(skipped) is (on_corrupt == "skip")
    assert [frame.seq for frame in seen.frames] == list(range(len(seen.frames)))


def test_damaged_packets_are_failures_in_place_and_never_the_end(server: RtspServer) -> None:
    server.fault.corrupt = 0.5
    seen = watch(camera(server.url("/cam"), stall_timeout_s=3), 60)
    assert seen.error is None
    assert seen.failures or any(frame.corrupt for frame in seen.frames)
    server.fault.corrupt = 0.0
    assert not watch(camera(server.url("/cam")), 10).frames[-1].corrupt


@pytest.mark.parametrize(("offset_s", "expected"), [(3600.0, -3600.0), (-3600.0, 3600.0)])
def test_a_camera_whose_clock_is_an_hour_off_is_told_and_breaks_nothing(
    server: RtspServer, offset_s: float, expected: float
) -> None:
    server.fault.ntp_offset_s = offset_s
    seen = watch(camera(server.url("/cam")), 15)
    last = seen.frames[-1]
    assert last.time_source == "pts"
    assert last.clock_offset_s == pytest.approx(expected, abs=1)
    assert last.captured_at == pytest.approx(time.time(), abs=2)


def test_time_stamps_that_jump_are_told_and_never_run_backwards(server: RtspServer) -> None:
    def jump_back() -> None:
        server.fault.pts_offset_s = -4000.0

    server.fault.pts_offset_s = 5000.0
    seen = watch(camera(server.url("/cam")), 60, then=jump_back, after=20)
    assert [frame.time_jump for frame in seen.frames].count(True) == 1
    for earlier, later in pairwise(seen.frames):
        assert earlier.pts_s is not None
        assert later.pts_s is not None
        assert 0 < later.pts_s - earlier.pts_s < 0.5
        assert later.captured_at >= earlier.captured_at


def test_where_few_frames_are_wanted_keyframes_alone_are_decoded(server: RtspServer, clips: Clips) -> None:
    url = server.add("/short", clips.short_gop)
    seen = watch(camera(url, max_fps=5), 42)
    assert seen.error is None
    assert seen.failures == []
    assert not any(frame.corrupt for frame in seen.frames)
    late = [frame.pts_s for frame in seen.frames[-12:] if frame.pts_s is not None]
    assert [b - a for a, b in pairwise(late)] == pytest.approx([0.2] * 11, abs=0.002)


def test_a_stop_ends_it_at_once_while_frames_come_and_within_the_limit_while_none_do(server: RtspServer) -> None:
    for frozen in (False, True):
        stop = threading.Event()
        frames = camera(server.url("/cam")).frames(stop)
        for _ in range(20):
            next(frames)
        server.fault.freeze = frozen
        stop.set()
        asked_at_s = time.monotonic()
        assert len(list(frames)) <= 1
        assert time.monotonic() - asked_at_s < (1.5 if frozen else 0.3)


def test_two_hundred_connections_leave_no_thread_and_no_file_behind(server: RtspServer, clips: Clips) -> None:
    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))

    def reconnect(times: int) -> None:
        source, missing = camera(server.url("/cam")), camera(server.url("/nothing"))
        babbling = camera(babbler.url("/cam"), open_timeout_s=0.4)
        for number in range(times):
            each = (source, missing, source, babbling)[number % 4]
            watch(each, 2, then=server.close_all if number % 4 == 2 else None, after=1)

    with RtspServer() as babbler:
        babbler.add("/cam", clips.h264)
        babbler.fault.garbage = True
        reconnect(4)
        server.counts.wait_for("connections", 3)
        before = held()
        with ThreadPoolExecutor(10, thread_name_prefix="reader") as pool:
            list(pool.map(reconnect, [20] * 10))
        connections = server.counts.connections + babbler.counts.connections
        _wait_until(lambda: held() <= before)
    assert connections >= 200


def _wait_until(true: Callable[[], bool], limit_s: float = 5.0) -> None:
    """The server lets go of its ends of the connections a moment after we let go of ours."""
    ended = threading.Event()
    deadline_s = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline_s, "threads or descriptors were left behind"
        ended.wait(0.05)


def test_over_tls_the_camera_must_be_who_it_says(clips: Clips, tmp_path: Path) -> None:
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.issue_cert("127.0.0.1").configure_cert(context)
    with RtspServer(tls=context) as server:
        url = server.add("/cam", clips.h264)
        assert watch(camera(url, ca_file=str(tmp_path / "ca.pem")), 2).error is None
        plain = url.replace("rtsps", "rtsp")
        assert watch(camera(plain, transport="tls", ca_file=str(tmp_path / "ca.pem")), 2).error is None
        for keys in ({"ca_file": str(tmp_path / "other.pem")}, {}):
            stranger = watch(camera(url, **keys), 1)
            assert stranger.frames == []
            assert stranger.code is SourceErrorCode.TLS
            assert "not trusted" in str(stranger.error)
        assert watch(camera(url, verify=False), 2).error is None


def test_a_certificate_for_another_name_is_not_trusted(clips: Clips, tmp_path: Path) -> None:
    ours = trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.issue_cert("other.lan").configure_cert(context)
    with RtspServer(tls=context) as server:
        seen = watch(camera(server.add("/cam", clips.h264), ca_file=str(tmp_path / "ca.pem")), 1)
    assert seen.frames == []
    assert seen.code is SourceErrorCode.TLS
