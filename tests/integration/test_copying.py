"""Recording a camera on and on as it encoded itself, against a real RTSP server."""

import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from harness import Run, run
from media import camera_clip
from rtsp_server import RtspServer

from pipeline.contracts.errors import PenstockError, TransientError
from pipeline.contracts.frame import Frame
from pipeline.testing import PluginContext, detections, result
from pipeline.testing import frame as made
from sinks._copying import CopySink
from sinks.video import VideoSinkConfig
from sources.rtsp import RtspSourceConfig


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return camera_clip(tmp_path_factory.mktemp("clips") / "h264.mp4", frames=150)


@pytest.fixture
def server(clip: Path) -> Iterator[RtspServer]:
    with RtspServer() as server:
        server.add("/cam", clip)
        yield server


def packets(path: Path) -> list[bytes]:
    """The pictures as they are encoded, in MP4's form."""
    with av.open(str(path)) as container:
        return [bytes(packet)[-200:] for packet in container.demux(video=0) if packet.size]


def opened(ctx: PluginContext, path: Path, **keys: Any) -> CopySink:
    config = VideoSinkConfig.model_validate({"path": str(path), "content": "clean", "encode": False, **keys})
    sink = config.build(ctx)
    assert isinstance(sink, CopySink)
    sink.attach("cam")
    sink.open()
    return sink


def record(server: RtspServer, sink: CopySink, ctx: PluginContext, seconds: float, every: int = 5) -> int:
    """Read the camera for so long; only every n-th frame has a result. How many frames there were."""
    source = RtspSourceConfig.model_validate({"type": "rtsp", "url": server.url("/cam")}).build(ctx)
    stop, count, until_s = threading.Event(), 0, 0.0
    frames: Any = source.frames(stop)
    with closing(frames):
        for one in frames:
            assert isinstance(one, Frame)
            until_s = until_s or one.decoded_at + seconds
            if count % every == 0:
                sink.write([result(one.released(), detections())])
            count += 1
            if one.decoded_at > until_s:
                break
    return count


def in_order(original: Path, *paths: Path) -> int:
    """How many pictures the files hold, which are the camera's, each one after the one before."""
    known = {data: number for number, data in enumerate(packets(original))}
    found = [known[data] for path in paths for data in packets(path)]
    assert all(later == (earlier + 1) % len(known) for earlier, later in pairwise(found))
    return len(found)


def test_every_picture_is_recorded_whatever_is_inferred(server: RtspServer, clip: Path, tmp_path: Path) -> None:
    ctx = PluginContext("cam", tmp_path / "data")
    sink = opened(ctx, tmp_path / "{source}.mp4")
    count = record(server, sink, ctx, 2.0)
    sink.close()
    assert in_order(clip, tmp_path / "cam.mp4") >= count - 1
    assert sink.written() == [str(tmp_path / "cam.mp4")]


def test_files_are_cut_at_keyframes_without_a_gap(server: RtspServer, clip: Path, tmp_path: Path) -> None:
    ctx = PluginContext("cam", tmp_path / "data")
    sink = opened(ctx, tmp_path / "{source}.mp4", segment={"every_s": 1})
    record(server, sink, ctx, 2.6)
    sink.close()
    files = sorted(tmp_path.glob("cam-*.mp4"), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) >= 2
    assert in_order(clip, *files) > 50
    assert [len(packets(path)) for path in files[:-1]] == [25] * (len(files) - 1)


def test_a_reconnect_begins_a_new_file(server: RtspServer, tmp_path: Path) -> None:
    ctx = PluginContext("cam", tmp_path / "data")
    sink = opened(ctx, tmp_path / "{source}.mp4")
    record(server, sink, ctx, 0.6)
    record(server, sink, ctx, 0.6)
    sink.close()
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["cam-0002.mp4", "cam.mp4"]


def test_what_is_no_camera_fails_and_says_so(tmp_path: Path) -> None:
    ctx = PluginContext("cam", tmp_path / "data")
    sink = opened(ctx, tmp_path / "{source}.mp4")
    with pytest.raises(TransientError, match="source test is no live video"):
        sink.write([result(made(0), detections())])
    sink.close()


def test_a_whole_pipeline_records_a_camera(server: RtspServer, clip: Path, tmp_path: Path) -> None:
    async def during(pipeline: Run) -> None:
        await pipeline.until(lambda: any(path.stat().st_size > 30_000 for path in tmp_path.glob("*.part")))
        pipeline.supervisor.stop("enough")

    keys = {"type": "video", "content": "clean", "encode": False, "path": str(tmp_path / "{source}.mkv")}
    tree = {"sources": {"cam": {"type": "rtsp", "url": server.url("/cam")}}, "sinks": {"all": keys}}
    pipeline = run(tree, during, [RtspSourceConfig, VideoSinkConfig])
    assert pipeline.report.failed == []
    assert in_mkv(tmp_path / "cam.mkv") > 10
    assert not pipeline.supervisor.topology._rings.of("cam").wanted


def in_mkv(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_drawings_and_a_copy_do_not_go_together() -> None:
    with pytest.raises((PenstockError, ValueError), match="set content"):
        VideoSinkConfig.model_validate({"path": "a.mp4", "encode": False})
