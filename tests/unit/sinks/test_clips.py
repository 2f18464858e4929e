"""Clips of files, and what the config of clips takes; clips of cameras stand in `tests/integration/test_clips.py`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from pydantic import ValidationError

from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.event import Best, ObjectEvent, Phase, SourceEvent
from pipeline.contracts.frame import Frame
from pipeline.testing import PluginContext, detections, frame, result
from sinks import _clip_file
from sinks._clips import ClipPlan, ClipSink
from sinks.video import VideoSinkConfig

SIX_S = [index / 25 for index in range(150)]


def plan(path: Path, **keys: Any) -> ClipPlan:
    keys = {"pre_roll_s": 0.5, "post_roll_s": 0.5, "max_clip_s": 60.0, "audio": True, **keys}
    return ClipPlan(str(path), ring_bytes=1 << 20, min_free_bytes=0, keep=None, **keys)


def event(of: Frame, phase: Phase, event_id: str = "e1") -> ObjectEvent:
    box = (1.0, 2.0, 30.0, 40.0)
    return ObjectEvent(
        *(f"{event_id}-{of.seq}-{phase}", event_id, phase, "object", "gate", "person", 7),
        began_at=of.captured_at,
        at=of.captured_at,
        frame=of.released(),
        confidence=0.9,
        xyxy=box,
        best=Best("x" * 32, of.seq, of.pts_s, of.captured_at, 0.9, box),
    )


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.pts is not None]


def seconds(frames: list[Frame], at_s: float) -> Frame:
    return next(one for one in frames if (one.file_pts_s or 0.0) >= at_s)


@pytest.fixture
def film(clips: Any) -> list[Frame]:
    """Six seconds, a keyframe at 0 (and every ten seconds), B-frames, sound."""
    return list(clips.frames(clips.make("film.mp4", times_s=SIX_S, audio="aac", audio_s=6.0)))


def test_a_clip_of_a_file_is_copied_out_of_it_with_its_sound(
    tmp_path: Path, ctx: PluginContext, film: list[Frame]
) -> None:
    sink = ClipSink(plan(tmp_path / "out/{class}-{event}.mp4"), ctx)
    sink.open()
    sink.notice(event(seconds(film, 2.0), "new"))
    sink.notice(event(seconds(film, 3.0), "end"))
    sink.close()
    path = tmp_path / "out/person-e1.mp4"
    assert sink.written() == [str(path)]
    shown = times(path)
    assert min(shown) == 0.0  # the keyframe before 2.0 - 0.5
    assert 3.46 <= max(shown) <= 3.8  # and the B-frames around its end
    assert sorted(shown) == pytest.approx([index / 25 for index in range(len(shown))], abs=0.001)  # without a hole
    with av.open(str(path)) as container:
        sounds = [packet for packet in container.demux(audio=0) if packet.size]
    assert len(sounds) == pytest.approx(3.5 * 48_000 / 1024, rel=0.1)
    told = json.loads(path.with_suffix(".json").read_text())
    assert (told["clip"], told["source"], told["events"][0]["phase"]) == ("person-e1.mp4", "gate", "end")


def test_events_of_a_file_that_overlap_have_one_clip(tmp_path: Path, ctx: PluginContext, film: list[Frame]) -> None:
    sink = ClipSink(plan(tmp_path / "{event}.mp4"), ctx)
    sink.open()
    sink.notice(event(seconds(film, 1.0), "once", "a"))
    sink.notice(event(seconds(film, 1.9), "once", "b"))
    sink.notice(event(seconds(film, 4.5), "once", "c"))
    sink.close()
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["a.mp4", "c.mp4"]
    told = json.loads((tmp_path / "a.json").read_text())
    assert [one["event_id"] for one in told["events"]] == ["a", "b"]


def test_the_next_file_and_the_next_round_have_clips_of_their_own(
    tmp_path: Path, ctx: PluginContext, film: list[Frame]
) -> None:
    sink = ClipSink(plan(tmp_path / "clip.mp4"), ctx)
    sink.open()
    sink.notice(event(seconds(film, 3.0), "new", "a"))
    sink.notice(event(seconds(film, 0.2), "new", "b"))  # played from the beginning
    sink.close()
    assert sorted(path.name for path in tmp_path.glob("clip*.mp4")) == ["clip-0002.mp4", "clip.mp4"]


def test_a_clip_of_a_file_is_written_soon_also_when_nothing_more_happens(tmp_path: Path, film: list[Frame]) -> None:
    from pipeline.testing import MovableClock

    clock = MovableClock()
    sink = ClipSink(plan(tmp_path / "clip.mp4"), PluginContext("clips", tmp_path / "data", clock))
    sink.open()
    sink.notice(event(seconds(film, 3.0), "once"))
    sink.tick()
    assert not list(tmp_path.glob("*.mp4"))
    clock.advance(2.1)
    sink.tick()
    assert (tmp_path / "clip.mp4").exists()
    sink.close()


def test_a_file_that_is_gone_fails_its_clip_and_no_more(tmp_path: Path, ctx: PluginContext, film: list[Frame]) -> None:
    sink = ClipSink(plan(tmp_path / "{event}.mp4"), ctx)
    sink.open()
    gone = replace(seconds(film, 1.0), path=str(tmp_path / "gone.mp4"))
    sink.notice(event(gone, "once", "a"))
    with pytest.raises(TransientError, match=r"gone\.mp4: no clip"):
        sink.notice(event(seconds(film, 1.0), "once", "b"))
    sink.close()
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["b.mp4"]


def test_a_format_that_cannot_hold_the_video_is_told(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "old.avi"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("msmpeg4v2", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        output.mux(stream.encode(None))
    sink = ClipSink(plan(tmp_path / "out/a.mp4"), ctx)
    sink.open()
    sink.notice(event(replace(frame(0, source="gate"), path=str(path), file_pts_s=0.0), "once"))
    with pytest.raises(FatalError, match="'mp4' format does not support"):
        sink.close()
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_fails_the_clip_and_the_next_one_is_written(
    tmp_path: Path, ctx: PluginContext, film: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, min_free_bytes: int) -> None:
        raise TransientError("the disk is full")

    sink = ClipSink(plan(tmp_path / "{event}.mp4"), ctx)
    sink.open()
    sink.notice(event(seconds(film, 1.0), "once", "a"))
    with monkeypatch.context() as patched:
        patched.setattr(_clip_file, "keep_reserve", full)
        with pytest.raises(TransientError, match="the disk is full"):
            sink.notice(event(seconds(film, 5.0), "once", "b"))
    sink.close()
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["b.mp4"]
    assert not list(tmp_path.glob("*.part"))


def test_notices_change_nothing_and_results_are_a_mistake(tmp_path: Path, ctx: PluginContext) -> None:
    sink = ClipSink(plan(tmp_path / "a.mp4"), ctx)
    sink.open()
    sink.notice(SourceEvent("1", "gate", "state", "running", None, "", 0.0))
    with pytest.raises(FatalError):
        sink.write([result(frame(0), detections())])
    sink.close()


def test_a_source_that_goes_lets_its_ring_go(tmp_path: Path, ctx: PluginContext) -> None:
    sink = ClipSink(plan(tmp_path / "a.mp4"), ctx)
    for name in ("gate", "yard"):
        sink.attach(name)
        sink.attach(name)
    assert ctx.packets("gate").wanted
    assert ctx.packets("gate").wants_audio
    sink.release("gate")
    assert not ctx.packets("gate").wanted
    assert ctx.packets("yard").wanted
    sink.close()
    assert not ctx.packets("yard").wanted


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"record": "events"}, 'set content = "clean"'),
        ({"record": "events", "content": "clean", "emit": "frames"}, "belong together"),
        ({"emit": "events"}, "belong together"),
        ({"path": "{event}.mp4"}, "filled by events only"),
        ({"notices": ["sources"]}, "nothing of them can be seen"),
    ],
)
def test_what_does_not_go_together_is_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VideoSinkConfig.model_validate({"path": "a.mp4", **keys})


def test_clips_are_asked_for_with_two_keys(tmp_path: Path, ctx: PluginContext) -> None:
    keys = {"path": str(tmp_path / "{source}-{event}.mp4"), "record": "events", "content": "clean"}
    config = VideoSinkConfig.model_validate(keys)
    assert config.emit == "events"
    assert isinstance(config.build(ctx), ClipSink)


def test_an_object_of_the_file_before_that_ends_late_does_not_end_the_clip_of_the_next_file(
    tmp_path: Path, ctx: PluginContext, film: list[Frame], clips: Any
) -> None:
    """Who was there when a file ended is told as gone a second later: in the next file."""
    other = list(clips.frames(clips.make("other.mp4", times_s=SIX_S)))
    sink = ClipSink(plan(tmp_path / "{event}.mp4"), ctx)
    sink.open()
    sink.notice(event(seconds(film, 4.0), "new", "a"))
    sink.notice(event(seconds(other, 0.2), "new", "b"))
    sink.notice(event(seconds(film, 5.9), "end", "a"))
    sink.notice(event(seconds(other, 3.0), "update", "b"))
    sink.notice(event(seconds(other, 4.0), "end", "b"))
    sink.close()
    assert sorted(path.name for path in tmp_path.glob("[ab]*.mp4")) == ["a.mp4", "b.mp4"]
    assert max(times(tmp_path / "a.mp4")) == pytest.approx(5.96, abs=0.05)  # a was there to the end of its file
    assert max(times(tmp_path / "b.mp4")) == pytest.approx(4.5, abs=0.3)
