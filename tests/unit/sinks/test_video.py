import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.frame import Frame, YuvPlanes
from pipeline.models.picture import VideoPicture
from pipeline.testing import PluginContext, detections, frame, result
from sinks import _segment
from sinks._film import VideoSink
from sinks.video import VideoSinkConfig


def opened(ctx: PluginContext, path: Path | str, **keys: Any) -> VideoSink:
    sink = VideoSinkConfig.model_validate({"path": str(path), **keys}).build(ctx)
    assert isinstance(sink, VideoSink)
    sink.open()
    return sink


def record(ctx: PluginContext, path: Path | str, frames: Iterable[Frame], **keys: Any) -> list[Path]:
    """Write the frames without boxes in a fresh sink; the files."""
    sink = opened(ctx, path, **keys)
    for one in frames:
        sink.write([result(one, detections())])
    sink.close()
    return [Path(name) for name in sink.written()]


VFR = [0.0, 0.04, 0.05, 0.25, 0.2534, 1.5]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_the_video_has_the_sources_time_stamps(tmp_path: Path, ctx: PluginContext, clips: Any, name: str) -> None:
    path = clips.make("vfr.mp4", times_s=VFR)
    record(ctx, tmp_path / name, clips.frames(path))
    tolerance = 0.0006 if name.endswith("mkv") else 0.00002  # Matroska counts milliseconds
    np.testing.assert_allclose(clips.times(tmp_path / name), clips.times(path), atol=tolerance)


def test_rate_length_and_size_are_those_of_the_source(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    times_s = [index * 1001 / 30_000 for index in range(30)]
    record(ctx, tmp_path / "a.mp4", clips.frames(clips.make("a.mp4", times_s=times_s, size=(320, 180))))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height, stream.frames) == ("h264", 320, 180, 30)
        assert stream.time_base is not None
        assert float(stream.average_rate or 0) == pytest.approx(30_000 / 1001, rel=1e-3)
        assert float((stream.duration or 0) * stream.time_base) == pytest.approx(1.001, abs=0.002)


def test_the_last_picture_is_shown_as_long_as_in_the_source(tmp_path: Path, ctx: PluginContext) -> None:
    record(ctx, tmp_path / "a.mp4", [frame(0), replace(frame(1), duration_s=1.5)])
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert float((stream.duration or 0) * (stream.time_base or 0)) == pytest.approx(1.54)


def test_a_first_time_stamp_between_milliseconds_is_kept(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    frames = [replace(frame(seq), pts_s=0.53337 + seq / 30) for seq in range(3)]
    record(ctx, tmp_path / "a.mp4", frames)
    assert clips.times(tmp_path / "a.mp4") == pytest.approx([0.53337 + seq / 30 for seq in range(3)], abs=1.2e-5)


def test_a_video_appears_complete_and_the_old_one_stands_until_then(
    tmp_path: Path, ctx: PluginContext, clips: Any
) -> None:
    target = tmp_path / "a.mp4"
    target.write_text("old")
    sink = opened(ctx, target)
    for one in clips.frames(clips.make("a.mp4")):
        sink.write([result(one)])
    assert target.read_text() == "old"
    sink.close()
    assert len(clips.times(target)) == 10
    assert target.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.glob("a.mp4*")] == ["a.mp4"]


