"""What is left of a video whose writer was killed, or whose file was cut: everything but the last second."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.contracts.frame import Frame
from pipeline.testing import PluginContext, detections, frame, result
from sinks._container import FORMATS, mend
from sinks._film import VideoSink
from sinks.video import VideoSinkConfig

KINDS = [("a.mp4", "hybrid"), ("a.mp4", "fragmented"), ("a.mov", "hybrid"), ("a.mkv", "plain"), ("a.ts", "plain")]
FPS = 25


def opened(ctx: PluginContext, path: Path, **keys: Any) -> VideoSink:
    sink = VideoSinkConfig.model_validate({"path": str(path), "encoder": "software", **keys}).build(ctx)
    assert isinstance(sink, VideoSink)
    sink.open()
    return sink


def pictures(count: int) -> Iterator[Frame]:
    for seq in range(count):
        yield frame(seq, width=128, height=96, grey=40 + seq % 100)


def decoded(path: Path) -> list[float]:
    """The brightness of each picture, as far as it goes; none of them may be broken."""
    with av.open(str(path)) as container:
        return [float(picture.reformat(format="gray8").to_ndarray().mean()) for picture in container.decode(video=0)]


def first_pictures(greys: list[float]) -> bool:
    """Whether these are the first of `pictures`, each as it was."""
    expected = [40 + seq % 100 for seq in range(len(greys))]
    return bool(np.abs(np.array(greys) - expected).max(initial=0) <= 3)


WRITER = """
import sys, time
from dataclasses import replace
from pathlib import Path
from pipeline.testing import PluginContext, detections, frame, result
from sinks.video import VideoSinkConfig

sink = VideoSinkConfig.model_validate(
    {"path": sys.argv[1], "layout": sys.argv[2], "preset": sys.argv[3], "codec": sys.argv[4], "encoder": "software"}
).build(PluginContext())
sink.open()
for seq in range(10_000):
    one = frame(seq, width=128, height=96, grey=40 + seq % 100)
    if sys.argv[5] == "file":
        one = replace(one, path="clip.mp4", file_pts_s=one.pts_s)
    sink.write([result(one, detections())])
    print(seq + 1, flush=True)
    time.sleep(0.002)
