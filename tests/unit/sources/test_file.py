import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import Colorspace
from media import (
    as_format,
    bars,
    corners,
    file_source,
    number_of,
    numbered,
    numbered_video,
    pts_of,
    read,
    sound,
    turned,
    video,
)
from pydantic import ValidationError

from pipeline.contracts.component import QueueConfig
from pipeline.contracts.errors import ConfigError, FatalError, SourceErrorCode
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.source import Counted
from pipeline.testing import MovableClock, PluginContext
from sources._decode import VideoFile
from sources._decoding import Decoding
from sources._file_timeline import Timeline
from sources.file import FileSourceConfig

B_FRAMES = {"bf": "2", "g": "6"}


@pytest.mark.parametrize("decode_threads", [1, 3])
@pytest.mark.parametrize(
    "clip",
    [
        ("a.mp4", "libx264", "yuv420p", B_FRAMES),
        ("a.mkv", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
        ("a.ts", "mpeg2video", "yuv420p", {"bf": "2"}),
        ("a.mpg", "mpeg2video", "yuv420p", {}),
        ("a.avi", "mpeg4", "yuv420p", {}),
        ("b.avi", "mjpeg", "yuvj420p", {}),
        ("a.webm", "libvpx-vp9", "yuv444p", {}),
        ("b.mkv", "libsvtav1", "yuv420p", {"preset": "12"}),
        ("c.mkv", "ffv1", "gray", {}),
        ("a.mov", "qtrle", "rgb24", {}),
        ("a.gif", "gif", "rgb8", {}),
    ],
)
def test_every_frame_of_every_container_comes_in_order_with_its_time(
    tmp_path: Path, clip: tuple[str, str, str, dict[str, str]], decode_threads: int
) -> None:
    name, codec, pix_fmt, options = clip
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    path = numbered_video(tmp_path / name, codec=codec, pix_fmt=pix_fmt, options=options)
    frames, failures = read(file_source(path, decode_threads=decode_threads))
    assert failures == []
    if codec != "gif":  # whose palette is too coarse for the numbers
        assert [number_of(frame) for frame in frames] == list(range(12))
    assert [frame.seq for frame in frames] == list(range(12))
    assert pts_of(frames) == pytest.approx([number / 25 for number in range(12)], abs=0.0011)
    assert {frame.path for frame in frames} == {str(path)}
    assert {frame.time_source for frame in frames} == {"pts"}
    assert {frame.picture.size for frame in frames} == {Size(64, 48)}


def test_uneven_time_stamps_stay_uneven(tmp_path: Path) -> None:
    stamps = [0, 1, 5, 6, 20, 21]
    path = numbered_video(tmp_path / "vfr.mkv", 6, pts=stamps)
    frames, _ = read(file_source(path))
    assert pts_of(frames) == [stamp / 25 for stamp in stamps]


def test_a_stream_that_starts_late_begins_at_zero(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "late.ts", 6, pts=[100 + number for number in range(6)])
    frames, _ = read(file_source(path))
    assert pts_of(frames) == [0, 0.04, 0.08, 0.12, 0.16, 0.2]


def test_a_raw_stream_is_counted_at_its_rate_and_says_so_once(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "raw.h264", container="h264", options=B_FRAMES)
    context = PluginContext()
    frames, failures = read(file_source(path, context, loop=2))
    assert failures == []
    assert pts_of(frames) == [round(number / 25, 4) for number in range(24)]
    assert {frame.time_source for frame in frames} == {"pts"}
    assert len(context.warnings) == 1
    assert "no time stamps" in context.warnings[0]
    assert str(path) in context.warnings[0]


def test_captured_at_counts_from_the_wall_clock_at_the_beginning(tmp_path: Path) -> None:
    clock = MovableClock(wall=5000.0)
    frames, _ = read(file_source(numbered_video(tmp_path / "a.mp4", 3), PluginContext(clock=clock)))
    assert [frame.captured_at for frame in frames] == pytest.approx([5000.0, 5000.04, 5000.08])
    assert {frame.decoded_at for frame in frames} == {clock.monotonic()}
    assert {frame.duration_s for frame in frames} == {0.04}


@pytest.mark.parametrize(("clockwise_deg", "turns"), [(90, -1), (180, 2), (270, 1)])
def test_a_video_of_a_phone_held_sideways_is_upright(tmp_path: Path, clockwise_deg: int, turns: int) -> None:
    path = video(tmp_path / "phone.mp4", [bars()] * 3, options={"crf": "5"})
    turned(path, clockwise_deg)
    frames, _ = read(file_source(path))
    expected = np.rot90(bars(), turns)
    assert len(frames) == 3
    for frame in frames:
        assert frame.picture.size == Size(expected.shape[1], expected.shape[0])
        assert np.abs(np.subtract(corners(frame.picture.rgb()), corners(expected))).max() <= 6


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "tags"),
    [
        ("yuv420p", "libx264", (1, 1)),
        ("yuv420p", "libx264", (5, 1)),
        ("yuv420p", "libx264", (1, 2)),
        ("yuv420p", "libx264", (6, 2)),
        ("yuv420p", "libx264", (2, 0)),
        ("yuv420p10le", "libx264", (9, 1)),
        ("yuv444p", "libx264", (1, 1)),
        ("yuvj420p", "mjpeg", (5, 2)),
    ],
)
def test_colours_survive_the_tags_of_the_stream(
    tmp_path: Path, pix_fmt: str, codec: str, tags: tuple[int, int]
) -> None:
    matrix = {1: Colorspace.ITU709, 9: Colorspace.BT2020}.get(tags[0], Colorspace.ITU601)
    pictures = [as_format(bars(), pix_fmt, matrix, full_range=tags[1] == 2) for _ in range(2)]
    quality = {"crf": "3"} if codec == "libx264" else {"qmin": "1", "qmax": "1"}
    path = video(tmp_path / "colours.mkv", pictures, codec=codec, pix_fmt=pix_fmt, options=quality, tags=tags)
    frames, _ = read(file_source(path))
    assert len(frames) == 2
    for frame in frames:
        assert np.abs(np.subtract(corners(frame.picture.rgb()), corners(bars()))).max() <= 6


