"""Rows 24 and 27: a disk that fails at random under a spool, and the order of writes, syncs and sends."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from daemon import Daemon
from observed import until
from webhook_receiver import WebhookReceiver

from tests.scorecard.operation import ROOMY, synthetic, tool
from tests.scorecard.table import Figures
from tests.scorecard.webhooks import RIG, hook

FAULTS = (
    ("posix/io/rw/pwrite", 0.1, 28),
    ("posix/io/rw/write", 0.02, 28),
    ("posix/io/sync/fsync", 0.05, 5),
    ("posix/io/sync/fdatasync", 0.05, 5),
)
"""Name, probability, errno: ENOSPC and EIO."""

SURE = "buffer = { sync_interval_s = 0, min_free_bytes = 0 }\nretry = { min_s = 0.1, max_s = 1 }"
FAULTY_S = 10.0


def row_24(folder: Path) -> Figures:
    """Writes and syncs fail at random for 10 s (ENOSPC 10 %, EIO 5 %), everything that is accepted is synced."""
    fiu_run, fiu_ctrl = tool("fiu-run"), tool("fiu-ctrl")
    with WebhookReceiver() as receiver:
        text = RIG + synthetic("cam", 50, ROOMY) + hook("hook", receiver.url, SURE)
        with Daemon(folder, text, before=[fiu_run, "-x"]) as daemon:
            daemon.ready()
            receiver.wait(lambda: len(receiver.taken()) > 20, 20)

            def command(text: str) -> None:
                subprocess.run([fiu_ctrl, "-c", text, str(daemon.pid())], check=True, timeout=10)

            for name, probability, errno in FAULTS:
                command(f"enable_random name={name},probability={probability},failinfo={errno}")
            troubles = 0
            until_s = time.monotonic() + FAULTY_S
            while time.monotonic() < until_s:
                troubles += daemon.scrape().of("penstock_sink_state", sink="hook", state="degraded") == 1
                time.sleep(0.1)
            for name, _, _ in FAULTS:
                command(f"disable name={name}")
            ended_at = time.monotonic()
            before = len(receiver.taken())
            receiver.wait(lambda: len(receiver.taken()) > before + 50, 20)
            back_s = time.monotonic() - ended_at
            until("it is well", lambda: daemon.scrape().of("penstock_sink_state", sink="hook", state="ready") == 1, 20)
            daemon.alive()
            samples = daemon.scrape()
            assert samples.of("penstock_spool_corrupt_total", sink="hook") == 0, "something could not be read"
            daemon.stop(30)
        log = daemon.log()
        items = receiver.firsts()["cam"]
        arrived = len(receiver.taken())
    assert troubles > 0, "the faults did nothing"
    assert "Traceback" not in log, log
    numbers = [item.document["frame_id"] for item in items]
    assert numbers == sorted(set(numbers)), "out of order"
    accepted = int(re.findall(r"sink hook: ([\d,]+) accepted", log)[-1].replace(",", ""))
    lost = sum(int(one.replace(",", "")) for one in re.findall(r"([\d,]+) (?:dropped|failed)", _sink_line(log)))
    assert arrived == accepted - lost, f"{arrived} arrived; {_sink_line(log)}"
    return {"arrived": float(arrived), "degraded scrapes": float(troubles), "back after s": back_s}


def _sink_line(log: str) -> str:
    """What the summary says of the sink."""
    return next(line for line in reversed(log.splitlines()) if line.strip().startswith("sink hook:"))


class Call(NamedTuple):
    """One system call that began or ended: `number` is its place in the trace."""

    number: int
    pid: str
    name: str
    text: str
    ended: bool


def row_27(folder: Path) -> Figures:
    """strace: nothing is sent before it is synced (sync_interval_s = 0), no file is renamed before it is."""
    trace = folder / "calls"
    names = "pwrite64,write,fsync,fdatasync,sendto,sendmsg,rename,renameat,renameat2"
    strace = [tool("strace"), "-f", "-y", "-s", "5000", "-e", f"trace={names}", "-o", str(trace)]
    more = (
        '\n[sinks.lines]\ntype = "jsonl"\npath = "out/{source}.jsonl"\nmode = "append"\n'
        'rotate = { every = 1.0 }\ncompress = "gzip"\n'
    )
    with WebhookReceiver() as receiver:
        text = RIG + synthetic("cam", 20, ROOMY) + hook("hook", receiver.url, SURE) + more
        with Daemon(folder, text, before=strace) as daemon:
            daemon.ready(60)
            receiver.wait(lambda: len(receiver.taken()) > 60, 60)
            daemon.stop(30)
        ids = list(receiver.taken())
    found = list(_calls(trace.read_text(errors="replace")))
    written, synced = _synced(found)
    checked = 0
    for call in found:
        if call.ended or call.name not in {"sendto", "sendmsg", "write"} or "webhook-id: " not in call.text.lower():
            continue
        (name,) = re.findall(r"(?i)webhook-id: ([0-9a-f]{32})", call.text)
        if name not in written:  # it lies across two pages
            continue
        assert name in synced, f"{name} was sent and never synced"
        assert synced[name] < call.number, f"{name} was sent before it was synced"
        checked += 1
    assert checked >= 0.8 * len(ids) > 0, f"only {checked} of {len(ids)} could be followed"
    renames = _check_renames(found, str(folder))
    assert renames >= 1, "nothing was renamed"
    return {"sends checked": float(checked), "renames checked": float(renames)}


def _calls(text: str) -> Iterator[Call]:
    for number, line in enumerate(text.splitlines()):
        match = re.match(r"(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)", line)
        if match is None:
            continue
        pid, name, rest = match.groups()
        resumed = "resumed>" in line[:60]
        if not resumed:
            yield Call(number, pid, name, rest, ended=False)
        if not rest.endswith("<unfinished ...>"):
            yield Call(number, pid, name, rest, ended=True)


def _synced(calls: list[Call]) -> tuple[dict[str, int], dict[str, int]]:
    """For each id in the spool's log: when it was written there, and when a sync after that was over."""
    written: dict[str, int] = {}
    synced: dict[str, int] = {}
    began: dict[str, int] = {}
    for call in calls:
        if call.name == "pwrite64" and "-wal>" in call.text[:300]:
            for name in re.findall(r"[0-9a-f]{12}7[0-9a-f]{19}", call.text):
                written.setdefault(name, call.number)
        elif call.name in {"fsync", "fdatasync"}:
            if not call.ended:
                began[call.pid] = call.number if "-wal>" in call.text else -1
            if call.ended and call.text.rstrip().endswith("= 0"):
                since = began.get(call.pid, -1)
                for name, at in written.items():
                    if at < since:
                        synced.setdefault(name, call.number)
    return written, synced


def _check_renames(calls: list[Call], folder: str) -> int:
    """No file under `folder` gets its name before what is in it is on the disk; how many did."""
    fresh: set[str] = set()
    renames = 0
    for call in calls:
        if call.name in {"write", "pwrite64"} and not call.ended:
            fresh |= set(re.findall(r"^\d+<([^>]*)>", call.text))
        elif call.name in {"fsync", "fdatasync"} and not call.ended:
            fresh -= set(re.findall(r"^\d+<([^>]*)>", call.text))
        elif call.name.startswith("rename") and not call.ended:
            old = re.findall(r'"((?:[^"\\]|\\.)*)"', call.text)[0]
            path = old if old.startswith("/") else f"{folder}/{old}"
            if path.startswith(folder):
                assert path not in fresh, f"{old} was renamed before it was synced"
                renames += 1
    return renames
