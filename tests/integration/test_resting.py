"""Cameras that decode keyframes only while nothing moves, from the packet to the ledger."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from fakes import FakeBackendConfig, FakeSinkConfig, FakeSource, FakeSourceConfig, LiveFakeConfig
from harness import Run, run
from rtsp_server import RtspServer
from still_scene import FPS, encoded, scene

from pipeline.config.loader import from_tree
from pipeline.config.problems import ConfigProblems
from pipeline.contracts.component import Context
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.registry import Registry
from sources.rtsp import RtspSourceConfig

GOP = 10
SQUARE = range(84, 110)
MOTION = {"decode": "keyframes", "keepalive_s": 1000.0, "hold_s": 0.2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtspServer]:
    folder, pictures = tmp_path_factory.mktemp("clips"), scene(220, SQUARE)
    with RtspServer() as server:
        for encoder in ("plain", "constant"):
            clip = encoded(folder / f"{encoder}.mkv", pictures, encoder, g=str(GOP), keyint_min=str(GOP))
            server.add(f"/{encoder}", clip)
        yield server


def test_what_begins_to_move_comes_soon_where_packets_grow_and_else_with_the_next_keyframe(server: RtspServer) -> None:
    """Both rest before and after it; every packet is decoded or skipped, and every frame is in the ledger."""
    described: dict[str, list[str]] = {"plain": [], "constant": []}

    async def during(this: Run) -> None:
        def told(name: str) -> str:
            now = str(this.supervisor.topology.sources[name].details().get("decoding"))
            if described[name][-1:] != [now]:
                described[name].append(now)
            return now

        def seen() -> bool:
            names = [name for name in described if "keyframes" in told(name)]
            moved = {result.frame.source for result in this.sink().results if (result.frame.pts_s or 0) > 3}
            return len(names) == len(moved) == 2

        await this.until(seen)
        this.supervisor.stop("test")

    sources = {name: {"type": "rtsp", "url": server.url(f"/{name}"), "motion": MOTION} for name in described}
    this = run({"sources": sources}, during, plugins=[RtspSourceConfig])
    assert described["plain"][-4:] == ["all", "keyframes", "all", "keyframes"]
    for name, limit_s in (("plain", 0.2), ("constant", GOP / FPS)):
        times_s = [result.frame.pts_s or 0.0 for result in this.sink().results if result.frame.source == name]
        delay_s = next(at_s for at_s in times_s if at_s > 1) - SQUARE.start / FPS
        assert 0 <= delay_s <= limit_s + 0.05
        (account,) = (account for account in this.report.sources if account.name == name)
        assert account.skipped > 2 * GOP
        assert account.outcomes["gated"] > 20
    assert this.report.faults == []


class SleepyConfig(LiveFakeConfig):
    """Gives still frames, and says from the 20th on that it rests."""

    type: Literal["sleepy"] = "sleepy"  # type: ignore[assignment]
    can_rest: ClassVar[bool] = True
    told: ClassVar[list[float]] = []
    asked: ClassVar[list[int]] = []

    def build(self, ctx: Context) -> "Sleepy":
        return Sleepy(self, ctx)


class Sleepy(FakeSource):
    resting = False
    number = 0

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        for frame in super().frames(stop):
            assert isinstance(frame, Frame)
            self.number, self.resting = frame.seq, frame.seq >= 20
            yield frame

    def rest(self, for_s: float) -> None:
        SleepyConfig.told.append(for_s)
        SleepyConfig.asked.append(self.number)


def sleepy(**keys: Any) -> list[int]:
    """Which frames the gate told the source of."""
    SleepyConfig.told.clear()
    SleepyConfig.asked.clear()

    async def during(this: Run) -> None:
        await this.until(lambda: this.supervisor.topology.sources["cam"].read().decoded >= 50)
        this.supervisor.stop("test")

    table = {"type": "sleepy", "live": True, "endless": True, "fps": 200.0, **keys}
    run({"sources": {"cam": table}}, during, plugins=[SleepyConfig])
    return [number for number in SleepyConfig.asked if number < 40]


def test_a_source_hears_of_every_frame_that_the_gate_saw_and_while_it_rests_that_is_each() -> None:
    assert sleepy(motion={"decode": "keyframes"}) == list(range(40))
    assert SleepyConfig.told[0] == 0  # of the first frame nothing is known
    assert all(8 < told <= 10 for told in SleepyConfig.told[1:40])
    assert sleepy(motion={"decode": "keyframes"}, stride=7) == [0, 7, 14, *range(20, 40)]


def test_a_source_that_is_not_to_rest_hears_nothing() -> None:
    assert sleepy(motion={}) == sleepy() == []


@pytest.mark.parametrize("table", [{"type": "live"}, {"type": "fake"}], ids=str)
def test_a_source_that_cannot_rest_is_refused_by_its_key(table: dict[str, Any]) -> None:
    tree = {
        "sources": {"cam": {**table, "motion": {"decode": "keyframes"}}},
        "backends": {"model": {"type": "fake"}},
        "sinks": {"keep": {"type": "fake"}},
    }
    registry = Registry.of(FakeSourceConfig, LiveFakeConfig, FakeBackendConfig, FakeSinkConfig)
    with pytest.raises(ConfigProblems, match=r'sources\.cam\.motion.*decode = "keyframes" is for cameras'):
        from_tree(tree, base_dir=Path.cwd(), registry=registry)
