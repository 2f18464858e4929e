"""Clips of cameras: what a real RTSP server sends, kept in the ring and cut out around events, packet by packet."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fakes import FakeBackendConfig, FakeSinkConfig
from harness import Run, run
from media import camera_clip
from rtsp_server import RtspServer

from pipeline.config.loader import from_tree
from pipeline.config.settings import Settings
from pipeline.contracts.errors import PenstockError, TransientError
from pipeline.contracts.event import Best, ObjectEvent, Phase
from pipeline.contracts.frame import Frame
from pipeline.registry import Registry
from pipeline.testing import MovableClock, PluginContext
from pipeline.testing import frame as made
from sinks._clips import ClipPlan, ClipSink
from sinks.video import VideoSinkConfig
from sources.rtsp import RtspSourceConfig

GOP_S = 1.0  # of `camera_clip`
FRAME_S = 0.04


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return camera_clip(tmp_path_factory.mktemp("clips") / "h264.mp4", frames=150)


@pytest.fixture
def server(clip: Path) -> Iterator[RtspServer]:
    with RtspServer() as server:
        server.add("/cam", clip)
        yield server


def event(frame: Frame, phase: Phase, event_id: str = "a" * 32, began_at: float | None = None) -> ObjectEvent:
    box = (1.0, 2.0, 30.0, 40.0)
    return ObjectEvent(
        id=event_id[::-1],
        event_id=event_id,
        phase=phase,
        kind="object",
        source=frame.source,
        class_name="person",
        tracker_id=3,
        began_at=began_at or frame.captured_at,
        at=frame.captured_at,
        frame=frame,
        confidence=0.9,
        xyxy=box,
        best=Best("b" * 32, frame.seq, frame.pts_s, frame.captured_at, 0.9, box),
    )


@dataclass
class Rig:
    """A camera and a clip sink at work in the test's thread, as their runners would do it."""

    folder: Path
    ctx: PluginContext
    sink: ClipSink
    source: Any
    stop: threading.Event = field(default_factory=threading.Event)
    last: Frame | None = None
    ticked_s: float = 0.0

    def run(self, seconds: float, then: Callable[[Frame], None] | None = None) -> None:
        """Read on for so long, then call `then` with the frame."""
        until_s = None
        for item in self.frames:
            assert isinstance(item, Frame)
            self.last = item.released()
            until_s = until_s or item.decoded_at + seconds
            if item.decoded_at - self.ticked_s > 0.2:
                self.ticked_s = item.decoded_at
                self.sink.tick()
            if item.decoded_at >= until_s:
                if then is not None:
                    then(self.last)
                return

    def once(self, frame: Frame) -> None:
        """Something happens."""
        self.sink.notice(event(frame, "once"))

    def __post_init__(self) -> None:
        self.frames = self.source.frames(self.stop)

    def close(self) -> None:
        self.frames.close()
        self.sink.close()

    def clips(self) -> list[Path]:
        found = (path for path in self.folder.iterdir() if path.suffix != ".json")
        return sorted(found, key=lambda path: (len(path.name), path.name))  # NAME-0002 after NAME


def rig(server: RtspServer, folder: Path, name: str = "{source}-{time}.mp4", path: str = "/cam", **keys: Any) -> Rig:
    ctx = PluginContext("cam", folder / "data")
    plan = ClipPlan(
        path=str(folder / "clips" / name),
        pre_roll_s=keys.pop("pre_roll_s", 1.0),
        post_roll_s=keys.pop("post_roll_s", 0.6),
        max_clip_s=keys.pop("max_clip_s", 60.0),
        audio=keys.pop("audio", False),
        ring_bytes=64 << 20,
        min_free_bytes=0,
        keep=None,
    )
    sink = ClipSink(plan, ctx)
    sink.attach("cam")
    sink.open()
    config = RtspSourceConfig.model_validate({"type": "rtsp", "url": server.url(path), "stall_timeout_s": 2.0, **keys})
    return Rig(folder / "clips", ctx, sink, config.build(ctx))


def shown(path: Path) -> list[tuple[float, np.ndarray]]:
    """Each picture with its time."""
    with av.open(str(path)) as container:
        return [(picture.time or 0.0, picture.to_ndarray(format="rgb24")) for picture in container.decode(video=0)]


