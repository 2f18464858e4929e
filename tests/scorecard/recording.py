"""Row 25: what a kill leaves of videos."""

import re
import signal
from pathlib import Path

import av
import numpy as np
from daemon import Daemon

from pipeline.testing import read_frame_number
from tests.scorecard.table import Figures

FPS = 25
KINDS = {
    "hybrid": ("mp4", 'layout = "hybrid"'),
    "fragmented": ("mp4", 'layout = "fragmented"'),
    "matroska": ("mkv", ""),
    "ts": ("ts", ""),
    "slow": ("mp4", 'preset = "medium"'),
}
CAMERA = f'[sources.cam]\ntype = "synthetic"\nwidth = 640\nheight = 360\nfps = {FPS}\n'
COMMON = 'encoder = "software"\ncontent = "clean"\n'
RIG = '\n[backends.rig]\ntype = "rig"\n'


def row_25(folder: Path) -> Figures:
    """kill -9 while videos are written: each can be read, a second is lost at most, the next start names it."""
    text = CAMERA + RIG
    for name, (suffix, keys) in KINDS.items():
        text += f'\n[sinks.{name}]\ntype = "video"\npath = "out/{name}.{suffix}"\n{COMMON}{keys}\n'
    with Daemon(folder, text) as daemon:
        daemon.ready()
        daemon.wait_frames("cam", 150)
        delivered = {name: _delivered(daemon, name) for name in KINDS}
        daemon.signal(signal.SIGKILL)
        assert daemon.process is not None
        daemon.process.wait(10)
    lost = {}
    for name, (suffix, _) in KINDS.items():
        path = folder / f"out/{name}.{suffix}"
        assert not path.exists(), f"{path.name} looks complete"
        numbers = _numbers(path.with_name(f"{path.name}.part"))
        assert numbers == sorted(set(numbers)), f"{path.name} does not show each picture once, in order"
        lost[name] = delivered[name] - len(numbers)
        assert lost[name] <= FPS, f"of {delivered[name]} pictures in {path.name} {lost[name]} are lost"
    with Daemon(folder, text) as daemon:
        daemon.ready()
        daemon.wait_frames("cam", 10)
        daemon.stop(20)
        log = daemon.log()
    assert len(re.findall("finished what a run before had to leave", log)) == len(KINDS), "not told"
    for name, (suffix, _) in KINDS.items():
        files = sorted((folder / "out").glob(f"{name}*"))
        assert [path.name for path in files] == [f"{name}-0002.{suffix}", f"{name}.{suffix}"], "the files' names"
        assert len(_numbers(files[1])) >= delivered[name] - FPS
        assert _numbers(files[0])
    return {f"{name} lost s": max(0, count) / FPS for name, count in lost.items()}


def _delivered(daemon: Daemon, name: str) -> int:
    return int(daemon.scrape().of("penstock_sink_results_total", sink=name, outcome="delivered"))


def _numbers(path: Path) -> list[int]:
    """The numbers that the pictures show, every one of them decoded."""
    with av.open(str(path)) as container:
        pictures = (np.asarray(picture.to_rgb().to_ndarray(), np.uint8) for picture in container.decode(video=0))
        return [read_frame_number(picture) for picture in pictures]
