"""Frames that were never decoded stand in the metrics, in the status and at the end of a run."""

from pathlib import Path
from typing import Any

import pytest
from harness import Run, run
from media import moving, video
from web_camera import WebCamera

from pipeline.contracts.clock import SystemClock
from pipeline.runtime.status import Status
from pipeline.terminal import summary
from sources.file import FileSourceConfig
from sources.stream import StreamSourceConfig

FRAMES = 250


def counted(this: Run) -> tuple[int, int]:
    """What was decoded and what was not, as the metrics say."""
    samples = this.scrape()
    label = (("source", "cam"),)
    return int(samples["penstock_frames_decoded_total", label]), int(samples["penstock_frames_skipped_total", label])


@pytest.mark.parametrize(("keys", "frames"), [({"max_fps": 1}, FRAMES), ({"stride": 25, "loop": 3}, 3 * FRAMES)])
def test_of_a_file_every_frame_is_accounted_for(tmp_path: Path, keys: dict[str, Any], frames: int) -> None:
    pictures = [moving(number, 64, 48) for number in range(FRAMES)]
    path = video(tmp_path / "clip.mp4", pictures, options={"preset": "ultrafast", "g": "25", "bf": "0"})
    this = run({"sources": {"cam": {"type": "file", "path": str(path), **keys}}}, plugins=[FileSourceConfig])
    decoded, skipped = counted(this)
    assert skipped > 0
    assert decoded + skipped == frames
    assert Status(this.supervisor, "test", SystemClock()).whole()["sources"][0]["skipped"] == skipped
    assert summary(this.report, 1.0)[0].endswith(f", {skipped} not decoded (not wanted)")


def test_where_nothing_is_skipped_nothing_is_said() -> None:
    this = run({"sources": {"cam": {"frames": 20}}})
    assert counted(this) == (20, 0)
    assert "not decoded" not in summary(this.report, 1.0)[0]


def test_of_a_camera_the_count_goes_on_over_reconnects(tmp_path: Path) -> None:
    pictures = [moving(number, 64, 48) for number in range(FRAMES)]
    path = video(tmp_path / "clip.ts", pictures, options={"preset": "ultrafast", "g": "5", "bf": "0"})
    sums: list[int] = []

    def at_the_third(this: Run) -> bool:
        sums.append(sum(counted(this)))
        return sums[-1] >= 2 * FRAMES

    async def during(this: Run) -> None:
        await this.until(lambda: at_the_third(this))
        this.supervisor.stop("test")

    with WebCamera() as web:
        camera = {"type": "stream", "url": web.file("/clip.ts", path), "max_fps": 1}
        table = {**camera, "reconnect": {"min_s": 0.05, "max_s": 0.1}}
        this = run({"sources": {"cam": table}}, during, plugins=[StreamSourceConfig])
        connections = len(web.requests)
    decoded, skipped = counted(this)
    assert connections >= 2
    assert skipped > FRAMES
    assert sums == sorted(sums)
    assert 2 * FRAMES <= decoded + skipped <= connections * FRAMES