def test_odd_sizes_are_kept(tmp_path: Path) -> None:
    odd = video(tmp_path / "odd.mkv", [numbered(3, 65, 49)], codec="ffv1", pix_fmt="yuv420p")
    (frame,), _ = read(file_source(odd))
    assert frame.picture.size == Size(65, 49)
    assert frame.picture.rgb().shape == (49, 65, 3)
    assert frame.picture.yuv420p().u.shape == (25, 33)
    assert number_of(frame) == 3


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
@pytest.mark.parametrize("decode_threads", [1, 3])
def test_entering_in_the_middle_gives_the_same_frames_as_reading_on(
    tmp_path: Path, name: str, decode_threads: int
) -> None:
    codec, options = ("libx264", {"bf": "2", "g": "10"}) if name != "a.avi" else ("mpeg4", {"g": "10", "qmax": "2"})
    path = numbered_video(tmp_path / name, 25, codec=codec, options=options)
    whole, _ = read(file_source(path))
    for first in range(25):
        start_s = first / 25 - (0.01 if first % 2 else 0.0)  # on a frame, and between two
        frames, failures = read(file_source(path, start_s=start_s, decode_threads=decode_threads))
        assert failures == []
        assert [number_of(frame) for frame in frames] == list(range(first, 25))
        assert pts_of(frames) == pts_of(whole)[first:]
        assert [frame.seq for frame in frames] == list(range(25 - first))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"end_s": 0.2}, range(5)),
        ({"start_frame": 7}, range(7, 12)),
        ({"end_frame": 4}, range(4)),
        ({"start_frame": 3, "end_frame": 5}, range(3, 5)),
        ({"num_frames": 5}, range(5)),
        ({"start_frame": 9, "num_frames": 50}, range(9, 12)),
        ({"start_s": 0.2, "num_frames": 2}, range(5, 7)),
        ({"start_s": 0.2, "end_s": 0.32}, range(5, 8)),
        ({"start_s": 0.2, "duration_s": 0.08}, range(5, 7)),
        ({"duration_s": 0.08, "end_s": 0.04}, range(1)),
        ({"start_frame": 2, "duration_s": 0.12}, range(2, 5)),
    ],
)
def test_a_window_gives_exactly_its_frames(tmp_path: Path, keys: dict[str, float], expected: range) -> None:
    path = numbered_video(tmp_path / "a.mp4", options=B_FRAMES)
    source = file_source(path, None, **keys)
    frames, failures = read(source)
    assert [number_of(frame) for frame in frames] == list(expected)
    assert pts_of(frames) == [round(number / 25, 4) for number in expected]
    assert failures == []
    assert source.expected_frames == len(expected)


