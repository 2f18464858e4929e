"""The sources `stream` and `device` against real servers, and what is not there."""

import base64
import io
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from media import camera_clip, moving
from PIL import Image
from web_camera import WebCamera

from pipeline.contracts.errors import PenstockError, SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Frame, Size
from pipeline.testing import PluginContext
from sources._live import LiveSource
from sources.device import DeviceSourceConfig
from sources.stream import StreamSourceConfig


@pytest.fixture
def web() -> Iterator[WebCamera]:
    with WebCamera() as web:
        yield web


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an HLS playlist of segments of one second, and all of them as one `all.ts`."""
    folder = tmp_path_factory.mktemp("hls")
    clip = camera_clip(folder / "clip.mp4", frames=75)
    for name, options in (("live.m3u8", {"hls_time": "1", "hls_list_size": "0"}), ("all.ts", {})):
        with av.open(str(clip)) as original, av.open(str(folder / name), "w", options=options) as copy:
            stream = copy.add_stream_from_template(original.streams.video[0])
            for packet in original.demux(original.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    copy.mux(packet)
    return folder


def jpeg(number: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(moving(number)).save(data, "JPEG")
    return data.getvalue()


def stream(url: str, **keys: Any) -> LiveSource:
    return StreamSourceConfig.model_validate({"type": "stream", "url": url, **keys}).build(PluginContext("web"))


def until_it_ends(source: LiveSource) -> tuple[list[Frame], list[FailedFrame], PenstockError]:
    frames: list[Frame] = []
    failures: list[FailedFrame] = []
    try:
        for item in source.frames(threading.Event()):
            (frames if isinstance(item, Frame) else failures).append(item)  # type: ignore[arg-type]
    except TransientError as error:
        return frames, failures, error
    raise AssertionError("a live source ended without an error")


def test_mjpeg_over_http_has_the_time_of_its_arrival(web: WebCamera) -> None:
    source = stream(web.mjpeg("/v.mjpg", [jpeg(number) for number in range(10)], interval_s=0.1))
    frames, failures, error = until_it_ends(source)
    assert failures == []
    assert error.code is SourceErrorCode.CONNECTION_FAILED
    assert len(frames) == 10
    assert {frame.time_source for frame in frames} == {"arrival"}
    gaps_s = [b.pts_s - a.pts_s for a, b in pairwise(frames[1:]) if a.pts_s is not None and b.pts_s is not None]
    assert gaps_s == pytest.approx([0.1] * 8, abs=0.06)  # and not the 25 a second that FFmpeg makes up


def test_a_broken_picture_in_between_is_a_failed_frame(web: WebCamera) -> None:
    pictures = [jpeg(number) for number in range(6)]
    pictures[3] = b"\xff\xd8\xff" + bytes(500)
    frames, failures, _ = until_it_ends(stream(web.mjpeg("/v.mjpg", pictures)))
    assert (len(frames), len(failures)) == (5, 1)
    assert [frame.seq for frame in frames] == list(range(5))


def test_a_transport_stream_over_http_keeps_its_time_stamps(web: WebCamera, segments: Path) -> None:
    frames, failures, error = until_it_ends(stream(web.file("/all.ts", segments / "all.ts")))
    assert failures == []
    assert error.code is SourceErrorCode.CONNECTION_FAILED
    assert [frame.pts_s for frame in frames] == pytest.approx([number / 25 for number in range(75)], abs=0.001)
    assert {frame.picture.size for frame in frames} == {Size(320, 240)}


def test_hls_is_played_as_fast_as_it_was_filmed(web: WebCamera, segments: Path) -> None:
    for segment in segments.glob("live*.ts"):
        web.file(f"/{segment.name}", segment)
    source = stream(web.file("/live.m3u8", segments / "live.m3u8", "application/vnd.apple.mpegurl"))
    frames, failures, _ = until_it_ends(source)
    assert failures == []
    assert len(frames) == 75
    assert frames[-1].decoded_at - frames[0].decoded_at == pytest.approx(74 / 25, abs=0.3)


def test_a_playlist_reaches_no_file(web: WebCamera, segments: Path, tmp_path: Path) -> None:
    playlist = tmp_path / "evil.m3u8"
    segment = next(segments.glob("live*.ts"))
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{segment}\n#EXT-X-ENDLIST\n")
    frames, _, _ = until_it_ends(stream(web.file("/evil.m3u8", playlist, "application/vnd.apple.mpegurl")))
    assert frames == []


def test_a_login_is_sent_and_a_wrong_one_told(web: WebCamera) -> None:
    web.login = "Basic " + base64.b64encode(b"guard:p@s/s").decode()
    url = web.mjpeg("/v.mjpg", [jpeg(number) for number in range(3)])
    assert len(until_it_ends(stream(url, user="guard", password="p@s/s"))[0]) == 3  # noqa: S106
    frames, _, error = until_it_ends(stream(url, user="guard", password="geheim"))  # noqa: S106
    assert frames == []
    assert error.code is SourceErrorCode.AUTH_FAILED
    assert "geheim" not in repr(error)


def test_what_is_not_there_is_told_apart(web: WebCamera) -> None:
    assert until_it_ends(stream(web.url("/nothing")))[2].code is SourceErrorCode.NOT_FOUND
    assert until_it_ends(stream("http://127.0.0.1:9/v.mjpg"))[2].code is SourceErrorCode.CONNECTION_FAILED
    assert until_it_ends(stream("rtmp://127.0.0.1:9/live"))[2].code is SourceErrorCode.CONNECTION_FAILED


def test_a_silent_udp_port_is_a_time_out() -> None:
    assert until_it_ends(stream("udp://127.0.0.1:38971", open_timeout_s=1))[2].code is SourceErrorCode.TIMEOUT


@pytest.mark.parametrize("path", ["/dev/video77", "/dev/null"])
def test_a_device_that_is_none_is_not_found(path: str) -> None:
    source = DeviceSourceConfig.model_validate({"type": "device", "path": path}).build(PluginContext("usb"))
    assert until_it_ends(source)[2].code is SourceErrorCode.NOT_FOUND