def numbers(original: Path, *paths: Path) -> list[int]:
    """Which pictures of what the camera sends the clips show: bit for bit, each one after the one before."""
    known = {fingerprint(picture): number for number, (_, picture) in enumerate(shown(original))}
    found = [known.get(fingerprint(picture), -1) for path in paths for _, picture in shown(path)]
    assert found == [(found[0] + count) % len(known) for count in range(len(found))]
    return found


def fingerprint(picture: np.ndarray) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


def test_a_clip_holds_the_cameras_own_pictures_from_before_the_event_to_after_it(
    server: RtspServer, clip: Path, tmp_path: Path
) -> None:
    this = rig(server, tmp_path)
    moments: list[float] = []
    with closing(this):

        def begin(frame: Frame) -> None:
            moments.append(frame.pts_s or 0.0)
            this.sink.notice(event(frame, "new"))

        this.run(2.4, begin)
        this.run(0.5, lambda frame: this.sink.notice(event(frame, "end")))
        this.run(2.0)
    (path,) = this.clips()
    found = numbers(clip, path)
    assert found[0] % 25 == 0  # a keyframe
    at = round(moments[0] / FRAME_S)
    assert 25 <= at - found[0] <= 50 + 1  # the pre-roll, and at most a group of pictures more
    assert abs(len(found) - (at - found[0]) - (0.5 + 0.6) / FRAME_S) <= 3
    np.testing.assert_allclose(np.diff([time_s for time_s, _ in shown(path)]), FRAME_S, atol=0.002)
    told = json.loads(path.with_suffix(".json").read_text())
    assert [(one["event_id"], one["phase"]) for one in told["events"]] == [("a" * 32, "end")]
    assert told["length_s"] == pytest.approx(len(found) * FRAME_S, abs=0.1)
    assert this.sink.written() == [str(path)]
    assert this.ctx.warnings == []


def test_events_that_overlap_have_one_clip_and_a_later_one_has_its_own(server: RtspServer, tmp_path: Path) -> None:
    this = rig(server, tmp_path, pre_roll_s=0.3, post_roll_s=0.3)
    with closing(this):
        this.run(1.2, lambda frame: this.sink.notice(event(frame, "once", "a" * 32)))
        this.run(0.5, lambda frame: this.sink.notice(event(frame, "once", "b" * 32)))  # 0.5 < 0.3 + 0.3
        this.run(1.5, lambda frame: this.sink.notice(event(frame, "once", "c" * 32)))
        this.run(1.0)
    together, alone = this.clips()
    events = [json.loads(path.with_suffix(".json").read_text())["events"] for path in (together, alone)]
    assert [[one["event_id"][0] for one in some] for some in events] == [["a", "b"], ["c"]]
    np.testing.assert_allclose(np.diff([time_s for time_s, _ in shown(together)]), FRAME_S, atol=0.002)


def test_sound_is_in_the_clip_and_the_camera_is_asked_for_it_only_then(
    server: RtspServer, clip: Path, tmp_path: Path
) -> None:
    server.add("/sound", clip, audio=True)
    for wanted in (True, False):
        this = rig(server, tmp_path / str(wanted), "a.mov", path="/sound", audio=wanted)
        with closing(this):
            this.run(1.2, this.once)
            this.run(1.0)
        with av.open(str(this.clips()[0])) as container:
            sounds = [packet for packet in container.demux(audio=0) if packet.size] if wanted else []
            assert len(container.streams.audio) == int(wanted)
            assert bool(sounds) == wanted
            length_s = sum(len(bytes(packet)) for packet in sounds) / 8000  # PCMU: a byte for each of 8,000 samples
            if wanted:
                assert length_s == pytest.approx(len(shown(this.clips()[0])) * FRAME_S, abs=0.3)


def test_sound_that_the_format_does_not_take_is_left_out_and_told(
    server: RtspServer, clip: Path, tmp_path: Path
) -> None:
    server.add("/sound", clip, audio=True)
    this = rig(server, tmp_path, "a.mp4", path="/sound", audio=True)
    with closing(this):
        this.run(1.2, this.once)
        this.run(2.0)
    assert len(shown(this.clips()[0])) > 20
    assert [warning for warning in this.ctx.warnings if "no sound" in warning]


