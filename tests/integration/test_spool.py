"""The spool against the world: processes that are killed, disks that are full or fail, orders of system calls."""

import contextlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_sender import FakeSenderConfig, OtherSide
from harness import Run, run
from parcels import number_of
from small_disk import SmallDisk

from pipeline.contracts.clock import SystemClock
from pipeline.contracts.sender import BufferConfig
from pipeline.runtime.sending import Sending
from pipeline.spool.store import Store
from pipeline.telemetry.readings import SinkState

TOY = str(Path(__file__).parents[1] / "support" / "spool_toy.py")


@pytest.fixture
def side() -> Iterator[OtherSide]:
    FakeSenderConfig.sides["there"] = OtherSide()
    yield FakeSenderConfig.sides["there"]
    FakeSenderConfig.sides.clear()


def left_in(path: Path) -> list[int]:
    """What waits in a spool that nobody has open."""
    with contextlib.closing(Store.open(path, BufferConfig(min_free_bytes=0), SystemClock())) as store:
        return [number_of(item.parcel) for item in store.take("cam", 1_000_000)]


def said(out: str, word: str) -> list[int]:
    return [int(line.split()[1]) for line in out.splitlines() if line.startswith(word + " ")]


def test_a_process_that_is_killed_at_any_moment_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    path, chance = tmp_path / "far.db", random.Random(5)
    accepted: set[int] = set()
    sent: list[int] = []
    kills = 0
    for number in range(8):
        process = subprocess.Popen(
            [sys.executable, TOY, str(path), str(number * 1_000_000), "100000"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        opened = process.stdout.readline()
        assert opened.split()[2] == "0", f"damaged after {kills} kills: {opened}"
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        kills += 1
        out = process.stdout.read()
        process.wait()
        process.stdout.close()
        accepted |= set(said(out, "accepted"))
        sent += said(out, "sent")
    left = left_in(path)
    assert len(accepted) > 200
    assert accepted <= {*sent, *left}
    assert left == sorted(left)
    assert len(sent) - len(set(sent)) <= 3 * kills


def test_a_disk_that_is_full_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "small", "16m") as disk:
        path = disk.folder / "far.db"
        process = subprocess.Popen(
            [sys.executable, TOY, str(path), "0", "3000", "sends=no", "size=1000", "when_full=block"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        disk.fill()
        for line in process.stdout:
            lines.append(line)
            if line.startswith("failed"):
                break
        assert process.poll() is None
        disk.empty()
        out = "".join(lines) + process.stdout.read()
        process.stdout.close()
        assert process.wait() == 0
        assert said(out, "accepted") == list(range(3000))
        assert left_in(path) == list(range(3000))


def test_a_reserve_of_the_disk_is_kept_by_dropping_the_oldest(tmp_path: Path, side: OtherSide) -> None:
    side.away = True
    reserve = 1 << 20
    least: list[int] = []

    async def during(this: Run) -> None:
        sink = this.supervisor.topology.sinks["far"]
        await this.until(lambda: outcome(this, "accepted") > 50)
        disk.fill(leave_bytes=reserve + (200 << 10))
        await this.until(lambda: outcome(this, "dropped_spool_full") > 500)
        least.append(disk.free_bytes())
        assert sink.state is not SinkState.FAILED
        disk.empty()
        dropped = outcome(this, "dropped_spool_full")
        await this.until(lambda: outcome(this, "accepted") > dropped * 2)
        side.away = False
        await this.until(lambda: len(side.got) > 100)
        this.supervisor.stop("enough")

    with SmallDisk(tmp_path / "small", "12m") as disk:
        keys = {"buffer": {"min_free_bytes": reserve, "max_bytes": 8 << 20}, "padding": 2000}
        tables = {
            "data_dir": str(disk.folder),
            "sources": {"cam": {"endless": True, "fps": 800}},
            "sinks": {"far": {"type": "far", "retry": {"min_s": 0.01, "max_s": 0.05}, "max_items": 20, **keys}},
        }
        this = run(tables, during, plugins=[FakeSenderConfig])
    (account,) = this.report.sinks
    # The log of SQLite, and what other sinks write, need some of it for a moment.
    assert min(least) > reserve // 2
    assert account.outcomes["failed"] == 0
    seqs = side.seqs()
    assert seqs == sorted(set(seqs))
    assert seqs[20:] == list(range(seqs[20], seqs[20] + len(seqs) - 20)), "only what was being sent is older"
    assert account.entered == account.outcomes["dropped_spool_full"] + len(seqs) + account.outcomes["kept"]


def test_a_disk_without_any_room_makes_the_sources_wait_where_they_are_to(
    tmp_path: Path, side: OtherSide, caplog: pytest.LogCaptureFixture
) -> None:
    async def during(this: Run) -> None:
        sink = this.supervisor.topology.sinks["far"].sink
        assert isinstance(sink, Sending)
        await this.until(lambda: outcome(this, "accepted") > 50)
        side.away = True
        disk.fill()
        await this.until(lambda: sink.waiting)
        disk.empty()
        side.away = False
        before = len(side.got)
        await this.until(lambda: len(side.got) > before + 500)
        this.supervisor.stop("enough")

    with SmallDisk(tmp_path / "small", "8m") as disk:
        keys = {"buffer": {"min_free_bytes": 0, "when_full": "block"}, "padding": 2000, "max_items": 50}
        tables = {
            "data_dir": str(disk.folder),
            "sources": {"cam": {"endless": True, "fps": 800}},
            "sinks": {"far": {"type": "far", "retry": {"min_s": 0.01, "max_s": 0.05}, **keys}},
        }
        this = run(tables, during, plugins=[FakeSenderConfig])
    (account,) = this.report.sinks
    assert account.outcomes["failed"] == account.outcomes["dropped_spool_full"] == 0
    assert account.outcomes["delivered"] + account.outcomes["kept"] == account.entered
    assert side.seqs() == list(range(len(side.got)))
    told = [record.getMessage() for record in caplog.records if "spool full" in record.getMessage()]
    assert told == ["sink far: spool full: the disk is full (min_free_bytes): its sources wait"]


def test_many_results_are_kept_while_the_receiver_is_away_and_all_arrive_in_order(tmp_path: Path) -> None:
    """The benchmark of a day offline, small; in a process of its own, whose memory is looked at."""
    code = (
        "import json, sys; from dataclasses import asdict; from pathlib import Path; from tests.bench.spool import *\n"
        f"print(json.dumps(asdict(measured(20_000, Path({str(tmp_path)!r})))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=58,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["count"], found["wrong"], found["left"]) == (20_000, 0, 0)
    assert found["most_mib"] - found["base_mib"] < 150


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (just setup-rigs)")
@pytest.mark.parametrize(
    "fault", ["fdatasync:error=EIO:when=20+7", "pwrite64:error=ENOSPC:when=60+31", "pwrite64:error=EIO:when=50+23"]
)
def test_a_disk_that_fails_now_and_then_is_tried_again(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "far.db"
    calls = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(tmp_path / "calls"),
        "-e",
        f"trace={fault.split(':', maxsplit=1)[0]}",
        "-e",
        f"inject={fault}",
    ]
    toy = [sys.executable, TOY, str(path), "0", "400", "sync_interval_s=0"]
    done = subprocess.run([*calls, *toy], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "done"
    assert "failed" in done.stdout, "the fault did nothing"
    accepted, sent = said(done.stdout, "accepted"), said(done.stdout, "sent")
    assert accepted == list(range(400))
    assert {*sent, *left_in(path)} == set(accepted)


def outcome(this: Run, name: str) -> float:
    return this.scrape()["penstock_sink_results_total", (("outcome", name), ("sink", "far"))]