"""


def killed(
    path: Path, layout: str, *, after: int = 100, preset: str = "ultrafast", codec: str = "h264", of: str = "camera"
) -> int:
    """Kill a process that writes a video, after so many frames at least; how many it was given."""
    command = [sys.executable, "-c", WRITER, str(path), layout, preset, codec, of]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= after:
                os.kill(writer.pid, signal.SIGKILL)
                break
        rest = writer.stdout.read().split()
        writer.wait(20)
    return int(rest[-1]) if rest else after


@pytest.mark.parametrize(("name", "layout"), KINDS)
def test_a_kill_loses_at_most_a_second_and_the_next_start_finishes_the_file(
    tmp_path: Path, ctx: PluginContext, name: str, layout: str
) -> None:
    given = killed(tmp_path / name, layout)
    assert [path.name for path in tmp_path.glob("a.*")] == [f"{name}.part"]
    assert first_pictures(as_it_lies := decoded(tmp_path / f"{name}.part"))
    assert given - FPS <= len(as_it_lies) <= given
    sink = opened(ctx, tmp_path / name, layout=layout)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
    assert len(decoded(tmp_path / name)) == len(as_it_lies)
    assert len(ctx.warnings) == 1
    assert "finished what a run before had to leave" in ctx.warnings[0]
    sink.write([result(frame(0), detections())])
    sink.close()
    assert [Path(one).name for one in sink.written()] == [f"a-0002{Path(name).suffix}"], "nothing is written over"


@pytest.mark.parametrize(
    ("preset", "codec", "of"),
    [
        ("medium", "h264", "camera"),
        ("medium", "h264", "file"),
        ("ultrafast", "hevc", "camera"),
        ("ultrafast", "hevc", "file"),
        ("ultrafast", "av1", "file"),
    ],
)
def test_slower_presets_and_other_codecs_lose_no_more(tmp_path: Path, preset: str, codec: str, of: str) -> None:
    given = killed(tmp_path / "a.mp4", "hybrid", after=60, preset=preset, codec=codec, of=of)
    greys = decoded(tmp_path / "a.mp4.part")
    assert first_pictures(greys)
    assert given - FPS <= len(greys) <= given


def test_sound_that_ends_early_does_not_hold_the_pictures_back(tmp_path: Path, ctx: PluginContext, clips: Any) -> None:
    path = clips.make("in.mp4", times_s=[index / FPS for index in range(200)], audio="aac", audio_s=1.0)
    sink = opened(ctx, tmp_path / "a.mp4")
    for one in clips.frames(path):
        sink.write([result(one, detections())])
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4.part").read_bytes())
    sink.close()
    assert len(clips.times(tmp_path / "cut.mp4")) >= 200 - FPS


@pytest.fixture(scope="module")
def long_ones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, list[tuple[int, int]]]]:
    """For each kind what a kill would leave, and how many frames had been written when it was how long."""
    folder = tmp_path_factory.mktemp("long")
    made = {}
    for name, layout in KINDS:
        sink = opened(PluginContext("out", folder), folder / layout / name, layout=layout, audio=False)
        part = folder / layout / f"{name}.part"
        lengths = []
        for one in pictures(120):
            sink.write([result(one, detections())])
            lengths.append((part.stat().st_size, one.seq + 1))
        made[f"{name} {layout}"] = (part.read_bytes(), lengths)
        sink.close()
        assert len(decoded(folder / layout / name)) == 120
    return made


@pytest.mark.parametrize(("name", "layout"), [kind for kind in KINDS if kind[0] != "a.mov"])
def test_a_file_cut_at_any_byte_plays_up_to_its_last_whole_fragment(
    tmp_path: Path, long_ones: dict[str, tuple[bytes, list[tuple[int, int]]]], name: str, layout: str
) -> None:
    whole, lengths = long_ones[f"{name} {layout}"]
    rng = random.Random(5)
    path = tmp_path / name
    # Before the first half second is on the disk there is nothing to play.
    first = next(length for length, frames in lengths if frames > FPS)
    for cut in sorted(rng.randrange(first, len(whole)) for _ in range(100)):
        path.write_bytes(whole[:cut])
        mend(path, path.suffix)
        assert path.stat().st_size <= cut
        # What was on the disk in whole when the file was that long, less what the encoder and a fragment may hold.
        written = max(frames for length, frames in lengths if length <= cut)
        greys = decoded(path)
        assert first_pictures(greys), cut
        assert written - FPS <= len(greys) <= written + FPS, cut


@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])  # FFmpeg does not read an MP4 that ends within a `moof`
def test_a_cut_file_is_read_without_mending_too(
    tmp_path: Path, long_ones: dict[str, tuple[bytes, list[tuple[int, int]]]], name: str
) -> None:
    whole, lengths = long_ones[f"{name} plain"]
    rng = random.Random(6)
    path = tmp_path / name
    first = next(length for length, frames in lengths if frames > FPS)
    for cut in sorted(rng.randrange(first, len(whole)) for _ in range(40)):
        path.write_bytes(whole[:cut])
        written = max(frames for length, frames in lengths if length <= cut)
        count = 0
        with av.open(str(path)) as container:
            try:
                for _ in container.decode(video=0):
                    count += 1
            except av.FFmpegError:
                pass  # the last picture is cut off in the middle
        assert count >= written - FPS, cut


def test_an_index_without_an_end_is_found_out(tmp_path: Path, ctx: PluginContext) -> None:
    """The disk fills up, or the power fails, just when the index is written and the fragments are hidden behind it."""
    sink = opened(ctx, tmp_path / "a.mp4")
    for one in pictures(100):
        sink.write([result(one, detections())])
    sink.close()
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "a.mp4.part").write_bytes(whole[:-500])
    sink = opened(ctx, tmp_path / "a.mp4")
    sink.close()
    greys = decoded(tmp_path / "a.mp4")
    assert len(greys) == 100
    assert first_pictures(greys)


def test_what_a_run_left_takes_the_place_of_nothing(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.mkv")
    for one in pictures(50):
        sink.write([result(one, detections())])
    left = (tmp_path / "a.mkv.part").read_bytes()
    sink.close()
    (tmp_path / "a.mkv.part").write_bytes(left)
    (tmp_path / "a.mkv").write_text("of a run that ended well")
    opened(ctx, tmp_path / "a.mkv").close()
    assert (tmp_path / "a.mkv").read_text() == "of a run that ended well"
    assert len(decoded(tmp_path / "a-0002.mkv")) >= FPS


LIMITED = """
import os, resource, sys
from pathlib import Path
from pipeline.contracts.errors import PenstockError
from pipeline.testing import PluginContext, detections, frame, result
from sinks.video import VideoSinkConfig