def test_a_long_clip_goes_on_in_the_next_file_without_a_gap(server: RtspServer, clip: Path, tmp_path: Path) -> None:
    this = rig(server, tmp_path, max_clip_s=1.0, pre_roll_s=0.0, post_roll_s=0.0)
    with closing(this):
        this.run(0.5, lambda frame: this.sink.notice(event(frame, "new")))
        this.run(2.6, lambda frame: this.sink.notice(event(frame, "end")))
        this.run(0.5)
    assert len(this.clips()) >= 3
    assert len(numbers(clip, *this.clips())) > 60


def test_a_camera_that_reconnects_during_an_event_begins_a_new_file_and_both_can_be_played(
    server: RtspServer, tmp_path: Path
) -> None:
    this = rig(server, tmp_path, pre_roll_s=0.2)
    with closing(this):
        this.run(0.6, lambda frame: this.sink.notice(event(frame, "new")))
        this.run(0.5)
        server.close_all()
        with pytest.raises(PenstockError):
            this.run(5)
        this.frames = this.source.frames(this.stop)
        this.run(0.8, lambda frame: this.sink.notice(event(frame, "end")))
        this.run(1.0)
    first, second = this.clips()
    assert len(shown(first)) > 10
    assert len(shown(second)) > 10


def test_a_camera_that_is_away_does_not_keep_a_clip_open(server: RtspServer, tmp_path: Path) -> None:
    this = rig(server, tmp_path, pre_roll_s=0.2, post_roll_s=0.2)
    with closing(this):
        this.run(0.6, this.once)
        server.kill()
        with pytest.raises(PenstockError):
            this.run(5)
        begun_s = time.monotonic()
        while not [path for path in this.clips() if path.suffix == ".mp4"]:
            threading.Event().wait(0.2)
            this.sink.tick()
            assert time.monotonic() - begun_s < 8
    assert len(shown(this.clips()[0])) > 4


def test_an_event_of_a_source_that_gives_no_packets_fails_and_says_so(tmp_path: Path) -> None:
    clock = MovableClock()
    ctx = PluginContext("clips", tmp_path / "data", clock)
    sink = ClipSink(ClipPlan(str(tmp_path / "a.mp4"), 1, 1, 60, False, 1 << 20, 0, None), ctx)
    sink.attach("test")
    sink.open()
    sink.notice(event(made(0), "once"))  # a camera that was asked just now has not come to a keyframe
    clock.advance(60)
    sink.tick()
    assert ctx.warnings == ["source test gave no encoded video for an event: no clip"]
    with pytest.raises(TransientError, match="source test gives no encoded video"):
        sink.notice(event(made(1), "once"))
    sink.close()


def test_the_ring_is_off_where_nobody_records(server: RtspServer, tmp_path: Path) -> None:
    ctx = PluginContext("cam", tmp_path)
    source = RtspSourceConfig.model_validate({"type": "rtsp", "url": server.url("/cam")}).build(ctx)
    stop = threading.Event()
    for count, _ in enumerate(source.frames(stop)):
        if count == 30:
            stop.set()
    assert ctx.packets("cam").newest_s() is None


@pytest.mark.parametrize(("codec", "suffix"), [("h265", ".mp4"), ("h265", ".mkv"), ("h264", ".ts"), ("mjpeg", ".mp4")])
def test_every_codec_is_written_as_it_came(server: RtspServer, tmp_path: Path, codec: str, suffix: str) -> None:
    original = camera_clip(tmp_path / ("a.mkv" if codec == "mjpeg" else "a.mp4"), codec=codec, frames=50)
    server.add("/one", original)
    this = rig(server, tmp_path, f"a{suffix}", path="/one", pre_roll_s=0.2, post_roll_s=0.2)
    with closing(this):
        this.run(1.1, this.once)
        this.run(0.5)
    if codec == "mjpeg":  # its tables do not come over RTP bit for bit
        assert 8 <= len(shown(this.clips()[0])) <= 20
    else:
        assert 8 <= len(numbers(original, *this.clips())) <= 40


