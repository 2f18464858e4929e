"""A disk that is full while videos are written to it: they end well, the daemon lives on, and new ones are begun."""

import re
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from daemon import Daemon
from observed import until
from small_disk import SmallDisk

FPS = 50
KINDS = {"film_mp4": "mp4", "film_mkv": "mkv", "film_ts": "ts"}
RESERVE = 4 << 20

PIPELINE = f"""
    [sources.cam]
    type = "synthetic"
    width = 160
    height = 120
    pattern = "noise"
    fps = {FPS}

    [backends.rig]
    type = "rig"

    [sinks.other]
    type = "jsonl"
    path = "out/{{source}}.jsonl"
    mode = "append"
""" + "".join(
    f"""
    [sinks.{name}]
    type = "video"
    path = "small/{name}.{suffix}"
    min_free_bytes = {RESERVE}
    encoder = "software"
"""
    for name, suffix in KINDS.items()
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "small", "48m") as small:
        yield small


def count(daemon: Daemon, sink: str, outcome: str) -> int:
    return int(daemon.scrape().of("penstock_sink_results_total", sink=sink, outcome=outcome))


def frames(path: Path) -> int:
    """Pictures of a file, every one decoded."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize("left", [RESERVE - (1 << 20), 0], ids=["below the reserve", "not a byte"])
def test_videos_end_well_on_a_full_disk_and_new_ones_are_begun_when_there_is_room(
    tmp_path: Path, disk: SmallDisk, left: int
) -> None:
    with Daemon(tmp_path, PIPELINE) as daemon:
        daemon.ready()
        daemon.wait_frames("cam", 2 * FPS, 30)
        disk.fill(left)

        def all_fail() -> bool:
            disk.fill(left)  # what one of them gives back is somebody else's at once
            return all(count(daemon, name, "failed") > 5 for name in KINDS)

        until("no video can be written", all_fail, 30)
        assert count(daemon, "other", "failed") == 0
        before = {name: count(daemon, name, "delivered") for name in KINDS}
        disk.empty()
        until("they are written again", lambda: all(count(daemon, n, "delivered") > before[n] + 25 for n in KINDS), 20)
        daemon.stop(30, code=None)
        log = daemon.log()
    for name, suffix in KINDS.items():
        files = sorted(disk.folder.glob(f"{name}*"))
        assert {path.suffix for path in files} == {f".{suffix}"}, "nothing half-written is left"
        assert len(files) >= 2
        found = re.search(rf"sink {name}: .* ([\d,]+) delivered", log)
        assert found
        delivered, seen = int(found[1].replace(",", "")), sum(frames(path) for path in files)
        cut = len(re.findall(rf"{name}\S* ends up to a second before", log))
        assert delivered - FPS * cut <= seen <= delivered + cut, (name, seen, delivered, cut)
        assert cut == 0 or left == 0
