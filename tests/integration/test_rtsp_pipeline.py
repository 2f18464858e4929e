"""Cameras in a whole pipeline: what they do to it when they go away, and what they do not do."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from harness import Run, run
from media import camera_clip
from rtsp_server import RtspServer

from sources.rtsp import RtspSourceConfig

QUICK = {"min_s": 0.05, "max_s": 0.2}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return camera_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def server(clip: Path) -> Iterator[RtspServer]:
    with RtspServer() as server:
        server.add("/cam", clip)
        yield server


def test_a_camera_that_dies_comes_back_and_nothing_is_made_up_while_it_is_away(server: RtspServer) -> None:
    url = server.url("/cam")
    while_away: list[int] = []

    async def during(this: Run) -> None:
        await this.until(lambda: len(this.seqs()) >= 10)
        await asyncio.to_thread(server.kill)
        await this.until(lambda: _state(this) == "reconnecting" and _in_flight(this) == 0)
        await this.until(lambda: len(this.seqs()) == _inferred(this))
        before = len(this.seqs())
        await asyncio.sleep(0.3)
        while_away.append(len(this.seqs()) - before)
        await asyncio.to_thread(server.restart)
        await this.until(lambda: len(this.seqs()) >= before + 10)
        this.supervisor.stop("test")

    this = run(
        {"sources": {"cam": {"type": "rtsp", "url": url, "reconnect": QUICK}}}, during, plugins=[RtspSourceConfig]
    )
    assert while_away == [0]
    frames = [result.frame for result in this.sink().results]
    for earlier, later in pairwise(frames):
        assert earlier.pts_s is not None
        assert later.pts_s is not None
        assert earlier.seq < later.seq
        assert earlier.pts_s < later.pts_s
        assert earlier.captured_at <= later.captured_at
    samples = this.scrape()
    lost = samples["penstock_source_reconnects_total", (("code", "CONNECTION_FAILED"), ("source", "cam"))]
    assert lost >= 1


def test_a_frozen_camera_is_opened_anew_and_its_neighbour_does_not_notice(server: RtspServer, clip: Path) -> None:
    with RtspServer() as other:
        other.add("/cam", clip)
        camera = {"type": "rtsp", "reconnect": QUICK, "stall_timeout_s": 1.0}

        async def during(this: Run) -> None:
            await this.until(lambda: min(len(this.seqs(source=name)) for name in ("gate", "yard")) >= 10)
            server.fault.freeze = True
            await this.until(lambda: _state(this, "gate") == "reconnecting")
            server.fault.freeze = False
            before = len(this.seqs(source="gate"))
            await this.until(lambda: len(this.seqs(source="gate")) >= before + 10)
            this.supervisor.stop("test")

        this = run(
            {"sources": {"gate": {**camera, "url": server.url("/cam")}, "yard": {**camera, "url": other.url("/cam")}}},
            during,
            plugins=[RtspSourceConfig],
        )
        yard = [result.frame for result in this.sink().results if result.frame.source == "yard"]
        gaps_s = [later.decoded_at - earlier.decoded_at for earlier, later in pairwise(yard)]
        assert max(gaps_s) < 0.5
        stalled = this.scrape()["penstock_source_reconnects_total", (("code", "STALLED"), ("source", "gate"))]
        assert stalled == 1


def test_sixteen_cameras_at_once_are_all_read_and_all_counted(server: RtspServer) -> None:
    camera = {"type": "rtsp", "url": server.url("/cam"), "max_fps": 5}
    names = [f"cam{number}" for number in range(16)]

    async def during(this: Run) -> None:
        await this.until(lambda: min(len(this.seqs(source=name)) for name in names) >= 5)
        this.supervisor.stop("test")

    this = run({"sources": {name: dict(camera) for name in names}}, during, plugins=[RtspSourceConfig])
    assert server.counts.connections == 16
    assert len(this.report.sources) == 16


def _state(this: Run, name: str = "cam") -> str:
    return str(this.supervisor.topology.sources[name].state.value)


def _in_flight(this: Run) -> int:
    return sum(reading.in_flight for reading in this.supervisor.read_sources())


def _inferred(this: Run) -> int:
    outcomes = next(iter(this.supervisor.read_sources())).outcomes
    return next(count for outcome, count in outcomes.items() if outcome == "inferred")