def test_a_whole_pipeline_records_what_its_camera_shows_around_an_event(
    server: RtspServer, clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"

    async def during(pipeline: Run) -> None:
        await pipeline.until(lambda: folder.exists() and any(folder.glob("*.part")))
        await pipeline.until(lambda: next(folder.glob("*.part")).stat().st_size > 20_000)
        pipeline.supervisor.stop("enough")

    tree = {
        "sources": {"cam": {"type": "rtsp", "url": server.url("/cam")}},
        "sinks": {
            "clips": {
                "type": "video",
                "record": "events",
                "content": "clean",
                "path": str(folder / "{source}-{class}.mp4"),
                "pre_roll_s": 0.5,
                "post_roll_s": 0.5,
            },
        },
    }
    pipeline = run(tree, during, plugins=[RtspSourceConfig, VideoSinkConfig])
    assert pipeline.report.failed == []
    found = numbers(clip, folder / "cam-thing.mp4")
    assert found[0] % 25 == 0
    told = json.loads((folder / "cam-thing.json").read_text())
    assert [one["phase"] for one in told["events"]] == ["end"]  # what went on at the end of the run has ended
    assert not list(folder.glob("*.part"))
    assert not pipeline.supervisor.topology._rings.of("cam").wanted


def test_a_clip_that_a_kill_interrupts_can_be_played_and_is_named_at_the_next_start(
    server: RtspServer, clip: Path, tmp_path: Path
) -> None:
    this = rig(server, tmp_path, "a.mp4", pre_roll_s=0.5)
    with closing(this):
        this.run(1.0, lambda frame: this.sink.notice(event(frame, "new")))
        this.run(1.6)
        (part,) = this.clips()
        killed = tmp_path / "killed"  # what a disk holds of it at that moment
        killed.mkdir()
        shutil.copy(part, killed / part.name)
        written_s = this.last.pts_s if this.last is not None else None
    whole = numbers(clip, *this.clips())
    ctx = PluginContext("again", tmp_path / "data")
    again = ClipSink(this.sink._plan._replace(path=str(killed / "a.mp4")), ctx)
    again.open()
    again.close()
    left = numbers(clip, killed / "a.mp4")
    assert written_s is not None
    assert left == whole[: len(left)]
    assert len(left) > len(whole) - 1.5 / FRAME_S  # the last second, and half a second between two ticks
    assert any("a.mp4" in warning for warning in ctx.warnings)


def test_a_reload_that_asks_for_clips_makes_the_camera_give_its_packets_without_losing_a_frame(
    server: RtspServer, clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"
    keys = {"type": "video", "record": "events", "content": "clean", "path": str(folder / "a.mp4"), "pre_roll_s": 0.2}
    room = {"max_frames": 500, "when_full": "block"}  # it begins with a burst
    camera = {"cam": {"type": "rtsp", "url": server.url("/cam"), "queue": room}}

    async def during(pipeline: Run) -> None:
        await pipeline.until(lambda: pipeline.sink().results_seen > 5)
        ring, source = pipeline.supervisor.topology._rings.of("cam"), pipeline.supervisor.topology.sources["cam"]
        wanted = [ring.wanted]
        asked = {"keep": {"type": "fake", "queue": room}, "clips": keys}
        await pipeline.supervisor.apply(settings(camera, asked))
        wanted.append(ring.wanted)
        await pipeline.until(lambda: folder.exists() and any(folder.glob("*.part")))
        await pipeline.supervisor.apply(settings(camera, {"keep": {"type": "fake", "queue": room}}))
        await pipeline.until(lambda: not ring.wanted and (folder / "a.mp4").exists())
        assert wanted == [False, True]
        assert pipeline.supervisor.topology.sources["cam"] is source
        pipeline.supervisor.stop("enough")

    def settings(sources: dict[str, Any], sinks: dict[str, Any]) -> Settings:
        registry = Registry.of(FakeBackendConfig, FakeSinkConfig, RtspSourceConfig, VideoSinkConfig)
        made = {"sources": sources, "backends": {"model": {"type": "fake"}}, "sinks": sinks}
        return from_tree(made | {"server": {"listen": "off"}}, base_dir=Path.cwd(), registry=registry)

    pipeline = run(
        {"sources": dict(camera), "sinks": {"keep": {"queue": room}}}, during, [RtspSourceConfig, VideoSinkConfig]
    )
    seqs = pipeline.seqs()
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert numbers(clip, folder / "a.mp4")
