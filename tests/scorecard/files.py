"""Rows 23 and 26: disks that are full, and files that were damaged while nobody looked."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import av
import pytest
from daemon import Daemon
from observed import until
from small_disk import SmallDisk
from spool_file import read_spool
from webhook_receiver import WebhookReceiver

from tests.scorecard.operation import synthetic
from tests.scorecard.sources import hold
from tests.scorecard.table import Figures, NotRunError

RIG = '\n[backends.rig]\ntype = "rig"\n'
FPS = 100
DROPPED = ("dropped_spool_full", "dropped_queue_full")


def sink(name: str, kind: str, *keys: str) -> str:
    """The table of a sink."""
    return "\n".join([f"\n[sinks.{name}]", f'type = "{kind}"', *keys, ""])


def row_23(folder: Path) -> Figures:
    """The disk is full under lines, a video and a spool: the others keep all, these are degraded and go on later."""
    small = ("lines", "film", "hook")
    try:
        with SmallDisk(folder / "small", "24m") as disk, WebhookReceiver() as receiver:
            text = (
                'data_dir = "small/data"\n'
                + synthetic("cam", FPS)
                + RIG
                + sink("lines", "jsonl", 'path = "small/{source}.jsonl"', 'mode = "append"', "min_free_bytes = 0")
                + sink("film", "video", 'path = "small/{source}.mp4"', 'min_free_bytes = "1MiB"')
                + sink(
                    "hook",
                    "webhook",
                    f'url = "{receiver.url}"',
                    "buffer = { min_free_bytes = 0 }",
                    "retry = { max_s = 1 }",
                )
                + sink("other", "jsonl", 'path = "out/{source}.jsonl"', 'mode = "append"')
            )
            with Daemon(folder, text) as daemon:
                daemon.ready()
                daemon.wait_frames("cam", 100)
                receiver.down()  # what comes from now on waits in the spool
                daemon.wait_frames("cam", 30)
                assert [_state(daemon, name) for name in small[:2]] == ["ready", "ready"]

                def is_full_for_all() -> bool:
                    disk.fill()  # what one of them gives back is somebody else's at once
                    samples = daemon.scrape()
                    lost = sum(samples.of("penstock_sink_results_total", sink="hook", outcome=name) for name in DROPPED)
                    return lost > 0 and _states(daemon, small) == {"degraded"}

                until("no room for lines, video and spool", is_full_for_all, 40)
                for _ in range(8):
                    disk.fill()
                    hold(daemon, 0.5)
                assert _state(daemon, "other") == "ready"
                assert daemon.request("/readyz")[0] == 200, "one bad disk is no reason to take the box out"
                before = {name: _delivered(daemon, name) for name in ("lines", "film")}
                disk.empty()
                receiver.up()
                start = time.monotonic()
                until("files grow again", lambda: all(_delivered(daemon, n) > before[n] for n in before), 10)
                files_s = time.monotonic() - start
                until("all are well again", lambda: _states(daemon, small) == {"ready"}, 10)
                resumed_s = time.monotonic() - start
                hold(daemon, 2)
                until("the backlog has gone", lambda: daemon.scrape().of("penstock_sink_pending", sink="hook") < 10, 20)
                daemon.stop(30, code=None)
                log = daemon.log()
            accounts = {name: _account(log, name) for name in (*small, "other")}
            lines = len(_lines(disk.folder / "cam.jsonl"))
            frames = sum(_frames(path) for path in sorted(disk.folder.glob("cam*.mp4")))
            arrived = receiver.taken()
    except pytest.skip.Exception as reason:
        raise NotRunError(str(reason)) from None
    assert resumed_s < 5, f"{resumed_s:.1f} s until all write again"
    assert lines == accounts["lines"]["delivered"], f"{lines} lines, {accounts['lines']}"
    assert re.search("sink hook: .*full", log), "that the disk of the spool is full was not told"
    # Of the file that was cut off, the last second may be missing: it is told.
    told = FPS if "ends up to a second before" in log else 0
    missing = accounts["film"]["delivered"] - frames
    assert 0 <= missing <= told, f"{frames} pictures can be seen, {accounts['film']}"
    assert len(arrived) == accounts["hook"]["delivered"], f"{len(arrived)} arrived, {accounts['hook']}"
    others = len(_lines(folder / "out/cam.jsonl"))
    assert accounts["other"]["accepted"] == accounts["other"]["delivered"] == others, "another sink lost something"
    assert accounts["lines"]["accepted"] > lines, "the disk was never full for the lines: the experiment shows nothing"
    return {
        "files grow s": files_s,
        "all are well s": resumed_s,
        "others lost": 0,
        "torn lines": 0,
        "lines lost, counted": accounts["lines"]["accepted"] - lines,
        "pictures lost at the cut": missing,
        "pictures lost, counted": accounts["film"]["accepted"] - accounts["film"]["delivered"],
        "webhooks not sent, counted": accounts["hook"]["accepted"] - len(arrived),
    }


def row_26(folder: Path) -> Figures:
    """A torn last line and 4 KiB of rubbish in a spool: a start in 5 s, told and counted, the rest is delivered."""
    spool = folder / "data/spool/hook.webhook.db"
    with WebhookReceiver() as receiver:
        receiver.down()
        sinks = (
            'data_dir = "data"\n'
            + RIG
            + sink("lines", "jsonl", 'path = "out/{source}.jsonl"', 'mode = "append"')
            + sink("hook", "webhook", f'url = "{receiver.url}"', "retry = { max_s = 1 }")
        )
        with Daemon(folder, sinks + synthetic("cam", 200)) as daemon:
            daemon.ready()
            daemon.wait_frames("cam", 1000, 60)
            daemon.stop(20, code=None)
        kept = read_spool(spool).waiting
        whole = len(_lines(folder / "out/cam.jsonl"))
        with (folder / "out/cam.jsonl").open("ab") as file:
            file.write(b'{"schema":"penstock.result/1","id":"01')
        page = spool.stat().st_size // 4096 // 2
        subprocess.run(
            ["dd", "if=/dev/urandom", f"of={spool}", "bs=4096", "count=1", f"seek={page}", "conv=notrunc"],
            check=True,
            capture_output=True,
        )
        receiver.up()
        start = time.monotonic()
        with Daemon(folder, sinks + synthetic("cam", 20)) as daemon:
            daemon.ready(10)
            started_s = time.monotonic() - start
            until("the old ones have gone", lambda: len(receiver.taken().keys() & kept.keys()) > len(kept) // 2, 30)
            until("all have gone", lambda: daemon.scrape().of("penstock_sink_pending", sink="hook") < 10, 30)
            counted = daemon.scrape().of("penstock_spool_corrupt_total", sink="hook")
            fresh = set(receiver.taken())
            until("a fresh one arrives", lambda: set(receiver.taken()) - fresh, 10)
            daemon.stop(20, code=None)
            log = daemon.log()
        arrived = receiver.taken()
        bodies = {item.id: item.digest for items in receiver.firsts().values() for item in items}
    lost = kept.keys() - arrived.keys()
    assert started_s < 5, f"{started_s:.1f} s until it was ready"
    assert "its last 38 bytes were cut off" in log, "the torn line was not told"
    assert len(_lines(folder / "out/cam.jsonl")) > whole, "no line came after the torn one"
    assert counted >= 1, "the damage is in no metric"
    assert list(spool.parent.glob("*corrupt*")), "the damaged file was not set aside"
    assert len(lost) <= 100, f"{len(lost)} of {len(kept)} are lost with one page"
    assert all(bodies[name] == digest for name, digest in kept.items() if name in bodies), "a body changed"
    return {"start s": started_s, "in the spool": len(kept), "lost with the page": len(lost), "counted": counted}


def _state(daemon: Daemon, name: str) -> str:
    samples = daemon.scrape()
    for state in ("starting", "ready", "degraded", "failed", "stopped"):
        if samples.of("penstock_sink_state", sink=name, state=state) == 1:
            return state
    return "none"


def _states(daemon: Daemon, names: tuple[str, ...]) -> set[str]:
    return {_state(daemon, name) for name in names}


def _delivered(daemon: Daemon, name: str) -> float:
    return daemon.scrape().of("penstock_sink_results_total", sink=name, outcome="delivered")


def _account(log: str, name: str) -> dict[str, int]:
    """A sink's page in the summary at the end."""
    (line,) = (line for line in log.splitlines() if line.startswith(f"  sink {name}: "))
    words = line.partition(": ")[2].replace(" = ", " + ").replace(",", "").split(" + ")
    found = {word.partition(" ")[2]: int(word.partition(" ")[0]) for word in words}
    return {"delivered": 0} | found


def _lines(path: Path) -> list[Any]:
    """Its lines, each of them whole."""
    text = path.read_text()
    assert text.endswith("\n"), f"{path.name} ends in a torn line"
    return [json.loads(line) for line in text.splitlines()]


def _frames(path: Path) -> int:
    """Pictures of a video, every one decoded."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
