"""Files of a run that goes on: where one ends and the next begins, what they are called, which are removed."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.contracts.frame import Frame
from pipeline.models.picture import from_rgb
from pipeline.testing import MovableClock, PluginContext, detections, frame, result
from sinks._film import VideoSink
from sinks.video import VideoSinkConfig

BEGAN = 1_700_000_000  # 2023-11-14 22:13:20 UTC, when `frame` has frame 0 taken


def opened(ctx: PluginContext, path: Path, **keys: Any) -> VideoSink:
    sink = VideoSinkConfig.model_validate({"path": str(path), "encoder": "software", **keys}).build(ctx)
    assert isinstance(sink, VideoSink)
    sink.open()
    return sink


def write(sink: VideoSink, frames: Iterable[Frame]) -> None:
    for one in frames:
        sink.write([result(one, detections())])


def names(sink: VideoSink) -> list[str]:
    return [Path(name).name for name in sink.written()]


def test_a_file_holds_the_time_it_should_and_nothing_is_lost_between_two(
    tmp_path: Path, ctx: PluginContext, clips: Any
) -> None:
    sink = opened(ctx, tmp_path / "gate.mp4", segment={"every_s": 2})
    write(sink, (frame(seq) for seq in range(130)))
    sink.close()
    assert names(sink) == [f"gate-20231114T2213{second}Z.mp4" for second in (20, 22, 24)]
    assert [len(clips.times(path)) for path in sink.written()] == [50, 50, 30]
    for path in sink.written():
        with av.open(path) as container:
            first = next(iter(container.demux(video=0)))
            assert first.is_keyframe


def test_the_sound_of_a_clip_goes_on_from_file_to_file(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    path = clips.make("in.mp4", times_s=[index / 25 for index in range(150)], audio="aac", audio_s=6.0)
    sink = opened(ctx, tmp_path / "a.mkv", segment={"every_s": 1})
    write(sink, clips.frames(path))
    sink.close()
    parts = [clips.packets(part) for part in sink.written()]
    assert len(parts) == 6
    assert [data for part in parts for data, _ in part] == [data for data, _ in clips.packets(path)]


def test_a_file_is_about_as_large_as_it_may_be(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    sink = opened(ctx, tmp_path / "a.mp4", segment={"max_bytes": "100kB"})
    noise = np.random.default_rng(0)
    for seq in range(200):
        picture = from_rgb(noise.integers(0, 255, (96, 128, 3), np.uint8))
        sink.write([result(replace(frame(seq), picture=picture), detections())])
    sink.close()
    sizes = [Path(path).stat().st_size for path in sink.written()]
    assert len(sizes) > 5
    # It is looked at when a picture comes; half a second may be held back.
    assert all(100_000 <= size <= 250_000 for size in sizes[:-1])
    assert sum(len(clips.times(path)) for path in sink.written()) == 200


def test_two_sources_and_two_runs_in_one_second_do_not_write_over_each_other(
    tmp_path: Path, ctx: PluginContext
) -> None:
    for _ in range(2):
        sink = opened(ctx, tmp_path / "a.mp4", segment={"every_s": 60})
        write(sink, (frame(seq, source=source) for seq, source in itertools.product(range(3), ("gate", "yard"))))
        sink.close()
    stem = "a-20231114T221320Z"
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == [
        f"{stem}{more}.mp4" for more in ("-0002", "-0003", "-0004", "")
    ]


def test_what_a_killed_run_left_of_a_segment_gets_its_name(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    sink = opened(ctx, tmp_path / "a.mp4", segment={"every_s": 60})
    write(sink, (frame(seq) for seq in range(100)))
    (part,) = tmp_path.glob("*.part")
    left = part.read_bytes()
    sink.close()
    (tmp_path / "a-20231114T221320Z.mp4").unlink()
    part.write_bytes(left)
    opened(ctx, tmp_path / "a.mp4", segment={"every_s": 60}).close()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a-20231114T221320Z.mp4"]
    assert len(clips.times(tmp_path / "a-20231114T221320Z.mp4")) >= 75


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def slow(tmp_path: Path, clock: MovableClock) -> PluginContext:
    return PluginContext("out", tmp_path / "data", clock)


def test_a_segment_of_a_silent_source_is_finished(
    tmp_path: Path, slow: PluginContext, clock: MovableClock, clips: Any
) -> None:
    sink = opened(slow, tmp_path / "a.mp4", segment={"every_s": 60})
    write(sink, [frame(0), frame(1)])
    clock.advance(5)
    sink.tick()
    assert list(tmp_path.glob("*.mp4")) == []
    clock.advance(5)
    sink.tick()
    (path,) = tmp_path.glob("*.mp4")
    assert len(clips.times(path)) == 2
    write(sink, [frame(500)])
    sink.close()
    assert len(names(sink)) == 2


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize(
    ("keep", "left"),
    [({"max_files": 2}, 2), ({"max_bytes": "1"}, 0), ({"max_files": 100}, 5)],
)
def test_only_what_is_to_be_kept_is_kept(
    tmp_path: Path, slow: PluginContext, clock: MovableClock, keep: dict[str, Any], left: int
) -> None:
    for stranger in ("other.mp4", "a-notes.mp4", "a-20231114T221320Z.jpg", "b-20231114T221320Z.mp4"):
        (tmp_path / stranger).write_text("mine")
    sink = opened(slow, tmp_path / "a.mp4", segment={"every_s": 1}, keep=keep)
    write(sink, (frame(seq) for seq in range(130)))  # five are finished, the sixth is being written
    clock.advance(1)
    sink.tick()
    made = [name for name in files(tmp_path) if name.startswith("a-2023") and name.endswith(".mp4")]
    assert made == [f"a-20231114T2213{20 + number}Z.mp4" for number in range(5)][5 - left :]
    assert len(list(tmp_path.glob("*.part"))) == 1
    sink.close()
    for stranger in ("other.mp4", "a-notes.mp4", "a-20231114T221320Z.jpg", "b-20231114T221320Z.mp4"):
        assert (tmp_path / stranger).read_text() == "mine"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": "a.mp4", "keep": {"max_files": 3}}, "there is nothing to remove"),
        ({"path": "{stem}-{date}.mp4", "keep": {"max_files": 3}}, "there is nothing to remove"),
        ({"path": "a.mp4", "keep": {}}, "needs one of max_age_s"),
        ({"path": "a.mp4", "segment": {}}, "needs one of every_s"),
        ({"path": "a.mp4", "segment": {"every_s": 0.5}}, "greater than or equal to 1"),
        ({"path": "a.ts", "codec": "av1"}, "AV1 cannot stand in MPEG-TS"),
        ({"path": "a.mp4", "content": "clean", "annotators": ["blur"]}, "nothing is drawn"),
        ({"path": "a.mp4", "annotators": ["blur"], "draw": [{"type": "box"}]}, "draw takes their place"),
        ({"path": "a.mp4", "segment": {"max_bytes": "1GB"}, "keep": {"max_bytes": "1MB"}}, "less than one file"),
        ({"path": "a.mp4", "layout": "broken"}, "hybrid"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VideoSinkConfig.model_validate(keys)


def test_what_was_written_goes_to_the_disk_now_and_then(
    tmp_path: Path, slow: PluginContext, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def noted(what: str) -> Callable[[int], None]:
        return lambda _: synced.append(what)

    monkeypatch.setattr("os.fsync", noted("all"))
    monkeypatch.setattr("os.fdatasync", noted("data"))
    sink = opened(slow, tmp_path / "a.mp4", fsync_interval_s=2)
    for seq in range(100):
        write(sink, [frame(seq)])
        clock.advance(0.1)
    assert synced == ["all", "all", "data", "data", "data", "data"][: len(synced)]
    assert len(synced) == 5 or len(synced) == 6
    clock.advance(5)
    sink.tick()
    assert synced[-1] == "data"
    synced.clear()
    sink.close()
    assert synced == ["all", "all"], "the file, and the folder with its name"
    never = opened(slow, tmp_path / "b.mp4", fsync_interval_s=float("inf"))
    synced.clear()
    for seq in range(10):
        write(never, [frame(seq)])
        clock.advance(60)
    assert synced == []
    never.close()