def test_the_decoders_own_planes_are_never_drawn_on(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    path = clips.make("a.mp4", times_s=[index / 25 for index in range(60)], size=(128, 96))
    sink = opened(ctx, tmp_path / "out.mp4")
    seen = []
    for one in clips.frames(path):
        sink.write([result(one, detections((0, 0, 100, 90), (20, 20, 60, 60)))])
        seen.append(one.picture.yuv420p().y.copy())
    sink.close()
    # The decoder predicts from its pictures: one that was drawn on would show in those after it.
    assert all((a == b).all() for a, b in zip(seen, clips.planes(path), strict=True))


def test_boxes_are_in_the_video(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    path = clips.make("a.mp4", size=(128, 96))
    sink = opened(ctx, tmp_path / "out.mp4", crf=10, annotators=["box"])
    for one in clips.frames(path):
        sink.write([result(one, detections((20, 20, 80, 60)))])
    sink.close()
    for before, after in zip(clips.planes(path), clips.planes(tmp_path / "out.mp4"), strict=True):
        change = np.abs(before.astype(int) - after)
        assert change[20:22, 20:80].mean() > 20
        assert change[64:, :].mean() < 6


@pytest.mark.parametrize("size", [(64, 48), (65, 49), (64, 49), (65, 48), (1, 1), (3, 2)])
def test_odd_sides_grow_by_one_and_no_pixel_is_lost(
    tmp_path: Path, ctx: PluginContext, clips: Any, size: tuple[int, int]
) -> None:
    width, height = size
    frames = [frame(seq, width=width, height=height, grey=200) for seq in range(3)]
    record(ctx, tmp_path / "a.mp4", frames)
    pictures = clips.planes(tmp_path / "a.mp4")
    assert [picture.shape for picture in pictures] == [(height + height % 2, width + width % 2)] * 3
    assert abs(pictures[0].astype(int) - int(pictures[0][0, 0])).max() <= 2  # the doubled row and column included


def test_a_grey_a_ten_bit_and_a_turned_picture_are_written(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    for name, pixel_format, rotation_deg, shape in [
        ("grey", "gray", 0, (32, 48)),
        ("deep", "yuv422p10le", 0, (32, 48)),
        ("turned", "yuv420p", 90, (48, 32)),
    ]:
        pixels = np.zeros((32, 48, 3), np.uint8)
        pixels[:16] = 255  # the upper half is white
        decoded = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
        seen = replace(frame(0), picture=VideoPicture(decoded, rotation_deg))  # type: ignore[arg-type]
        record(ctx, tmp_path / f"{name}.mp4", [seen])
        (picture,) = clips.planes(tmp_path / f"{name}.mp4")
        assert picture.shape == shape
        dark = picture[:, :16] if rotation_deg else picture[16:]
        bright = picture[:, 16:] if rotation_deg else picture[:16]
        assert dark.mean() < 40
        assert bright.mean() > 200


@pytest.mark.parametrize(("tag", "expected"), [(1, 1), (9, 9), (6, 6)])
def test_the_colour_matrix_is_carried_over(
    tmp_path: Path, ctx: PluginContext, clips: Any, tag: int, expected: int
) -> None:
    record(ctx, tmp_path / "a.mp4", clips.frames(clips.make("a.mp4", colorspace=tag)))
    with av.open(str(tmp_path / "a.mp4")) as container:
        picture = next(container.decode(video=0))
        assert (picture.colorspace, picture.color_range) == (expected, 1)


def test_a_matrix_that_the_source_does_not_say_is_not_made_up(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    class Untagged(VideoPicture):
        def yuv420p(self) -> YuvPlanes:
            return replace(super().yuv420p(), tagged=False)

    picture = Untagged(av.VideoFrame(64, 48, "yuv420p"))
    record(ctx, tmp_path / "a.mp4", [replace(frame(0), picture=picture)])
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert next(container.decode(video=0)).colorspace == 2


@pytest.mark.parametrize(("codec", "container"), [("aac", "mp4"), ("libmp3lame", "mkv"), ("ac3", "mp4")])
def test_the_sound_is_copied_packet_by_packet(
    tmp_path: Path, ctx: PluginContext, clips: Any, codec: str, container: str
) -> None:
    path = clips.make(f"in.{container}", times_s=[index / 25 for index in range(50)], audio=codec, audio_s=2.0)
    record(ctx, tmp_path / f"a.{container}", clips.frames(path))
    assert clips.packets(str(tmp_path / f"a.{container}")) == clips.packets(path)
    assert len(clips.packets(path)) > 40
    assert ctx.warnings == []


def test_the_sound_of_a_window_begins_and_ends_with_its_pictures(
    tmp_path: Path, ctx: PluginContext, clips: Any
) -> None:
    path = clips.make("in.mp4", times_s=[index / 25 for index in range(150)], audio="aac", audio_s=6.0)
    record(ctx, tmp_path / "a.mp4", (one for one in clips.frames(path, start_s=2.0) if (one.pts_s or 0) < 4.0))
    assert clips.times(tmp_path / "a.mp4") == pytest.approx([index / 25 for index in range(50)], abs=1e-4)
    expected = [(data, time_s - 2) for data, time_s in clips.packets(path) if 2.0 <= time_s < 4.0]
    copied = clips.packets(str(tmp_path / "a.mp4"))
    assert [data for data, _ in copied] == [data for data, _ in expected]
    assert [time_s for _, time_s in copied] == pytest.approx([time_s for _, time_s in expected], abs=1e-3)


@pytest.mark.parametrize("first_s", [0.4, 7.0])
def test_sound_and_pictures_stay_together_where_the_file_does_not_begin_at_zero(
    tmp_path: Path, ctx: PluginContext, clips: Any, first_s: float
) -> None:
    times_s = [first_s + index / 25 for index in range(50)]
    path = clips.make("in.mkv", times_s=times_s, audio="aac", audio_s=first_s + 2.0)
    record(ctx, tmp_path / "a.mkv", clips.frames(path))
    before, after = clips.packets(path), clips.packets(str(tmp_path / "a.mkv"))
    heard = dict(after)
    gap_s = clips.times(path)[0] - clips.times(tmp_path / "a.mkv")[0]
    together = [(data, time_s) for data, time_s in before if time_s >= first_s]
    assert len(together) > 40
    assert all(heard[data] == pytest.approx(time_s - gap_s, abs=0.003) for data, time_s in together[:-1])


def test_sound_that_the_format_does_not_allow_is_left_out_and_said_once(
    tmp_path: Path, ctx: PluginContext, clips: Any
) -> None:
    path = clips.make("in.mov", audio="pcm_alaw")
    record(ctx, tmp_path / "a.mp4", clips.frames(path))
    assert len(clips.times(tmp_path / "a.mp4")) == 10
    assert len(ctx.warnings) == 1
    assert "sound" in ctx.warnings[0]
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert not container.streams.audio


def test_sound_is_left_out_when_asked(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    record(ctx, tmp_path / "a.mp4", clips.frames(clips.make("in.mp4", audio="aac")), audio=False)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert not container.streams.audio


def test_the_next_input_file_begins_the_next_file_with_its_own_sound(
    tmp_path: Path, ctx: PluginContext, clips: Any
) -> None:
    paths = [clips.make(f"in{index}.mp4", audio="aac", audio_s=0.4) for index in range(2)]
    frames = [*clips.frames(paths[0]), *clips.frames(paths[1], begin_s=7.0)]
    written = record(ctx, tmp_path / "a.mp4", frames)
    assert [path.name for path in written] == ["a.mp4", "a-0002.mp4"]
    for path, out in zip(paths, written, strict=True):
        assert clips.packets(str(out)) == clips.packets(path)
        assert clips.times(out) == pytest.approx(clips.times(path), abs=1e-4)


def test_another_size_begins_the_next_file(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    frames = [frame(seq, width=64 if seq < 3 else 80, height=48) for seq in range(5)]
    written = record(ctx, tmp_path / "a.mp4", frames)
    assert [len(clips.times(path)) for path in written] == [3, 2]


def test_two_sources_under_one_name_do_not_write_over_each_other(
    tmp_path: Path, ctx: PluginContext, clips: Any
) -> None:
    frames = [frame(seq, source=source) for seq in range(3) for source in ("gate", "yard")]
    written = record(ctx, tmp_path / "a.mp4", frames)
    assert [len(clips.times(path)) for path in written] == [3, 3]


def test_pictures_without_a_timeline_are_shown_at_the_rate_of_the_config(
    tmp_path: Path, ctx: PluginContext, clips: Any
) -> None:
    frames = [replace(frame(seq), pts_s=None, duration_s=None, path=f"{seq}.jpg") for seq in range(4)]
    (path,) = record(ctx, tmp_path / "a.mp4", frames, fps=2)
    assert clips.times(path) == pytest.approx([0, 0.5, 1, 1.5], abs=1e-4)


def test_time_stamps_that_go_back_go_on_behind(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    stamps = [0.0, 0.04, 0.08, 0.0, 0.5, 0.5]
    frames = [replace(frame(seq), pts_s=pts_s) for seq, pts_s in enumerate(stamps)]
    (path,) = record(ctx, tmp_path / "a.mp4", frames)
    assert clips.times(path) == pytest.approx([0, 0.04, 0.08, 0.12, 0.62, 0.66], abs=1e-4)


def test_a_video_that_begins_late_in_the_timeline_begins_at_zero(
    tmp_path: Path, ctx: PluginContext, clips: Any
) -> None:
    frames = [replace(frame(seq), pts_s=95_443.7 + seq / 10) for seq in range(3)]
    (path,) = record(ctx, tmp_path / "a.mp4", frames)
    assert clips.times(path) == pytest.approx([0, 0.1, 0.2], abs=1e-4)


def test_hevc_is_written_on_request(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    record(ctx, tmp_path / "a.mp4", [frame(seq, width=128, height=96) for seq in range(3)], codec="hevc")
    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.codec_tag) == ("hevc", "hvc1")
    assert len(clips.times(tmp_path / "a.mp4")) == 3


def test_a_disk_that_is_nearly_full_ends_the_file_in_time_and_passes(
    tmp_path: Path, ctx: PluginContext, clips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "a.mp4")
    free = [10**12]

    def free_bytes(_: Path) -> int:
        return free[0]

    monkeypatch.setattr(_segment, "free_bytes", free_bytes)
    monkeypatch.setattr("sinks._film.free_bytes", free_bytes)
    sink.write([result(frame(0)), result(frame(1))])
    free[0] = (64 << 20) - 1
    with pytest.raises(
        TransientError, match=r"nearly full \(min_free_bytes\); its 2 frames before are complete in .*a\.mp4"
    ):
        sink.write([result(frame(2))])
    with pytest.raises(TransientError, match="cannot be begun: the disk is nearly full"):
        sink.write([result(frame(3))])
    assert len(clips.times(tmp_path / "a.mp4")) == 2
    free[0] = 10**12
    sink.write([result(frame(4))])
    sink.close()
    assert len(clips.times(tmp_path / "a-0002.mp4")) == 1


FULL = """
import resource, sys
import numpy as np
from dataclasses import replace
from pipeline.contracts.errors import PenstockError
from pipeline.models.picture import from_rgb
from pipeline.testing import PluginContext, frame, result
from sinks.video import VideoSinkConfig

resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
sink = VideoSinkConfig(path=sys.argv[1], layout=sys.argv[2]).build(PluginContext())
sink.open()
noise = np.random.default_rng(0)
for seq in range(300):
    try:
        sink.write([result(replace(frame(seq), picture=from_rgb(noise.integers(0, 255, (96, 128, 3), np.uint8))))])
    except PenstockError as error:
        print(type(error).__name__, error)
        break
sink.close()
"""


def until_it_fails(path: Path, layout: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(path), layout], capture_output=True, text=True, check=True, timeout=50
    )
    assert run.stderr == ""
    assert run.stdout.startswith("TransientError")
    assert "File too large" in run.stdout
    return run.stdout


def test_a_plain_file_that_cannot_be_written_on_is_lost_and_that_is_said(tmp_path: Path) -> None:
    assert "are lost or only in" in until_it_fails(tmp_path / "a.mp4", "plain")
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(
    ("name", "layout"), [("a.mp4", "hybrid"), ("a.mp4", "fragmented"), ("a.mkv", "plain"), ("a.ts", "plain")]
)
def test_a_file_that_cannot_be_written_on_is_kept_as_far_as_it_goes(
    tmp_path: Path, clips: Any, name: str, layout: str
) -> None:
    said = until_it_fails(tmp_path / name, layout)
    written = int(re.search(r"before its (\d+) frames do", said)[1])  # type: ignore[index]
    # MPEG-TS may hold the one with which it failed, in part.
    assert -1 <= written - len(clips.times(tmp_path / name)) <= 25
    assert [path.name for path in tmp_path.glob("a.*")] == [name]


def test_closing_finishes_every_file_that_can_be(
    tmp_path: Path, ctx: PluginContext, clips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "{source}.mp4")
    sink.write([result(frame(0, source=name)) for name in ("a", "b", "c")])
    real = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "b.mp4":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(FatalError, match=r"b\.mp4 cannot be written: Input/output error"):
        sink.close()
    assert [len(clips.times(tmp_path / name)) for name in ("a.mp4", "c.mp4")] == [1, 1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": "a.avi"}, r"must end in \.mp4"),
        ({"path": "{stem}"}, r"must end in \.mp4"),
        ({"path": "a.mp4", "annotators": ["elipse"]}, "there is no annotator 'elipse'; did you mean ellipse"),
        ({"path": "a.mp4", "crf": 99}, "less than or equal to 51"),
        ({"path": "a.mp4", "preset": "warp"}, "ultrafast"),
    ],
)
def test_a_wrong_key_is_refused_with_what_would_be_right(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VideoSinkConfig.model_validate(keys)


def test_no_picture_is_held_after_it_was_written(tmp_path: Path, ctx: PluginContext) -> None:
    import gc
    import weakref

    def watched() -> Iterator[tuple[Frame, "weakref.ref[VideoPicture]"]]:
        for seq in range(5):
            picture = VideoPicture(av.VideoFrame(64, 48, "yuv420p"))
            yield replace(frame(seq), picture=picture), weakref.ref(picture)

    sink = opened(ctx, tmp_path / "a.mp4")
    alive = []
    for one, reference in watched():
        sink.write([result(one)])
        alive.append(reference)
        del one
    gc.collect()
    assert [reference() is not None for reference in alive[:-1]] == [False] * 4
    sink.close()
