"""Row 12 of the scorecard: damaged, mutated and senseless files neither crash nor hang a source, and are all counted.

Everything is read in a process of its own, so that a crash in a decoder shows as a failure of the test.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from media import bars, numbered_video
from PIL import Image

MUTANTS_OF_EACH = 40
TIME_LIMIT_S = 100

VIDEOS = {
    "h264.mp4": ("libx264", "yuv420p", {"bf": "2"}),
    "hevc.mkv": ("libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {}),
    "mjpeg.mov": ("mjpeg", "yuvj420p", {}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {}),
}
PICTURES = ("jpg", "png", "webp", "tif", "bmp")

# Reads every file through a source of its own and prints one JSON line for each: what became of it. The name goes
# first, so that a crash says which file it was.
READER = """
import json, sys, threading
from pathlib import Path
from pipeline.contracts.errors import FatalError
from pipeline.contracts.frame import Frame
from pipeline.testing import PluginContext
from sources.directory import DirectorySourceConfig
from sources.file import FileSourceConfig

kind = sys.argv[1]
for path in sys.stdin.read().splitlines():
    print(json.dumps(path), end=" ", flush=True)
    if kind == "file":
        config = FileSourceConfig(type="file", path=[path], decode_threads=int(sys.argv[2]), max_pixels=1_000_000)
    else:
        config = DirectorySourceConfig(type="directory", path=Path(path), max_pixels=1_000_000)
    good, failed, fatal = 0, 0, None
    try:
        for item in config.build(PluginContext()).frames(threading.Event()):
            if isinstance(item, Frame):
                good += 1
                item.picture.gbr_planes(32, 24), item.picture.rgb(), item.picture.yuv420p()
            else:
                failed += 1
                assert "\\n" not in item.detail, item.detail
    except FatalError as error:
        fatal = error.code
        assert "\\n" not in str(error), str(error)
    print(json.dumps([good, failed, fatal]), flush=True)
"""


def outcomes(kind: str, paths: list[Path], decode_threads: int = 1) -> dict[Path, tuple[int, int, str | None]]:
    """Good frames, failed frames and error code of each path; a test failure where the reader crashes or hangs."""
    reader = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", READER, kind, str(decode_threads)],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert reader.returncode == 0, f"{reader.stdout[-500:]}\n{reader.stderr[-3000:]}"
    decoder = json.JSONDecoder()
    read = {}
    for line in reader.stdout.splitlines():
        path, end = decoder.raw_decode(line)
        good, failed, fatal = json.loads(line[end:])
        read[Path(path)] = (good, failed, fatal)
    assert list(read) == paths
    return read


def mutants(original: Path, folder: Path, count: int) -> list[Path]:
    """Copies with bits flipped (as zzuf does, in ratios from 0.0004 % to 4 %), pieces cut out, and garbage put in."""
    dice = random.Random(original.name)
    paths = []
    for number in range(count):
        data = bytearray(original.read_bytes())
        ratio = 10 ** dice.uniform(-5.4, -1.4)
        for _ in range(max(1, int(len(data) * 8 * ratio))):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        if number % 4 == 1:
            start = dice.randrange(len(data))
            del data[start : start + dice.randrange(1, 400)]
        if number % 4 == 2:
            start = dice.randrange(len(data))
            data[start : start + 40] = dice.randbytes(dice.randrange(1, 80))
        if number % 4 == 3:
            del data[dice.randrange(len(data)) :]
        path = folder / f"{original.stem}_{number}{original.suffix}"
        path.write_bytes(data)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("originals")
    return [
        numbered_video(folder / name, 10, codec=codec, pix_fmt=pix_fmt, options=options)
        for name, (codec, pix_fmt, options) in VIDEOS.items()
    ]


@pytest.mark.timeout(TIME_LIMIT_S + 20)
@pytest.mark.parametrize("decode_threads", [1, 2])
def test_mutated_videos_neither_crash_nor_hang_and_are_counted(
    originals: list[Path], tmp_path: Path, decode_threads: int
) -> None:
    paths = [path for original in originals for path in mutants(original, tmp_path, MUTANTS_OF_EACH)]
    for original in originals:
        for number, bytes_left in enumerate((0, 1, 100, original.stat().st_size // 2)):
            cut = tmp_path / f"cut_{number}_{original.name}"
            cut.write_bytes(original.read_bytes()[:bytes_left])
            paths.append(cut)
    read = outcomes("file", [*paths, *originals], decode_threads)
    for path, (good, failed, fatal) in read.items():
        # A file without one good frame never ends as if all were well.
        assert good or fatal, (path, good, failed, fatal)
        assert good <= 12, (path, good)
    assert {read[original] for original in originals} == {(10, 0, None)}
    assert sum(fatal is not None for _, _, fatal in read.values()) > 20
    assert sum(failed for _, failed, _ in read.values()) > 20


@pytest.mark.timeout(TIME_LIMIT_S + 20)
def test_mutated_pictures_neither_crash_nor_hang_and_each_is_counted_once(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    for extension in PICTURES:
        Image.fromarray(bars(60, 40)).save(whole / f"picture.{extension}")
        mutants(whole / f"picture.{extension}", broken, MUTANTS_OF_EACH)
        (broken / f"empty.{extension}").touch()
    count = len(list(broken.iterdir()))
    assert count == len(PICTURES) * (MUTANTS_OF_EACH + 1)
    read = outcomes("directory", [broken, whole])
    assert read[whole] == (len(PICTURES), 0, None)
    good, failed, fatal = read[broken]
    assert (good + failed, fatal) == (count, None)
    assert failed >= len(PICTURES)


def test_a_folder_of_junk_is_one_failure_a_file_and_the_good_ones_are_read(
    originals: list[Path], tmp_path: Path
) -> None:
    dice = random.Random(12)
    for number in range(40):
        (tmp_path / f"junk_{number}.mp4").write_bytes(dice.randbytes(dice.randrange(0, 5000)))
    (tmp_path / "folder.mp4").mkdir()
    for original in originals:
        (tmp_path / f"good_{original.stem}.mp4").write_bytes(original.read_bytes())
    pattern = tmp_path / "*.mp4"
    assert outcomes("file", [pattern])[pattern] == (10 * len(originals), 40, None)
    for number in range(40):
        (tmp_path / f"junk_{number}.mp4").rename(tmp_path / f"junk_{number}.jpg")
    assert outcomes("directory", [tmp_path])[tmp_path] == (0, 40, "CORRUPT")
