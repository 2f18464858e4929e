"""Rows 32 and 34: a day's frames in minutes, and a limit of memory. Each drives the real program."""

import time
from pathlib import Path

from daemon import ONNX, Daemon
from observed import until

from tests.scorecard.operation import LIBFAKETIME, synthetic
from tests.scorecard.sources import hold
from tests.scorecard.table import Figures, NotRunError

FRAMES = 864_000
"""Ten a second for a day."""
SPEED = 60
WARM_UP_SHARE = 0.1
NOTHING = '\n[sinks.nothing]\ntype = "slow"\ndelay_s = 0.0\n'


def slope(points: list[tuple[float, float]]) -> float:
    """The least-squares line's rise per unit."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def row_32(folder: Path) -> Figures:
    """864,000 small frames (10 a second for 24 h) as fast as they go, with all timers 60 times as fast."""
    found = sorted(Path("/").glob(LIBFAKETIME[1:]))
    if not found:
        raise NotRunError("needs libfaketime (just setup-scorecard)")
    environment = {"LD_PRELOAD": str(found[0]), "FAKETIME": f"+0 x{SPEED}", "FAKETIME_DONT_RESET": "1"}
    # Limits of time pass as fast: ten minutes of them are ten seconds here.
    waits = 'stall_timeout_s = 600\nqueue = { max_frames = 8, when_full = "block" }'
    text = (
        synthetic("cam", 0, waits) + synthetic("other", 0, waits) + ONNX + NOTHING + "\nqueue = { max_frames = 64 }\n"
    )
    points, start = [], time.monotonic()
    with Daemon(folder, text, environment=environment) as daemon:
        daemon.ready(60)
        daemon.wait_frames("cam", 100)
        first = daemon.usage()
        while (done := daemon.scrape().of("penstock_frames_total", outcome="inferred")) < FRAMES:
            now = daemon.usage()
            points.append((done / FRAMES * 24, now.rss_mib))
            assert now.threads <= first.threads + 1, f"{first} became {now}"
            assert now.descriptors <= first.descriptors + 3, f"{first} became {now}"
            time.sleep(2)
        took_s = time.monotonic() - start
        last = daemon.usage()
        daemon.stop()
    warm = [(hour, mib) for hour, mib in points if hour > 24 * WARM_UP_SHARE]
    rise = slope(warm)
    assert rise < 1, f"memory grows by {rise:.2f} MiB for an hour's frames"
    return {"MiB per hour": rise, "RSS MiB": last.rss_mib, "frames/s": FRAMES / took_s}


LIMIT_MIB = 300
CGROUP = Path("/sys/fs/cgroup/memory")


def row_34(folder: Path) -> Figures:
    """Eight cameras of 1080p give ten times what the backend takes, within a limit of 300 MiB (cgroup)."""
    group = CGROUP / folder.name
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LIMIT_MIB << 20))
    except OSError as error:
        raise NotRunError(f"needs a writable memory cgroup (v1): {error}") from error
    backend = '\n[backends.slow]\ntype = "rig"\ndelay_s = 0.05\n'
    slow = '\n[sinks.slow]\ntype = "slow"\ndelay_s = 0.1\nqueue = { max_frames = 4 }\n'
    sinks = slow + '[sinks.lines]\ntype = "jsonl"\npath = "out/{source}.jsonl"\n'
    cameras = "".join(synthetic(f"cam{n}", 25).replace("= 64", "= 1920").replace("= 48", "= 1080") for n in range(8))
    join = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
    try:
        with Daemon(folder, cameras + backend + sinks, before=join) as daemon:
            daemon.ready()
            for number in range(8):
                daemon.wait_state(f"cam{number}", "running")
            most, ends_at = 0.0, time.monotonic() + 40
            while time.monotonic() < ends_at:
                hold(daemon, 1)
                most = max(most, daemon.usage().rss_mib)
            samples = daemon.scrape()
            daemon.stop(20)
        dropped = samples.of("penstock_frames_total", outcome="dropped_queue_full")
        decoded = samples.of("penstock_frames_decoded_total")
        assert most < LIMIT_MIB, f"{most:.0f} MiB"
        assert dropped > decoded * 0.5, f"{dropped:.0f} of {decoded:.0f} frames were dropped"
        return {"most RSS MiB": most, "decoded": decoded, "dropped": dropped}
    finally:
        until("the cgroup is empty", lambda: not (group / "cgroup.procs").read_text(), 10)
        group.rmdir()