path = Path(sys.argv[1])
sink = VideoSinkConfig.model_validate(
    {"path": str(path), "layout": sys.argv[2], "encoder": "software", "content": "clean"}
).build(PluginContext())
sink.open()
for seq in range(100):
    sink.write([result(frame(seq, width=128, height=96, grey=40 + seq % 100), detections())])
limit = os.stat(f"{path}.part").st_size + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    sink.close()
    print("well")
except PenstockError as error:
    print(error)
"""


@pytest.mark.parametrize(("name", "layout"), [kind for kind in KINDS if kind[0] != "a.mov"])
def test_an_end_that_could_not_be_written_is_told_and_costs_a_second_at_most(
    tmp_path: Path, name: str, layout: str
) -> None:
    said = {}
    for room in (0, 200, 1600, 20_000):
        path = tmp_path / str(room) / name
        command = [sys.executable, "-c", LIMITED, str(path), layout, str(room)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
        greys = decoded(path)
        assert first_pictures(greys)
        assert len(greys) >= 100 - FPS
        said[room] = run.stdout.strip()
        assert len(greys) == 100 or said[room] != "well"
    assert said[20_000] == "well"


def test_what_cannot_be_played_is_told_and_left_and_what_is_empty_goes(tmp_path: Path, ctx: PluginContext) -> None:
    (tmp_path / "a.mp4.part").write_bytes(b"\0" * 10_000)
    (tmp_path / "b.mp4.part").write_bytes(b"")
    (tmp_path / "other.mkv.part").write_bytes(b"")
    opened(ctx, tmp_path / "{source}.mp4").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4.part", "other.mkv.part"]
    assert [warning for warning in ctx.warnings if "what cannot be played" in warning and "a.mp4.part" in warning]


def test_a_file_that_another_sink_is_writing_is_left_alone(tmp_path: Path, ctx: PluginContext) -> None:
    first = opened(ctx, tmp_path / "{source}.mp4")
    for one in pictures(50):
        first.write([result(one, detections())])
    opened(ctx, tmp_path / "{source}.mp4").close()
    assert ctx.warnings == []
    first.close()
    assert len(decoded(tmp_path / "test.mp4")) == 50


def test_a_finished_file_is_an_ordinary_one_and_hardly_larger(tmp_path: Path, ctx: PluginContext) -> None:
    sizes = {}
    for layout in ("plain", "hybrid", "fragmented"):
        sink = opened(ctx, tmp_path / f"{layout}.mp4", layout=layout)
        for one in pictures(250):
            sink.write([result(one, detections())])
        sink.close()
        sizes[layout] = (tmp_path / f"{layout}.mp4").stat().st_size
    boxes = (tmp_path / "hybrid.mp4").read_bytes()
    assert boxes[4:8] == b"ftyp"
    with av.open(str(tmp_path / "hybrid.mp4")) as container:
        assert container.streams.video[0].frames == 250
    assert sizes["hybrid"] - sizes["plain"] < 10 * 1024  # of ten seconds


def test_every_format_has_its_way() -> None:
    assert set(FORMATS.values()) == {"mp4", "mov", "matroska", "mpegts"}
