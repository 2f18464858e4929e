"""Frames that nobody wants are not decoded, and those that are wanted are the same ones, bit by bit."""

import itertools
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from media import file_source, moving, pts_of, read, video

from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.sampling import Sampling
from pipeline.testing import PluginContext
from sources._file_frames import SkippedFrame
from sources._file_timeline import Foresight, Timeline
from sources.file import FileSource, FileSourceConfig

FRAMES = 150
QUIET = "log-level=none:keyint=30"


class Clip(NamedTuple):
    """How a clip is made, and the most of its frames that may be decoded at max_fps = 2."""

    codec: str
    container: str
    most: int
    options: dict[str, str]
    pix_fmt: str = "yuv420p"


CLIPS = {
    "no-b-frames": Clip("libx264", "mp4", 100, {"preset": "ultrafast", "g": "25", "bf": "0"}),
    "b-pyramid": Clip("libx264", "mkv", 105, {"preset": "medium", "g": "50", "bf": "5"}),
    "open-gop": Clip("libx264", "mkv", 130, {"preset": "medium", "g": "30", "x264-params": "open-gop=1"}),
    "intra-refresh": Clip("libx264", "mp4", 100, {"preset": "medium", "g": "30", "x264-params": "intra-refresh=1"}),
    "transport-stream": Clip("libx264", "ts", 100, {"preset": "medium", "g": "30"}),
    "h265": Clip("libx265", "mp4", 120, {"preset": "fast", "x265-params": QUIET}),
    "h265-layers": Clip(
        "libx265", "mp4", 130, {"preset": "fast", "x265-params": f"{QUIET}:open-gop=0:bframes=4:temporal-layers=3"}
    ),
    "h265-transport-stream": Clip("libx265", "ts", 130, {"preset": "fast", "x265-params": f"{QUIET}:open-gop=0"}),
    "mpeg4": Clip("mpeg4", "avi", 80, {"g": "12", "bf": "2"}),
    "mpeg2": Clip("mpeg2video", "ts", 80, {"g": "12", "bf": "2"}),
    "vp9": Clip("libvpx-vp9", "webm", 140, {"g": "30", "deadline": "realtime", "cpu-used": "8"}),
    "mjpeg": Clip("mjpeg", "mkv", 13, {}, "yuvj420p"),
}
KEYS: list[dict[str, Any]] = [
    {"stride": 7},
    {"max_fps": 2},
    {"stride": 3, "max_fps": 4, "decode_threads": 3},
    {"stride": 4, "start_frame": 37, "num_frames": 60},
    {"max_fps": 3, "start_s": 2.3},
    {"max_fps": 1.7, "duration_s": 2.2, "loop": 3},
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    pictures = [moving(number, 64, 48) for number in range(FRAMES)]
    return {
        name: video(
            folder / f"{name}.{clip.container}", pictures, codec=clip.codec, pix_fmt=clip.pix_fmt, options=clip.options
        )
        for name, clip in CLIPS.items()
    }


def sampled(source: FileSource, **keys: Any) -> tuple[list[Frame], int]:
    """What the sampler behind the source takes, and how many frames the source decoded."""
    sampling = Sampling(int(keys.get("stride", 1)), keys.get("max_fps"))
    frames, failures = read(source)
    assert not failures
    return [frame for frame in frames if frame.pts_s is not None and sampling.takes(frame.seq, frame.pts_s)], len(
        frames
    )


def told(frames: Sequence[Frame]) -> list[tuple[int, float | None, float | None, float | None, int]]:
    """All that matters of frames."""
    return [
        (each.seq, each.pts_s, each.file_pts_s, each.duration_s, zlib.crc32(each.picture.rgb().tobytes()))
        for each in frames
    ]


def everything(path: Path | list[str], **keys: Any) -> FileSource:
    """A source that decodes every frame: it does not know what will be left out."""
    return file_source(path, **{key: value for key, value in keys.items() if key not in {"stride", "max_fps"}})


@pytest.mark.parametrize("keys", KEYS, ids=str)
@pytest.mark.parametrize("name", CLIPS)
def test_the_frames_that_are_wanted_are_the_same_bit_by_bit(
    clips: dict[str, Path], name: str, keys: dict[str, Any]
) -> None:
    wanted, decoded = sampled(everything(clips[name], **keys), **keys)
    got, less = sampled(file_source(clips[name], **keys), **keys)
    assert told(got) == told(wanted)
    assert wanted
    assert less <= decoded


@pytest.mark.parametrize("name", CLIPS)
def test_few_frames_are_decoded_where_few_are_wanted(clips: dict[str, Path], name: str) -> None:
    source = file_source(clips[name], max_fps=2)
    frames, _ = read(source)
    assert len(frames) <= CLIPS[name].most
    assert source.expected_frames is None or abs(source.expected_frames - len(frames)) <= 2  # what TS headers estimate


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> "itertools.count[int]":
    """Counts the frames about which was asked: those whose packets were read."""
    number = itertools.count()
    wants = Foresight.wants

    def counted(self: Foresight, pts_s: float) -> bool:
        next(number)
        return wants(self, pts_s)

    monkeypatch.setattr(Foresight, "wants", counted)
    return number


@pytest.mark.parametrize("keys", [{"num_frames": 20}, {"duration_s": 0.8}, {"end_s": 0.8}], ids=str)
def test_nothing_is_read_far_behind_the_end_of_the_window(
    asked: "itertools.count[int]", clips: dict[str, Path], keys: dict[str, Any]
) -> None:
    frames, failures = read(file_source(clips["no-b-frames"], stride=7, **keys))
    assert [frame.seq for frame in frames if frame.seq % 7 == 0] == [0, 7, 14]
    assert not failures
    assert next(asked) <= 75  # the window's group of pictures, and what reordering might hold back


def test_a_file_of_whole_pictures_is_not_read_from_its_beginning_to_start_in_the_middle(
    asked: "itertools.count[int]", clips: dict[str, Path]
) -> None:
    frames, _ = read(file_source(clips["mjpeg"], stride=7, start_s=4.01))  # between two frames
    assert [frame.file_pts_s for frame in frames][:2] == pytest.approx([4.04, 4.32])
    assert next(asked) <= FRAMES // 2


def test_several_files_and_rounds_stay_on_one_grid(clips: dict[str, Path]) -> None:
    paths = [str(clips[name]) for name in ("mjpeg", "b-pyramid", "mpeg2", "no-b-frames")]
    for keys in KEYS:
        assert told(sampled(file_source(paths, **keys), **keys)[0]) == told(
            sampled(everything(paths, **keys), **keys)[0]
        )


def test_every_frame_is_decoded_where_none_is_left_out(clips: dict[str, Path]) -> None:
    frames, _ = read(file_source(clips["mjpeg"], stride=1))
    assert [frame.seq for frame in frames] == list(range(FRAMES))


def test_a_damaged_file_is_decoded_whole_from_the_damage_on(tmp_path: Path, clips: dict[str, Path]) -> None:
    data = bytearray(clips["no-b-frames"].read_bytes())
    middle = len(data) // 2
    data[middle : middle + 9000] = bytes(9000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    items = list(file_source(path, stride=10).frames(threading.Event()))
    at = next(index for index, item in enumerate(items) if isinstance(item, FailedFrame))
    after = [item.seq for item in items[at:] if isinstance(item, Frame)]
    assert len(after) > FRAMES // 4
    assert all(later == earlier + 1 for earlier, later in itertools.pairwise(after))


def test_a_file_without_time_stamps_is_decoded_whole(tmp_path: Path) -> None:
    path = video(tmp_path / "raw.h264", [moving(number, 64, 48) for number in range(40)], options={"bf": "0"})
    frames, _ = read(file_source(path, stride=10))
    assert len(frames) == 40


def test_a_file_ends_where_its_last_frame_ends_though_nobody_wanted_that(clips: dict[str, Path]) -> None:
    """The next file goes on there."""
    one, two = str(clips["mjpeg"]), str(clips["no-b-frames"])
    frames, _ = read(file_source([one, two], stride=50))
    second = [stamp_s for frame, stamp_s in zip(frames, pts_of(frames), strict=True) if frame.path == two]
    assert second[0] == 6.0


def test_foresight_keeps_in_step_with_the_sampler_where_it_is_not_asked() -> None:
    """A file that was decoded whole, since nothing about it was certain, counts for the next one."""
    timeline = Timeline(PluginContext(), threading.Event(), realtime=False)
    window = FileSourceConfig.model_validate({"type": "file", "path": "a.mp4"})
    foresight, sampling = Foresight(window, Sampling(1, 2.0), timeline), Sampling(1, 2.0)
    foresight.begin_file(0)
    timeline.begin_file()
    for seq in range(30):
        sampling.takes(seq, seq / 25)
        timeline.place(SkippedFrame(seq / 25, 0.04))
        foresight.gave(seq, seq / 25)
    foresight.begin_file(30)
    timeline.begin_file()
    expected = [sampling.takes(30 + number, 1.2 + number / 25) for number in range(40)]
    assert [foresight.wants(number / 25) for number in range(40)] == expected
    assert not expected[0]