def test_a_window_behind_the_end_is_no_failure_but_is_said(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mp4")
    for key in ("start_s", "start_frame"):
        context = PluginContext()
        assert read(file_source(path, context, **{"loop": True, key: 60})) == ([], [])
        assert ["before the start" in warning for warning in context.warnings] == [True]


def test_files_and_rounds_follow_one_another_on_one_timeline(tmp_path: Path) -> None:
    for name in ("shot_10.mp4", "shot_9.mp4"):
        numbered_video(tmp_path / name, 3, pts=[0, 1, 3])
    source = file_source(f"{tmp_path}/shot_*.mp4", loop=2)
    frames, _ = read(source)
    assert [Path(frame.path or "").name for frame in frames] == (["shot_9.mp4"] * 3 + ["shot_10.mp4"] * 3) * 2
    assert [frame.seq for frame in frames] == list(range(12))
    stamps = pts_of(frames)
    assert all(before < after for before, after in pairwise(stamps))
    assert stamps[:3] == [0, 0.04, 0.12]
    assert stamps[4] - stamps[3] == pytest.approx(0.04)
    assert source.expected_frames is None


def test_a_list_keeps_its_order_and_an_endless_loop_ends_when_stopped(tmp_path: Path) -> None:
    paths = [str(numbered_video(tmp_path / name, 2)) for name in ("b.mp4", "a.mp4")]
    stop = threading.Event()
    seen = []
    for item in file_source(paths, loop=True).frames(stop):
        assert isinstance(item, Frame)
        seen.append(Path(item.path or "").name)
        if len(seen) == 9:
            stop.set()
    assert seen == ["b.mp4", "b.mp4", "a.mp4", "a.mp4"] * 2 + ["b.mp4"]


def test_the_name_of_a_file_may_have_brackets_in_it(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "cam[1].mp4", 2)
    frames, _ = read(file_source(path))
    assert len(frames) == 2


def test_a_stop_ends_the_frames_at_once(tmp_path: Path) -> None:
    stop = threading.Event()
    frames = file_source(numbered_video(tmp_path / "a.mp4", options=B_FRAMES), decode_threads=1).frames(stop)
    next(frames)
    stop.set()
    assert next(frames, None) is None


def test_a_stop_ends_frames_that_nobody_wants(tmp_path: Path) -> None:
    stop = threading.Event()
    with closing(VideoFile(str(numbered_video(tmp_path / "a.mp4")), Decoding("cpu", 1, 10_000))) as video_file:
        frames = video_file.decoded(stop)
        next(frames)
        stop.set()
        assert list(frames) == []


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as output:
        cover, song = output.add_stream("mjpeg", rate=1), output.add_stream("aac", rate=8000, layout="mono")
        assert isinstance(cover, av.VideoStream)
        assert isinstance(song, av.AudioStream)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        output.start_encoding()
        picture = as_format(bars(), "yuvj420p", full_range=True)
        picture.pts, picture.time_base = 0, Fraction(1, 1)
        output.mux(cover.encode(picture) + cover.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        output.mux(song.encode(silence) + song.encode(None))
    with pytest.raises(FatalError, match="no video stream in the file, only a cover picture, audio"):
        read(file_source(path))


def test_it_knows_how_many_frames_are_to_come(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mp4")
    source = file_source(path, loop=3)
    assert isinstance(source, Counted)
    known_before_it_is_open = source.expected_frames
    next(source.frames(threading.Event()))
    assert (known_before_it_is_open, source.expected_frames) == (None, 36)
    assert not source.live


class ClockedEvent(threading.Event):
    """An event whose `wait` lets the time of a `MovableClock` go by instead of ours."""

    def __init__(self, clock: MovableClock) -> None:
        super().__init__()
        self.clock = clock
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(round(timeout or 0.0, 4))
        self.clock.advance(timeout or 0.0)
        return self.is_set()


def test_real_time_waits_for_the_time_stamps(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "vfr.mkv", 4, pts=[0, 1, 5, 6])
    clock = MovableClock()
    stop = ClockedEvent(clock)
    began_s = clock.monotonic()
    due = []
    for frame in file_source(path, PluginContext(clock=clock), pace="realtime").frames(stop):
        assert isinstance(frame, Frame)
        due.append(round(frame.decoded_at - began_s, 4))
        clock.advance(0.01)  # the pipeline takes its time: it is part of the wait
    assert due == [0, 0.04, 0.2, 0.24]
    assert stop.waits == [0, 0.03, 0.15, 0.03]


def test_in_real_time_a_time_stamp_beyond_all_bounds_waits_and_does_not_fail() -> None:
    stop = ClockedEvent(MovableClock())
    timeline = Timeline(PluginContext(clock=stop.clock), stop, realtime=True)
    assert timeline.wait_until(0.0)
    assert timeline.wait_until(1e20)
    assert stop.waits[1] <= threading.TIMEOUT_MAX


def test_real_time_is_left_at_once_when_stopped(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "slow.mkv", 3, pts=[0, 100_000, 200_000])
    stop = threading.Event()
    frames = file_source(path, pace="realtime").frames(stop)
    next(frames)
    threading.Timer(0.05, stop.set).start()
    assert next(frames, None) is None


def test_in_real_time_the_newest_frame_wins_unless_told_otherwise() -> None:
    def queue(**keys: object) -> QueueConfig:
        return FileSourceConfig.model_validate({"type": "file", "path": "a.mp4", **keys}).queue

    assert queue() == QueueConfig()
    assert queue(pace="realtime") == QueueConfig(max_frames=2, when_full="drop_oldest")
    assert queue(pace="realtime", queue={"when_full": "block"}) == QueueConfig(when_full="block")


@pytest.mark.parametrize("decode_threads", [1, 2, 4])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_mp4_gives_its_good_frames_and_one_counted_failure(
    tmp_path: Path, decode_threads: int, share: float
) -> None:
    noise = np.random.default_rng(1)
    pictures = [noise.integers(0, 80, (48, 64, 3), dtype=np.uint8) for _ in range(24)]
    path = video(tmp_path / "a.mp4", pictures, options=B_FRAMES, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    one_by_one, _ = read(file_source(path, decode_threads=1))
    frames, failures = read(file_source(path, decode_threads=decode_threads))
    assert 5 < len(frames) < 24
    assert pts_of(frames) == pts_of(one_by_one)
    assert len(failures) == 1
    assert str(path) in failures[0].detail


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.avi", "ffv1")])
def test_a_cut_that_the_demuxer_takes_for_an_end_is_counted_too(tmp_path: Path, name: str, codec: str) -> None:
    path = numbered_video(tmp_path / name, 60, codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, failures = read(file_source(path))
    assert 5 < len(frames) < 50
    assert len(failures) == 1
    assert str(path) in failures[0].detail


def test_a_window_that_ends_early_is_no_truncation(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mkv", 60)
    frames, failures = read(file_source(path, num_frames=5))
    assert (len(frames), failures) == (5, [])


def blank_packets(path: Path, numbers: Iterable[int]) -> None:
    """Overwrite the data of some packets, and leave the container as it is."""
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        start, size_bytes = packets[number]
        data[start : start + size_bytes] = bytes(size_bytes)
    path.write_bytes(data)


@pytest.mark.parametrize("decode_threads", [1, 3])
def test_a_corrupt_packet_is_one_failure_and_decoding_goes_on(tmp_path: Path, decode_threads: int) -> None:
    path = numbered_video(tmp_path / "a.avi", codec="mjpeg", pix_fmt="yuvj420p")
    blank_packets(path, [5])
    frames, failures = read(file_source(path, decode_threads=decode_threads))
    assert [number_of(frame) for frame in frames] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert [frame.seq for frame in frames] == list(range(11))
    assert len(failures) == 1
    assert str(path) in failures[0].detail


def test_a_file_of_which_nothing_can_be_decoded_is_corrupt(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.avi", codec="mjpeg", pix_fmt="yuvj420p")
    blank_packets(path, range(12))
    with pytest.raises(FatalError, match=r"a\.avi: no frame in the file could be decoded") as caught:
        read(file_source(path))
    assert caught.value.code is SourceErrorCode.CORRUPT


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_playlist(path: Path) -> None:
    numbered_video(path.with_name("inside.mp4"), 2)
    path.write_text("ffconcat version 1.0\nfile inside.mp4\n")


def an_hls_playlist(path: Path) -> None:
    numbered_video(path.with_name("inside.ts"), 2)
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\ninside.ts\n#EXT-X-ENDLIST\n")


def cut_before_its_index(path: Path) -> None:
    numbered_video(path.with_suffix(".mp4")).rename(path)
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("name", "make", "code", "message"),
    [
        ("a.mp4", lambda path: None, "NOT_FOUND", "No such file"),
        ("a.mp4", a_folder, "NOT_FOUND", "is a folder"),
        ("a.mp4", a_pipe, "NOT_FOUND", "not a regular file"),
        ("a.mp4", lambda path: path.write_bytes(b""), "CORRUPT", "is empty"),
        ("a.mp4", lambda path: path.write_text("hello world\n" * 100), "CORRUPT", "not a video file"),
        ("a.txt", lambda path: path.write_text("hello world\n" * 100), "CODEC_UNSUPPORTED", "no video file"),
        ("a.mp4", a_playlist, "CODEC_UNSUPPORTED", "not followed"),
        ("a.m3u8", an_hls_playlist, "CODEC_UNSUPPORTED", "not followed"),
        ("a.mp4", cut_before_its_index, "CORRUPT", "damaged or cut"),
        ("a.m4a", sound, "CODEC_UNSUPPORTED", "no video stream in the file, only audio"),
    ],
)
def test_what_is_no_video_is_one_clear_line(tmp_path: Path, name: str, make: object, code: str, message: str) -> None:
    path = tmp_path / name
    make(path)  # type: ignore[operator]
    with pytest.raises(FatalError, match=message) as caught:
        read(file_source(path))
    assert caught.value.code == code
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mp4")
    frames, _ = read(file_source(path, max_pixels=64 * 48 * 4))
    assert len(frames) == 12
    with pytest.raises(FatalError, match="no frame"):
        read(file_source(path, max_pixels=64 * 48 - 1))


def test_one_bad_file_of_several_is_a_failure_and_the_others_are_read(tmp_path: Path) -> None:
    numbered_video(tmp_path / "a.mp4", 3)
    (tmp_path / "b.mp4").write_text("no video")
    numbered_video(tmp_path / "c.mp4", 3)
    frames, failures = read(file_source(f"{tmp_path}/*.mp4"))
    assert len(frames) == 6
    assert len(failures) == 1
    assert str(tmp_path / "b.mp4") in failures[0].detail


def test_several_bad_files_and_no_good_one_fail_the_source(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text("no video")
    with pytest.raises(FatalError):
        read(file_source(f"{tmp_path}/*.mp4", loop=True))
    with pytest.raises(FatalError, match="no file matches"):
        read(file_source(f"{tmp_path}/*.mkv"))


def test_a_url_is_refused_without_showing_its_password() -> None:
    with pytest.raises(ValidationError, match=r'rtsp:// is not a file: .* type = "rtsp"') as caught:
        FileSourceConfig(type="file", path=["rtsp://me:hunter2@10.0.0.5/ch1"])
    assert "hunter2" not in str(caught.value.errors(include_input=False))


def test_check_names_the_nearest_file(tmp_path: Path) -> None:
    numbered_video(tmp_path / "bikes.mp4", 1)

    def problem(path: str) -> str:
        with pytest.raises(ConfigError) as caught:
            FileSourceConfig(type="file", path=[path]).check()
        assert caught.value.key == "path"
        return str(caught.value)

    assert problem(f"{tmp_path}/bike.mp4").endswith("did you mean bikes.mp4?")
    assert "does not exist" in problem(f"{tmp_path}/nowhere/bikes.mp4")
    assert "no file matches" in problem(f"{tmp_path}/*.avi")
    assert "directory" in problem(str(tmp_path))
    config = FileSourceConfig(type="file", path=[f"{tmp_path}/*.mp4"])
    config.check()
    assert config.reads() == [tmp_path / "bikes.mp4"]


@pytest.mark.parametrize(
    "keys",
    [
        {"start_s": 1, "start_frame": 1},
        {"start_s": 1, "end_frame": 1},
        {"start_s": 2, "end_s": 1},
        {"start_frame": 2, "end_frame": 2},
        {"path": []},
        {"loop": -1},
        {"pace": "slow"},
        {"num_frames": 0},
    ],
)
def test_windows_that_make_no_sense_are_config_errors(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FileSourceConfig.model_validate({"type": "file", "path": "a.mp4", **keys})


def test_path_is_a_string_or_a_list_in_the_schema() -> None:
    kinds = FileSourceConfig.model_json_schema()["properties"]["path"]["anyOf"]
    assert [kind["type"] for kind in kinds] == ["string", "array"]


def test_configs_import_nothing_heavy() -> None:
    code = "import sys, sources.file, sources.directory; print({'av', 'PIL', 'onnxruntime', 'onnx'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "frames", "last_s"),
    [
        ("bikes.mp4", 250, 9.96),
        ("vtest.avi", 795, 79.4),
        ("webcam_mpeg2.mpeg", 249, 8.2749),
        ("highway_mpeg4.mp4", 360, 11.9667),
        ("bottle-detection.mp4", 1189, 39.8212),
        ("pancake.mkv", 310, 10.3),
        ("girlshy.h265", 75, 2.96),
    ],
)
def test_real_videos_give_every_frame(shared_data: Path, name: str, frames: int, last_s: float) -> None:
    count = 0
    for item in file_source(shared_data / "videos" / name).frames(threading.Event()):
        assert isinstance(item, Frame)
        assert item.seq == count
        count, last = count + 1, item.pts_s
    assert (count, round(last or 0, 4)) == (frames, last_s)
